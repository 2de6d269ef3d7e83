"""``emeq``: the command line. One module per group of subcommands; importing one makes its subcommands known.

Exit codes: see common.main. Heavy libraries are imported by the subcommand that needs them.
"""

from . import new, looking, cluster, run, status, results, wandb, stages  # isort: skip  the order of `emeq --help`
from .common import app, main

__all__ = ["app", "cluster", "looking", "main", "new", "results", "run", "stages", "status", "wandb"]
