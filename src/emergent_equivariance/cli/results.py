"""Subcommands that look at the results of a study."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..study import Study, load_study, missing_report
from .common import RESULTS, ResultsOption, StudyArgument, app, progress, say

if TYPE_CHECKING:
    from ..verify import Finding, Report


@app.command(rich_help_panel=RESULTS, epilog="Example: `emeq missing config/ising.yaml`.")
def missing(study_file: StudyArgument, results: ResultsOption = Path("results")) -> None:
    """Say which files of a study are not there yet, and what the logs say of them; exit code 1 if there are any."""
    study = load_study(study_file, results)
    study.check_existing()
    report = missing_report(study)
    print(report or f"The study {study.name!r} is complete: {study.root}")
    if report:
        raise typer.Exit(1)


@app.command(rich_help_panel=RESULTS, epilog="Example: `emeq verify config/ising.yaml --repair`.")
def verify(
    study_file: StudyArgument,
    results: ResultsOption = Path("results"),
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove what is torn, foreign, stale or left over, and nothing else.")
    ] = False,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Files read at the same time.")] = None,
) -> None:
    """Read all results of a study again; name what is missing, torn, foreign or stale. Exit code 1 if anything is."""
    from .. import controller, verify

    study = load_study(study_file, results)
    with _alone(study) if repair else nullcontext():
        if not repair and (other := controller.other(study)):
            say(f"{other} works on {study.root} now: what is missing may be on its way")
        jobs = jobs or len(os.sched_getaffinity(0))
        report = verify.verify(study, jobs, progress("MB read"))
        _print(study, report)
        if repair:
            removed = list(_tell(verify.repair(report)))
            print(f"{len(removed)} removed" + (f": {_again(study)}" if removed else ""))
    if not report.is_well:
        raise typer.Exit(1)


@contextmanager
def _alone(study: Study) -> Iterator[None]:
    """Work on the results of a study while no Snakemake does. Raises StudyError saying which one does."""
    from .. import controller

    if not study.root.is_dir():
        yield
        return
    lock = controller.acquire(study)
    if lock is None:
        say(f"{study.root}: the file system has no locks: see to it that no Snakemake works on it now")
    with lock or nullcontext():
        yield


def _print(study: Study, report: Report) -> None:
    from ..verify import REMOVED

    for finding in report.findings:
        print(f"{finding.kind:<11} {finding.path}: {finding.reason}")
    counts = Counter(finding.kind for finding in report.findings)
    said = ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "all is well"
    print(f"{study.root}: {report.files} files, {report.nbytes / 1e6:.4g} MB: {said}")
    if report.allowed:
        print(f"{report.allowed} members are missing, which execution.allow_missing in {study.file} allows")
    if report.unproven:
        print(f"{report.unproven} files do not say what they were made from (an earlier version wrote them)")
    if any(kind in REMOVED for kind in counts):
        again = f"emeq verify {study.file} --repair"
        print(f"`{again}` removes what is {', '.join(kind for kind in counts if kind in REMOVED)}, and nothing else")
    elif "missing" in counts:
        print(_again(study))


def _again(study: Study) -> str:
    return f"`snakemake --configfile {study.file}` makes what is missing"


def _tell(removed: Iterable[Finding]) -> Iterator[Finding]:
    for finding in removed:
        print(f"removed     {finding.path}", flush=True)
        yield finding
