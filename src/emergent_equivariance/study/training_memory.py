"""Memory that training takes, from the settings alone.

Counted are, for k members at once (on a CPU the variants ``map`` and ``loop`` work on one of them at a time: a = 1,
else a = k), in numbers of the precision of training:

- a times the activations of one gradient step, all layers and rows of the batch;
- a times the patches of the largest convolution, where it is a matrix product;
- k times the parameters and what the optimiser keeps beside them;
- the training rows, the inputs that are evaluated, and what is recorded of a shard.

How many copies of each an engine holds at its peak is measured (settings.engines; tests/benchmarks, within 25 %).
"""

from __future__ import annotations

from math import prod

from ..groups import get_group
from ..settings import Settings
from ..settings.engines import ENGINES
from ..settings.networks import ConvolutionalNetwork, DenseNetwork, GcnnNetwork
from .probes import Choice
from .work import evaluated, members_per_shard

__all__ = ["device_memory", "training_memory"]


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
    copies, together = ENGINES[choice.engine].footprint, choice.members_at_once
    apart = together if choice.variant.startswith("vmap") else 1
    batch = min(settings.training.batch or rows, rows)
    units, patches = _units(settings, shape)
    if choice.variant.endswith("-conv"):
        patches = 0
    activations = max(batch, min(EVALUATION_BATCH, rows)) * units * copies.activations
    moments = {"adam": 2, "sgd": int(settings.training.momentum > 0)}.get(settings.training.optimizer, 0)
    parameters = (settings.network.parameters(shape, outputs) or 0) * max(copies.parameters, 2 * (1 + moments))
    tables = (rows + evaluated(settings)) * prod(shape) + 2 * rows * outputs
    return int(item * (apart * (activations + batch * patches * copies.patches) + together * parameters + tables))


def training_memory(settings: Settings, choice: Choice, shape: tuple[int, ...], outputs: int, rows: int) -> int:
    """Bytes of a process that trains a shard on the CPU, at most; arguments as of device_memory."""
    recorded = len(settings.training.recorded) * evaluated(settings) * outputs * members_per_shard(settings)
    program = ENGINES[choice.engine].footprint.program
    return program + device_memory(settings, choice, shape, outputs, rows) + 3 * 4 * recorded


def _units(settings: Settings, shape: tuple[int, ...]) -> tuple[int, int]:
    """Numbers per row: of the inputs and all layers' outputs together, and of the patches of the largest convolution.

    Of a network from a factory, of which nothing is known, the inputs alone.
    """
    network = settings.network
    if isinstance(network, DenseNetwork):
        return prod(shape) + network.hidden_layers * network.width, 0
    if not isinstance(network, ConvolutionalNetwork):
        return prod(shape), 0
    order = get_group(network.group or settings.group).order if isinstance(network, GcnnNetwork) else 1
    channels, total, patches = shape[2], prod(shape), 0
    for height, width in network.extents(shape):
        patches = max(patches, height * width * network.kernel_size**2 * channels)
        channels = order * network.width
        total += height * width * channels
    return total + network.dense_layers * network.width, patches
