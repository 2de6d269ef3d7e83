"""Ranges of members that one job trains, and what is read off a store without opening it."""

from __future__ import annotations

import json
import struct
import zipfile
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import Any

#: Bytes of the attributes of a store, at most.
LARGEST_HEADER = 2**24


def header(path: Path) -> dict[str, Any]:
    """Attributes of a store or a netCDF file, read without opening it (cheap: the workflow does so when it starts).

    Empty if the file cannot be read: whoever opens the store says what is wrong with it.
    """
    if path.suffix == ".nc":
        return _netcdf_header(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo("zarr.json")
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > LARGEST_HEADER:
                return {}
            found = json.loads(archive.read(entry))["attributes"]
    except (OSError, EOFError, zipfile.BadZipFile, struct.error, LookupError, TypeError, ValueError, RuntimeError):
        return {}
    return found if isinstance(found, dict) else {}


def _netcdf_header(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    import h5py

    try:
        with h5py.File(path) as file:
            return dict(file.attrs)
    except OSError:
        return {}


def shard_name(first: int, last: int) -> str:
    """Name of the shard with the members first…last, both included."""
    return f"members-{first:06d}-{last:06d}.zarr.zip"


def plan_shards(members: int, shard_size: int, existing: Iterable[tuple[int, int]] = ()) -> list[tuple[int, int]]:
    """Cover members 0…M−1 with ranges (first, last), keeping those that exist.

    Without existing shards the ranges are the aligned blocks of ``shard_size``. An existing shard is used
    where the cover reaches its first member (the longest one, if several start there), even when it reaches
    past M−1: aggregation then uses its first members. So raising or lowering M re-uses every shard.
    """
    if members < 1 or shard_size < 1:
        raise ValueError(f"members = {members} and shard_size = {shard_size} must be positive")
    longest: dict[int, int] = {}
    for first, last in existing:
        longest[first] = max(last, longest.get(first, last))
    starts = sorted(longest)
    shards, at = [], 0
    while at < members:
        if at in longest:
            last = longest[at]
        else:
            behind = bisect_right(starts, at)
            last = min((at // shard_size + 1) * shard_size, members, *starts[behind : behind + 1]) - 1
        shards.append((at, last))
        at = last + 1
    return shards
