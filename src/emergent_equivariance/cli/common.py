"""What all subcommands share: the program, its options, and how it talks.

Exit codes: 0 done; 1 something the user can mend, said in one paragraph; 2 wrong usage of the command line; 75 stopped
by a signal or before a time limit, and going on when it is run again (docs/reliability.md).
Heavy libraries are imported by the subcommand that needs them.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ..errors import INTERRUPTED, Interrupted, StudyError, UserError
from ..settings import STUDY_FILES
from ..study import Study

#: What a message begins with that names a key of the study file, or an option, and not the file.
_KEY = re.compile(rf"(--\w|({'|'.join({key for model, _ in STUDY_FILES.values() for key in model.model_fields})})\b)")


class _Subcommand(TyperCommand):
    """A subcommand whose errors name the study file that it was given, where they begin with a key of it."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            file = ctx.params.get("study_file")
            if file is None or error.message.startswith(str(file)) or not _KEY.match(error.message):
                raise
            raise type(error)(f"{file}: {error.message}", remedy=error.remedy) from None


class _Program(typer.Typer):
    def command(self, name: str | None = None, **settings: Any) -> Any:  # type: ignore[override]
        return super().command(name, **{"cls": _Subcommand, **settings})


app = _Program(
    help="Emergent equivariance of deep ensembles against the analytic NTK mean.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)

#: Panels of `emeq --help`, in their order.
BEFORE, RESULTS, WANDB, WORKFLOW = "Before a run", "Results", "Weights & Biases", "Called by the workflow"

StudyArgument = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.")]
ResultsOption = Annotated[Path, typer.Option("--results", help="Folder that holds results/STUDY.")]
ArmOption = Annotated[str, typer.Option("--arm", help="Folder name of the arm, as printed by `emeq plan`.")]
KeyOption = Annotated[str, typer.Option("--key", help="Key of the store, as printed by `emeq plan --keys`.")]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads instead of execution.kernel_threads.")
]
ClusterOption = Annotated[
    Path | None,
    typer.Option("--cluster", help="Cluster file; by default that of EMEQ_CLUSTER, or profiles/slurm/cluster.yaml."),
]


def main() -> None:
    """Run the command line; a UserError becomes one paragraph and exit code 1, an interruption a line and 75."""
    try:
        app()
    except Interrupted as interrupted:
        say(str(interrupted))
        sys.exit(INTERRUPTED)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def say(text: str) -> None:
    """Tell the user (or the log) how far the work is."""
    print(text, file=sys.stderr, flush=True)


def progress(what: str, every: float = 10.0) -> Callable[[int, int], None]:
    """A callback (done, total) that rewrites one line on a terminal, and writes at most a line per 10 s to a log."""
    start = last = time.monotonic()
    terminal = sys.stderr.isatty()

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if terminal or done == total or now - last > every:
            last = now
            rate = done / max(now - start, 1e-9)
            line = f"{what}: {done}/{total}, {rate:.3g} per second, {(total - done) / max(rate, 1e-9):.0f} s left"
            print(line, end="\r" if terminal and done < total else "\n", file=sys.stderr, flush=True)

    return report


def check_kind(study: Study, command: str, *, ensemble: bool) -> None:
    """Raise StudyError unless the study is of the kind ensemble, or of a kind that measures kernels."""
    if (study.kind == "ensemble") == ensemble:
        return
    said = f"{study.file}: is of kind {study.kind}, for which there is no `emeq {command}`"
    if ensemble:
        raise StudyError(f"{said}: nothing is trained.", remedy=f"Use `emeq measure {study.file} --arm ARM`.")
    raise StudyError(f"{said}.", remedy="Use `emeq theory`, `emeq train` and `emeq aggregate`.")
