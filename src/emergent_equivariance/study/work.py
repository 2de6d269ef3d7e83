"""Work of training an arm: members per job, floating-point operations, and about how long they take."""

from __future__ import annotations

from math import ceil

from ..groups import get_group
from ..settings import Settings

#: Sustained float32 rate of one CPU core in training, by architecture (measured on one AVX-512 core; an estimate
#: elsewhere).
GFLOPS_PER_CORE = {"mlp": 60.0, "cnn": 50.0, "gcnn": 50.0}


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


def core_seconds(settings: Settings, flops: float) -> float:
    """Seconds that one core takes for so many operations of an arm's training, where nothing is measured."""
    return flops / (1e9 * GFLOPS_PER_CORE[settings.network.name])
