"""Whether a file of a learning rate, the theory and the shards have the same one; and if not, which errs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import isclose

from ..settings import CriticalFraction
from .content import Checked
from .findings import Finding, Kind
from .places import Role

#: Relative difference up to which two computations of one critical learning rate agree.
_TOLERANCE = 1e-3
#: Files that say a learning rate.
_ROLES = (Role.RATE, Role.SHARD, Role.THEORY)


def judge_rates(checked: Iterable[Checked]) -> Iterator[Finding]:
    """Name the files whose learning rate is not that of the others.

    A theory holds the critical learning rate by its own eigenvalues: what that gives is right, else what the theory and
    all shards say together. Where neither tells, the file of the rate is doubtful and nothing is removed.
    """
    files: dict[str, list[Checked]] = {}
    for each in checked:
        uses = (
            each.place.role in (Role.RATE, Role.SHARD, Role.THEORY) and each.place.arm.settings.resolves_learning_rate
        )
        if uses and not each.problem and isinstance(each.attributes.get("learning_rate"), float):
            files.setdefault(each.place.arm.learning_rate_key, []).append(each)
    for group in files.values():
        if all(isclose(_rate(each), _rate(group[0]), rel_tol=1e-9) for each in group):
            continue
        right, why = _right(group)
        wrong = [each for each in group if right and not isclose(_rate(each), right, rel_tol=_TOLERANCE)]
        for each in wrong:
            yield Finding(Kind.STALE, each.place.path, f"has learning rate {_rate(each):g}; {why} it is {right:g}")
        if not wrong:
            yield _doubt(group)


def _rate(each: Checked) -> float:
    return float(each.attributes["learning_rate"])


def _right(group: list[Checked]) -> tuple[float | None, str]:
    """The learning rate that is proven, if one is, and by what."""
    theories = [each for each in group if each.place.role is Role.THEORY]
    rate = group[0].place.arm.settings.training.learning_rate
    critical = [each.attributes.get("critical_learning_rate") for each in theories]
    if isinstance(rate, CriticalFraction) and critical:
        proven = [rate.critical_fraction * value for value in critical if isinstance(value, float)]
        if len(proven) == len(critical) and all(isclose(value, proven[0], rel_tol=_TOLERANCE) for value in proven):
            return proven[0], "by the eigenvalues of the theory"
    shards = [each for each in group if each.place.role is Role.SHARD]
    if theories and shards and len({_rate(each) for each in theories + shards}) == 1:
        return _rate(shards[0]), "by theory and shards"
    return None, ""


def _doubt(group: list[Checked]) -> Finding:
    here = next((each for each in group if each.place.role is Role.RATE), group[0])
    other = next(each for each in group if not isclose(_rate(each), _rate(here), rel_tol=1e-9))
    return Finding(
        Kind.DOUBTFUL,
        here.place.path,
        f"has learning rate {_rate(here)}, and {other.place.path} {_rate(other)}: nothing tells which is right. Delete "
        "the learning rate and the theory, so that they are computed again, and verify again",
    )
