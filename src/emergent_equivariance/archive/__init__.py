"""The file of a store: a zip archive with a zarr v3 hierarchy in it, that zarr decodes once it was found harmless.

Only what ``store.write`` writes is let through: entries without compression of their own under plain names, arrays of
numbers or text in regular chunks, zstd. All else is refused before anything is decoded: no codec is looked up by a name
in a file, no entry is extracted, and a size that a file claims is held against limits before memory is taken.
"""

from .checks import Damage, check
from .checksums import Inspect, checksum, chunk_digest, combined
from .metadata import BLOCK_BYTES, CHUNK, LARGEST_TEXT, chunks_of, region_of

__all__ = [
    "BLOCK_BYTES",
    "CHUNK",
    "LARGEST_TEXT",
    "Damage",
    "Inspect",
    "check",
    "checksum",
    "chunk_digest",
    "chunks_of",
    "combined",
    "region_of",
]
