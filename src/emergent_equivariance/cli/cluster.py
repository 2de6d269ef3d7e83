"""Subcommands about clusters."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ..study import load_study
from .common import BEFORE, ClusterOption, ResultsOption, StudyArgument, app, say


@app.command(rich_help_panel=BEFORE, epilog="Example: `emeq cluster config/ising_full.yaml`, on the login node.")
def cluster(
    study_file: StudyArgument,
    file: ClusterOption = None,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Times a job is run at most: retries + 1.")] = 4,
    results: ResultsOption = Path("results"),
) -> None:
    """Check the jobs of a study that are to do against this SLURM cluster, as a run does before it submits any."""
    from .. import slurm
    from ..study.cluster import find_cluster, read_cluster
    from ..study.submission import check_jobs, to_submit, unused_gpus

    study = load_study(study_file, results)
    found = file or find_cluster(Path(), os.environ)
    settings = read_cluster(found)
    asked = to_submit(study, settings)
    offer = slurm.offered(any("slurm_account" in job.resources for job in asked))
    for line in [*unused_gpus(asked), *offer.unknown]:
        say(f"warning: {line}")
    check_jobs(settings, found, asked, offer, runs)
    what = "fit what this cluster has"
    if offer.partitions is None:
        what = "need no more than they may ask for; not checked against a cluster"
    print(f"{study.file}: all jobs that are to be submitted {what} ({found or 'no cluster file'}).")
