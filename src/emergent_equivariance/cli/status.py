"""The subcommand that says how far a study is."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..study import Study, load_study
from .common import RUN, ResultsOption, StudyArgument, app
from .terminal import console
from .view import headline, view

if TYPE_CHECKING:
    from ..status import Status


@app.command(rich_help_panel=RUN, epilog="Example: `emeq status config/ising.yaml --watch 5`.")
def status(
    study_file: StudyArgument,
    results: ResultsOption = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, for scripts.")] = False,
    watch: Annotated[
        float | None,
        typer.Option("--watch", metavar="SECONDS", min=0.2, help="Look again so often, until the study is complete."),
    ] = None,
) -> None:
    """Say how far a study is: what is done, running, failed and missing, members per second, time left.

    Nothing is written. Exit code 0 if the study is complete, 1 if it is not.
    """
    from ..status import status as look

    study = load_study(study_file, results)
    found = look(study)
    if as_json:
        print(json.dumps(found.to_json(), indent=1, ensure_ascii=False))
    elif watch is None:
        out = console()
        out.print(view(found, out.width))
    else:
        found = _follow(study, found, watch)
    if not found.complete:
        raise typer.Exit(1)


def _follow(study: Study, found: Status, seconds: float) -> Status:
    """Show the status until the study is complete, or Ctrl-C; a line each time where there is no terminal."""
    from rich.live import Live

    from ..status import status as look

    out = console()
    try:
        if not sys.stdout.isatty():
            print(headline(found).plain, flush=True)
            while not found.complete:
                time.sleep(seconds)
                found = look(study)
                print(headline(found).plain, flush=True)
            return found
        with Live(view(found, out.width, out.height - 1), console=out, auto_refresh=False) as live:
            while not found.complete:
                time.sleep(seconds)
                found = look(study)
                live.update(view(found, out.width, out.height - 1), refresh=True)
    except KeyboardInterrupt:
        pass
    return found
