"""A small study made from end to end by the command line, without Snakemake: two processes, a few seconds."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from emergent_equivariance.study import Study, load_study

CONTENT = {
    "study": "small",
    "task": {"name": "ising", "lattice": 3, "target": "local", "train": 6, "test": 6},
    "network": {"name": "mlp", "width": 8},
    "training": {"learning_rate": {"critical_fraction": 0.5}, "steps": 10, "record": [0, 3, 10]},
    "ensemble": {"members": 4},
    "sweep": {"augmentation": ["none", "full"]},
    "evaluate": {"samples": 6},
    "tracking": {"wandb": "disabled"},
    "execution": {"shard_size": 2},
}

_RUN = """
import json, sys
from emergent_equivariance.cli import app
for arguments in json.loads(sys.argv[1]):
    app(arguments, standalone_mode=False)
"""


def study_in(folder: Path, **changes) -> Study:
    """The study, its file written to ``folder`` with some sections changed."""
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump({**CONTENT, **changes}))
    return load_study(file, folder / "results")


def run(study: Study, *commands: list[str]) -> None:
    """Run subcommands of ``emeq`` one after the other in one process."""
    import json

    given = [[name, str(study.file), *rest, "--results", str(study.results)] for name, *rest in commands]
    environment = {**os.environ, "NPROC": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", _RUN, json.dumps(given)], check=True, env=environment, capture_output=True)


def make(study: Study) -> None:
    """Everything but figures and report, in the order of the rules."""
    arms = study.arms
    keys = {name: sorted({getattr(arm, name) for arm in arms}) for name in ("data_key", "theory_key")}
    keys |= {name: sorted({getattr(arm, name) for arm in arms}) for name in ("learning_rate_key", "probe_key")}
    analytic = [["data", "--key", key] for key in keys["data_key"]]
    analytic += [["learning-rate", "--key", key] for key in keys["learning_rate_key"]]
    analytic += [["theory", "--key", key] for key in keys["theory_key"]]
    run(study, *analytic)
    trained = [["probe", "--key", key] for key in keys["probe_key"]]
    for arm in arms:
        for first, last in study.shards(arm):
            trained.append(["train", "--arm", arm.path, "--first", str(first), "--last", str(last)])
    trained += [["aggregate", "--arm", arm.path] for arm in arms]
    run(study, *trained, ["metrics"])
