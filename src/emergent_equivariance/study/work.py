"""Work of training an arm: members per job, floating-point operations, and about how long they take."""

from __future__ import annotations

import math
from math import ceil

from ..groups import get_group
from ..settings import Settings
from ..settings.engines import ENGINES, default_engine

#: Seconds of training below which measuring engines does not pay.
WORTHWHILE = 60.0


def members_per_shard(settings: Settings) -> int:
    """Members of a shard, where an arm is trained from the beginning."""
    return min(settings.execution.shard_size, settings.ensemble.members)


def gradient_steps(settings: Settings) -> int:
    """Gradient steps of one member, up to the last recorded time."""
    training, last = settings.training, settings.training.recorded[-1]
    if training.unit == "step":
        return last
    rows = settings.task.train * settings.augmentation.rows(get_group(settings.group).order)
    return last * ceil(rows / min(training.batch or rows, rows))


def step_flops(settings: Settings, shape: tuple[int, ...], outputs: int, rows: int) -> float | None:
    """Operations of one gradient step of one member on so many rows: forward, and two products backward.

    None where the network does not tell (network torch).
    """
    forward = settings.network.forward_flops(shape, outputs)
    return None if forward is None else 3.0 * rows * forward


def training_flops(settings: Settings, shape: tuple[int, ...], outputs: int) -> float | None:
    """Operations of training all members of an arm and recording them; None as of step_flops."""
    order, task = get_group(settings.group).order, settings.task
    rows = task.train * settings.augmentation.rows(order)
    epoch = step_flops(settings, shape, outputs, rows)
    if epoch is None:
        return None
    counts = (task.train if split == "train" else task.test for split in settings.splits())
    evaluated = order * sum(min(settings.evaluate.samples, count) for count in counts)
    records = settings.training.recorded
    return settings.ensemble.members * epoch * (records[-1] + len(records) * evaluated / rows / 3)


def core_seconds(settings: Settings, flops: float, steps: int) -> float:
    """Seconds that one core takes for so many operations in so many gradient steps, by the engine that is taken where
    nothing is measured; infinite where its speed is not known (network torch)."""
    network = settings.network.name
    speed = ENGINES[default_engine(network)].default[network]
    return math.inf if speed is None else flops / speed.rate + steps * speed.overhead


def training_seconds(settings: Settings) -> float:
    """Estimated seconds of training all members of an arm on its threads; infinite where the settings do not tell:
    custom tasks, whose data tells the shapes, and network torch."""
    shape, outputs = settings.task.input_shape(), settings.task.outputs()
    if shape is None or outputs is None or (flops := training_flops(settings, shape, outputs)) is None:
        return math.inf
    steps = settings.ensemble.members * gradient_steps(settings)
    return core_seconds(settings, flops, steps) / settings.execution.threads
