"""Reading the files in which Weights & Biases keeps runs: seven bytes, then LevelDB's log format in blocks of 32 kB."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEADER = 7
BLOCK = 32768
WHOLE, LAST = 1, 4


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file, in order; ends where a killed writer or a full disk cut it off."""
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    content = path.read_bytes()
    position, message = HEADER, b""
    while position + HEADER <= len(content):
        if (left := BLOCK - position % BLOCK) < HEADER:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + HEADER])
        part = content[position + HEADER : position + HEADER + length]
        if kind == 0 or len(part) < length:
            return
        message += part
        position += HEADER + length
        if kind in (WHOLE, LAST):
            record = Record()
            try:
                record.ParseFromString(message)
            except DecodeError:
                return
            yield record
            message = b""


@dataclass(frozen=True)
class Recorded:
    """What a .wandb file says of its run.

    Attributes:
      job: "train", "theory", "summary", or empty if the file does not say.
      name: displayed name of the run.
      rows: number of rows of its history.
      finished: whether the run was finished, so that the file is complete.
    """

    job: str
    name: str
    rows: int
    finished: bool


def recorded(path: Path) -> Recorded:
    """What a .wandb file holds. Raises OSError if it cannot be read."""
    job = name = ""
    rows, finished = 0, False
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            job, name = record.run.job_type or job, record.run.display_name or name
        rows += kind == "history"
        finished |= kind == "exit"
    return Recorded(job, name, rows, finished)


#: Beginnings of errors in wandb's log after which it tries again, or does without.
HARMLESS = ("api: HTTP error", "featurechecker:")


def lost(log: Path, run: str) -> str:
    """What wandb's log says of data of a run that the server did not take; empty if it took all.

    wandb tells nobody else: it ends such a run, and ``wandb sync`` marks it, as if all were sent.
    """
    found = ""
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else ():
        entry = {}
        with suppress(ValueError):  # the last line of a killed process
            entry = json.loads(line)
        said = str(entry.get("msg", ""))
        ours = run in entry.get("sync_path", run)
        if ours and entry.get("level", "").startswith("ERROR") and not said.startswith(HARMLESS):
            found = said
    return found
