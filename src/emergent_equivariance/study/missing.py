"""What of a study is not there yet: shards an ensemble is formed without, and what a run that failed has not made."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import StoreError
from .arms import Arm
from .layout import Study
from .products import final_products
from .shards import header
from .tiling import planned_tiling

#: Missing shards of one arm that are listed by name.
LISTED = 20
#: Bytes at the end of a log in which the line that says why is looked for, and characters of it that are shown.
TAIL_BYTES, SHOWN = 16384, 240

#: Files of one folder that share a line, at least.
MANY = 5

#: What is said of a file that is there but does not belong to the study as it is now.
OTHER = "is of another version of the study"


def missing_members(study: Study, arm: Arm) -> list[int]:
    """Indices below ``ensemble.members`` that no shard on disk holds, ascending."""
    members = arm.settings.ensemble.members
    return [m for first, last in study.missing_shards(arm) for m in range(first, min(last + 1, members))]


def ensemble_shards(study: Study, arm: Arm) -> list[tuple[int, int]]:
    """Member ranges (first, last) of the shards that the ensemble of an arm is formed of, all of them on disk.

    Raises StoreError naming the missing shards, unless ``execution.allow_missing`` is set and at least one is there.
    """
    missing = study.missing_shards(arm)
    if not missing:
        return study.shards(arm)
    there = [shard for shard in study.shards(arm) if shard not in missing]
    if there and arm.settings.execution.allow_missing:
        return there
    lacking = f"{study.file}: of the arm {arm.path} {len(missing)} of {len(study.shards(arm))} shards are missing"
    if not there:
        raise StoreError(
            f"{lacking}: there is nothing to form an ensemble of in {study.shard_path(arm, *missing[0]).parent}.",
            remedy=f"Train them ({_again(study, 'all_members ')}), or take the arm's value out of the sweep.",
        )
    paths = [study.shard_path(arm, *shard) for shard in missing]
    listed = [f"{path} (log: {study.log_path(path)})" for path in paths[:LISTED]]
    more = [f"{len(paths) - LISTED} more"] if len(paths) > LISTED else []
    raise StoreError(
        f"{lacking}: {', '.join([*listed, *more])}.",
        remedy=f"Train them ({_again(study)}), or set execution.allow_missing: true in the study file to form "
        "ensembles of those that are there.",
    )


def _again(study: Study, target: str = "") -> str:
    return f"snakemake {target}--configfile {study.file}"


# ------------------------------------------------------------------------------------------ what a run has not made


@dataclass(frozen=True)
class Lost:
    """A file that is not there, or of another version.

    Attributes:
      rule: what of the workflow makes it.
      what: what it is, in words.
      path: where it belongs.
      log: what the job that makes it says.
    """

    rule: str
    what: str
    path: Path
    log: Path


def missing_report(study: Study) -> str:
    """What the study lacks, by name, with the reason in each log; what follows, and how to go on. Empty if nothing.

    Names of files and their headers are looked at: see ``emeq verify`` for their contents.
    """
    lost = {arm.path: list(lost_of_arm(study, arm)) for arm in study.arms}
    final = list(lost_of_all(study))
    if not any(lost.values()) and not final:
        return ""
    lines, told = [f"The study {study.name!r} is not complete ({study.root}). Missing:"], set()
    for arm in study.arms:
        found = [part for part in lost[arm.path] if part.path not in told]
        told |= {part.path for part in found}
        if lost[arm.path]:
            lines.append(f"  arm {arm.path}{_shards_words(study, arm)}")
        for part in found[:LISTED]:
            lines += [f"    {part.what}: {part.path}", f"      {_words(part)}"]
        if len(found) > LISTED:
            lines.append(f"    and {len(found) - LISTED} more")
    lines += _final_lines(final)
    complete = [arm.path for arm in study.arms if not lost[arm.path]]
    lines.append(f"Complete arms: {', '.join(complete) or 'none'}.")
    return "\n".join([*lines, *_remedies(study)])


def lost_of_arm(study: Study, arm: Arm) -> Iterator[Lost]:
    """What an arm needs and lacks, in the order in which it is made; a complete arm needs nothing."""

    def lost(rule: str, what: str, path: Path) -> Lost:
        return Lost(rule, what, path, study.log_path(path))

    result, missing = study.result_path(arm), study.missing_shards(arm) if study.kind == "ensemble" else []
    closed = arm.settings.execution.allow_missing and len(missing) < len(study.shards(arm)) if missing else True
    made = result.exists() and not _is_other(result, arm.result_hash)
    if made and closed:
        return
    if not study.data_path(arm).exists():
        yield lost("make_data", "data", study.data_path(arm))
    tiled = planned_tiling(arm.settings) is not None and not study.kernel_path(arm).exists()
    if study.kind != "ensemble":
        if tiled:
            yield lost("assemble_kernels", "kernels", study.kernel_path(arm))
        yield lost("measure_kernels", "measurement", result)
        return
    if arm.settings.has_mean and not study.theory_path(arm).exists():
        if tiled:
            yield lost("assemble_kernels", "kernels", study.kernel_path(arm))
        yield lost("compute_theory", "analytic solution", study.theory_path(arm))
    if not closed:
        if arm.settings.resolves_learning_rate and not study.learning_rate_path(arm).exists():
            yield lost("resolve_learning_rate", "learning rate", study.learning_rate_path(arm))
        if not study.probe_path(arm).exists():
            yield lost("probe_engine", "choice of the engine", study.probe_path(arm))
        for first, last in missing:
            yield lost("train_shard", f"members {first}–{last}", study.shard_path(arm, first, last))
    if not made:
        yield lost("aggregate_arm", "ensemble", result)


def lost_of_all(study: Study) -> Iterator[Lost]:
    """What is made of all arms together, and is not there or of another version."""
    joined = (study.metrics_path, study.table_path("any").parent)
    for path in final_products(study):
        if not path.exists() or _is_other(path, study.metrics_hash):
            rule, stem = ("join_metrics", "metrics") if path in joined else ("draw_figures", "figures")
            yield Lost(rule, path.name, path, study.root / "logs" / f"{stem}.log")


def _final_lines(final: list[Lost]) -> Iterator[str]:
    """A line per file with the reason; one for many of a folder that have the same."""
    for (folder, words), group in itertools.groupby(final, key=lambda part: (part.path.parent, _words(part))):
        parts = list(group)
        if len(parts) < MANY:
            yield from (f"  {part.path}: {words}" for part in parts)
        else:
            yield f"  {folder}: {len(parts)} files, {parts[0].path.name} to {parts[-1].path.name}: {words}"


def _is_other(path: Path, expected: str) -> bool:
    """Whether a file says that it was made by other settings."""
    return header(path).get("config_hash") not in (None, expected)


def _shards_words(study: Study, arm: Arm) -> str:
    if study.kind != "ensemble":
        return ""
    missing = len(study.missing_shards(arm))
    return f": {missing} of {len(study.shards(arm))} shards" if missing else ""


def _words(lost: Lost) -> str:
    """The line of its log that says why a file is not there, else the last one, or that there is none."""
    if lost.path.exists():
        return OTHER
    try:
        said = last_words(lost.log)
    except FileNotFoundError:
        return "was not started"
    except OSError as error:
        return f"log {lost.log}: cannot be read ({error.strerror})"
    return f"log {lost.log}: {said.text or 'is empty: the job was ended from outside, or had not begun'}"


class LastWords(NamedTuple):
    """A line of a log, "" where it is empty, and whether it says why the job failed."""

    text: str
    is_error: bool


def last_words(log: Path) -> LastWords:
    """The line of a log that says why its job failed, else the last one; shortened. Raises OSError."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
    lines = [line.rstrip() for line in lines if line.strip()]
    said, is_error = _reason(lines) if lines else ("", False)
    said = said.strip()
    return LastWords(said if len(said) <= SHOWN else said[:SHOWN] + "…", is_error)


