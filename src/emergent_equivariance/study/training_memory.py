"""Memory that training takes, from the settings alone.

Counted are, in numbers of the precision of training, for k members at once (on a CPU the variants ``map`` and ``loop``
work on one of them at a time: a = 1, else a = k):

- a copies of the activations of one gradient step: per row and layer what goes in, what comes out and its derivative;
  convolutions as matrix products hold the patches of the largest layer as well, twice;
- 2 k copies of the parameters and of the optimiser's moments, and twice more the parameters in float64 at the start;
- the training rows, with the inputs that are evaluated, and what is recorded of a shard.

A process holds PROGRAM bytes besides, before anything large is there.
"""

from __future__ import annotations

from math import prod

from ..groups import get_group
from ..settings import Settings
from ..settings.networks import ConvolutionalNetwork, GcnnNetwork, MlpNetwork
from .probes import Choice
from .work import members_per_shard

__all__ = ["device_memory", "training_memory"]

#: Bytes of a process that trains, libraries and compiled programs included, by engine (measured).
PROGRAM = {"jax": 420_000_000, "torch": 480_000_000, "numba": 690_000_000}

#: Rows evaluated at once; see training.
EVALUATION_BATCH = 256


def device_memory(settings: Settings, choice: Choice, shape: tuple[int, ...], outputs: int, rows: int) -> int:
    """Bytes of arrays that training ``choice.members_at_once`` members takes at most.

    Args:
      settings: the arm.
      choice: how it is trained.
      shape: of one input.
      outputs: of the network.
      rows: training rows, augmentation included.
    """
    item = 8 if settings.execution.precision == "float64" else 4
    together = choice.members_at_once
    apart = together if choice.variant.startswith("vmap") else 1
    batch = min(settings.training.batch or rows, rows)
    units, patches = _units(settings, shape, direct=choice.engine == "torch" or choice.variant.endswith("-conv"))
    activations = apart * (max(batch, min(EVALUATION_BATCH, rows)) * 3 * units + 2 * batch * patches)
    parameters = (settings.network.parameters(shape, outputs) or 0) * together
    moments = {"adam": 2, "sgd": int(settings.training.momentum > 0)}.get(settings.training.optimizer, 0)
    tables = (rows + _evaluated(settings)) * prod(shape) + 2 * rows * outputs
    return item * (activations + 2 * (1 + moments) * parameters + tables) + 16 * parameters


def training_memory(settings: Settings, choice: Choice, shape: tuple[int, ...], outputs: int, rows: int) -> int:
    """Bytes of a process that trains a shard on the CPU, at most; arguments as of device_memory."""
    recorded = len(settings.training.recorded) * _evaluated(settings) * outputs * members_per_shard(settings)
    return PROGRAM[choice.engine] + device_memory(settings, choice, shape, outputs, rows) + 3 * 4 * recorded


def _evaluated(settings: Settings) -> int:
    """Inputs at which predictions are recorded, whole orbits."""
    task = settings.task
    counts = (task.train if split == "train" else task.test for split in settings.splits())
    return get_group(settings.group).order * sum(min(settings.evaluate.samples, count) for count in counts)


def _units(settings: Settings, shape: tuple[int, ...], direct: bool) -> tuple[int, int]:
    """Numbers per row: of all layers' outputs together, and of the patches of the largest convolution."""
    network = settings.network
    if isinstance(network, MlpNetwork):
        return prod(shape) + network.hidden_layers * network.width, 0
    if not isinstance(network, ConvolutionalNetwork):
        return prod(shape), 0
    order = get_group(network.group or settings.group).order if isinstance(network, GcnnNetwork) else 1
    channels, total, patches = shape[2], prod(shape), 0
    for height, width in network._extents(shape):
        patches = max(patches, height * width * network.kernel_size**2 * channels)
        channels = order * network.width
        total += height * width * channels
    return total + network.dense_layers * network.width, 0 if direct else patches
