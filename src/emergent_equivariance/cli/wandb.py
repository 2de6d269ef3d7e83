"""Subcommands for Weights & Biases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..study import load_study
from .common import ResultsOption, StudyArgument, app, say


@app.command()
def sync(
    study_file: StudyArgument,
    results: ResultsOption = Path("results"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent; send nothing.")] = False,
) -> None:
    """Send what was recorded offline to Weights & Biases: each run once, the summary last."""
    from ..tracking.sync import send

    study = load_study(study_file, results)
    if send(study, say, dry_run=dry_run):
        raise typer.Exit(1)
