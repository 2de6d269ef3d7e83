"""The numba engine: convolutional networks on a CPU, one image through all layers and back while it is in cache.

It trains ``cnn`` and ``gcnn``. Outputs and gradients are those of ``conv_program``, updates those of torch's engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch

from ..errors import StudyError
from ..networks import initial_arrays
from ..settings.networks import ConvolutionalNetwork
from .conv_plan import ConvPlan
from .conv_program import run
from .engine import Choice, Record
from .problem import Problem
from .torch_optimizers import build_optimizer

#: Members one after the other, each through all steps of a call.
LOOP = "loop"


class NumbaEngine:
    """See Engine."""

    name = "numba"

    def device(self) -> str:
        return "cpu"

    def candidates(self, problem: Problem, members: int) -> list[Choice]:
        return [Choice(self.name, LOOP, 1, 1000)] if _trains(problem) else []

    def trainer(self, problem: Problem, choice: Choice) -> NumbaTrainer:
        return NumbaTrainer(problem, choice)


@dataclass(frozen=True, eq=False)
class _Member:
    """A member in training.

    Attributes:
      index: of the member.
      leaves: parameters, in the order of the parameter tree.
      moments: what the optimiser keeps, per kind one tensor for each leaf.
    """

    index: int
    leaves: list[torch.Tensor]
    moments: list[list[torch.Tensor]]

    def tensors(self) -> list[torch.Tensor]:
        """Everything that later steps depend on."""
        return [*self.leaves, *chain(*self.moments)]


class NumbaTrainer:
    """See Trainer. Uses one thread."""

    def __init__(self, problem: Problem, choice: Choice) -> None:
        section, precision = problem.settings.network, problem.settings.execution.precision
        if not isinstance(section, ConvolutionalNetwork) or not _trains(problem) or choice.variant != LOOP:
            raise StudyError(
                f"engine numba: cannot train network {section.name} by variant {choice.variant}.",
                remedy=f"Use network cnn or gcnn and variant {LOOP}, or execution.engine auto.",
            )
        self.problem, self.choice = problem, choice
        self.shapes = problem.network.shapes
        self._cross_entropy = problem.settings.training.loss == "cross_entropy"
        filtering = problem.settings.training.optimizer != "adam"  # which makes whole steps of round-off
        shape = problem.orbit_input.shape[2:]
        self._plan = ConvPlan(section, shape, problem.outputs, self._cross_entropy, precision, filtering)
        self._optimizer = build_optimizer(problem.settings.training, problem.learning_rate)
        orbit = problem.orbit_input.reshape(-1, *problem.orbit_input.shape[2:])
        tables = (problem.row_input, problem.row_target, problem.train_input, problem.train_target, orbit)
        self._row_input, self._row_target, self._train_input, self._train_target, self._orbit_input = (
            np.ascontiguousarray(table, precision) for table in tables
        )

    def start(self, members: Sequence[int]) -> list[_Member]:
        seed, precision = self.problem.settings.ensemble.seed, self.problem.settings.execution.precision
        state = []
        for member in members:
            arrays = initial_arrays(self.shapes, seed, member)
            leaves = [torch.from_numpy(array.astype(precision)) for array in arrays]
            state.append(_Member(member, leaves, self._optimizer.moments(leaves)))
        return state

    def advance(self, state: list[_Member], first: int, count: int) -> list[_Member]:
        rows = np.arange(len(self._row_input), dtype=np.int32)
        for member in state:
            schedule = self.problem.schedule(member.index, first, count) if self.problem.scheduled else None
            for k in range(count):
                chosen = rows if schedule is None else schedule[k][schedule[k] >= 0]
                gradients = [torch.from_numpy(gradient) for gradient in self._gradients(member, chosen)]
                self._optimizer.update(member.leaves, gradients, member.moments, first + k)
        return state

    def _gradients(self, member: _Member, chosen: np.ndarray) -> list[np.ndarray]:
        """Of the mean loss of some rows, for every leaf."""
        self._plan.pack([leaf.numpy() for leaf in member.leaves])
        self._run(np.empty((0, 0), self._plan.dtype), chosen, self._row_input, self._row_target, learn=True)
        return self._plan.unpack(self.shapes)

    def _outputs(self, inputs: np.ndarray) -> np.ndarray:
        """(row, …) → (row, output), with the parameters last packed."""
        result = np.empty((len(inputs), self.problem.outputs), self._plan.dtype)
        self._run(result, np.arange(len(inputs), dtype=np.int32), inputs, self._row_target, learn=False)
        return result

    def _run(
        self, result: np.ndarray, chosen: np.ndarray, inputs: np.ndarray, targets: np.ndarray, *, learn: bool
    ) -> None:
        plan = self._plan
        arrays = (plan.work, plan.packed, plan.gradient, result, plan.layers, plan.dense, chosen, inputs, targets)
        run(*arrays, plan.matrices, plan.program, learn)

    def record(self, state: list[_Member], weights: bool) -> Record:
        predictions, losses = [], []
        for member in state:
            self._plan.pack([leaf.numpy() for leaf in member.leaves])
            predictions.append(self._outputs(self._orbit_input))
            losses.append(self._loss(self._outputs(self._train_input)))
        shape = (len(state), *self.problem.orbit_input.shape[:2], self.problem.outputs)
        return Record(
            np.stack(predictions).reshape(shape).astype(np.float32, copy=False),
            np.array(losses, self._plan.dtype),
            self.save(state)[: len(self.shapes)] if weights else [],
        )

    def _loss(self, output: np.ndarray) -> float:
        """Mean training loss, (train sample, output) → scalar."""
        found, target = torch.from_numpy(output), torch.from_numpy(self._train_target)
        if self._cross_entropy:
            return float(-(target * found.log_softmax(-1)).sum(-1).mean())
        return float(0.5 * (found - target).square().mean())

    def save(self, state: list[_Member]) -> list[np.ndarray]:
        parts = zip(*(member.tensors() for member in state), strict=True)
        return [torch.stack(tensors).numpy() for tensors in parts]

    def restore(self, members: Sequence[int], arrays: Sequence[np.ndarray]) -> list[_Member]:
        state = self.start(members)
        for place, member in enumerate(state):
            for tensor, array in zip(member.tensors(), arrays, strict=True):
                tensor.copy_(torch.from_numpy(np.asarray(array[place])))
        return state


def _trains(problem: Problem) -> bool:
    return isinstance(problem.settings.network, ConvolutionalNetwork)
