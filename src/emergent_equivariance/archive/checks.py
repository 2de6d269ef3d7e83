"""What the file of a store may look like, checked before anything in it is decoded."""

from __future__ import annotations

import json
import math
import os
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

from .metadata import LARGEST_METADATA, ArrayMetadata, GroupMetadata, check_metadata

#: What reading a damaged or hostile file raises here, in zarr and in xarray; ``store`` turns it into a StoreError.
Damage = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    RuntimeError,
    OverflowError,
)

_ENTRY = re.compile(r"(?:([A-Za-z0-9_][A-Za-z0-9_.~ -]*)/)?(zarr\.json|c(?:/(?:0|[1-9][0-9]{0,17}))*)")


def check(path: Path) -> None:
    """Refuse a file that is no store of this program, or that would take more memory than its arrays.

    The metadata are read and their CRC-32 is verified; of the chunks only sizes are looked at, and text, which is
    small. The system is told that the whole file will be read. Raises one of ``Damage``.
    """
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        size = os.fstat(file.fileno()).st_size
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
        chunks = _entries(archive, size)
        group = GroupMetadata.model_validate(_json(archive, "zarr.json"))
        arrays = {name: ArrayMetadata.model_validate(_json(archive, f"{name}/zarr.json")) for name in chunks}
        check_metadata(group, arrays, size)
        for name, array in arrays.items():
            _check_chunks(archive, file.fileno(), name, array, chunks[name])


def _entries(archive: zipfile.ZipFile, size: int) -> dict[str, list[zipfile.ZipInfo]]:
    """Chunks of every array."""
    seen: set[str] = set()
    chunks: dict[str, list[zipfile.ZipInfo]] = {}
    for entry in archive.infolist():
        match = _ENTRY.fullmatch(entry.filename)
        if match is None or entry.filename in seen or (match[1] is None and match[2] != "zarr.json"):
            raise zipfile.BadZipFile(f"an entry {entry.filename!r} does not belong in a store")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size != entry.compress_size:
            raise zipfile.BadZipFile(f"the entry {entry.filename} is compressed or encrypted")
        seen.add(entry.filename)
        if match[1] is not None:
            chunks.setdefault(match[1], []).extend([entry] if match[2] != "zarr.json" else [])
    if sum(entry.file_size for entry in archive.infolist()) > size:
        raise zipfile.BadZipFile("its entries are larger than the file")
    return chunks


def _json(archive: zipfile.ZipFile, name: str) -> Any:
    if (size := archive.getinfo(name).file_size) > LARGEST_METADATA:
        raise ValueError(f"{name} has {size} bytes")
    return json.loads(archive.read(name))


def _check_chunks(
    archive: zipfile.ZipFile, descriptor: int, name: str, array: ArrayMetadata, chunks: list[zipfile.ZipInfo]
) -> None:
    """Refuse chunks outside of their array, and those that are decoded to more than their array says."""
    text, most = 0, LARGEST_METADATA + 64 * sum(entry.file_size for entry in chunks)
    for entry in chunks:
        index = entry.filename.split("/")[2:]
        if len(index) != len(array.counts) or any(int(k) >= n for k, n in zip(index, array.counts, strict=True)):
            raise ValueError(f"{entry.filename} is no chunk of its array")
        claimed = _frame_size(descriptor, entry) if array.is_compressed else entry.file_size
        if array.is_text:
            text += claimed
            if text > most:
                raise ValueError(f"{name}: claims {text} bytes of text")
            _check_text(archive.read(entry), array)
        elif claimed != array.chunk_nbytes:
            raise ValueError(f"{entry.filename} holds {claimed} bytes, not {array.chunk_nbytes}")


def _check_text(content: bytes, array: ArrayMetadata) -> None:
    """The codec vlen-utf8 takes memory for as many texts as a chunk claims, in its first four bytes."""
    from numcodecs.zstd import Zstd

    decoded = Zstd().decode(content) if array.is_compressed else content
    if int.from_bytes(decoded[:4], "little") != math.prod(array.chunk):
        raise ValueError(f"a chunk does not hold {math.prod(array.chunk)} texts")


def _frame_size(descriptor: int, entry: zipfile.ZipInfo) -> int:
    """Bytes that the zstd frame in an entry says it holds; there must be one (RFC 8878, sections 3.1.1.1 and 3.1.1.2).

    The codec takes memory for what all frames of a chunk claim.
    """
    header = os.pread(descriptor, 30, entry.header_offset)
    if len(header) != 30 or header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"{entry.filename} is not where it is said to be")
    at = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
    end = at + entry.file_size
    frame = os.pread(descriptor, min(18, entry.file_size), at)
    if len(frame) < 6 or frame[:4] != b"\x28\xb5\x2f\xfd":
        raise ValueError(f"{entry.filename} is no zstd frame")
    single, flag = frame[4] >> 5 & 1, frame[4] >> 6
    start = 5 + (0 if single else 1) + (0, 1, 2, 4)[frame[4] & 3]
    length = (single, 2, 4, 8)[flag]
    if length == 0 or len(frame) < start + length:
        raise ValueError(f"{entry.filename} does not say its size")
    at += start + length
    last = False
    while not last and at < end:
        block = int.from_bytes(os.pread(descriptor, 3, at), "little")
        last, kind = bool(block & 1), block >> 1 & 3
        at += 3 + (1 if kind == 1 else block >> 3)
    if not last or at + (4 if frame[4] & 4 else 0) != end:
        raise ValueError(f"{entry.filename} is not one zstd frame")
    return int.from_bytes(frame[start : start + length], "little") + (256 if length == 2 else 0)
