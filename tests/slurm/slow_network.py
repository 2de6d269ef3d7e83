"""A network whose every forward pass takes a while, asleep: shards that last, on a busy machine as on a quiet one."""

import os
import sys
import time
from math import prod
from pathlib import Path

from torch import nn

#: Forward passes of a process after which it gets stuck, where it is to.
BEFORE = 500


class Slow(nn.Sequential):
    """Waits as many seconds as EMEQ_TEST_PAUSE says, then computes.

    For every file in the folder EMEQ_TEST_STUCK one process takes it away and gets stuck for ever, as where a disk
    does not answer.
    """

    passes = 0

    def forward(self, x):
        time.sleep(float(os.environ.get("EMEQ_TEST_PAUSE", "0")))
        Slow.passes += 1
        if Slow.passes == BEFORE and "EMEQ_TEST_STUCK" in os.environ:
            for ticket in Path(os.environ["EMEQ_TEST_STUCK"]).iterdir():
                ticket.unlink()
                time.sleep(3600)
        return super().forward(x)


def fail() -> None:
    """Fail in the shard whose first member EMEQ_TEST_FAIL names."""
    if os.environ.get("EMEQ_TEST_FAIL") in sys.argv:
        raise RuntimeError("this member shall fail")


def network(input_shape, outputs, width=8):
    """A dense network with one hidden layer."""
    fail()
    return Slow(nn.Flatten(), nn.Linear(prod(input_shape), width), nn.ReLU(), nn.Linear(width, outputs))
