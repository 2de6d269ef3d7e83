"""The checksum of a store: of its arrays, not of its bytes, so that it does not depend on how they are compressed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import xarray as xr

from .metadata import BLOCK_BYTES, CHUNK, chunks_of

#: Sees the blocks of an array while its checksum is computed: name, values.
Inspect = Callable[[str, np.ndarray], None]


def checksum(dataset: xr.Dataset, inspect: Inspect | None = None) -> str:
    """SHA-256 over names, dimensions, types and values of all variables and coordinates.

    Of a variable with the attribute ``checksum_chunk`` the SHA-256 of its chunks enter, in the order of their index.
    ``inspect`` is shown the blocks of the numeric arrays that have no such attribute, in the order of their rows.
    """
    return combined(dataset, {}, inspect)


def combined(
    dataset: xr.Dataset, chunks: Mapping[str, Mapping[tuple[int, ...], bytes]], inspect: Inspect | None = None
) -> str:
    """The checksum, with the digests of the chunks of some variables known."""
    digest = hashlib.sha256()
    for name in sorted(map(str, dataset.variables)):
        variable = dataset.variables[name]
        if variable.dtype.kind in "OUST":
            texts = [str(value) for value in np.asarray(variable).reshape(-1)]
            digest.update(json.dumps([name, variable.dims, variable.shape, texts]).encode())
            continue
        dtype = variable.dtype.newbyteorder("<").str
        digest.update(json.dumps([name, variable.dims, variable.shape, dtype]).encode())
        if CHUNK in variable.attrs:
            known = chunks.get(name)
            for of_chunk in _chunk_digests(variable) if known is None else (known[index] for index in sorted(known)):
                digest.update(of_chunk)
            continue
        for block in _blocks(variable):
            digest.update(_bytes(block))
            if inspect is not None:
                inspect(name, block)
    return digest.hexdigest()


def chunk_digest(block: np.ndarray) -> bytes:
    return hashlib.sha256(_bytes(block)).digest()


def _chunk_digests(variable: xr.Variable) -> Iterator[bytes]:
    values = np.asarray(variable) if variable.nbytes <= BLOCK_BYTES else variable
    for _, region in chunks_of(variable.shape, variable.attrs[CHUNK]):
        yield chunk_digest(np.asarray(values[region]))


def _bytes(block: np.ndarray) -> memoryview:
    """Values in C order and little-endian, with one NaN: zarr keeps no sign."""
    if block.dtype.kind == "f" and block.size and np.isnan(np.min(block)):
        block = np.where(np.isnan(block), np.array(np.nan, block.dtype), block)
    return np.ascontiguousarray(block, dtype=block.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data


def _blocks(variable: xr.Variable) -> Iterator[np.ndarray]:
    """Blocks of rows; of one chunk, where the variable is stored in such: no task of zarr outlives one that failed."""
    if variable.ndim == 0:
        yield np.asarray(variable)
        return
    rows, *_ = variable.encoding.get("chunks") or [BLOCK_BYTES // max(1, variable.nbytes // max(1, len(variable)))]
    for start in range(0, len(variable), max(1, rows)):
        yield np.asarray(variable[start : start + max(1, rows)])
