"""Networks that are equivariant under rotations by any fraction of a turn, as factories: a baseline.

``network: {name: torch, factory: "emergent_equivariance.networks.steerable:cyclic_cnn", options: {group: c8}}``

A group-convolutional network as in ``group_layers``, whose filters are sums of circular harmonics, not of single taps
(Weiler & Cesa 2019), with polar coordinates (ρ, φ) about the centre of the filter, rings n = 0 … (q − 1)/2:

    B(u) ∝ exp(−(ρ − n)²/(2 · 0.6²)) · {cos mφ, sin mφ},   m ≤ 2n,   Σ_u B(u)² = 1
    f_out(t, r) = W_std/√fan_in Σ_{h,j,u} W(h, j) B_j(ρ(r)⁻¹u) f_in(t + u, rh) + b_std b,   fan_in = |G| J C_in

so that a rotated filter is the same function sampled elsewhere. Where the group maps the pixels to themselves (c1, c2,
c4 and with reflections d1, d2, d4 on square grids) every member is invariant up to round-off; otherwise as well as
pixels sample rotated images and filters.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor, nn

from ..errors import StudyError
from ..groups import get_group
from .filters import Filters
from .modules import ACTIVATIONS, Dense, GroupConvolution, Pool

__all__ = ["cyclic_cnn"]

#: Width of a ring, in pixels.
RING = 0.6

#: Filters are rounded to this fraction, so that round-off does not tell equal ones apart.
RESOLUTION = 2.0**-20


class CyclicCnn(nn.Sequential):
    """Layers on images with channels last, (batch, height, width, channel) → (batch, output)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2))


def cyclic_cnn(
    input_shape: tuple[int, ...],
    outputs: int,
    width: int = 8,
    *,
    group: str = "c4",
    conv_layers: int = 2,
    kernel_size: int = 5,
    activation: str = "relu",
    W_std: float = 1.4142,
    b_std: float = 0.1,
) -> nn.Module:
    """lifting, (conv_layers − 1) × group convolution (each followed by σ), mean over pixels and group, readout.

    NTK parametrisation: weights ~ N(0, 1); the readout has W_std 1 and no bias. Boundaries are zeros.

    Args:
      input_shape: (height, width, channels).
      outputs: number of outputs.
      width: channels per group element.
      group: ck or dk, rotations by 360°/k, without or with reflections.
      conv_layers: number of convolutions.
      kernel_size: side q of the filters, odd.
      activation: relu or erf.
      W_std, b_std: standard deviations of weights and biases of the convolutions; b_std 0: no bias.

    Raises StudyError for inputs, groups and filters it does not exist for.
    """
    where = "network.factory: cyclic_cnn"
    if len(input_shape) != 3:
        raise StudyError(
            f"{where} needs images (height, width, channels), the task gives inputs of shape {tuple(input_shape)}.",
            remedy="Use a task on a grid.",
        )
    acting = get_group(group)
    if acting.shift is not None or kernel_size % 2 == 0 or conv_layers < 1 or activation not in ACTIVATIONS:
        raise StudyError(
            f"{where}: group = {group!r}, kernel_size = {kernel_size}, conv_layers = {conv_layers}, "
            f"activation = {activation!r} in network.options are not possible together.",
            remedy=f"Use a group ck or dk, an odd kernel_size, at least one layer, {' or '.join(ACTIVATIONS)}.",
        )
    layers: list[nn.Module] = []
    margin, channels = (kernel_size // 2, kernel_size // 2), input_shape[2]
    for k in range(conv_layers):
        filters = Harmonics(acting, kernel_size, "SAME", lifts=k == 0)
        layers.append(GroupConvolution(filters, (channels, width), W_std, b_std, (margin, margin)))
        layers.append(ACTIVATIONS[activation]())
        channels = width
    module = CyclicCnn(*layers, Pool(acting.order), Dense((width, outputs), 1.0, 0.0))
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


@dataclass(frozen=True, eq=False)
class Harmonics(Filters):
    """Filters that are sums of circular harmonics, numbered j, in place of taps, numbered s (see Filters)."""

    @property
    def weights(self) -> int:
        """J for lifting, else |G| J."""
        return self._sampled.shape[2] * (1 if self.lifts else self.group.order)

    @cached_property
    def _sampled(self) -> np.ndarray:
        """(element r, tap u, harmonic j) B_j(ρ(r)⁻¹u)."""
        half = self.size // 2
        taps = np.stack(np.meshgrid(*[np.arange(-half, half + 1)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
        row, column = np.moveaxis(taps @ self.group.planar[self.group.inverse].swapaxes(1, 2), -1, 0)
        radius, angle = np.hypot(row, column), np.arctan2(row, column)
        harmonics = []
        for n in range(half + 1):
            ring = np.exp(-((radius - n) ** 2) / (2 * RING**2))
            for m in range(2 * n + 1):
                # at the centre an angle means nothing
                phases = [np.cos(m * angle)] if m == 0 else [np.cos(m * angle), np.sin(m * angle)]
                harmonics += [ring * phase * ((radius > 0) | (m == 0)) for phase in phases]
        sampled = np.stack(harmonics, axis=-1)
        sampled /= np.sqrt((sampled[0] ** 2).sum(axis=0))
        return np.round(sampled / RESOLUTION) * RESOLUTION

    def expansion(self) -> np.ndarray:
        """(tap u · element g, element r, weight): f(t, r) = Σ_{g,u} Σ_j W(r⁻¹g, j) B_j(ρ(r)⁻¹u) f_in(t + u, g)."""
        sampled, order = self._sampled.swapaxes(0, 1), self.group.order
        if self.lifts:
            return sampled
        joined = np.arange(order)[:, None, None] == self.group.product  # (element g, element r, h): g = rh
        expanded = sampled[:, None, :, None, :] * joined[..., None]
        return expanded.reshape(-1, order, self.weights)
