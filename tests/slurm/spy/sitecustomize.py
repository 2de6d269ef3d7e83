"""What every process of the program sees, for tests: found by Python where this folder is on PYTHONPATH.

Each call of `emeq` appends one line of JSON to the file named by EMEQ_SPY: its rule, host, partition, GPUs and times.
With EMEQ_SPY_DEVICE the engine ``jax`` says that it computes on a GPU of that name, and a job that trains lasts some
seconds longer, so that jobs meet.
"""

import atexit
import json
import os
import sys
import time
from importlib.machinery import PathFinder

ENGINE = "emergent_equivariance.training.jax_engine"
LONGER = 10.0


def note(file, **what):
    """Append a line; short ones are written at once."""
    with open(file, "a", encoding="utf-8") as lines:
        lines.write(json.dumps(what) + "\n")


class Disguise:
    """Finds the engine, and has it say that it computes on another device."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != ENGINE:
            return None
        spec = PathFinder.find_spec(name, path, target)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            module.JaxEngine.device = lambda self: os.environ["EMEQ_SPY_DEVICE"]

        spec.loader.exec_module = exec_module
        return spec


def watch(file):
    """Note what this process sees, if it is a call of `emeq`, when it ends."""
    command = sys.orig_argv
    if "emergent_equivariance" not in command:
        return
    arguments = command[command.index("emergent_equivariance") + 1 :]
    names = ("SLURM_JOB_ID", "SLURM_JOB_PARTITION", "CUDA_VISIBLE_DEVICES")
    seen = {"rule": arguments[0], "host": os.uname().nodename, "time": time.time()}
    seen |= {name: os.environ.get(name) for name in names}
    atexit.register(lambda: note(file, **seen, end=time.time()))
    if "EMEQ_SPY_DEVICE" in os.environ:
        sys.meta_path.insert(sys.meta_path.index(PathFinder), Disguise)
        if arguments[0] == "train":
            time.sleep(LONGER)


if "EMEQ_SPY" in os.environ:
    watch(os.environ["EMEQ_SPY"])
