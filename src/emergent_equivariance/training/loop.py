"""The training of one shard: groups of members, one after the other, recorded at the times asked for.

Training can be interrupted between two calls of the trainer, and goes on from there bit by bit: data order, random
group elements and masks are functions of (seed, member, step), so that weights, the optimiser's state and the position
are all there is to keep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .engine import Choice, Record, Trainer
from .problem import Problem, Progress, ShardResult

#: Called between two calls of the trainer, with a function that gives the present position; may raise to stop.
Pause = Callable[[Callable[[], "Position"]], None]


@dataclass(frozen=True, eq=False)
class Position:
    """How far a shard is.

    Attributes:
      finished: members whose training is finished.
      record: recorded times of the group in training that are done.
      step: gradient steps of the group in training.
      result: what is recorded so far; NaN elsewhere.
      state: arrays of the trainer's state of the group in training; [] where it has not begun.
    """

    finished: int
    record: int
    step: int
    result: ShardResult
    state: list[np.ndarray] = field(default_factory=list)


def train_shard(
    problem: Problem,
    trainer: Trainer,
    choice: Choice,
    members: Sequence[int],
    *,
    progress: Progress = lambda done, total: None,
    pause: Pause = lambda position: None,
    resume: Position | None = None,
) -> ShardResult:
    """Train ``members`` and record them.

    Members whose training loss is not finite, or has grown by DIVERGENCE_FACTOR, are diverged: nothing is recorded
    of them after that time (NaN), and a group without other members is not trained on.

    Args:
      problem: the arm.
      trainer: of the engine in ``choice``.
      choice: how to train.
      members: member indices.
      progress: called with (members finished, members in all), those in training counted by their share of the
        steps; first where training begins or goes on.
      pause: called between calls of the trainer; see Pause.
      resume: where to go on.
    """
    together = choice.members_at_once
    at = resume or Position(0, 0, 0, ShardResult.empty(problem, len(members), trainer.shapes))
    result = at.result
    for first in range(at.finished, len(members), together):
        chosen = list(members[first : first + together])
        padded = chosen + [chosen[-1]] * (together - len(chosen))
        state = trainer.restore(padded, at.state) if at.state else trainer.start(padded)
        group = _Group(problem, trainer, choice, slice(first, first + len(chosen)), result, progress)
        group.train(state, at.record, at.step, pause)
        at = Position(first + len(chosen), 0, 0, result)
        progress(at.finished, len(members))
        if at.finished < len(members):
            pause(lambda at=at: at)  # type: ignore[misc]
    return result


@dataclass(frozen=True, eq=False)
class _Group:
    """Members trained together, and where they stand in the shard."""

    problem: Problem
    trainer: Trainer
    choice: Choice
    rows: slice
    result: ShardResult
    progress: Progress

    def train(self, state: object, record: int, step: int, pause: Pause) -> None:
        ends = np.cumsum(self.problem.segments)
        stored = self.problem.stored_records
        alive = ~self._diverged(range(record))
        self._report(step)
        for index in range(record, len(ends)):
            while step < ends[index]:
                count = min(int(ends[index]) - step, self.choice.steps_per_call)
                state = self.trainer.advance(state, step, count)
                step += count
                if step < ends[-1]:
                    self._report(step)
                    pause(self._position(state, index, step))
            self._keep(self.trainer.record(state, index in stored), index, alive)
            alive &= ~self._diverged(range(index, index + 1))
            if not alive.any():
                return

    def _report(self, step: int) -> None:
        share = step / max(1, sum(self.problem.segments))
        self.progress(self.rows.start + share * (self.rows.stop - self.rows.start), len(self.result.loss))

    def _position(self, state: object, record: int, step: int) -> Callable[[], Position]:
        return lambda: Position(self.rows.start, record, step, self.result, self.trainer.save(state))

    def _keep(self, record: Record, index: int, alive: np.ndarray) -> None:
        number = self.rows.stop - self.rows.start
        rows = np.arange(self.rows.start, self.rows.stop)[alive]
        self.result.prediction[rows, index] = record.prediction[:number][alive]
        self.result.loss[rows, index] = record.loss[:number][alive]
        if record.weights:
            place = sorted(self.problem.stored_records).index(index)
            for kept, array in zip(self.result.weights, record.weights, strict=True):
                kept[rows, place] = array[:number][alive]

    def _diverged(self, records: range) -> np.ndarray:
        """(member,) whether the members diverged at one of some consecutive records; False for none."""
        prediction = self.result.prediction[self.rows, records.start : records.stop]
        loss = self.result.loss[self.rows][:, [0, *records] if records else []]
        return replace(self.result, prediction=prediction, loss=loss).diverged
