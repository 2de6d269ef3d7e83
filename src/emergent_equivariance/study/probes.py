"""How the members of an arm are trained: decided once, before training, and kept in a file that every shard reads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from ..errors import StoreError
from ..settings.engines import ENGINES

__all__ = ["Candidate", "Choice", "Probe", "read_probe"]

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Choice:
    """How the members of an arm are trained.

    Attributes:
      engine: name of the engine.
      variant: how it trains members together, in the engine's own words.
      members_at_once: members of one state.
      steps_per_call: gradient steps between two moments at which training can be interrupted, at most.
    """

    engine: str
    variant: str
    members_at_once: Count
    steps_per_call: Count

    def as_dict(self) -> dict[str, Any]:
        """The fields, as they stand in the file."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.engine} {self.variant}, {self.members_at_once} at once"


@dataclass(frozen=True)
class Candidate:
    """A way to train that was considered.

    Attributes:
      engine, variant, members_at_once: as of Choice.
      seconds: per member and gradient step of a whole shard, or None where it was not measured to the end.
      first_seconds: the first call, compilation included.
      device: what the engine computes on.
      note: why it was not measured, or not to the end.
    """

    engine: str
    variant: str
    members_at_once: Count
    device: str
    seconds: Seconds | None = None
    first_seconds: Seconds | None = None
    note: str = ""


@dataclass(frozen=True)
class Probe:
    """Content of the file.

    Attributes:
      probe_key: hash of what the speed of the arm depends on.
      choice: how its members are trained.
      reason: why so, in words.
      device: what the chosen engine computes on: "cpu", or the name of the GPU.
      machine: processor and its features (as a hash) where it was decided.
      threads: CPU threads it was decided for.
      versions: package → version.
      candidates: what was considered.
    """

    probe_key: str
    choice: Choice
    reason: str
    device: str
    machine: str
    threads: Count
    versions: dict[str, str] = field(default_factory=dict)
    candidates: list[Candidate] = field(default_factory=list)

    def to_json(self) -> str:
        """Text of the file."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @property
    def seconds(self) -> float | None:
        """Measured seconds per member and gradient step as chosen, or None where nothing was measured."""
        chosen = (self.choice.engine, self.choice.variant, self.choice.members_at_once)
        found = (c.seconds for c in self.candidates if (c.engine, c.variant, c.members_at_once) == chosen)
        return next(found, None)


def read_probe(path: Path, key: str) -> Probe | None:
    """The file at ``path``, None if there is none.

    Raises StoreError if it is torn, names an unknown engine or was not written for arms with this ``key``.
    """
    remedy = "Delete it and run the study again; nothing that is trained is lost."
    try:
        probe = TypeAdapter(Probe).validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise StoreError(f"{path}: is damaged: {where + ': ' if where else ''}{first['msg']}.", remedy=remedy) from None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}.", remedy=remedy) from None
    if probe.choice.engine not in ENGINES:
        raise StoreError(
            f"{path}: choice.engine: {probe.choice.engine!r} is no engine; those known are {', '.join(ENGINES)}.",
            remedy=remedy,
        )
    if probe.probe_key != key:
        raise StoreError(
            f"{path}: was written for other arms (probe key {probe.probe_key}, expected {key}).", remedy=remedy
        )
    return probe
