"""What an engine is: members of an arm → trained members, in three operations.

An engine keeps the weights and the optimiser's state of some members in a state of its own kind, advances it by
gradient steps, and records predictions. When to record, to checkpoint and to stop is decided outside (``loop``), the
same way for every engine. Another engine is one more module with these two classes and one entry in
``settings.engines.ENGINES``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..study.probes import Choice
from .problem import Problem


class Record(NamedTuple):
    """What is recorded of the members of a state.

    Attributes:
      prediction: (member, sample, element, output) float32.
      loss: (member,) training loss on the plain training inputs.
      weights: per parameter array (member, …).
    """

    prediction: np.ndarray
    loss: np.ndarray
    weights: list[np.ndarray]


class Trainer(Protocol):
    """Trains ``members_at_once`` members at a time.

    Nothing may depend on where the steps are cut into calls: advancing by a and then by b steps gives the bits of
    advancing by a + b.

    Attributes:
      shapes: shape of every parameter array, in the order of the parameter tree.
    """

    shapes: Sequence[tuple[int, ...]]

    def start(self, members: Sequence[int]) -> Any:
        """A state with the initial weights of ``members``, as many as ``members_at_once``."""

    def advance(self, state: Any, first: int, count: int) -> Any:
        """The state after the gradient steps first … first + count − 1, finished (not only queued).

        ``count`` is at most ``steps_per_call``. The state passed in may be consumed.
        """

    def record(self, state: Any, weights: bool) -> Record:
        """Predictions and losses of all members of the state, and their weights if asked for."""

    def save(self, state: Any) -> list[np.ndarray]:
        """Everything that later calls depend on, but the members; (member, …) each."""

    def restore(self, members: Sequence[int], arrays: Sequence[np.ndarray]) -> Any:
        """The state of ``members`` that ``save`` gave ``arrays`` of, bit by bit."""


class Engine(Protocol):
    """Makes trainers; trainers of different engines agree on the numbers up to floating-point round-off."""

    name: str

    def device(self) -> str:
        """What it computes on here: "cpu", or the name of the GPU."""

    def candidates(self, problem: Problem, members: int) -> list[Choice]:
        """Ways to train an arm of so many members per shard on this machine, the most promising first; [] if none.

        Their ``steps_per_call`` is provisional.
        """

    def trainer(self, problem: Problem, choice: Choice) -> Trainer:
        """The trainer of a choice of this engine. Raises StudyError if it cannot train the problem."""
