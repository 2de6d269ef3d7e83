"""The file of a store read strictly and in one pass."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import StoreError
from .metadata import (
    LARGEST_CHUNK,
    LARGEST_METADATA,
    Layout,
    check_sizes,
    chunks_of,
    read_group,
    read_layout,
    region_of,
)

#: What reading a damaged or hostile file raises here; ``store.read`` turns it into a StoreError.
Damage = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    LookupError,
    ValueError,
    RuntimeError,
    OverflowError,
)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.~ -]*")
_ENTRY = re.compile(rf"(?:({_NAME.pattern})/)?(zarr\.json|c(?:/\d+)*)")


class _Entry(NamedTuple):
    header: int
    size: int
    crc: int


class Archive:
    """A store, opened for reading; a context manager. It may be used by one thread at a time.

    Args:
      path: the file.

    Attributes:
      path: the file.
      attributes: of the store.
      layouts: name → array, in the order of their names.

    Raises one of ``Damage``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb", buffering=0)
        try:
            self._raw, self._decoded = bytearray(), bytearray()
            self._stat = _identity(self._file.fileno())
            self._entries = _directory(path, self._stat[1])
            self.attributes, listed = read_group(self._json("zarr.json"))
            arrays = sorted({name for name in map(_owner, self._entries) if name})
            self.layouts = {name: read_layout(name, self._json(f"{name}/zarr.json")) for name in arrays}
            check_sizes(self.layouts.values(), self._stat[1])
        except BaseException:
            self._file.close()
            raise
        named = set(listed).union(*(layout.coordinates for layout in self.layouts.values()))
        dims = {dim for layout in self.layouts.values() for dim in layout.dims}
        self.coordinates = [name for name in self.layouts if name in named or name in dims]

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what reads arrays afterwards opens it again."""
        self._file.close()

    def read_ahead(self) -> None:
        """Have the system begin to read the file."""
        os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    def blocks(self, layout: Layout) -> Iterator[np.ndarray]:
        """The values of a numeric array in C order, in blocks of rows; a block is valid until the next is asked for."""
        if not layout.shape or (layout.in_rows and layout.nbytes):
            for index, _ in chunks_of(layout.shape, layout.chunk):
                yield self.chunk(layout, index)
        elif layout.nbytes > LARGEST_CHUNK:
            raise ValueError(f"{layout.name}: is cut along other dimensions than the first")
        elif layout.nbytes:
            yield self.region(layout, tuple(slice(0, length) for length in layout.shape))

    def chunk(self, layout: Layout, index: tuple[int, ...]) -> np.ndarray:
        """One chunk of a numeric array, without what reaches past it; valid until the next is asked for."""
        assert layout.dtype is not None
        inside = tuple(slice(0, part.stop - part.start) for part in region_of(index, layout.shape, layout.chunk))
        entry = self._entries.get("/".join([layout.name, "c", *map(str, index)]))
        if entry is None:
            return np.full([part.stop for part in inside], layout.fill, layout.dtype)
        size = math.prod(layout.chunk) * layout.dtype.itemsize
        content = self._content(entry)
        if layout.compressed:
            if len(self._decoded) < size:
                self._decoded = bytearray(size)
            content = _decompress(content, memoryview(self._decoded)[:size])
        if len(content) != size:
            raise ValueError(f"{layout.name}: a chunk has {len(content)} bytes, not {size}")
        return np.frombuffer(content, layout.dtype).reshape(layout.chunk)[inside]

    def region(self, layout: Layout, region: tuple[slice, ...]) -> np.ndarray:
        """Part of a numeric array (slices with start and stop, of step 1), as an array of its own."""
        values = np.empty([part.stop - part.start for part in region], layout.dtype)
        if not values.size:
            return values
        axes = list(zip(region, layout.chunk, strict=True))
        for index in itertools.product(*(range(p.start // size, (p.stop - 1) // size + 1) for p, size in axes)):
            source, target = [], []
            for (part, size), k in zip(axes, index, strict=True):
                start, stop = max(part.start, k * size), min(part.stop, (k + 1) * size)
                source.append(slice(start - k * size, stop - k * size))
                target.append(slice(start - part.start, stop - part.start))
            values[tuple(target)] = self.chunk(layout, index)[tuple(source)]
        return values

    def texts(self, layout: Layout) -> np.ndarray:
        """The values of an array of text, an object array."""
        values = np.full(layout.shape, str(layout.fill), object)
        for index, region in chunks_of(layout.shape, layout.chunk):
            entry = self._entries.get("/".join([layout.name, "c", *map(str, index)]))
            if entry is not None:
                content = self._content(entry)
                if layout.compressed:
                    size = _frame_size(content)
                    if not size <= LARGEST_METADATA + 64 * len(content):
                        raise ValueError(f"{layout.name}: a chunk claims {size} bytes of text")
                    content = _decompress(content, memoryview(bytearray(size)))
                found = np.array(_vlen_texts(content, math.prod(layout.chunk)), object).reshape(layout.chunk)
                values[region] = found[tuple(slice(0, part.stop - part.start) for part in region)]
        return values

    def reopened(self) -> Archive:
        """The same store, opened anew. Raises StoreError if the file is another one by now."""
        other = object.__new__(Archive)
        other.__dict__.update(self.__dict__, _raw=bytearray(), _decoded=bytearray())
        try:
            other._file = self.path.open("rb", buffering=0)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be read again: {error.strerror}.", remedy="Run again.") from None
        if _identity(other._file.fileno()) != self._stat:
            other.close()
            raise StoreError(f"{self.path}: was replaced while it was read.", remedy="Run the same command again.")
        return other

    def _content(self, entry: _Entry) -> memoryview:
        """Bytes of an entry, valid until the next is read."""
        descriptor = self._file.fileno()
        header = os.pread(descriptor, 30, entry.header)
        if len(header) != 30 or header[:4] != b"PK\x03\x04":
            raise zipfile.BadZipFile("an entry is not where it is said to be")
        start = entry.header + 30 + sum(struct.unpack("<HH", header[26:]))
        if len(self._raw) < entry.size:
            self._raw = bytearray(entry.size)
        content = memoryview(self._raw)[: entry.size]
        read = 0
        while read < entry.size:
            count = os.preadv(descriptor, [content[read:]], start + read)
            if count == 0:
                raise EOFError("the file ends within an entry")
            read += count
        return content

    def _json(self, name: str) -> Any:
        entry = self._entries[name]
        if entry.size > LARGEST_METADATA:
            raise ValueError(f"{name} has {entry.size} bytes")
        content = bytes(self._content(entry))
        if zlib.crc32(content) != entry.crc:
            raise zipfile.BadZipFile(f"bad CRC-32 of {name}")
        return json.loads(content)


def _identity(descriptor: int) -> tuple[int, int, int]:
    found = os.fstat(descriptor)
    return found.st_ino, found.st_size, found.st_mtime_ns


def _directory(path: Path, size: int) -> dict[str, _Entry]:
    """Entries of the archive by name."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    found: dict[str, _Entry] = {}
    for entry in entries:
        if not _ENTRY.fullmatch(entry.filename) or entry.filename in found:
            raise zipfile.BadZipFile(f"an entry {entry.filename!r} does not belong in a store")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size != entry.compress_size:
            raise zipfile.BadZipFile(f"the entry {entry.filename} is compressed or encrypted")
        found[entry.filename] = _Entry(entry.header_offset, entry.file_size, entry.CRC)
    if sum(entry.size for entry in found.values()) > size:
        raise zipfile.BadZipFile("its entries are larger than the file")
    return found


