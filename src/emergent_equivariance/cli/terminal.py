"""How the command line shows numbers, tables and progress."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """Standard output: of the width of a terminal, in colours there (unless NO_COLOR is set); 160 columns elsewhere."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def count(number: int) -> str:
    """A number with its thousands apart."""
    return f"{number:,}"


def number(value: float) -> str:
    """A number in three digits, its thousands apart, without exponents where it is large."""
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """A time in two digits or so: 0.4 s, 42 s, 5 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 10:
        return f"{seconds:.1g} s" if seconds < 1 else f"{seconds:.0f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 36:
        return f"{hours} h" + (f" {minutes} min" if minutes else "")
    days, hours = divmod(hours + round(minutes / 60), 24)
    return f"{days} d" + (f" {hours} h" if hours else "")
