"""The file of a store: a zip archive with a zarr v3 hierarchy in it, read strictly and in one pass.

Only what ``store.write`` writes is understood: entries without compression of their own under plain names, arrays of
numbers or text in regular chunks, zstd. All else is refused before anything is decoded: no codec is looked up by a name
in a file, no entry is extracted, and a size that a file claims is held against limits before memory is taken.
"""

from .arrays import as_dataset
from .checksums import BLOCK_BYTES, CHUNK, Inspect, archive_checksum, checksum, chunk_digest, combined
from .metadata import Layout, chunks_of, region_of
from .reading import Archive, Damage

__all__ = [
    "BLOCK_BYTES",
    "CHUNK",
    "Archive",
    "Damage",
    "Inspect",
    "Layout",
    "archive_checksum",
    "as_dataset",
    "checksum",
    "chunk_digest",
    "chunks_of",
    "combined",
    "region_of",
]
