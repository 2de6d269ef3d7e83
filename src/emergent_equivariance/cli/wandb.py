"""Subcommands for Weights & Biases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..study import load_study
from .common import WANDB, ResultsOption, StudyArgument, app, check_kind, say


@app.command(rich_help_panel=WANDB, epilog="Example: `emeq sync config/ising.yaml --dry-run`.")
def sync(
    study_file: StudyArgument,
    results: ResultsOption = Path("results"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent; send nothing.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="First record, from the results, the shards and theory that no run holds.")
    ] = False,
) -> None:
    """Send what was recorded offline to Weights & Biases: each run once, the summary last."""
    from ..tracking.sync import send

    study = load_study(study_file, results)
    if again:
        from ..tracking.again import record_again

        check_kind(study, "sync --again", ensemble=True)
        record_again(study, say)
    if send(study, say, dry_run=dry_run):
        raise typer.Exit(1)


@app.command(rich_help_panel=WANDB, epilog="Example: `emeq sweep config/ising.yaml --output sweep.yaml`.")
def sweep(
    study_file: StudyArgument,
    output: Annotated[Path | None, typer.Option("--output", help="Where to write it; default: print it.")] = None,
) -> None:
    """Write the study's grid as a sweep file of Weights & Biases, whose agents have Snakemake make one arm each."""
    from .. import store
    from ..tracking.sweep import sweep_file

    text = sweep_file(load_study(study_file))
    if output is None:
        print(text, end="")
    else:
        store.write_text(text, output)
        say(f"{output}: register it with `wandb sweep {output}`; limits: docs/tracking.md")


@app.command(rich_help_panel=WANDB, epilog="Example: `emeq dashboard config/ising.yaml`.")
def dashboard(
    study_file: StudyArgument,
    output: Annotated[
        Path | None, typer.Option("--output", help="Write the specification there as JSON; ask no server.")
    ] = None,
) -> None:
    """Save the dashboard of a study to its project in Weights & Biases, in the place of an earlier one."""
    from .. import store
    from ..tracking.dashboard import save, specification

    study = load_study(study_file)
    if output is None:
        print(save(study))
        return
    store.write_text(specification(study), output)
    say(f"{output}: for comparison with another; `emeq dashboard {study.file}` saves it where W&B can be reached")
