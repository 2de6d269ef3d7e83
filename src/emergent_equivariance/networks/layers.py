"""Layers in NTK parametrisation that neural-tangents lacks, or evaluates too slowly or too inexactly.

A layer is a triple ``(init_fn, apply_fn, kernel_fn)`` for ``stax.serial``. ``dense`` and ``conv`` keep the
initialisation and the kernel of neural-tangents and replace the finite network's ``apply_fn`` by one that does
the same arithmetic as a single matrix product: inside a compiled loop on a CPU, ``lax.conv`` is an order of
magnitude slower.

``relu`` has the arc-cosine kernels (Cho & Saul 2009): for covariance κ = √(v₁v₂) cos θ of variances v₁, v₂,
E[σσ] = (√(v₁v₂) sin θ + (π − θ) κ)/2π and E[σ′σ′] = (π − θ)/2π. ``erf`` has (Williams 1997), with
r = √((1 + 2v₁)(1 + 2v₂) − 4κ²): E[σσ] = 2/π arctan(2κ/r) and E[σ′σ′] = 4/(πr).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..infinite_width import stax

#: An (init_fn, apply_fn, kernel_fn) triple.
Layer = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]

#: Rows added before and after an image, then columns.
Margins = tuple[tuple[int, int], tuple[int, int]]

#: Inputs with 1 − |cos θ| below this many machine epsilons (θ < 2e-7 in float64) count as parallel: round-off
#: can hardly tell them apart. Without the rule an error of 1e-16 in cos θ = 1 becomes one of 1e-8 in θ.
PARALLEL_EPS = 64


def dense(outputs: int, W_std: float, b_std: float) -> Layer:
    """Affine map z = W_std/√fan_in · xW + b_std · b of the last axis; no bias leaf if b_std is 0.

    Parameters: (W (fan_in, outputs), b (1, outputs) or None), every entry ~ N(0, 1).
    """
    init_fn, _, kernel_fn = stax.Dense(outputs, W_std=W_std, b_std=b_std or None)

    def apply_fn(params: Any, inputs: jax.Array, **_: Any) -> jax.Array:
        W, b = params
        result = inputs @ (W_std / inputs.shape[-1] ** 0.5 * W)
        return result if b is None else result + b_std * b

    return init_fn, apply_fn, kernel_fn


def conv(channels: int, size: int, padding: str, W_std: float, b_std: float) -> Layer:
    """Convolution of images (batch, height, width, channel) with size × size filters, stride 1.

    z = W_std/√(size² · fan_in channels) · (W * x) + b_std · b with padding SAME (zeros), VALID or CIRCULAR.
    Parameters: (W (row, column, channel in, channel out), b (1, 1, 1, channel out) or None), entries ~ N(0, 1).
    """
    init_fn, _, kernel_fn = stax.Conv(channels, (size, size), padding=padding, W_std=W_std, b_std=b_std or None)
    before = 0 if padding == "VALID" else (size - 1) // 2
    margin = (before, 0 if padding == "VALID" else size - 1 - before)

    def apply_fn(params: Any, inputs: jax.Array, **_: Any) -> jax.Array:
        W, b = params
        patches = image_patches(inputs, size, (margin, margin), padding == "CIRCULAR")
        norm = W_std / (size * size * inputs.shape[-1]) ** 0.5
        result = patches @ (norm * W.reshape(-1, W.shape[-1]))
        return result if b is None else result + b_std * b

    return init_fn, apply_fn, kernel_fn


def image_patches(images: jax.Array, size: int, margins: Margins, periodic: bool, stride: int = 1) -> jax.Array:
    """The size × size neighbourhood of every output pixel.

    Args:
      images: (batch, height, width, channel).
      size: side of the neighbourhood.
      margins: rows added before and after, columns added before and after: zeros, or periodic images.
      periodic: which of the two.
      stride: distance of output pixels.

    Returns:
      (batch, height out, width out, size · size · channel), C-order, without a gather: its backward pass stays fast.
    """
    mode = "wrap" if periodic else "constant"
    padded = jnp.pad(images, ((0, 0), *margins, (0, 0)), mode=mode) if np.any(margins) else images
    height, width = padded.shape[1] - size + 1, padded.shape[2] - size + 1
    shifted = [padded[:, i : i + height : stride, j : j + width : stride] for i in range(size) for j in range(size)]
    return jnp.concatenate(shifted, axis=-1)


def _angle(covariance: jax.Array, variance1: jax.Array, variance2: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(√(v₁v₂) sin θ, θ); θ = 0 where a variance vanishes (without effect: there the NTK is 0 too)."""
    scale = jnp.sqrt(variance1 * variance2)
    resolution = PARALLEL_EPS * jnp.finfo(covariance.dtype).eps
    parallel = scale - jnp.abs(covariance) <= resolution * scale
    area = jnp.sqrt(jnp.where(parallel, 0, (scale - covariance) * (scale + covariance)))
    return area, jnp.arctan2(area, covariance)


def _relu_product(covariance: jax.Array, variance1: jax.Array, variance2: jax.Array) -> jax.Array:
    area, angle = _angle(covariance, variance1, variance2)
    return (area + (jnp.pi - angle) * covariance) / (2 * jnp.pi)


def _relu_derivative_product(covariance: jax.Array, variance1: jax.Array, variance2: jax.Array) -> jax.Array:
    _, angle = _angle(covariance, variance1, variance2)
    return (jnp.pi - angle) / (2 * jnp.pi)


def _erf_root(covariance: jax.Array, variance1: jax.Array, variance2: jax.Array) -> jax.Array:
    return jnp.sqrt((1 + 2 * variance1) * (1 + 2 * variance2) - 4 * covariance**2)


def _erf_product(covariance: jax.Array, variance1: jax.Array, variance2: jax.Array) -> jax.Array:
    return 2 / jnp.pi * jnp.arctan2(2 * covariance, _erf_root(covariance, variance1, variance2))


def _erf_derivative_product(covariance: jax.Array, variance1: jax.Array, variance2: jax.Array) -> jax.Array:
    return 4 / jnp.pi / _erf_root(covariance, variance1, variance2)


class Nonlinearity(NamedTuple):
    """An elementwise function σ and its Gaussian expectations.

    Attributes:
      function: σ.
      product: (κ, v₁, v₂) → E[σ(u)σ(v)] for (u, v) ~ N(0, [[v₁, κ], [κ, v₂]]); arrays that broadcast.
      derivative_product: likewise E[σ′(u)σ′(v)].
    """

    function: Callable[[jax.Array], jax.Array]
    product: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    derivative_product: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


NONLINEARITIES = {
    "relu": Nonlinearity(jax.nn.relu, _relu_product, _relu_derivative_product),
    "erf": Nonlinearity(jax.scipy.special.erf, _erf_product, _erf_derivative_product),
}


def relu() -> Layer:
    """max(0, x), with θ = 0 exactly for coincident inputs and θ = π exactly for opposite ones."""
    return stax.Elementwise(*NONLINEARITIES["relu"])


def erf() -> Layer:
    """The error function erf(x) = 2/√π ∫₀ˣ exp(−s²) ds."""
    return stax.Elementwise(*NONLINEARITIES["erf"])


ACTIVATIONS: dict[str, Callable[[], Layer]] = {"relu": relu, "erf": erf}
