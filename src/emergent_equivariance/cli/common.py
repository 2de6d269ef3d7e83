"""What all subcommands share: the program, its options, its exit codes, and how it talks.

Heavy libraries are imported by the subcommand that needs them.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ..errors import INTERRUPTED, Interrupted, StudyError, UserError
from ..settings import STUDY_FILES
from ..study import Study, load_study
from .terminal import progress as progress

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
        """A subcommand; its help is the docstring, of which the terminal breaks the lines."""

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
            said = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
            options = {"cls": _Subcommand, "help": said, **settings}
            return super(_Program, self).command(name, **options)(function)

        return register


#: Exit code → what it means (docs/terminal.md).
EXIT_CODES = {
    0: "done; of `status`, `missing` and `verify`: the study is complete, nothing is missing, all is well",
    1: "something that you can mend, said in one paragraph; of `status`, `missing` and `verify`: it is not so",
    2: "wrong usage: an unknown subcommand or option, a value that an option does not take",
    INTERRUPTED: "stopped by a signal or before a time limit; the same command goes on where it stopped",
}

_HELP = "Emergent equivariance of deep ensembles against the analytic NTK mean."
_EPILOG = "Exit codes:\n\n" + "\n\n".join(f"{code}: {meaning}." for code, meaning in EXIT_CODES.items())


def files(incomplete: str) -> list[str]:
    """No words that complete a path: shells then complete names of files themselves."""
    return []


def _arms(ctx: typer.Context, incomplete: str) -> list[str]:
    """Folder names of the arms of the study file that was given: among the rest, as long as options lack values."""
    given = [word for word in (ctx.params.get("study_file"), *ctx.args) if word is not None]
    try:
        return [arm.path for arm in load_study(given[0]).arms if arm.path.startswith(incomplete)] if given else []
    except UserError:
        return []


app = _Program(
    help=_HELP,
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)

#: Panels of `emeq --help`, in their order.
BEFORE, RUN, RESULTS = "Before a run", "A run", "Results"
WANDB, WORKFLOW = "Weights & Biases", "Called by the workflow"

StudyArgument = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.", autocompletion=files)]
ResultsOption = Annotated[
    Path, typer.Option("--results", help="Folder in which the results of studies are.", autocompletion=files)
]
ArmOption = Annotated[
    str, typer.Option("--arm", help="Folder name of the arm, as printed by `emeq plan`.", autocompletion=_arms)
]
KeyOption = Annotated[str, typer.Option("--key", help="Key of the store, as printed by `emeq plan --keys`.")]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads instead of execution.kernel_threads.")
]
ClusterOption = Annotated[
    Path | None,
    typer.Option(
        "--cluster",
        help="Cluster file; by default that of EMEQ_CLUSTER, or profiles/slurm/cluster.yaml.",
        autocompletion=files,
    ),
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


def check_kind(study: Study, command: str, *, ensemble: bool) -> None:
    """Raise StudyError unless the study is of the kind ensemble, or of a kind that measures kernels."""
    if (study.kind == "ensemble") == ensemble:
        return
    said = f"{study.file}: is of kind {study.kind}, for which there is no `emeq {command}`"
    if ensemble:
        raise StudyError(f"{said}: nothing is trained.", remedy=f"Use `emeq measure {study.file} --arm ARM`.")
    raise StudyError(f"{said}.", remedy="Use `emeq theory`, `emeq train` and `emeq aggregate`.")