def _owner(entry: str) -> str | None:
    match = _ENTRY.fullmatch(entry)
    assert match is not None
    return match[1]


def _frame_size(content: memoryview | bytes) -> int:
    """Bytes that a zstd frame says it holds (RFC 8878, section 3.1.1.1)."""
    if len(content) < 6 or bytes(content[:4]) != b"\x28\xb5\x2f\xfd":
        raise ValueError("a chunk is no zstd frame")
    descriptor = content[4]
    single, flag = descriptor >> 5 & 1, descriptor >> 6
    at = 5 + (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3]
    length = (single, 2, 4, 8)[flag]
    if length == 0 or len(content) < at + length:
        raise ValueError("a chunk does not say its size")
    return int.from_bytes(content[at : at + length], "little") + (256 if length == 2 else 0)


def _decompress(content: memoryview, target: memoryview) -> memoryview:
    """Decode a zstd frame into ``target``, which must have its size."""
    from numcodecs.zstd import Zstd

    if (size := _frame_size(content)) != len(target):
        raise ValueError(f"a chunk holds {size} bytes, not {len(target)}")
    if size:
        Zstd().decode(content, target)
    return target


def _vlen_texts(content: memoryview, count: int) -> list[str]:
    """``count`` texts, each after its length, as the codec vlen-utf8 puts them."""
    if len(content) < 4 or int.from_bytes(content[:4], "little") != count:
        raise ValueError(f"a chunk does not hold {count} texts")
    found, at = [], 4
    for _ in range(count):
        stop = at + 4 + int.from_bytes(content[at : at + 4], "little")
        if stop > len(content):
            raise ValueError("a chunk of texts is torn")
        found.append(str(content[at + 4 : stop], "utf-8"))
        at = stop
    return found
