"""The subcommand that writes a study file to start from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ..study import load_study
from ..templates import DEFAULT, templates, write_study
from .common import BEFORE, app


def _names(incomplete: str) -> list[tuple[str, str]]:
    return [(name, text) for name, text in templates().items() if name.startswith(incomplete)]


def _known(name: str) -> str:
    if name not in templates():
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(templates())}")
    return name


def _list(wanted: bool) -> None:
    if wanted:
        for name, text in templates().items():
            print(f"{name:<20}{text}" + (" (default)" if name == DEFAULT else ""))
        raise typer.Exit


@app.command(rich_help_panel=BEFORE, epilog="Example: `emeq new config/mine.yaml --template digits`.")
def new(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.yaml", help="The file to write; the study is called as the file is.")
    ],
    template: Annotated[
        str,
        typer.Option(
            "--template", "-t", help="What to start from: see --list.", callback=_known, autocompletion=_names
        ),
    ] = DEFAULT,
    list_: Annotated[
        bool, typer.Option("--list", help="Print the templates, and write nothing.", is_eager=True, callback=_list)
    ] = False,
) -> None:
    """Write a commented study file from a template; a file that exists is never overwritten."""
    write_study(file, template)
    study = load_study(file)
    print(f"{file}: study {study.name!r} from the template {template}. Change what you like, then")
    steps = {"emeq validate": "check it", "emeq plan": "see what it will cost", "snakemake --configfile": "run it"}
    shown = shlex.quote(str(file))
    for command, what in steps.items():
        print(f"  {f'{command} {shown}':<{24 + len(shown)}}  # {what}")
