"""The networks of a study file as torch modules: the same functions of the same parameters as ``architectures``.

Parameters are those of the JAX network, in the order, shapes and meaning of the leaves of its tree: entries ~ N(0, 1),
scaled in the forward pass by W_std/√fan_in and b_std. Outputs agree up to round-off. Module number k of the sequence
is layer number k of the JAX network.

Images are (batch, height, width, channel) as in the data store; inside they are that array seen as (batch, channel,
height, width), torch's memory format channels_last.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..groups import get_group
from ..settings.networks import CnnNetwork, ConvolutionalNetwork, GcnnNetwork, MlpNetwork, NetworkSection
from .filters import Filters
from .layers import Margins

__all__ = ["StudyModule", "build_module"]

ACTIVATIONS = {"relu": lambda: nn.ReLU(inplace=True), "erf": lambda: Erf()}


def build_module(section: NetworkSection, input_shape: tuple[int, ...], outputs: int) -> StudyModule:
    """The module of a study file's section, (batch, *input_shape) → (batch, output), with parameters 0 in float32.

    Raises StudyError if inputs of that shape do not fit the network.
    """
    section.check_input(tuple(input_shape), "trivial")
    if isinstance(section, MlpNetwork):
        return StudyModule(_dense_layers(section, section.hidden_layers, prod(input_shape), outputs), images=False)
    if isinstance(section, CnnNetwork):
        return StudyModule(_cnn_layers(section, input_shape, outputs), images=True)
    if isinstance(section, GcnnNetwork):
        return StudyModule(_gcnn_layers(section, input_shape, outputs), images=True)
    raise TypeError(f"no module for {type(section).__name__}")


class StudyModule(nn.Sequential):
    """Layers one after another, behind the change of the inputs' shape: images, or flattened.

    Attributes:
      images: whether the first layer takes images (batch, channel, height, width).
    """

    def __init__(self, layers: Iterable[nn.Module], images: bool) -> None:
        super().__init__(*layers)
        self.images = images

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2) if self.images else x.flatten(1))


class Affine(nn.Module):
    """Weights W of ``shape`` (…, out), fan_in the product of the other axes, and biases b (1, …, 1, out).

    There is no b if b_std is 0.
    """

    def __init__(self, shape: tuple[int, ...], W_std: float, b_std: float) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.zeros(shape))
        self.b = nn.Parameter(torch.zeros((1,) * (len(shape) - 1) + shape[-1:])) if b_std else None
        self.norm, self.b_std = W_std / prod(shape[:-1]) ** 0.5, b_std


class Dense(Affine):
    """z = W_std/√fan_in · xW + b_std · b, (batch, fan_in) → (batch, out); W (fan_in, out) or (1, fan_in, out)."""

    def forward(self, x: Tensor) -> Tensor:
        W = self.W.flatten(0, -2)
        if self.b is None:
            return x @ (self.norm * W)
        return torch.addmm(self.b.flatten(0, -2), x, W, beta=self.b_std, alpha=self.norm)


class Convolution(Affine):
    """z = W_std/√fan_in · (W * x) + b_std · b with stride 1; W (row, column, channel in, channel out).

    (batch, channel in, height, width) → (batch, channel out, height, width), in the memory format of the input.
    """

    def __init__(self, shape: tuple[int, ...], W_std: float, b_std: float, margins: Margins, periodic: bool) -> None:
        super().__init__(shape, W_std, b_std)
        self.padding = _Padding(margins, periodic)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.b is None else self.b_std * self.b.flatten()
        return self.padding.convolve(x, (self.norm * self.W).permute(3, 2, 0, 1), bias)


class GroupConvolution(Affine):
    """The lifting and group convolutions of ``group_layers``, stride 1; W (weight, channel in, channel out).

    (batch, element · channel in, height, width) → (batch, element · channel out, height, width); images have no
    element. An ordinary convolution whose filters are copies of W: see ``Filters.expansion``.
    """

    expansion: Tensor

    def __init__(
        self, filters: Filters, channels: tuple[int, int], W_std: float, b_std: float, margins: Margins
    ) -> None:
        super().__init__((filters.weights, *channels), W_std, b_std)
        self.padding = _Padding(margins, filters.padding == "CIRCULAR")
        self.size, self.order = filters.size, filters.group.order
        table = torch.from_numpy(filters.expansion()).float()  # (tap · element, element_, weight)
        self.register_buffer("expansion", table.flatten(0, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        _, before, after = self.W.shape
        copies = self.expansion @ (self.norm * self.W).flatten(1)
        copies = copies.reshape(self.size, self.size, -1, self.order, before, after)
        filters = copies.permute(3, 5, 2, 4, 0, 1).flatten(2, 3).flatten(0, 1)  # (element_ · out, element · in, q, q)
        bias = None if self.b is None else self.b_std * self.b.flatten().repeat(self.order)
        return self.padding.convolve(x, filters, bias)


class _Padding:
    """Margins of the images of a convolution: rows before and after, columns before and after; zeros or periodic."""

    def __init__(self, margins: Margins, periodic: bool) -> None:
        (above, below), (left, right) = margins
        self.mode = "circular" if periodic else "constant"
        self.margins = (left, right, above, below)
        #: Equal margins of zeros, which the convolution itself can add; else None.
        self.own = (above, left) if not periodic and (above, left) == (below, right) else None

    def convolve(self, x: Tensor, filters: Tensor, bias: Tensor | None) -> Tensor:
        """Filters (channel out, channel in, row, column) on images (batch, channel in, height, width)."""
        filters = filters.contiguous()  # the gradient of torch's direct convolution, for one channel, asks for it
        if self.own is not None or not any(self.margins):
            return functional.conv2d(x, filters, bias, padding=self.own or 0)
        return functional.conv2d(functional.pad(x, self.margins, self.mode), filters, bias)


class Erf(nn.Module):
    """The error function."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.erf(x)


