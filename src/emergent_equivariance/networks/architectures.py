"""The networks of a study file: f(x) = readout(σ(… σ(layer(x)))), finite and infinitely wide.

``mlp`` is h × [dense, σ] on the flattened input; ``cnn`` is n × [convolution, σ], then flatten or global average
pooling, d × [dense, σ]; ``gcnn`` is a lifting and n − 1 group convolutions, each followed by σ, then the mean over
pixels and group, d × [dense, σ]; all end in a dense readout with its own W_std.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from math import prod
from typing import Any, Literal

import jax

from ..groups import Action, get_group, grid_action
from ..infinite_width import stax
from ..settings.networks import (
    AnalyticNetwork,
    CnnNetwork,
    ConvolutionalNetwork,
    GcnnNetwork,
    MlpNetwork,
    NetworkSection,
)
from . import group_layers
from .filters import Filters
from .layers import ACTIVATIONS, Convolution, Layer, as_columns, conv, dense, head
from .network import KernelFunction, Network, Parameters
from .points import image_features, input_kernels
from .stack import ConvStack

__all__ = ["build_network"]

#: A layer and its name in messages.
Named = tuple[str, Layer]

Head = Literal["flatten", "global_average_pool"]


def build_network(
    section: NetworkSection, input_shape: tuple[int, ...], outputs: int, convolution: Convolution = "product"
) -> Network:
    """The network of a study file's section for inputs of ``input_shape``; not for torch networks.

    ``convolution`` is how the finite network computes convolutions, see ``layers.convolve``.
    Raises StudyError if inputs of that shape do not fit the network.
    """
    section.check_input(tuple(input_shape), "trivial")
    if isinstance(section, MlpNetwork):
        return _mlp(section, tuple(input_shape), outputs)
    if isinstance(section, CnnNetwork):
        return _cnn(section, tuple(input_shape), outputs, convolution)
    if isinstance(section, GcnnNetwork):
        return _gcnn(section, tuple(input_shape), outputs, convolution)
    raise TypeError(f"no architecture for {type(section).__name__}")


def _mlp(section: MlpNetwork, input_shape: tuple[int, ...], outputs: int) -> Network:
    layers = _dense_layers(section, section.hidden_layers, 1, outputs, dense, ACTIVATIONS[section.activation])
    description = f"mlp ({section.hidden_layers} hidden, {section.activation})"
    return _network(description, layers, NeuralTangents((prod(input_shape),)), input_shape, outputs, 1, None)


def _cnn(section: CnnNetwork, input_shape: tuple[int, ...], outputs: int, convolution: Convolution) -> Network:
    activation = ACTIVATIONS[section.activation]
    filters = (section.kernel_size, section.padding, section.W_std, section.b_std, convolution)
    convolutions = [(f"convolution {k}", conv(section.width, *filters)) for k in range(1, section.conv_layers + 1)]
    pooled = section.head == "global_average_pool"
    layers = [
        *_activated(convolutions, 1, activation),
        ("pool", head(stax.GlobalAvgPool())) if pooled else ("flatten", head(stax.Flatten())),
        *_dense_layers(section, section.dense_layers, section.conv_layers + 1, outputs, dense, activation),
    ]
    description = f"cnn ({_in_words(section)}, {section.head})"
    pairs = prod(input_shape[:2]) ** (2 if pooled else 1)
    stack = _stack(section, section.head, None)
    return _network(description, layers, NeuralTangents(input_shape), input_shape, outputs, pairs, stack)


def _gcnn(section: GcnnNetwork, input_shape: tuple[int, ...], outputs: int, convolution: Convolution) -> Network:
    assert section.group is not None, "check_input refuses it"
    group, (height, width, channels) = get_group(section.group), input_shape
    activation = partial(group_layers.activation, section.activation)
    filters = Filters(group, section.kernel_size, section.padding)
    options = (section.width, section.W_std, section.b_std, convolution)
    convolutions = [("lifting", group_layers.lifting(filters, *options))]
    for k in range(2, section.conv_layers + 1):
        convolutions.append((f"group convolution {k}", group_layers.group_convolution(filters, *options)))
    first_dense = section.conv_layers + 1
    layers = [
        *_activated(convolutions, 1, activation),
        ("pool", group_layers.global_pool()),
        *_dense_layers(section, section.dense_layers, first_dense, outputs, group_layers.pointwise, activation),
    ]
    description = f"gcnn ({group.name}, {_in_words(section)})"
    pairs = (group.order * height * width) ** 2
    stack = _stack(section, "global_average_pool", grid_action(group, height, width, channels))
    return _network(description, layers, GroupLayers(), input_shape, outputs, pairs, stack)


def _activated(layers: Iterable[Named], first: int, activation: Callable[[], Layer]) -> list[Named]:
    """σ behind every layer, numbered from ``first``."""
    return [named for k, layer in enumerate(layers, first) for named in (layer, (f"activation {k}", activation()))]


def _dense_layers(
    section: AnalyticNetwork,
    number: int,
    first: int,
    outputs: int,
    affine: Callable[[int, float, float], Layer],
    activation: Callable[[], Layer],
) -> list[Named]:
    """``number`` × [dense, σ], then the readout; ``first`` numbers the first σ."""
    hidden = [(f"dense {k}", affine(section.width, section.W_std, section.b_std)) for k in range(1, number + 1)]
    readout = affine(outputs, section.readout_W_std, section.readout_b_std)
    return [*_activated(hidden, first, activation), ("readout", readout)]


def _in_words(section: ConvolutionalNetwork) -> str:
    tail = f", {section.dense_layers} dense" if section.dense_layers else ""
    return f"{section.conv_layers} {section.padding} conv, {section.activation}{tail}"


def _stack(section: ConvolutionalNetwork, head: Head, average: Action | None) -> ConvStack:
    return ConvStack(
        convolutions=section.conv_layers,
        kernel_size=section.kernel_size,
        padding=section.padding,
        activation=section.activation,
        W_std=section.W_std,
        b_std=section.b_std,
        head=head,
        dense_layers=section.dense_layers,
        readout_W_std=section.readout_W_std,
        readout_b_std=section.readout_b_std,
        average=average,
    )


class NeuralTangents:
    """Layers of neural-tangents on inputs reshaped to ``shape``; dense ones are applied to columns."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    serial = staticmethod(stax.serial)

    def features(self, x: Any) -> jax.Array:
        return x.reshape(len(x), *self.shape)

    def apply(self, apply_fn: Callable[..., Any], params: Parameters, x: Any) -> jax.Array:
        inputs = as_columns(x) if len(self.shape) == 1 else self.features(x)
        return apply_fn(params, inputs, columns=True).T

    def kernels(self, kernel_fn: Callable[..., Any], x1: Any, x2: Any, get: Any) -> Any:
        return kernel_fn(self.features(x1), self.features(x2), get)


