"""``emeq``: the command line. One module per group of subcommands; importing one makes its subcommands known.

Exit codes: see common.main. Heavy libraries are imported by the subcommand that needs them.
"""

from . import cluster, looking, results, stages, wandb
from .common import app, main

__all__ = ["app", "cluster", "looking", "main", "results", "stages", "wandb"]