def _reason(lines: list[str]) -> tuple[str, bool]:
    """Of the last error: the line ``error: …``, or that behind a traceback, which names the exception; else the last
    line. And whether there is an error."""
    for i in reversed(range(len(lines))):
        if lines[i].startswith("error: "):
            return lines[i], True
        if lines[i].startswith('  File "'):
            return next((line for line in lines[i + 1 :] if not line[0].isspace()), lines[-1]), True
    return lines[-1], False


def _remedies(study: Study) -> list[str]:
    """How to go on with an incomplete study."""
    lines = ["To go on: mend the cause and run the same command again; only what is missing is made."]
    if study.kind != "ensemble":
        return lines
    open_arms = [arm for arm in study.arms if not arm.settings.execution.allow_missing]
    lacking = [arm for arm in open_arms if study.missing_shards(arm)]
    empty = [arm.path for arm in study.arms if len(study.missing_shards(arm)) == len(study.shards(arm))]
    if any(arm.path not in empty for arm in lacking):
        lines.append(
            f"To close the study with the members that are there: set execution.allow_missing: true in {study.file} "
            "and run the same command again; every product then says how many are missing."
        )
    if empty:
        lines.append(f"Arms without any shard can only be trained or taken out of the sweep: {', '.join(empty)}.")
    return lines
