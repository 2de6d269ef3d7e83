"""Architectures: a finite network and its infinite-width kernel from one neural-tangents definition.

f(x) = readout(σ(… σ(layer(x)))) in NTK parametrisation: every weight and bias ~ N(0, 1), scaled in the forward
pass by W_std/√fan_in and b_std (Jacot et al. 2018). ``mlp`` is h × [dense, σ] on the flattened input;
``cnn`` is h × [conv, σ], then flatten or global average pooling; both end in a dense readout with its own W_std.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import jax

from ..augmentation import stream
from ..infinite_width import stax
from ..settings import CnnNetwork, MlpNetwork
from .layers import ACTIVATIONS, conv, dense

__all__ = ["STREAM_INITIAL", "Network", "build_network", "initial_parameters"]

#: Philox stream of initial weights; see augmentation.stream.
STREAM_INITIAL = 16

#: A pytree of arrays: per layer a pair (W, b), b None without bias, or () for layers without parameters.
Parameters = Any


@dataclass(frozen=True, eq=False)
class Network:
    """A finite network and its kernel.

    Attributes:
      description: for messages, e.g. "mlp (1 hidden layers, relu)".
      input_shape: shape of one input.
      outputs: number of outputs.
      shapes: shape of every leaf of the parameters, in the order of ``jax.tree.leaves``.
      structure: tree structure of the parameters; ``jax.tree.unflatten(structure, leaves)`` builds them.
      apply: (params, x (batch, *input_shape)) → (batch, output). Pure, of any floating dtype.
      kernel_fn: (x1 (batch, *input_shape), x2 (batch_, *input_shape), get) → named tuple of the kernels in
        ``get`` ("nngp", "ntk"), each (batch, batch_), per output (times the identity over outputs).
      entries_per_pair: entries of the largest intermediate covariance per pair of inputs: 1 for an mlp, pixels
        for a flattened cnn, pixels² for a pooled one. It sets the memory of kernels.
    """

    description: str
    input_shape: tuple[int, ...]
    outputs: int
    shapes: tuple[tuple[int, ...], ...]
    structure: jax.tree_util.PyTreeDef
    apply: Callable[[Parameters, Any], jax.Array]
    kernel_fn: Callable[..., Any]
    entries_per_pair: int

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(prod(shape) for shape in self.shapes)


def build_network(section: MlpNetwork | CnnNetwork, input_shape: tuple[int, ...], outputs: int) -> Network:
    """The network of a study file's section for inputs of ``input_shape``.

    Raises StudyError if inputs of that shape do not fit the network.
    """
    section.check_input(tuple(input_shape), "trivial")
    activation = ACTIVATIONS[section.activation]
    layers = []
    if isinstance(section, MlpNetwork):
        shape: tuple[int, ...] = (prod(input_shape),)
        for _ in range(section.hidden_layers):
            layers += [dense(section.width, section.W_std, section.b_std), activation()]
        description = f"mlp ({section.hidden_layers} hidden, {section.activation})"
        pairs = 1
    else:
        shape = tuple(input_shape)
        for _ in range(section.conv_layers):
            layers += [
                conv(section.width, section.kernel_size, section.padding, section.W_std, section.b_std),
                activation(),
            ]
        pooled = section.head == "global_average_pool"
        layers.append(stax.GlobalAvgPool() if pooled else stax.Flatten())
        description = f"cnn ({section.conv_layers} {section.padding} conv, {section.activation}, {section.head})"
        pairs = (shape[0] * shape[1]) ** (2 if pooled else 1)
    layers.append(dense(outputs, section.readout_W_std, section.readout_b_std))
    init_fn, apply_fn, kernel_fn = stax.serial(*layers)

    _, params = jax.eval_shape(lambda key: init_fn(key, (1, *shape)), jax.random.key(0))
    leaves, structure = jax.tree.flatten(params)

    def apply(params: Parameters, x: Any) -> jax.Array:
        return apply_fn(params, x.reshape(len(x), *shape))

    def kernel(x1: Any, x2: Any, get: Any = ("nngp", "ntk")) -> Any:
        return kernel_fn(x1.reshape(len(x1), *shape), x2.reshape(len(x2), *shape), get)

    return Network(
        description=description,
        input_shape=tuple(input_shape),
        outputs=outputs,
        shapes=tuple(tuple(leaf.shape) for leaf in leaves),
        structure=structure,
        apply=apply,
        kernel_fn=kernel,
        entries_per_pair=pairs,
    )


def initial_parameters(network: Network, seed: int, member: int) -> Parameters:
    """Initial parameters of one member: a pytree of float64 numpy arrays, entries iid N(0, 1).

    Leaf number l is drawn from the counter-based stream (seed, member, l, shapes of the network): nothing else
    enters, so that any division into shards gives the same bits, arms that differ in augmentation share them, and
    networks of different widths are independent.
    """
    text = json.dumps([1, network.shapes], separators=(",", ":"))
    shapes = int(hashlib.sha256(text.encode()).hexdigest()[:16], 16)
    leaves = [
        stream(seed, STREAM_INITIAL, member, leaf, shapes).standard_normal(shape)
        for leaf, shape in enumerate(network.shapes)
    ]
    return jax.tree.unflatten(network.structure, leaves)
