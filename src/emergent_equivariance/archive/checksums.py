"""The checksum of a store: of its arrays, not of its bytes, so that it does not depend on how they are compressed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import numpy as np
import xarray as xr

from .metadata import Layout, chunks_of
from .reading import Archive

#: Largest block of a leading dimension that is read or hashed at once.
BLOCK_BYTES = 32 * 2**20

#: Attribute of a variable that was written chunk by chunk: the shape of its chunks.
CHUNK = "checksum_chunk"

#: Sees the blocks of an array while a store is verified.
Inspect = Callable[[Layout, np.ndarray], None]


def checksum(dataset: xr.Dataset) -> str:
    """SHA-256 over names, dimensions, types and values of all variables and coordinates.

    Of a variable with the attribute ``checksum_chunk`` the SHA-256 of its chunks enter, in the order of their index.
    """
    return combined(dataset, {})


def combined(dataset: xr.Dataset, chunks: Mapping[str, Mapping[tuple[int, ...], bytes]]) -> str:
    """The checksum, with the digests of the chunks of some variables known."""
    digest = hashlib.sha256()
    for name in sorted(map(str, dataset.variables)):
        variable = dataset.variables[name]
        if variable.dtype.kind in "OUST":
            digest.update(_text_description(name, variable.dims, np.asarray(variable)))
            continue
        digest.update(_description(name, variable.dims, variable.shape, variable.dtype))
        if CHUNK in variable.attrs:
            known = chunks.get(name)
            for index, region in chunks_of(variable.shape, variable.attrs[CHUNK]):
                digest.update(known[index] if known is not None else chunk_digest(np.asarray(variable[region])))
            continue
        for block in _blocks(variable):
            digest.update(_bytes(block))
    return digest.hexdigest()


def archive_checksum(archive: Archive, inspect: Inspect | None = None) -> str:
    """The checksum of a store as it lies on disk, in one pass.

    ``inspect`` is shown the blocks of the numeric arrays that have no ``checksum_chunk``.
    """
    digest = hashlib.sha256()
    for name, layout in archive.layouts.items():
        if layout.dtype is None:
            digest.update(_text_description(name, layout.dims, archive.texts(layout)))
            continue
        digest.update(_description(name, layout.dims, layout.shape, layout.dtype))
        if CHUNK in layout.attributes:
            cut = _cut(layout)
            for index, region in chunks_of(layout.shape, cut):
                block = archive.chunk(layout, index) if cut == layout.chunk else archive.region(layout, region)
                digest.update(chunk_digest(block))
            continue
        for block in archive.blocks(layout):
            digest.update(_bytes(block))
            if inspect is not None:
                inspect(layout, block)
    return digest.hexdigest()


def _cut(layout: Layout) -> tuple[int, ...]:
    """Chunks that the checksum of an array is made of; those it is stored in, unless it is small. Raises ValueError."""
    cut = layout.attributes[CHUNK]
    sizes = isinstance(cut, list) and all(type(size) is int and size > 0 for size in cut)
    if not sizes or len(cut) != len(layout.shape) or (tuple(cut) != layout.chunk and layout.nbytes > BLOCK_BYTES):
        raise ValueError(f"{layout.name}: is stored in chunks of {layout.chunk}, its checksum is of {cut!r}")
    return tuple(cut)


def _text_description(name: str, dims: Sequence[Hashable], values: np.ndarray) -> bytes:
    return json.dumps([name, dims, values.shape, [str(value) for value in values.reshape(-1)]]).encode()


def _description(name: str, dims: Sequence[Hashable], shape: Sequence[int], dtype: np.dtype) -> bytes:
    return json.dumps([name, dims, shape, dtype.newbyteorder("<").str]).encode()


def _bytes(block: np.ndarray) -> memoryview:
    """Values in C order and little-endian, with one NaN: zarr keeps no sign."""
    if block.dtype.kind == "f" and block.size and np.isnan(np.min(block)):
        block = np.where(np.isnan(block), np.array(np.nan, block.dtype), block)
    return np.ascontiguousarray(block, dtype=block.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data


def chunk_digest(block: np.ndarray) -> bytes:
    return hashlib.sha256(_bytes(block)).digest()


def _blocks(variable: xr.Variable) -> Iterator[np.ndarray]:
    if variable.ndim == 0:
        yield np.asarray(variable)
        return
    rows = max(1, BLOCK_BYTES // max(1, variable.nbytes // max(1, len(variable))))
    for start in range(0, len(variable), rows):
        yield np.asarray(variable[start : start + rows])