class GroupLayers:
    """Layers of group_layers on images."""

    serial = staticmethod(group_layers.serial)

    def features(self, x: Any) -> jax.Array:
        return image_features(x)

    def apply(self, apply_fn: Callable[..., Any], params: Parameters, x: Any) -> jax.Array:
        return apply_fn(params, image_features(x)).reshape(len(x), -1)

    def kernels(self, kernel_fn: Callable[..., Any], x1: Any, x2: Any, get: Any) -> Any:
        return kernel_fn(input_kernels(image_features(x1), image_features(x2))).kernels(get)


def _network(
    description: str,
    layers: list[Named],
    kind: NeuralTangents | GroupLayers,
    input_shape: tuple[int, ...],
    outputs: int,
    pairs: int,
    stack: ConvStack | None,
) -> Network:
    init_fn, apply_fn, _ = kind.serial(*(layer for _, layer in layers))
    features = jax.eval_shape(kind.features, jax.ShapeDtypeStruct((1, *input_shape), "float32"))
    _, params = jax.eval_shape(lambda key: init_fn(key, features.shape), jax.random.key(0))
    leaves, structure = jax.tree.flatten(params)

    def apply(params: Parameters, x: Any) -> jax.Array:
        return kind.apply(apply_fn, params, x)

    def truncated(number: int) -> KernelFunction:
        _, _, kernel_fn = kind.serial(*(layer for _, layer in layers[:number]))
        return lambda x1, x2, get=("nngp", "ntk"): kind.kernels(kernel_fn, x1, x2, get)

    return Network(
        description=description,
        input_shape=input_shape,
        outputs=outputs,
        shapes=tuple(tuple(leaf.shape) for leaf in leaves),
        structure=structure,
        apply=apply,
        layers=tuple(name for name, _ in layers),
        truncated=truncated,
        entries_per_pair=pairs,
        stack=stack,
    )
