"""A network whose every forward pass takes a while, asleep: shards that last, on a busy machine as on a quiet one."""

import os
import signal
import time
from math import prod

from torch import nn


class Slow(nn.Sequential):
    """Waits as many seconds as EMEQ_TEST_PAUSE says, then computes. With EMEQ_TEST_DEAF no signal is listened to."""

    def forward(self, x):
        time.sleep(float(os.environ.get("EMEQ_TEST_PAUSE", "0")))
        if "EMEQ_TEST_DEAF" in os.environ:
            for number in (signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, signal.SIG_IGN)
        return super().forward(x)


def network(input_shape, outputs, width=8):
    """A dense network with one hidden layer."""
    return Slow(nn.Flatten(), nn.Linear(prod(input_shape), width), nn.ReLU(), nn.Linear(width, outputs))
