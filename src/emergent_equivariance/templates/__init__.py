"""Commented studies to start from: one YAML file per template, its first line says what it is."""

from __future__ import annotations

import os
import re
from importlib.resources import files
from pathlib import Path

import yaml

from ..errors import StudyError, write_error
from ..settings.base import SAFE_NAME

__all__ = ["DEFAULT", "templates", "write_study"]

#: The template that is taken where none is named.
DEFAULT = "ising"

#: Where the schema of study files lies in a clone of the project; editors read it (see ``emeq schema``).
SCHEMA = Path("workflow", "schemas", "study.schema.json")


def templates() -> dict[str, str]:
    """Name of every template → what it is, in a sentence or two; the default first."""
    found = sorted(entry.name.removesuffix(".yaml") for entry in files(__name__).iterdir() if ".yaml" in entry.name)
    names = sorted(found, key=lambda name: name != DEFAULT)
    return {name: _text(name).partition("\n")[0].removeprefix("# ") for name in names}


def write_study(file: Path, template: str = DEFAULT) -> None:
    """Write a study file from one of ``templates``; the study is called as the file is.

    Raises StudyError if the file exists, or its name is none of a study, and StoreError if it cannot be written.
    """
    if file.suffix not in (".yaml", ".yml"):
        raise StudyError(f"{file}: a study file ends in .yaml.", remedy=f"Call it {file.with_suffix('.yaml')}.")
    if not re.fullmatch(SAFE_NAME, file.stem) or len(file.stem) > 80:
        raise StudyError(
            f"{file}: {file.stem!r} cannot be the name of a study, which is that of a folder under results/.",
            remedy="Use at most 80 letters, digits, '.', '_', '+' and '-', a letter or a digit first.",
        )
    schema = _schema_line(file)
    name = {"study: NAME": f"study: {_quoted(file.stem)}", "NAME": file.stem}
    content = re.sub("(study: )?NAME", lambda found: name[found[0]], _text(template))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as out:
            out.write(schema + content)
    except FileExistsError:
        raise StudyError(
            f"{file}: exists, and is not overwritten.", remedy="Choose another name, or delete it."
        ) from None
    except OSError as error:
        raise write_error(file, error) from None


def _text(name: str) -> str:
    return files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def _quoted(name: str) -> str:
    """A name as a string of YAML: ``2024`` and ``no`` would be a number and a truth value."""
    return name if name[0].isalpha() and yaml.safe_load(name) == name else f'"{name}"'


def _schema_line(file: Path) -> str:
    """What tells editors the schema of the file, where a folder around it has one."""
    folder = file.absolute().parent
    for parent in (folder, *folder.parents):
        if (parent / SCHEMA).is_file():
            return f"# yaml-language-server: $schema={os.path.relpath(parent / SCHEMA, folder)}\n"
    return ""
