"""Supports of convolution filters on pixels × group: which weight joins which input to which output point.

The output point (t, r) of a layer with stride σ collects its inputs at the pixels σt + ρ(r)s, for s in a q × q square
of taps. All coordinates count from the centre of their grid or square, in halves of a pixel where its side is even.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from ..errors import StudyError
from ..groups import Group, grid_action
from .layers import Margins
from .points import Grid

__all__ = ["Filters"]

Padding = Literal["SAME", "VALID", "CIRCULAR"]


@dataclass(frozen=True, eq=False)
class Filters:
    """Where a layer of shared weights has its support.

    Attributes:
      group: G; it must map the grids before and behind the layer to themselves.
      size: q, side of the square filters.
      padding: SAME (zeros, output of ⌈n/σ⌉ pixels), VALID (none) or CIRCULAR (periodic).
      stride: σ; the margins on opposite sides must be equal, else a rotated input is sampled elsewhere.
      mask: (q, q) taps that have weights; None: all.
      elements: subset H of the group that the filters extend over, None: all of it.
      lifts: whether the inputs are images; then there is no H.
    """

    group: Group
    size: int
    padding: Padding
    stride: int = 1
    mask: np.ndarray | None = None
    elements: tuple[int, ...] | None = None
    lifts: bool = False

    @cached_property
    def taps(self) -> np.ndarray:
        """(s,) index of every tap with weights in the q × q square."""
        mask = np.ones((self.size, self.size)) if self.mask is None else np.asarray(self.mask)
        if mask.shape != (self.size, self.size) or not mask.any():
            raise ValueError(f"mask: needs shape {(self.size, self.size)} and at least one tap, not {mask.tolist()}")
        return np.flatnonzero(mask)

    @cached_property
    def support(self) -> np.ndarray:
        """(h,) elements with weights; empty for lifting."""
        if self.lifts:
            return np.arange(0)
        return np.arange(self.group.order) if self.elements is None else np.asarray(self.elements)

    @property
    def weights(self) -> int:
        """|S|, the number of pairs (h, s)."""
        return len(self.taps) * max(1, len(self.support))

    @cached_property
    def tap_action(self) -> np.ndarray:
        """(element r, tap u) index of the tap ρ(r)⁻¹u."""
        return grid_action(self.group, self.size, self.size).source

    def fit(self, height: int, width: int) -> tuple[tuple[int, int], Margins]:
        """(height, width) of the output and margins of the input. Raises StudyError unless they are exact."""
        grid_action(self.group, height, width)
        (rows, above), (columns, left) = (
            _symmetric(extent, self.size, self.padding, self.stride, self.group.name) for extent in (height, width)
        )
        return (rows, columns), ((above, above), (left, left))

    def expansion(self) -> np.ndarray:
        """(tap u · element g, element r, weight) 0 or 1: f(t, r) = Σ_{g,u} W(r⁻¹g, ρ(r)⁻¹u) f_in(σt + u, g)."""
        group, rows = self.group, np.full(self.size**2, -1)
        rows[self.taps] = np.arange(len(self.taps))
        index = rows[self.tap_action].T[:, None, :]
        if not self.lifts:
            places = np.full(group.order, -1)
            places[self.support] = np.arange(len(self.support))
            element = places[group.product[group.inverse]].T
            index = np.where((index < 0) | (element < 0), -1, element * len(self.taps) + index)
        return (index[..., None] == np.arange(self.weights)).reshape(-1, group.order, self.weights)

    def tables(self, grid: Grid) -> list[np.ndarray]:
        """table[p, s] of the module docstring as tables to be applied in turn: (t, r), h → (t, rh), then
        (t, r), s → (σt + ρ(r)s, r), or the number of points for the zeros around the grid."""
        group, (height, width, elements) = self.group, grid
        _, margins = self.fit(height, width)
        pixels = np.arange(height * width)
        around = {"mode": "wrap"} if self.padding == "CIRCULAR" else {"mode": "constant", "constant_values": -1}
        padded = np.pad(pixels.reshape(height, width), margins, **around)  # type: ignore[call-overload]
        windows = np.lib.stride_tricks.sliding_window_view(padded, (self.size, self.size))
        neighbours = windows[:: self.stride, :: self.stride].reshape(-1, self.size**2)
        here = neighbours[:, self.tap_action[group.inverse][:, self.taps]]  # (t, r, s)
        own = 0 if self.lifts else np.arange(elements)[:, None]
        moved = np.where(here < 0, len(pixels) * elements, here * elements + own).reshape(-1, len(self.taps))
        if self.lifts:
            return [moved]
        turned = pixels[:, None, None] * elements + group.product[:, self.support]
        return [turned.reshape(-1, len(self.support)), moved]


def _symmetric(extent: int, size: int, padding: Padding, stride: int, group: str) -> tuple[int, int]:
    """(output pixels, margin on either side) along one axis; raises StudyError unless the margins are equal."""

    def fit(q: int) -> tuple[int, int]:
        """(output pixels, both margins together)."""
        outputs = (extent - q) // stride + 1 if padding == "VALID" else -(-extent // stride)
        return outputs, stride * (outputs - 1) + q - extent

    def is_exact(q: int) -> bool:
        total = fit(q)[1]
        if padding == "VALID":
            return total == 0 and q <= extent
        return total >= 0 and total % 2 == 0 and (padding == "SAME" or extent % stride == 0)

    if not is_exact(size):
        allowed = ", ".join(str(q) for q in range(1, extent + 1) if is_exact(q))
        raise StudyError(
            f"kernel_size {size} with stride {stride} and padding {padding} on {extent} pixels is not exact for the "
            f"group {group}: the filters do not lie symmetrically about the centre of the grid.",
            remedy=f"Use kernel_size {allowed}." if allowed else "Use another stride: 1 is exact with odd kernel_size.",
        )
    outputs, total = fit(size)
    return outputs, total // 2
