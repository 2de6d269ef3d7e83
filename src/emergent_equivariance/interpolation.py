"""Rotations of images that move pixels between pixels: interpolated actions, which are not exact.

With pixel centres p on a grid centred at 0, (ρ(g)x)(p) = x̃(g⁻¹p), where x̃ interpolates x:

  nearest:   x̃(q) = x(the pixel centre nearest to q)
  bilinear:  x̃(q) = Σ_{a,b∈{0,1}} |1−a−s| |1−b−t| x(⌊q⌋ + (a, b)),   (s, t) = q − ⌊q⌋ in pixels

and x = fill outside the grid. The map is affine in x (linear for fill 0). Elements that map the grid to itself are
exact permutations: all their weights are 0 or 1. The others are neither orthogonal nor a representation: by how much
ρ(g)ρ(h)x differs from ρ(gh)x is ``composition_error``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np

from .groups import Action, Group, grid_action

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Interpolation = Literal["nearest", "bilinear"]

#: Positions are rounded to this fraction of a pixel, so that round-off decides neither weights nor nearest pixels.
RESOLUTION = 2.0**-40

#: Bytes of transformed arrays that are held in double precision at once.
BLOCK_BYTES = 64 * 2**20

#: Numbers of all ρ(g)ρ(h)x together that a composition error is measured on at most, unless one x has more.
MEASURED = 2**26


@dataclass(frozen=True, eq=False)
class InterpolatedAction:
    """A group acting on images by interpolation; the counterpart of ``groups.Action``.

    (ρ(g)x)_p = Σ_t weight[g, p, t] · x_source[g, p, t], channel by channel, with x_{−1} = fill.

    Attributes:
      group: the acting group.
      shape: shape of one array acted upon, (height, width) or (height, width, channels).
      interpolation: nearest or bilinear.
      fill: value outside the grid.
      source: (element, pixel, tap) pixels the value is taken from, in C order; −1: outside the grid.
      weight: (element, pixel, tap) their weights, which add up to 1.
    """

    group: Group
    shape: tuple[int, ...]
    interpolation: Interpolation
    fill: float
    source: np.ndarray
    weight: np.ndarray

    #: Whether ρ(g)ρ(h) = ρ(gh).
    is_exact: ClassVar[bool] = False

    @cached_property
    def _matrix(self) -> csr_array:
        """((element, pixel), pixel + 1): all elements at once, the value outside the grid last."""
        from scipy.sparse import csr_array

        elements, pixels, _ = self.source.shape
        row, _ = np.nonzero(self.weight.reshape(elements * pixels, -1))
        used = self.weight != 0
        entries = self.weight[used], (row, self.source[used] % (pixels + 1))
        return csr_array(entries, shape=(elements * pixels, pixels + 1))

    def orbit(self, array: np.ndarray) -> np.ndarray:
        """All transforms of a batch: (sample, *shape) → (sample, element, *shape), evaluated in double precision."""
        order, pixels = self.group.order, self.source.shape[1]
        result = np.empty((len(array), order, *self.shape), array.dtype)
        part = max(1, BLOCK_BYTES // (8 * order * prod(self.shape)))
        for start in range(0, len(array), part):
            flat = array[start : start + part].reshape(-1, pixels, prod(self.shape) // pixels)
            columns = np.full((pixels + 1, flat.shape[0] * flat.shape[2]), self.fill)
            columns[:-1] = flat.transpose(1, 0, 2).reshape(pixels, -1)
            moved = (self._matrix @ columns).reshape(order, pixels, flat.shape[0], flat.shape[2])
            result[start : start + part] = moved.transpose(2, 0, 1, 3).reshape(-1, order, *self.shape)
        return result


#: How a group acts on inputs: exactly, by signed permutations, or by interpolation.
InputAction = Action | InterpolatedAction


def image_action(
    group: Group, height: int, width: int, channels: int, interpolation: Interpolation, fill: float
) -> InputAction:
    """The action of a group on images (height, width, channels): exact where it maps the grid to itself.

    Raises StudyError for periodic shifts by no whole number of pixels.
    """
    if group.shift is not None or group.acts_on_grid(height, width):
        return grid_action(group, height, width, channels)
    return interpolated_action(group, (height, width, channels), interpolation, fill)


def interpolated_action(
    group: Group, shape: tuple[int, ...], interpolation: Interpolation = "bilinear", fill: float = 0.0
) -> InterpolatedAction:
    """A group of rotations and reflections acting on images of ``shape``, (height, width) or with channels behind.

    At equal distances the nearest pixel is the one with the larger index.
    """
    sides = np.array(shape[:2])
    centre = (sides - 1) / 2
    grid = np.stack(np.meshgrid(*map(np.arange, sides), indexing="ij"), axis=-1).reshape(-1, 2)
    position = (grid - centre) @ group.planar[group.inverse].swapaxes(1, 2) + centre
    position = np.round(position / RESOLUTION) * RESOLUTION
    if interpolation == "nearest":
        taps = np.floor(position + 0.5)[:, :, None]
        weight = np.ones(taps.shape[:-1])
    else:
        corner = np.floor(position)
        offsets = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
        taps = corner[:, :, None] + offsets
        weight = np.abs(1 - offsets - (position - corner)[:, :, None]).prod(axis=-1)
    taps = taps.astype(np.int64)
    inside = ((taps >= 0) & (taps < sides)).all(axis=-1)
    source = np.where(inside, taps[..., 0] * sides[1] + taps[..., 1], -1)
    return InterpolatedAction(group, tuple(shape), interpolation, float(fill), source, weight)


def disc(height: int, width: int) -> np.ndarray:
    """(height, width) whether the centre of a pixel lies in the inscribed disc, of radius min(height, width)/2."""
    row, column = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return (2 * row - height + 1) ** 2 + (2 * column - width + 1) ** 2 <= min(height, width) ** 2


class CompositionError(NamedTuple):
    """How far an action is from a representation: |ρ(g)ρ(h)x − ρ(gh)x|/|ρ(gh)x|.

    Attributes:
      rms: root mean square over all pairs g, h and samples.
      largest: maximum over them.
      samples: number of samples measured.
    """

    rms: float
    largest: float
    samples: int


def composition_error(action: InputAction, inputs: np.ndarray) -> CompositionError:
    """The composition error on inputs (sample, *shape): the first ones, as many as |G|² transforms of fit in MEASURED.

    Where ρ(gh)x = 0 the error counts as 0, or as infinite if ρ(g)ρ(h)x is not 0 too.
    """
    group = action.group
    inputs = inputs[: max(1, MEASURED // (group.order**2 * prod(action.shape)))]
    orbit = action.orbit(inputs)
    square = np.empty((group.order, len(inputs), group.order))  # (h, sample, g)
    for h in range(group.order):
        direct = orbit[:, group.product[:, h]].reshape(*square.shape[1:], -1)
        twice = action.orbit(orbit[:, h]).reshape(direct.shape)
        difference, norm = ((twice - direct) ** 2).sum(axis=-1), (direct**2).sum(axis=-1)
        square[h] = np.divide(difference, norm, out=np.where(difference > 0, np.inf, 0.0), where=norm > 0)
    return CompositionError(float(np.sqrt(square.mean())), float(np.sqrt(square.max())), len(inputs))
