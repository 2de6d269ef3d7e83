"""What every engine is given and what it returns.

An engine sees a table of training rows and, where training is stochastic, a schedule of row indices per
member and step, drawn here by counter-based generators: data order and random group elements are the same
for every engine, sharding and number of members at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from ..augmentation import augmented_rows, random_elements, stream
from ..canonicalisation import seen_inputs, seen_orbits
from ..errors import DataError, StudyError
from ..networks import Network, build_network
from ..settings import Settings
from ..tasks.base import TaskData

#: Purpose of the Philox stream of the data order (see augmentation.stream).
STREAM_ORDER = 3

#: A member whose training loss exceeds this multiple of its initial value counts as diverged.
DIVERGENCE_FACTOR = 1000.0

Progress = Callable[[float, int], None]


@dataclass(frozen=True, eq=False)
class Problem:
    """One arm as an engine sees it.

    Attributes:
      settings: the arm.
      learning_rate: step size η.
      row_input: (row, *input shape) the augmented training set.
      row_target: (row, output) its targets, ρ_Y(g)y for the row (x, g).
      train_input: (train sample, *input shape) plain training inputs, on which ``loss`` is reported.
      train_target: (train sample, output).
      orbit_input: (sample, element, *input shape) whole orbits of the evaluated samples.
      samples: (sample,) their labels in the data store.
      splits: (sample,) their splits.
      elements: labels of the group elements.
      units: number of schedulable units: rows, or samples for fresh random elements.
      order: |G|.
    """

    settings: Settings
    learning_rate: float
    row_input: np.ndarray
    row_target: np.ndarray
    train_input: np.ndarray
    train_target: np.ndarray
    orbit_input: np.ndarray
    samples: np.ndarray
    splits: np.ndarray
    elements: tuple[str, ...]
    units: int
    order: int

    @cached_property
    def network(self) -> Network:
        """The architecture, with its kernel; not for networks given as torch modules."""
        return build_network(self.settings.network, self.orbit_input.shape[2:], self.outputs)

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return self.row_target.shape[1]

    @property
    def batch(self) -> int:
        """Rows per gradient step."""
        return min(self.settings.training.batch or self.units, self.units)

    @property
    def steps_per_unit_time(self) -> int:
        """Gradient steps per recorded unit of time: 1 for gd, the number of minibatches for epochs."""
        return 1 if self.settings.training.unit == "step" else -(-self.units // self.batch)

    @property
    def segments(self) -> np.ndarray:
        """(record,) gradient steps between consecutive records; the first is 0."""
        return np.diff(self.settings.training.recorded, prepend=0) * self.steps_per_unit_time

    @property
    def scheduled(self) -> bool:
        """Whether steps use different rows: minibatches or fresh random elements."""
        return self.settings.training.unit == "epoch" or self.settings.augmentation.kind == "random"

    @property
    def stored_records(self) -> list[int]:
        """Indices of the records at which weights are stored, ascending."""
        training = self.settings.training
        return [training.recorded.index(step) for step in sorted(training.store_weights)]

    def schedule(self, member: int, first: int, count: int) -> np.ndarray:
        """(step, batch) int32 indices of the training rows of one member in the steps first … first + count − 1.

        −1 pads the last minibatch of an epoch. The data order depends on (training.seed, member, epoch), random
        elements on (augmentation.seed, member, epoch or step): any range of steps can be had at once.
        """
        length = self.steps_per_unit_time
        blocks = range(first // length, -(-(first + count) // length))
        chosen = np.concatenate([self._block(member, block) for block in blocks])
        return chosen[first - blocks.start * length :][:count]

    def _block(self, member: int, block: int) -> np.ndarray:
        """(step, batch) rows of one epoch, or of one step of full-batch descent."""
        if self.settings.training.unit == "step":
            chosen = np.arange(self.units)[None]
        else:
            chosen = np.full(self.steps_per_unit_time * self.batch, -1)
            chosen[: self.units] = stream(self.settings.training.seed, STREAM_ORDER, member, block).permutation(
                self.units
            )
            chosen = chosen.reshape(-1, self.batch)
        if self.settings.augmentation.kind == "random":
            elements = random_elements(self.settings.augmentation, member, block, chosen.size, self.order)
            chosen = np.where(chosen >= 0, chosen * self.order + elements.reshape(chosen.shape), -1)
        return chosen.astype(np.int32)


def build_problem(settings: Settings, data: TaskData, learning_rate: float) -> Problem:
    """The training problem of an arm, with inputs as the network sees them (``canonicalisation``).

    Raises StudyError if the network does not fit the inputs.
    """
    group = data.input_action.group
    settings.network.check_input(data.input_action.shape, group.name)
    if settings.training.loss == "cross_entropy" and data.label is None:
        raise StudyError(
            f"training.loss: cross_entropy needs class labels, task {settings.task.name} has none.",
            remedy="Use loss mse.",
        )
    train = np.flatnonzero(data.split == "train")
    precision = settings.execution.precision
    orbit = seen_orbits(settings.network, data, train, precision)
    classes = data.target.shape[1]
    if data.label is not None and settings.training.loss == "cross_entropy":
        labels = data.label[train]
        if labels.min() < 0 or labels.max() >= classes:
            raise DataError(
                f"training.loss: cross_entropy needs labels from 0 to {classes - 1}, one for each output of task "
                f"{settings.task.name}; those of its training samples run from {labels.min()} to {labels.max()}.",
                remedy=f"Give every training sample a label 0…{classes - 1}.",
            )
    if settings.training.loss == "cross_entropy":
        assert data.label is not None
        target = np.eye(classes)[data.label[train]]
    else:
        target = data.target[train]
    target_orbit = data.output_action.orbit(target)
    rows = augmented_rows(settings.augmentation, len(train), group.order)
    whole = len(rows) == orbit.shape[0] * orbit.shape[1]  # all rows in their order: no copy
    samples = data.evaluated(settings.evaluate.samples)
    return Problem(
        settings=settings,
        learning_rate=learning_rate,
        row_input=orbit.reshape(-1, *orbit.shape[2:]) if whole else orbit[rows[:, 0], rows[:, 1]],
        row_target=target_orbit[rows[:, 0], rows[:, 1]],
        train_input=seen_inputs(settings.network, data, train),
        train_target=target,
        orbit_input=seen_orbits(settings.network, data, samples),
        samples=samples,
        splits=data.split[samples],
        elements=group.elements,
        units=len(train) if settings.augmentation.kind == "random" else len(rows),
        order=group.order,
    )


@dataclass(frozen=True, eq=False)
class ShardResult:
    """What training gives.

    Attributes:
      prediction: (member, record, sample, element, output) float32; NaN after the time a member diverged.
      loss: (member, record) training loss on the plain training inputs, likewise.
      weights: per parameter array (member, stored record, …), in the order of the parameter tree, or empty.
    """

    prediction: np.ndarray
    loss: np.ndarray
    weights: list[np.ndarray]

    @classmethod
    def empty(cls, problem: Problem, members: int, shapes: Sequence[tuple[int, ...]]) -> ShardResult:
        """Of so many members with parameters of these shapes, nothing recorded yet: NaN."""
        records, precision = len(problem.segments), problem.settings.execution.precision
        shape = (members, records, *problem.orbit_input.shape[:2], problem.outputs)
        stored = len(problem.stored_records)
        return cls(
            np.full(shape, np.nan, np.float32),
            np.full((members, records), np.nan, precision),
            [np.full((members, stored, *weight), np.nan, precision) for weight in (shapes if stored else ())],
        )

    @property
    def diverged(self) -> np.ndarray:
        """(member,) whether a member diverged: something recorded is not finite, or its loss grew too much."""
        with np.errstate(invalid="ignore", over="ignore"):
            found = ~np.isfinite(self.prediction).all(axis=(1, 2, 3, 4)) | ~np.isfinite(self.loss).all(axis=1)
            return found | (self.loss > DIVERGENCE_FACTOR * self.loss[:, :1]).any(axis=1)

    def to_dataset(self, problem: Problem, members: Sequence[int]) -> xr.Dataset:
        """The shard as a labelled dataset; see docs/layout.md."""
        training = problem.settings.training
        variables: dict[str, Any] = {
            "prediction": (("member", "step", "sample", "element", "output"), self.prediction),
            "loss": (("member", "step"), self.loss),
            "done": ("member", np.ones(len(members), dtype=bool)),
            "diverged": ("member", self.diverged),
        }
        for index, array in enumerate(self.weights):
            axes = [f"weight_{index}_axis_{k}" for k in range(array.ndim - 2)]
            variables[f"weight_{index}"] = (("member", "stored_step", *axes), array)
        coords: dict[str, Any] = {
            "member": np.asarray(members),
            "step": ("step", training.recorded, {"units": training.unit}),
            "sample": problem.samples,
            "split": ("sample", problem.splits),
            "element": np.asarray(problem.elements),
        }
        if self.weights:
            coords["stored_step"] = ("stored_step", sorted(training.store_weights), {"units": training.unit})
        return xr.Dataset(
            variables, coords, {"learning_rate": problem.learning_rate, "diverged_factor": DIVERGENCE_FACTOR}
        )
