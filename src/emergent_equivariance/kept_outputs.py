"""Outputs that Snakemake neither removes nor copies, because the jobs that make them put them in place whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["no_backups"]


def no_backups(persistence: Any) -> None:
    """Have Snakemake make no copies of outputs marked ``update``, nor put such copies back.

    Snakemake (9.27.1) removes the outputs of a job before it starts it, but those marked ``update``. Of these it makes
    a copy, which it writes over the output if the job fails: neither at once nor under another name. A copy that was
    cut short, or one that an earlier job left, would then replace a file that is whole.

    Args:
      persistence: the class snakemake.persistence.FileBackupMixin.
    """

    def nothing(_: Any, path: Path) -> bool:
        return False

    for name in ("backup_output", "restore_output", "cleanup_backup"):
        if not hasattr(persistence, name):
            raise AttributeError(f"{persistence.__name__} has no {name}: another version of Snakemake?")
        setattr(persistence, name, nothing)
