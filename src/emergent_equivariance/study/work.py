"""Work of training an arm: members per job, floating-point operations, and about how long they take."""

from __future__ import annotations

import math
from math import ceil

from ..groups import get_group
from ..settings import (
    AnySettings,
    ConvergenceSettings,
    DenseNetwork,
    GcnnNetwork,
    RegressionSettings,
    Settings,
    TorchNetwork,
)
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
    rows = settings.task.train * settings.augmentation.rows(get_group(settings.group).order)
    epoch = step_flops(settings, shape, outputs, rows)
    if epoch is None:
        return None
    records = settings.training.recorded
    return settings.ensemble.members * epoch * (records[-1] + len(records) * evaluated(settings) / rows / 3)


def evaluated(settings: Settings) -> int:
    """Inputs at which predictions are recorded, whole orbits."""
    counts = (settings.task.train if split == "train" else settings.task.test for split in settings.splits())
    return get_group(settings.group).order * sum(min(settings.evaluate.samples, count) for count in counts)


def recording_share(settings: Settings) -> float:
    """Operations of recording a member over those of training it; 0 where it is not trained."""
    records = settings.training.recorded
    rows = settings.task.train * settings.augmentation.rows(get_group(settings.group).order)
    return len(records) * evaluated(settings) / (3 * rows * records[-1]) if records[-1] else 0.0


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


def recorded_values(settings: Settings) -> int | None:
    """Numbers recorded of one member; None where only the data of a task tells."""
    outputs = settings.task.outputs()
    return None if outputs is None else len(settings.training.recorded) * evaluated(settings) * outputs


#: Seconds of one core per number recorded of an ensemble (a subset of the members) that is evaluated.
EVALUATING = 1.5e-7


def ensemble_sizes(settings: Settings) -> set[int]:
    """Sizes of the ensembles that are evaluated."""
    members, wanted = settings.ensemble.members, settings.evaluate.member_counts
    sizes = {2**k for k in range(members.bit_length())} if wanted == "powers_of_two" else set(wanted)
    return {1, *(size for size in sizes if size <= members), members}


def aggregation_seconds(settings: Settings) -> float:
    """Seconds of one core to form the ensembles of an arm and evaluate them; infinite as of recorded_values."""
    values, members = recorded_values(settings), settings.ensemble.members
    subsets = sum(members // size for size in ensemble_sizes(settings))
    return math.inf if values is None else EVALUATING * values * subsets


#: Metrics kept for every member subset, each with a double and a single for its error (docs/layout.md).
METRICS, METRIC_BYTES = 14, 12


def joined_bytes(settings: AnySettings) -> int:
    """Bytes of an arm that metrics.nc is made from, before compression: the metrics of all member subsets, or the store
    of an arm of a study of kernels (docs/layout.md)."""
    if isinstance(settings, ConvergenceSettings):
        return settings.convergence.members * 2 * settings.convergence.inputs**2 * 8
    if isinstance(settings, RegressionSettings):
        section = settings.regression
        return len(section.sizes) * section.repeats * len(section.times) * settings.task.test * 9
    subsets = 2 * settings.ensemble.members  # of all sizes, in powers of two
    return subsets * len(settings.training.recorded) * len(settings.splits()) * METRICS * METRIC_BYTES


# ------------------------------------------------------------------------------------------- the analytic side

#: Seconds of one core per pair of inputs (docs/cluster.md): of a pooled convolution per pair of pixels, and per group
#: element of a gcnn; of one that is flattened per pixel; of a dense layer, and of one number of the inputs.
POOLED, FLATTENED, DENSE, INPUT = 5e-9, 2e-8, 4e-8, 5e-11

#: Seconds of one core of an eigendecomposition of n × n numbers, over n³.
EIGEN = 2e-10

#: Operations per second of one core: of products of matrices of doubles; of empirical kernels, gradients included.
PRODUCTS, EMPIRICAL = 2e10, 4e9


def pair_seconds(settings: AnySettings) -> float | None:
    """Seconds of one core to evaluate the analytic kernels of one pair of inputs; None where it is not known."""
    shape, network = settings.task.input_shape(), settings.network
    if shape is None or isinstance(network, TorchNetwork):
        return None
    if isinstance(network, DenseNetwork):
        return DENSE * (1 + network.hidden_layers) + INPUT * math.prod(shape)
    pixels = [height * width for height, width in network.extents(shape)]
    if isinstance(network, GcnnNetwork):
        seconds = POOLED * get_group(network.group or settings.group).order * sum(count**2 for count in pixels)
    elif network.head == "flatten":
        seconds = FLATTENED * sum(pixels)
    else:
        seconds = POOLED * sum(count**2 for count in pixels)
    return seconds + DENSE * (1 + network.dense_layers)


def solution_seconds(settings: Settings) -> float:
    """Seconds of one core to solve for μ_t and Σ_t, without the kernels: in blocks, or on the augmented rows."""
    group, train = get_group(settings.group), settings.task.train
    points = evaluated(settings)
    symmetric = settings.theory.route == "auto" and settings.theory.monte_carlo is None and group.order > 1
    if symmetric and settings.has_invariant_kernel and settings.augmentation.kind in ("full", "random"):
        blocks = [(irrep.shape[1] * train, (irrep.itemsize // 8) ** 2) for irrep in group.irreps]
    else:
        rows = group.order if settings.augmentation.kind == "random" else settings.augmentation.rows(group.order)
        blocks = [(train * rows, 1)]
    return sum(cost * (EIGEN * size**3 + 4 * points * size**2 / PRODUCTS) for size, cost in blocks)


def empirical_seconds(settings: AnySettings, networks: int, inputs: int) -> float | None:
    """Seconds of one core for the empirical kernels of so many networks between all pairs of inputs."""
    shape, outputs = settings.task.input_shape(), settings.task.outputs()
    if shape is None or outputs is None:
        return None
    forward, parameters = settings.network.forward_flops(shape, outputs), settings.network.parameters(shape, outputs)
    if forward is None or parameters is None:
        return None
    operations = 3 * inputs * forward * outputs + 2 * inputs**2 * parameters * outputs
    return networks * operations / EMPIRICAL
