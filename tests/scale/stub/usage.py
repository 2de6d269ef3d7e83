"""Every Python process that ends writes down what it took, in the folder STUB_USAGE: one file per process.

Processor time is counted, not time of day: it says the same on a busy machine.
"""

import atexit
import json
import os
import resource
import sys
import time
from pathlib import Path

VARIABLE = "STUB_USAGE"


def watch():
    """Have this process leave its account when it ends, if it is asked for."""
    if folder := os.environ.get(VARIABLE):
        atexit.register(_write, Path(folder), time.monotonic())


def _write(folder, start):
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    account = {
        "command": sys.orig_argv[1:],
        "seconds": own.ru_utime + own.ru_stime,
        "children": children.ru_utime + children.ru_stime,
        "memory": own.ru_maxrss * 1024,
        "wall": time.monotonic() - start,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{os.uname().nodename}-{os.getpid()}-{time.time_ns()}.json").write_text(json.dumps(account))
