"""What checkpoints cost, as a fraction of the wall time of the training they interrupt, measured in one run."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from emergent_equivariance.checkpoints import Checkpoints, identity
from emergent_equivariance.interruption import Interruption
from emergent_equivariance.settings.sections import Execution
from emergent_equivariance.study import Choice, load_study
from emergent_equivariance.tasks import build_task
from emergent_equivariance.training import Position, ShardResult, build_problem, get_engine, train_shard

pytestmark = pytest.mark.benchmark
ISING = Path(__file__).parents[2] / "config" / "ising.yaml"
PERIOD = Execution().checkpoint_period
#: Seconds of training, at least.
TRAINING = 20.0


def problem_of(arm):
    settings = load_study(ISING).arm(arm).settings
    return build_problem(settings, build_task(settings), 2.0)


def kept(folder, problem, choice, members, period):
    key = identity("hash", members, problem, choice)
    return Checkpoints(folder / ".c.zarr.zip", key, period, "here", Interruption(), print)


def test_share_of_wall_time(record, tmp_path):
    """A shard of config/ising.yaml: at the default period from the time one checkpoint takes, which is the same at any
    period, and measured with a period so short that the distance of 100 writing times decides."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    problem, members = problem_of("width~256/augmentation~full"), range(64)
    choice = Choice("jax", "map", 1, 50)
    trainer = get_engine("jax").trainer(problem, choice)
    nothing = Position(0, 0, 0, train_shard(problem, trainer, choice, members[:1]))
    kept(tmp_path, problem, choice, members, PERIOD)._write(nothing)  # imports what writing needs
    checkpoints = kept(tmp_path, problem, choice, members, 0.01)
    begin = time.monotonic()
    while time.monotonic() - begin < TRAINING or checkpoints.written < 3:
        train_shard(problem, trainer, choice, members, pause=checkpoints.pause)
    total = time.monotonic() - begin
    each = checkpoints.writing / checkpoints.written
    record("ising shard: one checkpoint / s", each)
    record("ising shard: checkpoints / wall time, default period", each / (PERIOD + each), "< 0.02")
    record("ising shard: checkpoints / wall time, period 0.01 s", checkpoints.writing / total, "< 0.02")


def test_share_of_wall_time_of_large_shards(record, tmp_path):
    """Half a gigabyte of predictions and 100 MB of state, written once."""
    problem, choice = problem_of("width~64/augmentation~none"), Choice("jax", "map", 1, 50)
    rng = np.random.default_rng(0)
    prediction = rng.normal(size=(64, 20, 1000, 4, 25)).astype(np.float32)
    result = ShardResult(prediction, rng.normal(size=(64, 20)).astype(np.float32), [])
    state = [rng.normal(size=(1, 5000, 5000)).astype(np.float32)]
    checkpoints = kept(tmp_path, problem, choice, range(64), PERIOD)
    begin = time.monotonic()
    checkpoints._write(Position(0, 0, 1, result, state))
    each = time.monotonic() - begin
    distance = checkpoints._due - time.monotonic()
    record("shard of 600 MB: one checkpoint / s", each)
    record("shard of 600 MB: checkpoints / wall time, default period", each / (distance + each), "< 0.02")
