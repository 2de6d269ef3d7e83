"""A store as a dataset whose numbers are read when they are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from .metadata import Layout
from .reading import Archive


def as_dataset(archive: Archive) -> xr.Dataset:
    """The store as a dataset whose numbers are read when they are asked for; text is read now."""
    variables = {}
    for layout in archive.layouts.values():
        if layout.dtype is None:
            data: Any = archive.texts(layout).astype(str)
        else:
            data = indexing.MemoryCachedArray(indexing.LazilyIndexedArray(_Lazy(archive, layout)))
        encoding = {"chunks": layout.chunk, "preferred_chunks": dict(zip(layout.dims, layout.chunk, strict=True))}
        variables[layout.name] = xr.Variable(layout.dims, data, layout.attributes, encoding)
    coords = {name: variables.pop(name) for name in archive.coordinates}
    return xr.Dataset(variables, coords, archive.attributes)


class _Lazy(BackendArray):
    """A numeric array of a store, read in the parts that are asked for."""

    def __init__(self, archive: Archive, layout: Layout) -> None:
        assert layout.dtype is not None
        self.archive, self.layout = archive, layout
        self.shape, self.dtype = layout.shape, layout.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[int | slice, ...]) -> np.ndarray:
        region: list[slice] = []
        inside: list[int | slice] = []
        for part, length in zip(key, self.shape, strict=True):
            chosen = range(length)[part] if isinstance(part, slice) else range(int(part), int(part) + 1)
            low = min(chosen[0], chosen[-1]) if chosen else 0
            region.append(slice(low, max(chosen[0], chosen[-1]) + 1 if chosen else 0))
            if not isinstance(part, slice):
                inside.append(0)
                continue
            stop = chosen.stop - low
            inside.append(slice(chosen.start - low, stop if stop >= 0 else None, chosen.step) if chosen else slice(0))
        with self.archive.reopened() as archive:
            return archive.region(self.layout, tuple(region))[tuple(inside)]
