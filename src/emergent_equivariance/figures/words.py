"""Words and numbers of the pictures and of the report."""

from __future__ import annotations

import json
import re

import numpy as np

_AUGMENTED = {"none": "no augmentation", "full": "full augmentation", "random": "random augmentation"}


def augmented(augmentation: str) -> str:
    """An augmentation ("none", "full", "subset-K" or "random") in words."""
    if augmentation.startswith("subset-"):
        return f"augmentation with {augmentation.removeprefix('subset-')} elements"
    return _AUGMENTED.get(augmentation, augmentation)


def split_words(split: str) -> str:
    """A split in words."""
    if split.startswith("ood-"):
        return f"out-of-distribution inputs ({split.removeprefix('ood-')})"
    return {"train": "training inputs", "test": "test inputs"}.get(split, split)


def mean_of(members: int, most: int | None = None) -> str:
    """The mean of so many members, in words, or of between ``members`` and ``most``."""
    if most is not None and most != members:
        return f"mean of {members} to {most} members"
    return f"mean of {members} member" + ("" if members == 1 else "s")


def diverged_words(members: int, what: str = "") -> str:
    """That all of so many members diverged, in words.

    Args:
      what: whose members they are; empty where that is clear.
    """
    count = "the only member" if members == 1 else f"all {members} members"
    return f"{count} diverged" + (f": {what}" if what else "")


def missing_words(missing: int, asked: int, what: str = "") -> str:
    """That so many of the members that were asked for are missing, in words; empty if none is.

    Args:
      what: whose members they are; empty where that is clear.
    """
    if not missing:
        return ""
    return f"{missing} of {asked} members {'is' if missing == 1 else 'are'} missing" + (f": {what}" if what else "")


def element_text(name: str) -> str:
    """A group element with raised powers: r12m → $r^{12}m$."""
    return "$" + re.sub(r"\d+", r"^{\g<0>}", name) + "$"


def number(value: float, error: float = np.nan, *, compact: bool = False) -> str:
    """A value with its standard error, rounded to two digits of the error, or to three digits without one.

    Args:
      compact: write the error as the uncertainty of the last digits.

    >>> number(0.01234, 0.00056), number(1.5e-6), number(float("nan"))
    ('0.01234 ± 0.00056', '1.50×10⁻⁶', '–')
    >>> number(0.01234, 0.00056, compact=True), number(12.3, 4.5, compact=True)
    ('0.01234(56)', '12.3(4.5)')
    """
    if not np.isfinite(value):
        return "–"
    known = bool(np.isfinite(error) and error > 1e-9 * abs(value))  # less is round-off
    size = max(abs(value), error if known else 0.0)
    if size == 0:
        return "0"
    exponent = int(np.floor(np.log10(size)))
    shift = 0 if -4 < exponent < 5 else exponent
    last = int(np.floor(np.log10(error))) - 1 if known else int(np.floor(np.log10(abs(value)))) - 2
    decimals = int(np.clip(shift - last, 0, 12))
    text = f"{value / 10.0**shift:.{decimals}f}".replace("-", "−")
    if known:
        uncertainty = f"{error / 10.0**shift:.{decimals}f}"
        text += f"({uncertainty.removeprefix('0.').lstrip('0')})" if compact else f" ± {uncertainty}"
    if not shift:
        return text
    power = "10" + str(shift).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"({text})×{power}" if known and not compact else f"{text}×{power}"


def times_words(time: float) -> str:
    """A training time of an infinite ensemble, in words."""
    return "trained to the end (t → ∞)" if np.isposinf(time) else f"after {time:g} steps"


def substitutes(provenance: str) -> list[str]:
    """What a study used in place of a data set, from its attribute data_provenance (JSON, a list where arms differ)."""
    found = json.loads(provenance)
    origins = found if isinstance(found, list) else [found]
    return list(dict.fromkeys(origin["substitute"] for origin in origins if "substitute" in origin))
