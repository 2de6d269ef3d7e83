"""What is said of every study: where its data came from, its settings, and how to make it again."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from ..figures.words import substitutes
from .content import Block, Code, Heading, Picture, Points, Report, Section, Table, Text, pictures

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

    from ..study import Arm, Study


def further(report: Report, there: Sequence[str]) -> Section:
    """The figures of the study that no other section shows; without blocks if there is none."""
    shown = {block.name for section in report.sections for block in section.blocks if isinstance(block, Picture)}
    return Section(
        "figures", "Further figures", pictures([n for n in there if n not in shown | {report.key_figure}], there)
    )


def provenance(metrics: xr.Dataset) -> Section:
    """Where the data came from, as the attributes of the metrics say."""
    said = metrics.attrs.get("data_provenance")
    if said is None:
        return Section("provenance", "Data provenance", [Text("The metrics do not say where the data came from.")])
    blocks: list[Block] = []
    blocks += substitute_words(metrics)
    found = json.loads(said)
    origins = found if isinstance(found, list) else [found]
    for number, origin in enumerate(origins, 1):
        if len(origins) > 1:
            blocks.append(Heading(f"Data {number} of {len(origins)}"))
        blocks.append(Points([f"**{name.replace('_', ' ')}**: {_flat(value)}" for name, value in origin.items()]))
    return Section("provenance", "Data provenance", blocks)


def substitute_words(metrics: xr.Dataset) -> list[Block]:
    """What was used in place of a data set; nothing if nothing was."""
    said = metrics.attrs.get("data_provenance")
    return [Text(f"**Substitute data**: {text}.") for text in (substitutes(said) if said else [])]


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_flat(item)}" for key, item in value.items())
    return ", ".join(_flat(item) for item in value) if isinstance(value, list) else str(value)


def settings(study: Study) -> Section:
    """Which keys the arms differ in, and the study file."""
    keys = list(study.arms[0].coords)
    arms = [{"arm": arm.path, **{key: arm.coords[key] for key in keys}} for arm in study.arms]
    rows = [[row["arm"], *(str(row[key]) for key in keys)] for row in arms]
    blocks: list[Block] = [
        Text(f"The study has {len(arms)} arm{'s' * (len(arms) > 1)}, one for each cell of its sweep."),
        Table("arms", "Arms and their swept keys", ["arm", *keys], rows, pd.DataFrame(arms)),
    ]
    if study.file.is_file():
        text = study.file.read_text(encoding="utf-8")
        blocks.append(Code(text, f"The study file {study.file.name}", study.file.name))
    arm = study.arms[0]
    shown = yaml.safe_dump(_resolved(arm), sort_keys=False, allow_unicode=True, width=100)
    blocks.append(Code(shown, f"All settings of the arm {arm.path}, with the defaults that the study file leaves out"))
    return Section("settings", "Settings", blocks)


def _resolved(arm: Arm) -> dict[str, Any]:
    """All settings of an arm but places on a machine."""
    return json.loads(arm.settings.model_dump_json(exclude={"task": arm.settings.task.LOCATION}))


def reproduce(study: Study, metrics: xr.Dataset) -> Section:
    """The commands that make the study again, and what made it."""
    commit = str(metrics.attrs.get("git_commit", "unknown"))
    clean = commit.removesuffix("-dirty")
    known = clean != "unknown"
    file = _shown_file(study)
    lines = [
        "git clone ADDRESS_OF_THIS_REPOSITORY emergent-equivariance",
        "cd emergent-equivariance",
        *([f"git checkout {clean}"] if known else []),
        "make env",
        f".venv/bin/snakemake --cores all --configfile {file}",
        f".venv/bin/emeq verify {file}",
    ]
    blocks: list[Block] = [
        Text(
            f"With the study file as `{file}` (Settings has it), these commands make every number and figure of "
            "this page again."
        ),
        Code("\n".join(lines)),
        *_own_modules(study),
    ]
    if not known:
        blocks.append(
            Text("**The commit is not known**: the package did not run from a checkout. Its version is below.")
        )
    elif clean != commit:
        blocks.append(
            Text(
                f"**The checkout had changes that were not committed**: commit {clean} alone may not be the code that "
                "made these results."
            )
        )
    else:
        blocks.append(Text(f"Commit {clean}, without uncommitted changes."))
    versions = json.loads(metrics.attrs.get("versions", "{}"))
    rows = [[name, str(version)] for name, version in versions.items()]
    if rows:
        table = pd.DataFrame(rows, columns=["package", "version"])
        blocks.append(
            Table("versions", "Versions of Python and of the packages that made the metrics", list(table), rows, table)
        )
    return Section("reproduce", "How to reproduce", blocks)


def _own_modules(study: Study) -> list[Block]:
    """That modules of the user are needed too; nothing where the study names none."""
    sections = [section for arm in study.arms for section in (arm.settings.task, arm.settings.network)]
    names = dict.fromkeys(str(name) for section in sections if (name := getattr(section, "factory", None)))
    if not names:
        return []
    own = " and ".join(f"`{name}`" for name in names)
    return [Text(f"The study names {own}: that code is needed too, in the same version, and is not on this page.")]


def _shown_file(study: Study) -> str:
    """The study file as a reader may call it: relative to the folder of the run, or by its name alone."""
    path = os.path.relpath(study.file)
    return study.file.name if path.startswith("..") else path
