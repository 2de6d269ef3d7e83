"""An engine that trains nothing: predictions drawn at random, a function of (ensemble.seed, member, step) alone.

Everything else of a job is as with a real one: files, checkpoints, signals, tracking. The environment variable
STUB_STEP says how many seconds a gradient step of a group of members takes (asleep, so that a hundred jobs fit on one
core); without it a step takes no time. It is loaded as a module of the package ``training`` (see sitecustomize).
"""

import os
import time

import numpy as np

from ..augmentation import stream
from ..study.probes import Choice
from .engine import Record

#: Purpose of the Philox stream (see augmentation.stream); no number of the program is drawn from it.
STREAM_STUB = 1000

#: Members at once: so many are recorded together.
TOGETHER = 50


class StubEngine:
    """See training.engine.Engine."""

    name = "stub"

    def device(self):
        return "cpu"

    def candidates(self, problem, members):
        asked = problem.settings.execution.engine == self.name  # by name; never where the fastest engine is looked for
        return [Choice("stub", "loop", min(members, TOGETHER), 1)] if asked else []

    def trainer(self, problem, choice):
        return StubTrainer(problem)


class StubTrainer:
    """See training.engine.Trainer. The state is (members, gradient steps done)."""

    def __init__(self, problem):
        self.problem = problem
        self.seconds = float(os.environ.get("STUB_STEP", "0"))
        self.shapes = [(1,)]

    def start(self, members):
        return list(members), 0

    def advance(self, state, first, count):
        members, done = state
        assert done == first
        time.sleep(count * self.seconds)
        return members, first + count

    def record(self, state, weights):
        members, step = state
        shape = (*self.problem.orbit_input.shape[:2], self.problem.outputs)
        seed = self.problem.settings.ensemble.seed
        prediction = np.empty((len(members), *shape), np.float32)
        for row, member in enumerate(members):
            stream(seed, STREAM_STUB, member, step).standard_normal(dtype=np.float32, out=prediction[row])
        loss = np.full(len(members), 0.5 / (1 + step))
        return Record(prediction, loss, [np.asarray(members, float)[:, None]] if weights else [])

    def save(self, state):
        members, step = state
        return [np.full(len(members), step)]

    def restore(self, members, arrays):
        return list(members), int(arrays[0][0])
