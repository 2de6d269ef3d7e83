"""How the command line shows numbers, tables and progress."""

from __future__ import annotations

import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
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


#: Seconds between two lines of a log, at least, and as a share of the time that has passed; lines per second of a
#: terminal; cells of the bar.
LOG_PERIOD, LOG_SHARE, TERMINAL_RATE, CELLS = 10.0, 0.1, 10.0, 20
#: Seconds of the past that the speed is that of, and the share of all that must be done to tell it, or the time.
RECENT, LEAST_SHARE, LEAST_TIME = 60.0, 0.02, 30.0


def progress(what: str, steps: int = 0) -> Callable[[float, float], None]:
    """A callback (done, total) that rewrites one line on a terminal, and writes few lines to a log.

    A call before anything is done says where an interrupted job goes on: the speed is that from there.

    Args:
      what: what is counted, in the plural.
      steps: gradient steps of each of them, whose speed is shown too; 0: not shown.
    """
    begin = time.monotonic()
    first: tuple[float, float] | None = None
    recent: deque[tuple[float, float]] = deque()
    shown = begin
    terminal = sys.stderr.isatty()

    def report(done: float, total: float) -> None:
        nonlocal first, shown
        now = time.monotonic()
        if first is None:
            first = (now, done) if steps else (begin, 0.0)
            recent.append(first)
        period = 1 / TERMINAL_RATE if terminal else max(LOG_PERIOD, LOG_SHARE * (now - begin))
        last = done >= total
        if now - shown < period and not last:
            return
        shown = now
        while len(recent) > 1 and now - recent[1][0] > RECENT:
            recent.popleft()
        base = first if last else recent[0]
        told = last or done - base[1] > LEAST_SHARE * total or now - base[0] > LEAST_TIME
        rate = (done - base[1]) / max(now - base[0], 1e-9) if told else 0.0
        recent.append((now, done))
        line = _progress_line(what, done, total, rate, steps)
        if terminal:
            done_cells = int(CELLS * done / total) if total else CELLS
            line = f"{'━' * done_cells}{'╌' * (CELLS - done_cells)} {line}"
            line = f"\r{line[: shutil.get_terminal_size().columns - 1]}\x1b[K"
        print(line, end="" if terminal and not last else "\n", file=sys.stderr, flush=True)

    return report


def _progress_line(what: str, done: float, total: float, rate: float, steps: int) -> str:
    parts = [f"{what}: {int(done)}/{int(total)}"]
    if rate > 0:
        parts.append(f"{number(rate)} per second" + (f" ({number(rate * steps)} steps)" if steps else ""))
        if done < total:
            parts.append(f"{duration((total - done) / rate)} left")
    return ", ".join(parts)
