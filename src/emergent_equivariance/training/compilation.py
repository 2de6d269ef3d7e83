"""Compiled programs of JAX on disk, shared by the jobs of a study.

JAX looks a program up by everything it depends on, the version of XLA and the kind of GPU included. It is not told
which instructions the CPU has, so that machines get folders of their own, and so do users: an entry is machine code,
and run as it is. It writes entries in place: of jobs that write one at the same time the last one wins, with the same
bytes, and one that is read half-written, or was left torn by a job that died, fails its checksum; JAX then warns and
compiles. A torn entry would stay: it is removed here.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import zlib
from pathlib import Path

import jax

from ..devices import machine

__all__ = ["use_compilation_cache"]


def use_compilation_cache(folder: Path) -> Path:
    """Keep the programs that JAX compiles from now on in ``folder``, and take those that are there.

    Call it before anything is compiled. Returns the folder of this type of machine and this user in ``folder``.

    Raises OSError if it cannot be made, or others can write there.
    """
    own = folder / f"{re.sub(r'[^0-9A-Za-z]+', '-', machine()).strip('-')}-{os.getuid()}"
    own.mkdir(parents=True, exist_ok=True, mode=0o700)
    check_private(own)
    for entry in own.glob("*-cache"):
        if _is_torn(entry):
            entry.unlink(missing_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(own))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return own


def check_private(folder: Path) -> None:
    """Raise PermissionError if anybody but this user can put files into a folder."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(errno.EPERM, "others can write there, and what is there would be run", str(folder))


def _is_torn(entry: Path) -> bool:
    """Whether an entry is not what was compressed; entries of other formats have checks of their own."""
    try:
        content = entry.read_bytes()
        if not content or content[:1] == b"\x78":
            zlib.decompress(content)
    except zlib.error:
        return True
    except FileNotFoundError:
        return False
    return False
