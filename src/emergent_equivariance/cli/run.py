"""The subcommand that runs a study and shows how far it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import typer

from ..errors import UserError
from ..study import Study, load_study
from .common import RUN, StudyArgument, app
from .terminal import console, duration
from .view import headline, view

#: Lines of Snakemake's output that are shown where it fails; seconds between two looks at the study, and how many times
#: as long as a look takes.
SHOWN, PERIOD, PAUSE = 30, 1.0, 10.0

#: What asks a run to stop; SIGHUP: the terminal is gone.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STOPPING = "stopping: what is in training writes a checkpoint, and the same command goes on from there"


@app.command(
    rich_help_panel=RUN,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    options_metavar="[OPTIONS OF SNAKEMAKE]",
    epilog="Examples: `emeq run config/ising.yaml --cores 2`, "
    "`emeq run config/ising_full.yaml --workflow-profile profiles/slurm`.",
)
def run(context: typer.Context, study_file: StudyArgument) -> None:
    """Run a study with Snakemake and show in the terminal how far it is.

    The same as `snakemake --configfile STUDY.yaml` with the same options; where there is no terminal, nothing is shown
    but what Snakemake says. Exit code: that of Snakemake.
    """
    study = load_study(study_file)
    command = [sys.executable, "-m", "snakemake", *context.args, "--configfile", str(study_file)]
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        os.execv(command[0], command)
    if code := _run_shown(study, command):
        raise typer.Exit(code if code > 0 else 128 - code)


def _run_shown(study: Study, command: list[str]) -> int:
    """Run Snakemake behind a view of the study's status; → its exit code."""
    from rich.live import Live

    from ..status import status

    out, begin = console(), time.monotonic()
    processes: list[subprocess.Popen[str]] = []
    said: deque[str] = deque(maxlen=1000)
    stopped: list[int] = []
    told: set[str] = set()
    with Live(console=out, auto_refresh=False, transient=True) as live:

        def tell(text: str) -> None:
            out.print(text, markup=False, style="yellow")

        def stop(number: int, _: object) -> None:
            stopped.append(number)
            if number != signal.SIGINT:  # Ctrl-C in a terminal reaches Snakemake too; other signals only this process
                for process in processes:
                    process.terminate()
            tell(_STOPPING)

        before = {number: signal.signal(number, stop) for number in _SIGNALS}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, **pipes, text=True, errors="replace")
        processes.append(process)
        if set(stopped) - {signal.SIGINT}:  # while it was started
            process.terminate()
        reader = threading.Thread(target=_read, args=(process.stdout, said, tell), daemon=True)
        reader.start()
        try:
            while process.poll() is None:
                look = time.monotonic()
                try:
                    live.update(view(status(study), out.width, out.height - 1, advice=False), refresh=True)
                except (UserError, OSError) as error:  # it may pass, and the run needs no view
                    if (unread := f"the run goes on; its status cannot be read: {error}") not in told:
                        told.add(unread)
                        tell(unread)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(PERIOD, PAUSE * (time.monotonic() - look)))
        finally:  # nothing runs on behind a view that is gone
            if process.poll() is None:
                process.terminate()
            process.wait()
            reader.join()
            for number, handler in before.items():
                signal.signal(number, handler)
    found = status(study)
    if not process.returncode:
        out.print(headline(found).append(f", in {duration(time.monotonic() - begin)}"))
        return 0
    out.print(view(found, out.width, advice=False), "")
    code = f"Snakemake ended with exit code {process.returncode}"
    if stopped:
        end = ["Stopped. The same command goes on."]
    elif found.failed:
        again = "Mend the cause and run the same command again: only what is missing is made."
        end = [f"{code}. {again} `emeq missing {study.file}` names all of it."]
    else:
        end = [f"{code}. It said at last:", *list(said)[-SHOWN:]]
    out.print("\n".join(end), markup=False)
    return process.returncode


def _read(output: Iterable[str] | None, said: deque[str], tell: Callable[[str], None]) -> None:
    """Keep what Snakemake says, and tell its warnings."""
    for line in output or ():
        said.append(line.rstrip("\n"))
        if line.startswith("warning: "):
            tell(said[-1])
