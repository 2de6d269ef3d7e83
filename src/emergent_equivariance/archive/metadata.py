"""What the metadata of a store may say: zarr v3 as ``store.write`` writes it, and sizes within limits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

#: Largest block of a leading dimension that is read or hashed at once, in bytes.
BLOCK_BYTES = 32 * 2**20

#: Attribute of a variable that was written chunk by chunk: the shape of its chunks.
CHUNK = "checksum_chunk"

#: Bytes of the largest chunk (that of the codec); most chunks of one array.
LARGEST_CHUNK, MOST_CHUNKS = 2**31 - 1, 2**20

#: Bytes of the largest metadata; most values of what is read when a store is opened: texts, and indices of dimensions.
LARGEST_METADATA = 2**24

#: Bytes of an array of texts, of which numpy keeps each in the room of the longest.
LARGEST_TEXT = 2**28

#: Bytes that the arrays of a store may have: so many, and so many for every byte of the file. What is NaN takes no
#: room in the file; kernels, the only arrays larger than the memory they are made in, are dense.
LARGEST_STORE, LARGEST_RATIO = 2**34, 1000

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


class ArrayMetadata(_Strict):
    """Metadata of an array: of numbers or text, in regular chunks, with no codec but zstd beside that of its type."""

    shape: list[_Size]
    data_type: _Number | Literal["string"]
    chunk_grid: _Grid
    chunk_key_encoding: _Keys
    fill_value: bool | int | float | Literal["", "NaN", "Infinity", "-Infinity"]
    codecs: list[_Codec]
    attributes: dict[str, Any] = {}
    dimension_names: list[str] = []
    zarr_format: Literal[3]
    node_type: Literal["array"]
    storage_transformers: list[Any] = Field(default=[], max_length=0)

    @property
    def is_text(self) -> bool:
        return self.data_type == "string"

    @property
    def is_compressed(self) -> bool:
        return self.codecs[-1].name == "zstd"

    @property
    def chunk(self) -> list[int]:
        """Shape of the chunks; those at the end may reach past the array."""
        return self.chunk_grid.configuration.chunk_shape

    @property
    def counts(self) -> list[int]:
        """Number of chunks along every dimension."""
        return [-(-length // size) for length, size in zip(self.shape, self.chunk, strict=True)]

    @property
    def itemsize(self) -> int:
        """Bytes of a number; of the reference to a text."""
        return 8 if self.is_text else np.dtype(self.data_type).itemsize

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.itemsize

    @property
    def chunk_nbytes(self) -> int:
        return math.prod(self.chunk) * self.itemsize

    @property
    def in_rows(self) -> bool:
        """Whether every chunk holds whole rows of the first dimension."""
        return all(size >= length for size, length in zip(self.chunk[1:], self.shape[1:], strict=True))


class GroupMetadata(_Strict):
    """Metadata of a store."""

    attributes: dict[str, Any]
    zarr_format: Literal[3]
    node_type: Literal["group"]
    consolidated_metadata: None = None


def chunks_of(shape: Sequence[int], chunk: Sequence[int]) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Index and region of every chunk of an array, in C order."""
    counts = [range(-(-length // size)) for length, size in zip(shape, chunk, strict=True)]
    for index in itertools.product(*counts):
        yield index, region_of(index, shape, chunk)


def region_of(index: Sequence[int], shape: Sequence[int], chunk: Sequence[int]) -> tuple[slice, ...]:
    """Region of one chunk of an array."""
    axes = zip(index, shape, chunk, strict=True)
    return tuple(slice(k * size, min((k + 1) * size, length)) for k, length, size in axes)


def check_metadata(group: GroupMetadata, arrays: Mapping[str, ArrayMetadata], file: int) -> None:
    """Raise ValueError for arrays that contradict one another, or are larger than a file of ``file`` bytes holds."""
    sizes: dict[str, int] = {}
    for name, array in arrays.items():
        _check_array(name, array)
        for dim, length in zip(array.dimension_names, array.shape, strict=True):
            if sizes.setdefault(dim, length) != length:
                raise ValueError(f"{name}: has {length} values along {dim}, others have {sizes[dim]}")
    claimed = sum(array.nbytes for array in arrays.values())
    if claimed > LARGEST_STORE + LARGEST_RATIO * file:
        raise ValueError(f"it claims arrays of {claimed} bytes in a file of {file}")
    for attributes in (group.attributes, *(array.attributes for array in arrays.values())):
        if not isinstance(found := attributes.get("coordinates", ""), str):
            raise ValueError(f"coordinates are {found!r}")


def _check_array(name: str, array: ArrayMetadata) -> None:
    dims, shape, chunk = array.dimension_names, array.shape, array.chunk
    if not len(set(dims)) == len(dims) == len(shape) == len(chunk):
        raise ValueError(f"{name}: dimensions {dims}, shape {shape} and chunks do not agree")
    codecs = [codec.name for codec in array.codecs]
    if codecs not in ([first := "vlen-utf8" if array.is_text else "bytes"], [first, "zstd"]):
        raise ValueError(f"{name}: codecs {codecs}")
    if (array.fill_value == "") != array.is_text:
        raise ValueError(f"{name}: fill value {array.fill_value!r}")
    if array.chunk_nbytes > LARGEST_CHUNK:
        raise ValueError(f"{name}: claims chunks of {array.chunk_nbytes} bytes")
    if math.prod(array.counts) > MOST_CHUNKS:
        raise ValueError(f"{name}: claims more than {MOST_CHUNKS} chunks")
    if (array.is_text or dims == [name]) and math.prod(shape) > LARGEST_METADATA:
        raise ValueError(f"{name}: claims {math.prod(shape)} texts or indices")
    if CHUNK in array.attributes:
        cut = array.attributes[CHUNK]
        sizes = isinstance(cut, list) and all(type(size) is int and size > 0 for size in cut)
        if not sizes or len(cut) != len(shape) or (cut != chunk and array.nbytes > BLOCK_BYTES):
            raise ValueError(f"{name}: is stored in chunks of {chunk}, its checksum is of {cut!r}")
    elif not array.in_rows and array.nbytes > LARGEST_CHUNK:
        raise ValueError(f"{name}: is cut along other dimensions than the first")
