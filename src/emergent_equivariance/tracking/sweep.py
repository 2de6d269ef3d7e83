"""A study's grid as a sweep file of Weights & Biases. What such a sweep cannot do: docs/tracking.md."""

from __future__ import annotations

import os
import re
import shlex
from typing import Any

import yaml

from ..errors import StudyError
from ..study import Arm, Study

HEADER = """\
# Arms of the study {name} as a sweep of Weights & Biases, written by `emeq sweep {file}`.
#   wandb sweep FILE            registers it and prints its name
#   wandb agent NAME            in this folder: has Snakemake make one arm after the other
#   snakemake --configfile {file}   then joins them
# Limits: docs/tracking.md.
"""


def sweep_file(study: Study) -> str:
    """YAML of a W&B sweep (method grid) whose cells are the arms of the study.

    One parameter per swept key, named as in the arms' folders (``_`` for what is no letter or digit), its values as
    labels or numbers that are written as their label. An agent passes them as environment variables to a shell,
    which has Snakemake make the result of one arm.

    Raises StudyError if nothing is swept.
    """
    if not study.arms[0].coords:
        raise StudyError(
            f"{study.file}: has no sweep: a W&B sweep of one cell is of no use.",
            remedy="Run it with Snakemake, or add a section 'sweep'.",
        )
    file = os.path.relpath(study.file)
    content: dict[str, Any] = {
        "name": study.name,
        "description": f"Arms of the study {study.name}; its results are in the runs of the group {study.name}.",
        "project": study.tracking.project,
        **({"entity": study.tracking.entity} if study.tracking.entity else {}),
        "method": "grid",
        "parameters": {
            _variable(key): {"values": list(dict.fromkeys(_value(arm, key) for arm in study.arms))}
            for key in study.arms[0].labels
        },
        "command": [
            "${env}",
            "${args_no_hyphens}",
            "sh",
            "-c",
            f'PATH="$PATH:.venv/bin"; exec snakemake "{_target(study)}" --configfile {shlex.quote(file)}',
        ],
    }
    body = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)
    return HEADER.format(name=study.name, file=file) + body


def _variable(key: str) -> str:
    return re.sub(r"\W", "_", key)


def _value(arm: Arm, key: str) -> Any:
    """A number only where every writer of JSON and YAML gives its label back: not 1.0, which may come back as 1."""
    value = arm.coords[key]
    return value if isinstance(value, int) or (isinstance(value, float) and not value.is_integer()) else arm.labels[key]


def _target(study: Study) -> str:
    """Path of the result of an arm, with shell variables for its labels."""
    arm = study.arms[0]
    folder = "/".join(f"{key}~${{{_variable(key)}}}" for key in arm.labels)
    return str(study.result_path(arm)).replace(arm.path, folder)
