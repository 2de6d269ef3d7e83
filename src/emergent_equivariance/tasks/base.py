"""What every task delivers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import DataError
from ..groups import Action
from ..interpolation import InputAction


@dataclass(frozen=True, eq=False)
class Readout:
    """The invariant observable that orbit deviations are judged on, a linear function R·f of the outputs.

    Attributes:
      name: what it is, e.g. "total energy" or "logits".
      matrix: (observable, output); invariance means R ρ_Y(g) = R for every g.
    """

    name: str
    matrix: np.ndarray


@dataclass(frozen=True, eq=False)
class TaskData:
    """A data set with its symmetry.

    Attributes:
      input: (sample, *input shape) float64.
      target: (sample, output) float64, NaN where there is none (out-of-distribution inputs).
      split: (sample,) "train", "test" or "ood-NAME"; each split contiguous, in this order.
      input_action: how the group acts on inputs: exactly, or by interpolation.
      output_action: how it acts on outputs (ρ_Y), exactly.
      output_name: what the outputs are, e.g. "site energies".
      readout: the invariant observable.
      label: (sample,) class index, −1 where there is none; None for regression.
      provenance: where the data came from, how it was chosen and normalised; plain strings and numbers.
    """

    input: np.ndarray
    target: np.ndarray
    split: np.ndarray
    input_action: InputAction
    output_action: Action
    output_name: str
    readout: Readout
    label: np.ndarray | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def evaluated(self, samples: int) -> np.ndarray:
        """Indices of the first ``samples`` samples of each split, in the order of the data."""
        rank = np.zeros(len(self.split), dtype=np.int64)
        for name in np.unique(self.split):
            here = self.split == name
            rank[here] = np.arange(here.sum())
        return np.flatnonzero(rank < samples)

    def check(self, where: str = "task") -> None:
        """Raise DataError where shapes disagree, training data is not finite, or symmetry is broken.

        Args:
          where: the key of the study file that says which task this is, and its value, for messages.
        """
        samples, group = len(self.input), self.input_action.group
        if self.input.shape[1:] != self.input_action.shape:
            raise DataError(
                f"{where}: inputs have shape {self.input.shape[1:]}, "
                f"the input action acts on {self.input_action.shape}.",
                remedy="Give the factory's TaskData an action on the shape of one input.",
            )
        if self.input.dtype != np.float64 or self.target.dtype != np.float64:
            raise DataError(
                f"{where}: inputs are {self.input.dtype} and targets {self.target.dtype}, expected float64.",
                remedy="Convert them with .astype(float).",
            )
        if len(self.output_action.shape) != 1:
            raise DataError(
                f"{where}: the output action acts on shape {self.output_action.shape}, outputs are vectors.",
                remedy="Flatten the outputs and give the action the shape (output,).",
            )
        if self.target.shape != (samples, *self.output_action.shape) or self.split.shape != (samples,):
            raise DataError(
                f"{where}: {samples} inputs, targets of shape {self.target.shape}, splits of shape {self.split.shape}; "
                f"expected targets ({samples}, {self.output_action.shape[0]}).",
                remedy="Make the arrays of the task agree on the number of samples and outputs.",
            )
        if self.label is not None and self.label.shape != (samples,):
            raise DataError(
                f"{where}: labels have shape {self.label.shape}, expected ({samples},).",
                remedy="Give one label per sample, −1 where there is none, or no labels.",
            )
        if self.output_action.group is not group:
            raise DataError(
                f"{where}: input and output actions are of different groups.", remedy="Use the group passed in."
            )
        train = self.split == "train"
        if not train.any():
            raise DataError(
                f"{where}: there is no sample in the split 'train'.", remedy="Label at least one sample 'train'."
            )
        if not (np.isfinite(self.input).all() and np.isfinite(self.target[train]).all()):
            raise DataError(
                f"{where}: an input or a training target is not finite.", remedy="Remove or repair those samples."
            )
        bad = sorted({str(s) for s in self.split if s not in ("train", "test") and not str(s).startswith("ood-")})
        if bad:
            raise DataError(f"{where}: unknown split labels {bad}.", remedy="Use 'train', 'test' or 'ood-NAME'.")
        if self.readout.matrix.shape[1:] != self.output_action.shape:
            raise DataError(
                f"{where}: the matrix of the observable {self.readout.name!r} has shape {self.readout.matrix.shape}, "
                f"expected (observable, {self.output_action.shape[0]}).",
                remedy="Give one row per component of the observable and one column per output.",
            )
        moved = self.readout.matrix[:, self.output_action.source] * self.output_action.sign
        if not np.allclose(moved, self.readout.matrix[:, None, :]):
            raise DataError(
                f"{where}: the observable {self.readout.name!r} is not invariant under {group.name}.",
                remedy="Choose a readout R with R ρ_Y(g) = R for every g.",
            )
