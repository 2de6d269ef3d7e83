"""That a picture or a page is whole, and what it was made from: a text in it says both."""

from __future__ import annotations

import hashlib
import re

#: What a picture or a page says it was made from, and the checksum of all its bytes but this one.
_SOURCE = re.compile(rb"metrics\.nc ([0-9a-f]{64}|)( text ([0-9a-f]{64}))?")


#: What stands after ``metrics.nc CHECKSUM`` in a text whose length sealing must not change.
UNSEALED = " text " + 64 * "0"


def sealed(content: bytes) -> bytes:
    """A text that says ``metrics.nc CHECKSUM``, with a checksum of the text added there, or instead of UNSEALED."""
    source = _SOURCE.search(content)
    if source is None:
        raise ValueError("the text does not say what it was made from")
    digest = hashlib.sha256(content[: source.end(1)] + content[source.end() :]).hexdigest().encode()
    return content[: source.end(1)] + b" text " + digest + content[source.end() :]


def source_of(content: bytes) -> tuple[str, bool | None]:
    """What a picture or a page says of itself.

    Returns the checksum of the metrics.nc it was made from, "" if it does not say it; and whether the text is the one
    that was sealed, None if it is not sealed.
    """
    source = _SOURCE.search(content)
    if source is None:
        return "", None
    if source[3] is None:
        return source[1].decode(), None
    rest = content[: source.start(2)] + content[source.end(2) :]
    return source[1].decode(), hashlib.sha256(rest).hexdigest().encode() == source[3]
