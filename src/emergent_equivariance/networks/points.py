"""Feature maps on the points of pixels × group, and the kernels between them.

A feature map is an array (batch, height, width, element, channel). ``element`` is 1 for images and |G| for functions
on a group of rotations and reflections of the grid; both kinds transform by the left regular action, (gf)(t, r) =
f(g⁻¹t, g⁻¹r). The points (t, r) are numbered in C order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..groups import Action, Group, grid_action

__all__ = [
    "Grid",
    "Kernels",
    "PointKernels",
    "image_features",
    "input_kernels",
    "orbit_features",
    "regular_action",
]

#: Sizes (height, width, element) of a set of points.
Grid = tuple[int, int, int]


class Kernels(NamedTuple):
    """NNGP and NTK, each (x1, x2) per output; None where not asked for."""

    nngp: jax.Array | None
    ntk: jax.Array | None


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["nngp", "ntk", "covariance1", "covariance2"],
    meta_fields=["grid"],
)
@dataclass(frozen=True)
class PointKernels:
    """Covariances of the features of two batches x1, x2 between all pairs of points.

    Attributes:
      nngp, ntk: (point, point_, x1, x2).
      covariance1, covariance2: (point, point_, x1) and (point, point_, x2), the NNGP of every input with itself.
      grid: the points.
    """

    nngp: jax.Array
    ntk: jax.Array
    covariance1: jax.Array
    covariance2: jax.Array
    grid: Grid

    def averaged(self, mean: Callable[[jax.Array], jax.Array], grid: Grid) -> PointKernels:
        """``mean``, a linear map of the two point axes, applied to all four."""
        return PointKernels(mean(self.nngp), mean(self.ntk), mean(self.covariance1), mean(self.covariance2), grid)

    def affine(self, mean: Callable[[jax.Array], jax.Array], grid: Grid, W_std: float, b_std: float) -> PointKernels:
        """Behind a layer whose weights have the support that ``mean`` averages over."""
        sums = self.averaged(lambda kernel: W_std**2 * mean(kernel), grid)
        nngp = sums.nngp + b_std**2
        return PointKernels(nngp, nngp + sums.ntk, sums.covariance1 + b_std**2, sums.covariance2 + b_std**2, grid)

    def kernels(self, get: str | Sequence[str] = ("nngp", "ntk")) -> Any:
        """Those in ``get``, (x1, x2) for a single point, otherwise (x1, x2, point, point_); an array for a string."""

        def batches_first(kernel: jax.Array) -> jax.Array:
            return kernel[0, 0] if len(kernel) == 1 else jnp.moveaxis(kernel, (2, 3), (0, 1))

        if isinstance(get, str):
            return batches_first(getattr(self, get))
        return Kernels(*(batches_first(getattr(self, name)) if name in get else None for name in Kernels._fields))


def image_features(images: Any) -> jax.Array:
    """Images (batch, height, width, channel) as features (batch, height, width, 1, channel)."""
    return jnp.asarray(images)[:, :, :, None]


def orbit_features(action: Action, inputs: Any) -> jax.Array:
    """The function r ↦ ρ(r)⁻¹x on the group: inputs (batch, *shape) to features (batch, 1, 1, element, coordinate).

    Followed by ``pointwise`` it is the lifting layer with full support, f(r) ∝ Σ_i W_i (ρ(r)⁻¹x)_i + bias, for any
    action by signed permutations: the first layer of a network over the group alone.
    """
    back = action.group.inverse
    moved = jnp.asarray(inputs).reshape(len(inputs), -1)[:, action.source[back]]
    return (moved * action.sign[back].astype(moved.dtype))[:, None, None]


def input_kernels(x1: jax.Array, x2: jax.Array) -> PointKernels:
    """K⁰(p, p′) = x(p)·x′(p′)/channels of two batches of features (batch, height, width, element, channel), Θ⁰ = 0."""
    a, b = (x.reshape(len(x), -1, x.shape[-1]) for x in (x1, x2))
    nngp = jnp.einsum("ipc,jqc->pqij", a, b) / a.shape[-1]
    own = [jnp.einsum("ipc,iqc->pqi", x, x) / x.shape[-1] for x in (a, b)]
    height, width, elements = x1.shape[1:4]
    return PointKernels(nngp, jnp.zeros_like(nngp), own[0], own[1], (height, width, elements))


def regular_action(group: Group, height: int, width: int, elements: int, channels: int) -> Action:
    """The left regular action (gf)(t, r) = f(g⁻¹t, g⁻¹r) on features (height, width, element, channel).

    ``elements`` is 1 (before lifting, behind a group pool: pixels alone move) or |G|. Raises StudyError if the
    group does not map the grid to itself.
    """
    pixels = grid_action(group, height, width).source
    moved = group.product[group.inverse] if elements > 1 else np.zeros((group.order, 1), dtype=np.int64)
    points = pixels[:, :, None] * elements + moved[:, None, :]
    source = (points[..., None] * channels + np.arange(channels)).reshape(group.order, -1)
    return Action(group, (height, width, elements, channels), source, np.ones(source.shape, dtype=np.int8))