class Pool(nn.Module):
    """Mean over pixels and group elements, (batch, element · channel, height, width) → (batch, channel)."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements = elements

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3))
        return pooled if self.elements == 1 else pooled.unflatten(1, (self.elements, -1)).mean(1)


class Flatten(nn.Module):
    """(batch, channel, height, width) → (batch, height · width · channel)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


def _cnn_layers(section: CnnNetwork, input_shape: tuple[int, ...], outputs: int) -> list[nn.Module]:
    (height, width, channels), size = input_shape, section.kernel_size
    before = 0 if section.padding == "VALID" else (size - 1) // 2
    margin = (before, 0 if section.padding == "VALID" else size - 1 - before)
    layers: list[nn.Module] = []
    for _ in range(section.conv_layers):
        shape = (size, size, channels, section.width)
        periodic = section.padding == "CIRCULAR"
        layers.append(Convolution(shape, section.W_std, section.b_std, (margin, margin), periodic))
        layers.append(ACTIVATIONS[section.activation]())
        height, width = height - size + 1 + sum(margin), width - size + 1 + sum(margin)
        channels = section.width
    pooled = section.head == "global_average_pool"
    layers.append(Pool(1) if pooled else Flatten())
    features = channels if pooled else height * width * channels
    return layers + _dense_layers(section, section.dense_layers, features, outputs)


def _gcnn_layers(section: GcnnNetwork, input_shape: tuple[int, ...], outputs: int) -> list[nn.Module]:
    assert section.group is not None, "check_input refuses it"
    group, (height, width, channels) = get_group(section.group), input_shape
    layers: list[nn.Module] = []
    for k in range(section.conv_layers):
        filters = Filters(group, section.kernel_size, section.padding, lifts=k == 0)
        (height, width), margins = filters.fit(height, width)
        layers.append(GroupConvolution(filters, (channels, section.width), section.W_std, section.b_std, margins))
        layers.append(ACTIVATIONS[section.activation]())
        channels = section.width
    return [*layers, Pool(group.order), *_dense_layers(section, section.dense_layers, channels, outputs, (1,))]


def _dense_layers(
    section: MlpNetwork | ConvolutionalNetwork, number: int, features: int, outputs: int, axes: tuple[int, ...] = ()
) -> list[nn.Module]:
    """``number`` × [dense, σ], then the readout; ``axes`` are further ones of W, in front."""
    layers: list[nn.Module] = []
    for _ in range(number):
        layers.append(Dense((*axes, features, section.width), section.W_std, section.b_std))
        layers.append(ACTIVATIONS[section.activation]())
        features = section.width
    return [*layers, Dense((*axes, features, outputs), section.readout_W_std, section.readout_b_std)]
