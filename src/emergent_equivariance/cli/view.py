"""How the status of a study looks in a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .terminal import count, duration, number

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from ..status import ArmStatus, Failed, Running, Stage, State, Status

#: Cells of a bar, in a narrow terminal and in a wide one, which begins at so many columns.
BARS, WIDE = (8, 16), 100
#: Rows of arms, running and failed jobs where the height of the terminal sets no limit.
ROWS, JOBS = 40, 10
#: Lines around the rows: title, stages, headings, blanks, the row of all other arms.
FRAME = 14

LOOKS: dict[State, tuple[str, str]] = {
    "done": ("█", "green"),
    "running": ("▒", "yellow"),
    "failed": ("×", "bold red"),
    "waiting": ("·", "dim"),
    "missing": ("·", "dim"),
}
#: Seconds of training below which an estimate of them is not worth saying: jobs take as long to start.
LEAST = 10.0

LEGEND: dict[State, str] = {"done": "done", "running": "running", "failed": "failed", "waiting": "to do"}


def view(found: Status, width: int, height: int | None = None, *, advice: bool = True) -> RenderableType:
    """All of a status, in so many columns and, if that is given, lines; with who works on it, or how to go on."""
    from rich.console import Group
    from rich.text import Text

    space = ROWS if height is None else max(2, height - FRAME)
    jobs = JOBS if height is None else max(1, space // 4)
    used = sum(min(len(jobs_), jobs) + 2 for jobs_ in (found.running, found.failed) if jobs_)
    parts: list[RenderableType] = [headline(found), stages_lines(found.stages, width), Text()]
    bar = BARS[width >= WIDE]
    parts.append(_arms_table(found, max(2, space - used) if height else space, bar))
    if any(set(arm.states) != {"done"} for arm in found.arms):
        parts.append(_legend())
    if found.running:
        parts += [Text("\nrunning"), *_running_lines(found.running, jobs)]
    if found.failed:
        parts += [Text("\nfailed", style="bold red"), *_failed_lines(found.failed, jobs)]
    if advice:
        parts.append(Text("\n" + _advice(found)))
    return Group(*parts)


def _legend() -> Text:
    from rich.text import Text

    line = Text()
    for state, what in LEGEND.items():
        line.append(*LOOKS[state]).append(f" {what}   ", "dim")
    return line


def headline(found: Status) -> Text:
    """Study, members, speed and time left, in one line."""
    from rich.text import Text

    parts = []
    if found.members:
        parts.append(f"{count(found.members_done)} of {count(found.members)} members")
        if found.pace.members_per_second is not None:
            parts.append(f"{number(found.pace.members_per_second)} per second")
        if found.pace.seconds_left and (found.pace.measured or found.pace.seconds_left > LEAST):
            how = "" if found.pace.measured else "estimated "
            parts.append(f"{how}{duration(found.pace.seconds_left)} of training left")
    else:
        done = sum(state == "done" for arm in found.arms for state in arm.states)
        parts.append(f"{done} of {len(found.arms)} arms")
    if found.complete:
        parts.append("complete")
    return Text.assemble((found.study, "bold"), ": ", ", ".join(parts))


def stages_lines(stages: Sequence[Stage], width: int) -> Text:
    """Every stage with how many of its jobs are done, in lines of so many columns that break between stages."""
    from rich.text import Text

    line, used = Text(), 0
    for stage in stages:
        done, more = stage.states.get("done", 0), []
        for state in ("running", "failed"):
            if stage.states.get(state):
                more.append(f"{stage.states[state]} {state}")
        style = "red" if "failed" in stage.states else "green" if done == stage.of else "yellow" if more else "dim"
        text = f"{stage.what} {count(done)}/{count(stage.of)}" + (f" ({', '.join(more)})" if more else "")
        gap = "" if not used else "  " if used + 2 + len(text) <= width else "\n"
        line.append(gap).append(text, style)
        used = len(text) + (used + 2 if gap == "  " else 0)
    return line


def _arms_table(found: Status, rows: int, bar: int) -> RenderableType:
    """A row per arm; where they are too many, one for those that are done and one for the rest of the others."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    trained = bool(found.members)
    table.add_column("arm", overflow="fold")
    table.add_column("shards" if trained else "measured", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    if trained:
        table.add_column("members", justify="right", no_wrap=True)
        table.add_column("1/s per job", justify="right", no_wrap=True)
    for name, arms in _grouped(found.arms, rows):
        states = Counter(state for arm in arms for state in arm.states)
        cells: list[RenderableType] = [
            name,
            _bar(states, bar),
            f"{count(states['done'])}/{count(sum(states.values()))}",
        ]
        if trained:
            done, members = sum(arm.members_done for arm in arms), sum(arm.members for arm in arms)
            cells += [f"{count(done)}/{count(members)}", _speed(arms)]
        table.add_row(*cells)
    return table


def _grouped(arms: Sequence[ArmStatus], rows: int) -> Iterator[tuple[str, list[ArmStatus]]]:
    if len(arms) <= rows:
        yield from ((arm.path, [arm]) for arm in arms)
        return
    done = [arm for arm in arms if set(arm.states) == {"done"}]
    others = sorted((arm for arm in arms if set(arm.states) != {"done"}), key=_interest)
    shown = others[: rows - bool(done) - 1] if len(others) > rows - bool(done) else others
    if done:
        yield f"{len(done)} arms, all done", done
    yield from ((arm.path, [arm]) for arm in shown)
    if rest := others[len(shown) :]:
        yield f"{len(rest)} more arms", rest


def _interest(arm: ArmStatus) -> tuple[bool, bool, float]:
    """Failing arms first, then those at work, then those that are furthest."""
    states = Counter(arm.states)
    return not states["failed"], not states["running"], -states["done"] / len(arm.states)


def _bar(states: Counter[State], length: int) -> Text:
    """Shares of the states, each that occurs with a cell at least."""
    from rich.text import Text

    total, bar = sum(states.values()), Text()
    cells = {state: max(1, round(length * states[state] / total)) for state in LOOKS if states[state]}
    while sum(cells.values()) != length:
        widest = max(cells, key=lambda state: cells[state])
        cells[widest] += 1 if sum(cells.values()) < length else -1
    for state, width in cells.items():
        character, style = LOOKS[state]
        bar.append(character * width, style)
    return bar


def _speed(arms: Sequence[ArmStatus]) -> str:
    """Members per second of one job of these arms on average; "~": estimated."""
    known = [(arm.members, arm.seconds_per_member) for arm in arms if arm.seconds_per_member]
    if not known:
        return "?"
    rate = sum(members for members, _ in known) / sum(members * seconds for members, seconds in known if seconds)
    return ("" if all(arm.measured for arm in arms) else "~") + number(rate)


def _running_lines(jobs: Sequence[Running], rows: int) -> Iterator[Text]:
    from rich.text import Text

    for job in jobs[:rows]:
        since = "" if job.seconds != job.seconds else f" for {duration(job.seconds)}"
        where = f" on {job.holder}" if job.holder else ""
        yield Text(f"  {f'{job.arm}: ' if job.arm else ''}{job.what}{where}{since}")
    if len(jobs) > rows:
        yield Text(f"  and {len(jobs) - rows} more")


def _failed_lines(jobs: Sequence[Failed], rows: int) -> Iterator[Text]:
    from rich.text import Text

    for job in jobs[:rows]:
        yield Text(f"  {f'{job.arm}: ' if job.arm else ''}{job.what}: {job.reason.removeprefix('error: ')}")
    if len(jobs) > rows:
        yield Text(f"  and {len(jobs) - rows} more")


def _advice(found: Status) -> str:
    """Who works on the study, or how to go on."""
    if found.worker:
        return f"{found.worker} works on it."
    if found.complete:
        return f"Everything is in {found.root}."
    more = f" {found.checkpoints} shards go on from a checkpoint." if found.checkpoints else ""
    more += f" `emeq missing {found.file}` names every file." if found.failed else ""
    return f"Nothing works on it now: `snakemake --configfile {found.file}` makes what is missing.{more}"
