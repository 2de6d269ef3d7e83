"""Checkpoints: where the training of a shard stands, in one file beside it until the shard is written.

The file is a store like all others (atomic, with a checksum) with the recorded results, the state of the trainer and
the position. Data order, random group elements and masks are functions of (seed, member, step): the position is
their state. A checkpoint of other settings, another choice of engine or other versions of the libraries is not used.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from . import store
from .errors import Interrupted, StoreError
from .interruption import Interruption
from .lease import Lease
from .time_limit import TimeLimit
from .training import Choice, Position, Problem, ShardResult

#: Layout of a checkpoint.
FORMAT = 1
#: Seconds of training for every second that writing a checkpoint took, at least.
SPACING = 100.0
#: Seconds that are kept free before a time limit, at least.
MARGIN = 20.0
#: Bytes per second at which the first checkpoint is expected to be written.
EXPECTED_RATE = 20e6

_RESULT = ("member", "record", "sample", "element", "output")


def identity(config_hash: str, members: Sequence[int], problem: Problem, choice: Choice) -> dict[str, Any]:
    """What a checkpoint has to agree on with the run that uses it."""
    return {
        "format": FORMAT,
        "config_hash": config_hash,
        "members": [members[0], members[-1]],
        "learning_rate": problem.learning_rate,
        "precision": problem.settings.execution.precision,
        "choice": choice.as_dict(),
        "versions": store.versions(store.NUMERICAL),
    }


class Checkpoints:
    """Reads, writes and removes the checkpoint of one shard.

    Args:
      path: the file.
      identity: see ``identity``.
      period: seconds of training between two checkpoints, at least.
      machine: type of this machine.
      interruption: asked at every pause whether to stop.
      say: told whether training goes on from a checkpoint, or why one is not used.
      limit: when this job has to be over, if that is known.
      lease: held while the shard is trained; without one nothing else may train it.

    Attributes:
      machines: type of the machine of every run that contributed, this one last.
      seconds: training time of the earlier runs.
      written: checkpoints written by this run.
      writing: seconds spent on writing them.
    """

    def __init__(
        self,
        path: Path,
        identity: Mapping[str, Any],
        period: float,
        machine: str,
        interruption: Interruption,
        say: Callable[[str], None],
        limit: TimeLimit | None = None,
        lease: Lease | None = None,
    ) -> None:
        self.path, self.identity, self.period = path, dict(identity), period
        self.machines = [machine]
        self.seconds, self.written, self.writing = 0.0, 0, 0.0
        self._interruption, self._say = interruption, say
        self._start = time.monotonic()
        self._due = self._start + period
        self._limit, self._lease, self._expected = limit, lease, 0.0
        self._halfway: float | None = None
        self._paused, self._longest = self._start, 0.0

    def load(self) -> Position | None:
        """Where to go on; None from the beginning: no checkpoint, or one that cannot be used, as ``say`` is told."""
        if not self.path.exists():
            return None
        first, last = self.identity["members"]
        again = f"Members {first} to {last} are trained from the beginning."
        try:
            found = store.read(self.path).load()
        except StoreError as error:
            self._say(f"warning: {error.message} {again}")
            return None
        if differing := self._differing(found):
            self._say(f"warning: {self.path}: is a checkpoint of another run ({differing}). {again}")
            return None
        position = _position(found)
        self.machines = [*json.loads(found.attrs["machines"]), *self.machines]
        self.seconds = found.attrs["seconds"]
        done = f"{position.finished} of {last - first + 1} members trained, the next at step {position.step}"
        self._say(f"{self.path}: going on from this checkpoint ({done}).")
        if self.machines[-2] != self.machines[-1]:
            self._say(
                f"warning: it was written on another type of machine ({self.machines[-2]}, this is "
                f"{self.machines[-1]}): predictions may differ from those of an undisturbed run by round-off."
            )
        return position

    def _differing(self, found: xr.Dataset) -> str:
        """In which parts of the identity a checkpoint differs, "" if in none."""
        try:
            theirs = json.loads(found.attrs["identity"])
        except (KeyError, ValueError):
            return "it does not say of which"
        keys = [key for key in self.identity if theirs.get(key) != self.identity[key]]
        return "; ".join(f"{key} {theirs.get(key)}, now {self.identity[key]}" for key in keys)

    def pause(self, position: Callable[[], Position]) -> None:
        """Write a checkpoint if it is time to, or if training is to stop; see training.Pause.

        Raises Interrupted after the checkpoint where a signal asked to stop or the time limit is near, Superseded where
        another job has taken over, StoreError if it cannot be written.
        """
        self._interruption.defer()
        if self._lease is not None and self._lease.lost:
            self._lease.confirm()
        late = self._limit is not None and self._is_near(self._limit, position)
        asked = self._interruption.reason(late) or (late and self._limit and f"time limit ({self._limit.name})")
        if asked or time.monotonic() >= self._due:
            self._write(position())
        if asked:
            raise Interrupted(f"{asked}: stopped after writing {self.path}. Run the same command again to go on.")
        self._paused = time.monotonic()

    def _is_near(self, limit: TimeLimit, position: Callable[[], Position]) -> bool:
        """Whether training has to stop at this pause for a checkpoint to be written before the time limit.

        The margin is MARGIN, or twice the longest time between two pauses and three times that of writing a checkpoint
        where these are longer; but half of the time that is left at the first pause is used for training, so that every
        job gets on.
        """
        now = time.monotonic()
        if self._halfway is None:
            self._expected = self._expected or _bytes(position()) / EXPECTED_RATE
        else:
            self._longest = max(self._longest, now - self._paused)
        margin = max(MARGIN, 2 * self._longest + 3 * self._expected)
        if self._halfway is None:
            self._halfway = (now + limit.deadline) / 2
            if limit.deadline - margin < self._halfway:
                self._say(
                    f"warning: {limit.name}: {max(0.0, limit.left):.0f} s are left when training begins, its end may "
                    f"take {margin:.0f} s. It stops after half of what is left; give it more minutes."
                )
        return now >= max(limit.deadline - margin, self._halfway)

    def _write(self, position: Position) -> None:
        start = time.monotonic()
        attributes = {
            "identity": json.dumps(self.identity),
            "machines": json.dumps(self.machines),
            "seconds": self.seconds + start - self._start,
            "format": store.FORMAT,
        }
        try:
            store.write(_dataset(position), self.path, attributes, self.confirm)
        except StoreError as error:
            kept = "The last good checkpoint stays" if self.path.exists() else "No checkpoint was written before"
            raise StoreError(f"{error.message} {kept}.", remedy=error.remedy) from None
        took = time.monotonic() - start
        self.written, self.writing, self._expected = self.written + 1, self.writing + took, took
        self._due = time.monotonic() + max(self.period, SPACING * took)

    def confirm(self) -> None:
        """Raise Superseded where another job has taken over; see lease."""
        if self._lease is not None:
            self._lease.confirm()

    def attributes(self) -> dict[str, Any]:
        """What the shard says of its interruptions: nothing if there was none."""
        if len(self.machines) == 1:
            return {}
        return {"resumed": len(self.machines) - 1, "machines": json.dumps(list(dict.fromkeys(self.machines)))}

    def remove(self) -> None:
        """Remove the checkpoint: the shard is written."""
        self.path.unlink(missing_ok=True)


def _bytes(position: Position) -> int:
    result = position.result
    return sum(array.nbytes for array in (result.prediction, result.loss, *result.weights, *position.state))


def _dataset(position: Position) -> xr.Dataset:
    """A position as a dataset."""
    variables: dict[str, Any] = {
        "position": ("part", np.array([position.finished, position.record, position.step], np.int64)),
        "prediction": (_RESULT, position.result.prediction),
        "loss": (_RESULT[:2], position.result.loss),
    }
    for kind, arrays in (("weight", position.result.weights), ("state", position.state)):
        for index, array in enumerate(arrays):
            axes = [f"{kind}_{index}_axis_{k}" for k in range(array.ndim)]
            variables[f"{kind}_{index}"] = (axes, array)
    return xr.Dataset(variables)


def _position(found: xr.Dataset) -> Position:
    """The position that ``_dataset`` gave ``found`` of."""

    def arrays(kind: str) -> list[np.ndarray]:
        count = sum(str(name).startswith(f"{kind}_") for name in found.data_vars)
        return [np.array(found[f"{kind}_{index}"]) for index in range(count)]

    finished, record, step = (int(value) for value in found["position"])
    result = ShardResult(np.array(found["prediction"]), np.array(found["loss"]), arrays("weight"))
    return Position(finished, record, step, result, arrays("state"))
