"""One file read again from end to end: whether it is whole, and whether it holds what its place says."""

from __future__ import annotations

import json
import math
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from .. import store
from ..errors import StoreError, UserError
from ..inputs import rate_in
from ..pages import source_of
from ..settings import CriticalFraction
from ..study import Study, read_probe
from .findings import Finding, Kind
from .places import Place, Role

#: What a store has to say of itself, beside its checksum.
_SAID = ("format", "study", "versions", "git_commit")


@dataclass
class Checked:
    """A file that was read.

    Attributes:
      place: what it is.
      identity: inode, size and time of modification when it was read.
      problem: what is wrong with it, or None.
      attributes: what it says of itself, where it is whole.
      unproven: whether it does not say what it was made from.
      dataset: of metrics.nc.
    """

    place: Place
    identity: tuple[int, int, int]
    problem: Finding | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    unproven: bool = False
    dataset: xr.Dataset | None = None

    @property
    def checksum(self) -> str | None:
        """Of a whole store; None of what has none, or is not whole."""
        return None if self.problem else self.attributes.get("checksum")


def identity(path: Path) -> tuple[int, int, int]:
    """Inode, size and time of modification: whether a file is still the one that was read."""
    stat = path.lstat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def check(study: Study, place: Place) -> Checked | None:
    """Read a file; None if it is not there."""
    try:
        checked = Checked(place, identity(place.path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        _READERS[place.role](study, checked)
    except StoreError as error:
        reason = error.message.removeprefix(f"{place.path}: ")
        checked.problem = checked.problem or Finding(Kind.TORN, place.path, reason)
    except FileNotFoundError:
        return None
    except OSError as error:
        checked.problem = Finding(Kind.TORN, place.path, f"cannot be read: {error.strerror}")
    return checked


# -------------------------------------------------------------------------------------------------- stores


def _read_store(study: Study, checked: Checked) -> None:
    checked.attributes = store.verified(checked.place.path).attrs
    _judge_attributes(study, checked)


def _read_shard(study: Study, checked: Checked) -> None:
    members = _Members()
    found = store.verified(checked.place.path, members.inspect)
    checked.attributes = found.attrs
    if not _judge_attributes(study, checked):
        return
    first, last = checked.place.members or (0, -1)
    missing = {"prediction", "loss", "done", "diverged", "member"} - set(map(str, found.variables))
    if missing:
        checked.problem = Finding(Kind.TORN, checked.place.path, f"has no {', '.join(sorted(missing))}")
    elif not np.array_equal(found["member"], np.arange(first, last + 1)):
        held = found["member"].values
        said = f"{held[0]} to {held[-1]}" if len(held) else "none"
        checked.problem = Finding(Kind.FOREIGN, checked.place.path, f"holds other members than its name says: {said}")
    elif reason := members.problem(first, found.attrs.get("diverged_factor", math.inf)):
        checked.problem = Finding(Kind.TORN, checked.place.path, reason)


class _Members:
    """What the blocks of a shard say of its members, collected while it is read."""

    def __init__(self) -> None:
        self.finite: list[np.ndarray] = []
        self.small: dict[str, list[np.ndarray]] = {"done": [], "diverged": [], "loss": []}

    def inspect(self, name: str, block: np.ndarray) -> None:
        """See a block of members of one array."""
        if name == "prediction":
            flat = block.reshape(len(block), -1)
            if flat.size:
                self.finite.append(np.isfinite(flat.min(axis=1)) & np.isfinite(flat.max(axis=1)))
        elif name in self.small:
            self.small[name].append(np.array(block))

    def problem(self, first: int, factor: float) -> str:
        """What is wrong with the members, "" if nothing is."""
        done, diverged, loss = (np.concatenate(blocks) for blocks in self.small.values())
        finite = np.concatenate(self.finite)
        if not len(finite) == len(done) == len(diverged) == len(loss):
            return "its arrays are of different numbers of members"
        if not done.all():
            return f"members {_listed(first, ~done)} are not done"
        with np.errstate(invalid="ignore", over="ignore"):
            gone = ~finite | ~np.isfinite(loss).all(axis=1) | (loss > factor * loss[:, :1]).any(axis=1)
        if (gone & ~diverged).any():
            return f"members {_listed(first, gone & ~diverged)} are not finite, and not marked as diverged"
        if (diverged & ~gone).any():
            return f"members {_listed(first, diverged & ~gone)} are marked as diverged, and are not"
        return ""


def _listed(first: int, chosen: np.ndarray) -> str:
    numbers = [str(first + k) for k in np.flatnonzero(chosen)]
    return ", ".join(numbers[:5]) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")


def _judge_attributes(study: Study, checked: Checked) -> bool:
    """Whether a store is of these settings and says where it comes from; else the problem is noted."""
    place, said = checked.place, checked.attributes
    found = said.get(place.attribute)
    if found is None and place.role is Role.DATA:
        checked.unproven = True  # those of earlier versions do not say their key
    elif found != place.key:
        checked.problem = _misplaced(study, place, said, found)
    if checked.problem is None and (lacking := [name for name in _SAID if name not in said]):
        checked.problem = Finding(Kind.TORN, place.path, f"does not say its {', '.join(lacking)}")
    checked.unproven |= "inputs" not in said and place.role not in (Role.DATA, Role.TILES)
    return checked.problem is None


def _misplaced(study: Study, place: Place, said: dict[str, Any], found: Any) -> Finding:
    """Why a file is not the one its place says: another's, or of other settings."""
    if found is None:
        return Finding(Kind.TORN, place.path, f"does not say its {place.attribute.replace('_', ' ')}")
    hashes = f"{place.attribute.replace('_', ' ')} {found}, expected {place.key}"
    if said.get("study", study.name) != study.name:
        return Finding(Kind.FOREIGN, place.path, f"belongs to the study {said['study']!r} ({hashes})")
    if not place.shared and place.role is not Role.METRICS and said.get("arm", place.arm.path) != place.arm.path:
        return Finding(Kind.FOREIGN, place.path, f"belongs to the arm {said['arm']!r} ({hashes})")
    if place.shared:
        return Finding(Kind.FOREIGN, place.path, f"holds what belongs under another name ({hashes})")
    keep = "; to keep it, take the change of the study back" if place.role is Role.SHARD else ""
    return Finding(Kind.STALE, place.path, f"was made with other settings ({hashes}){keep}")


# --------------------------------------------------------------------------------------------- other files


def _read_rate(study: Study, checked: Checked) -> None:
    rate = checked.place.arm.settings.training.learning_rate
    assert isinstance(rate, CriticalFraction), "of other arms no file is expected"
    said = rate_in(checked.place.path, rate.critical_fraction)
    checked.attributes = said
    found = said.get("learning_rate_key")
    checked.unproven = found is None
    if found not in (None, checked.place.key):
        checked.problem = _misplaced(study, checked.place, said, found)


def _read_engine(study: Study, checked: Checked) -> None:
    path, key = checked.place.path, checked.place.key
    try:
        found = json.loads(path.read_bytes()).get("probe_key")
    except (ValueError, AttributeError, RecursionError):
        found = None
    if isinstance(found, str) and found != key:
        checked.problem = _misplaced(study, checked.place, {}, found)
        return
    read_probe(path, key)


def _read_metrics(study: Study, checked: Checked) -> None:
    checked.dataset = store.read_netcdf(checked.place.path)
    checked.attributes = checked.dataset.attrs
    checked.unproven = "inputs" not in checked.attributes
    found = checked.attributes.get("config_hash")
    if found is None:
        checked.unproven = True
    elif found != checked.place.key:
        checked.problem = _misplaced(study, checked.place, checked.attributes, found)


def _read_nothing(study: Study, checked: Checked) -> None:
    """Tables say nothing of themselves."""


def check_tables(study: Study, tables: Checked, metrics: Checked | None) -> None:
    """Note whether the tables are those of metrics.nc, where that is whole and not of an earlier version."""
    from .. import products

    if metrics is None or metrics.problem or metrics.dataset is None:
        return
    if metrics.unproven:
        tables.unproven = True
        return
    for name, table in products.tables(study, metrics.dataset).items():
        path = study.table_path(name)
        if not path.is_file():
            tables.problem = Finding(Kind.TORN, tables.place.path, f"{path.name} is not there")
        elif path.read_bytes() != table.to_csv(index=False).encode():
            tables.problem = Finding(Kind.STALE, tables.place.path, f"{path.name} is not that of metrics.nc")


def _read_picture(study: Study, checked: Checked) -> None:
    content = checked.place.path.read_bytes()
    source, sealed = source_of(content)
    if checked.place.path.suffix == ".png":
        whole = _is_whole_png(content)
    elif sealed is None:  # those of earlier versions have no checksum
        end = b"</html>" if checked.place.role is Role.REPORT else b"</svg>"
        whole = content.rstrip().endswith(end) and b"\0" not in content
        checked.unproven = True
    else:
        whole = sealed
    if not whole:
        checked.problem = Finding(Kind.TORN, checked.place.path, "ends too early or is altered")
    elif source:
        checked.attributes = {"inputs": json.dumps({"metrics.nc": source})}
    else:
        checked.unproven = True


def _is_whole_png(content: bytes) -> bool:
    """Whether all chunks of a PNG are there and have their checksums."""
    at = 8
    if content[:at] != b"\x89PNG\r\n\x1a\n":
        return False
    while at + 12 <= len(content):
        length, kind = struct.unpack(">I4s", content[at : at + 8])
        body, crc = content[at + 4 : at + 8 + length], content[at + 8 + length : at + 12 + length]
        if len(crc) != 4 or zlib.crc32(body) != int.from_bytes(crc, "big"):
            return False
        at += 12 + length
        if kind == b"IEND":
            return at == len(content)
    return False


_READERS = {
    Role.DATA: _read_store,
    Role.KERNELS: _read_store,
    Role.TILES: _read_store,
    Role.THEORY: _read_store,
    Role.RESULT: _read_store,
    Role.SHARD: _read_shard,
    Role.RATE: _read_rate,
    Role.ENGINE: _read_engine,
    Role.METRICS: _read_metrics,
    Role.TABLES: _read_nothing,
    Role.PICTURE: _read_picture,
    Role.REPORT: _read_picture,
}


def inputs_of(checked: Checked) -> dict[str, str]:
    """What a whole file says it was made from: path under the root → checksum. Raises UserError if it says nonsense."""
    try:
        found = json.loads(checked.attributes.get("inputs", "{}"))
    except (ValueError, TypeError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise UserError("its attribute inputs is no list of checksums")
    return found
