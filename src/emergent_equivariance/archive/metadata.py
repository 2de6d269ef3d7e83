"""What the metadata of a store may say: zarr v3 as ``store.write`` writes it, and sizes within limits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

#: Bytes of the largest chunk (that of the codec) and of the largest metadata; most chunks of one array.
LARGEST_CHUNK, LARGEST_METADATA, MOST_CHUNKS = 2**31 - 1, 2**24, 2**20

#: Bytes that the arrays of a store may have: so many, and so many for every byte of the file. What is NaN takes no
#: room in the file; kernels, the only arrays larger than the memory they are made in, are dense.
LARGEST_STORE, LARGEST_RATIO = 2**34, 1000

_TEXT = "string"
_Number = Literal[
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"
]
_Size = Annotated[int, Field(ge=0, lt=2**48, strict=True)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _ChunkShape(_Strict):
    chunk_shape: list[Annotated[_Size, Field(ge=1)]]


class _Grid(_Strict):
    name: Literal["regular"]
    configuration: _ChunkShape


class _Separator(_Strict):
    separator: Literal["/"]


class _Keys(_Strict):
    name: Literal["default"]
    configuration: _Separator


class _Codec(_Strict):
    name: Literal["bytes", "vlen-utf8", "zstd"]
    configuration: dict[str, Literal["little"] | bool | int] = {}


class _ArrayMetadata(_Strict):
    shape: list[_Size]
    data_type: _Number | Literal["string"]
    chunk_grid: _Grid
    chunk_key_encoding: _Keys
    fill_value: bool | int | float | str
    codecs: list[_Codec]
    attributes: dict[str, Any] = {}
    dimension_names: list[str] | None = None
    zarr_format: Literal[3]
    node_type: Literal["array"]
    storage_transformers: list[Any] = Field(default=[], max_length=0)


class _GroupMetadata(BaseModel):
    attributes: dict[str, Any]
    zarr_format: Literal[3]
    node_type: Literal["group"]


@dataclass(frozen=True)
class Layout:
    """One array of a store.

    Attributes:
      name: of the variable.
      dims: names of its dimensions.
      shape: its shape.
      dtype: its type, little-endian; None for text.
      chunk: shape of its chunks; those at the end may reach past the array.
      fill: value where a chunk is not there.
      compressed: whether chunks are zstd frames.
      attributes: of the variable, ``_FillValue`` and ``coordinates`` excepted.
      coordinates: names of variables that are coordinates beside this one.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype | None
    chunk: tuple[int, ...]
    fill: Any
    compressed: bool
    attributes: dict[str, Any]
    coordinates: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the array; text counts one per value."""
        return math.prod(self.shape) * (self.dtype.itemsize if self.dtype else 1)

    @property
    def in_rows(self) -> bool:
        """Whether every chunk holds whole rows of the first dimension, so that chunks follow one another in C order."""
        return all(size >= length for size, length in zip(self.chunk[1:], self.shape[1:], strict=True))


def chunks_of(shape: Sequence[int], chunk: Sequence[int]) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Index and region of every chunk of an array, in C order."""
    counts = [range(-(-length // size)) for length, size in zip(shape, chunk, strict=True)]
    for index in itertools.product(*counts):
        yield index, region_of(index, shape, chunk)


def region_of(index: Sequence[int], shape: Sequence[int], chunk: Sequence[int]) -> tuple[slice, ...]:
    """Region of one chunk of an array."""
    axes = zip(index, shape, chunk, strict=True)
    return tuple(slice(k * size, min((k + 1) * size, length)) for k, length, size in axes)


def read_group(content: Any) -> tuple[dict[str, Any], list[str]]:
    """Attributes of a store, and the coordinates that belong to none of its arrays. Raises ValueError."""
    attributes = dict(_GroupMetadata.model_validate(content).attributes)
    return attributes, _words(attributes.pop("coordinates", ""))


def read_layout(name: str, content: Any) -> Layout:
    """The array that some metadata describe. Raises ValueError."""
    meta = _ArrayMetadata.model_validate(content)
    dims, shape, chunk = tuple(meta.dimension_names or ()), tuple(meta.shape), meta.chunk_grid.configuration
    if not len(set(dims)) == len(dims) == len(shape) == len(chunk.chunk_shape):
        raise ValueError(f"{name}: dimensions {dims}, shape {shape} and chunks do not agree")
    codecs = [codec.name for codec in meta.codecs]
    text = meta.data_type == _TEXT
    if codecs not in ([first := "vlen-utf8" if text else "bytes"], [first, "zstd"]):
        raise ValueError(f"{name}: codecs {codecs}")
    if not text and isinstance(meta.fill_value, str) and meta.fill_value not in ("NaN", "Infinity", "-Infinity"):
        raise ValueError(f"{name}: fill value {meta.fill_value!r}")
    dtype = None if text else np.dtype(meta.data_type).newbyteorder("<")
    fill = meta.fill_value if dtype is None else np.array(meta.fill_value).astype(dtype)
    attributes = {key: value for key, value in meta.attributes.items() if key not in ("_FillValue", "coordinates")}
    beside = tuple(_words(meta.attributes.get("coordinates", "")))
    compressed = "zstd" in codecs
    return Layout(name, dims, shape, dtype, tuple(chunk.chunk_shape), fill, compressed, attributes, beside)


def check_sizes(layouts: Iterable[Layout], file: int) -> None:
    """Raise ValueError for arrays that contradict one another, or are larger than a file of this size holds."""
    sizes: dict[str, int] = {}
    for layout in layouts:
        for dim, length in zip(layout.dims, layout.shape, strict=True):
            if sizes.setdefault(dim, length) != length:
                raise ValueError(f"{layout.name}: has {length} values along {dim}, others have {sizes[dim]}")
        item = layout.dtype.itemsize if layout.dtype else 8
        if math.prod(layout.chunk) * item > LARGEST_CHUNK:
            raise ValueError(f"{layout.name}: claims chunks of {math.prod(layout.chunk) * item} bytes")
        if math.prod(-(-s // c) for s, c in zip(layout.shape, layout.chunk, strict=True)) > MOST_CHUNKS:
            raise ValueError(f"{layout.name}: claims more than {MOST_CHUNKS} chunks")
        if layout.dtype is None and layout.nbytes > LARGEST_METADATA:
            raise ValueError(f"{layout.name}: claims {layout.nbytes} texts")
    claimed = sum(layout.nbytes for layout in layouts)
    if claimed > LARGEST_STORE + LARGEST_RATIO * file:
        raise ValueError(f"it claims arrays of {claimed} bytes in a file of {file}")


def _words(text: Any) -> list[str]:
    if not isinstance(text, str):
        raise ValueError(f"coordinates are {text!r}")
    return text.split()
