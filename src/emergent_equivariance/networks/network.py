"""A finite network with its infinite-width kernel, and the initial parameters of its members."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import numpy as np

from ..augmentation import stream
from .stack import ConvStack

__all__ = ["STREAM_INITIAL", "KernelFunction", "Network", "Parameters", "initial_arrays", "initial_parameters"]

#: Philox stream of initial weights; see augmentation.stream.
STREAM_INITIAL = 16

#: A pytree of arrays: per layer a pair (W, b), b None without bias, or () for layers without parameters.
Parameters = Any

#: (x1 (batch, *input_shape), x2 (batch_, *input_shape), get) → named tuple of the kernels in ``get``.
KernelFunction = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Network:
    """A finite network and its kernel.

    Attributes:
      description: for messages, e.g. "mlp (1 hidden, relu)".
      input_shape: shape of one input.
      outputs: number of outputs.
      shapes: shape of every leaf of the parameters, in the order of ``jax.tree.leaves``.
      structure: tree structure of the parameters; ``jax.tree.unflatten(structure, leaves)`` builds them.
      apply: (params, x (batch, *input_shape)) → (batch, output). Pure, of any floating dtype.
      layers: name of every layer, in order.
      truncated: number of layers n → kernel function of the first n. Where the features behind them still have
        points, the kernels have further axes for these.
      entries_per_pair: entries of the largest intermediate covariance per pair of inputs, which sets the memory of
        ``kernel_fn``: 1 for an mlp, pixels for a flattened cnn, pixels² for a pooled one, (|G|·pixels)² for a gcnn.
      stack: what the kernel depends on, for faster evaluation of convolutional networks; None for an mlp.
    """

    description: str
    input_shape: tuple[int, ...]
    outputs: int
    shapes: tuple[tuple[int, ...], ...]
    structure: jax.tree_util.PyTreeDef
    apply: Callable[[Parameters, Any], jax.Array]
    layers: tuple[str, ...]
    truncated: Callable[[int], KernelFunction]
    entries_per_pair: int
    stack: ConvStack | None = None

    @property
    def kernel_fn(self) -> KernelFunction:
        """(x1 (batch, *input_shape), x2 (batch_, *input_shape), get) → named tuple of the kernels in ``get`` ("nngp",
        "ntk"), each (batch, batch_), per output (times the identity over outputs), by the full recursion."""
        return self.truncated(len(self.layers))

    def prefixes(self) -> list[tuple[str, KernelFunction]]:
        """(name of a layer, kernel function of the network cut behind it), for every layer; see ``truncated``."""
        return [(name, self.truncated(n)) for n, name in enumerate(self.layers, 1)]

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(prod(shape) for shape in self.shapes)


def initial_arrays(shapes: Sequence[tuple[int, ...]], seed: int, member: int) -> list[np.ndarray]:
    """Initial parameters of one member: float64 arrays of the given shapes, entries iid N(0, 1).

    Array number l is drawn from the counter-based stream (seed, member, l, all shapes): nothing else enters, so that
    any division into shards and any engine has the same bits, arms that differ in augmentation share them, and
    networks of different widths are independent.
    """
    text = json.dumps([1, shapes], separators=(",", ":"))
    digest = int(hashlib.sha256(text.encode()).hexdigest()[:16], 16)
    return [
        stream(seed, STREAM_INITIAL, member, leaf, digest).standard_normal(shape) for leaf, shape in enumerate(shapes)
    ]


def initial_parameters(network: Network, seed: int, member: int) -> Parameters:
    """``initial_arrays`` of a network, as the pytree that its ``apply`` takes."""
    return jax.tree.unflatten(network.structure, initial_arrays(network.shapes, seed, member))
