"""Subcommands that look at a study file and run nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from ..study import load_study
from ..study.cluster import find_cluster, read_cluster
from .common import BEFORE, ClusterOption, ResultsOption, StudyArgument, app, say


@app.command(rich_help_panel=BEFORE, epilog="Example: `emeq validate config/ising.yaml`.")
def validate(study_file: StudyArgument) -> None:
    """Check a study file; print its arms, or what is wrong and how to mend it."""
    study = load_study(study_file)
    for warning in study.warnings():
        say(f"warning: {warning}")
    print(f"{study.file}: valid; study {study.name!r} has {len(study.arms)} arm(s):")
    for arm in study.arms:
        print(f"  {arm.path}")


@app.command(
    rich_help_panel=BEFORE, epilog="Example: `emeq plan config/ising_full.yaml --cluster profiles/slurm/cluster.yaml`."
)
def plan(
    study_file: StudyArgument,
    results: ResultsOption = Path("results"),
    keys: Annotated[bool, typer.Option("--keys", help="Print the keys of the data and theory stores too.")] = False,
    cluster: ClusterOption = None,
) -> None:
    """Print arms, members, shards, estimated work and disk, and what every job needs; run nothing.

    Where there is a cluster file, also what jobs ask the cluster for, and hours in all.
    """
    from ..plan import render

    study = load_study(study_file, results)
    for warning in study.warnings():
        say(f"warning: {warning}")
    found = cluster or find_cluster(Path(), os.environ)
    render(study, keys, cluster=read_cluster(found) if found else None)


@app.command(rich_help_panel=BEFORE, epilog="Example: `emeq schema`, in the folder of the project.")
def schema(
    output: Annotated[Path, typer.Option("--output", help="Where to write the JSON schema.")] = Path(
        "workflow/schemas/study.schema.json"
    ),
    reference: Annotated[Path, typer.Option("--reference", help="Where to write the reference page.")] = Path(
        "config/reference.md"
    ),
    commands: Annotated[Path, typer.Option("--commands", help="Where to write the page of the command line.")] = Path(
        "docs/reference/commands.md"
    ),
) -> None:
    """Write the JSON schema of study files, which gives editors completion and checks, and the reference pages."""
    from .. import store
    from ..reference import commands_markdown, reference_markdown
    from ..settings import json_schema

    store.write_text(json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n", output)
    store.write_text(reference_markdown(), reference)
    store.write_text(commands_markdown(app), commands)
