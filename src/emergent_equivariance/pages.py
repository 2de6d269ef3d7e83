"""What the HTML pages of key numbers have in common: the frame, where numbers come from, and that they are whole."""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Iterable
from typing import Any

_CSS = (
    "body{font:15px/1.5 sans-serif;max-width:75em;margin:2em auto;padding:0 1em;color:#222}"
    "h1{font-size:1.35em}h2{font-size:1.1em}table{border-collapse:collapse;font-size:.8em}"
    "th,td{padding:.25em .5em;text-align:right;vertical-align:top;white-space:nowrap}"
    "th{vertical-align:bottom;white-space:normal}td.text,th.text{text-align:left}tr.arm>*{border-top:1px solid #ccc}"
    ".note{color:#555;font-size:.9em}.scroll{overflow-x:auto}li{margin:.3em 0}"
)


def page(title: str, parts: Iterable[str]) -> str:
    """One self-contained page.

    Args:
      title: plain text.
      parts: HTML.
    """
    head = f"<meta charset='utf-8'><title>{html.escape(title)}</title><style>{_CSS}</style>"
    return f"<!DOCTYPE html>\n<html lang='en'><head>{head}</head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"


def with_source(text: str, checksum: str) -> str:
    """A page that says which metrics.nc, by its checksum, it was made from; sealed."""
    source = f"metrics.nc {checksum}"
    return sealed(text.replace("<title>", f"<meta name='source' content='{source}'><title>", 1).encode()).decode()


#: What a picture or a page says it was made from, and the checksum of all its bytes but this one.
_SOURCE = re.compile(rb"metrics\.nc ([0-9a-f]{64}|)( text ([0-9a-f]{64}))?")


def sealed(content: bytes) -> bytes:
    """A text that says ``metrics.nc CHECKSUM``, with a checksum of the text added to it there."""
    source = _SOURCE.search(content)
    if source is None:
        raise ValueError("the text does not say what it was made from")
    digest = hashlib.sha256(content).hexdigest().encode()
    return content[: source.end()] + b" text " + digest + content[source.end() :]


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


def provenance(attributes: Iterable[tuple[str, Any]]) -> list[str]:
    """A section that quotes attributes, each (name, value) once; nothing if none has a value."""
    items = [
        f"<li><b>{html.escape(name.replace('_', ' '))}</b>: {html.escape(_flat(value))}</li>"
        for name, value in dict.fromkeys(attributes)
        if value is not None
    ]
    return ["<h2>Provenance</h2>\n<ul>\n" + "\n".join(items) + "\n</ul>"] if items else []


def _flat(value: Any) -> str:
    """A value, or a JSON text of a mapping, as ``key: value; …``."""
    if isinstance(value, str) and value.startswith(("{", "[")):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return value
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_flat(item)}" for key, item in value.items())
    return ", ".join(_flat(item) for item in value) if isinstance(value, list) else str(value)
