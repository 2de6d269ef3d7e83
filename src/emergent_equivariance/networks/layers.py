"""Layers in NTK parametrisation that neural-tangents lacks, or evaluates too slowly or too inexactly.

A layer is a triple ``(init_fn, apply_fn, kernel_fn)`` for ``stax.serial``. ``dense`` and ``conv`` keep the
initialisation and the kernel of neural-tangents and replace the finite network's ``apply_fn`` by one that compiles to
fast matrix products. On a CPU the products of forward and backward pass reach full speed where no large operand is
summed over its leading axis. So dense layers work on *columns*, (feature, sample), if asked to by the option of that
name of ``apply_fn``: Wᵀx, W δ and x δᵀ then all do, while rows (sample, feature) need xᵀ δ, which is a third slower.

``relu`` has the arc-cosine kernels (Cho & Saul 2009): for covariance κ = √(v₁v₂) cos θ of variances v₁, v₂,
E[σσ] = (√(v₁v₂) sin θ + (π − θ) κ)/2π and E[σ′σ′] = (π − θ)/2π. ``erf`` has (Williams 1997), with
r = √((1 + 2v₁)(1 + 2v₂) − 4κ²): E[σσ] = 2/π arctan(2κ/r) and E[σ′σ′] = 4/(πr).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..infinite_width import stax

#: An (init_fn, apply_fn, kernel_fn) triple.
Layer = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]

#: Rows added before and after an image, then columns.
Margins = tuple[tuple[int, int], tuple[int, int]]

#: How ``convolve`` computes.
Convolution = Literal["product", "direct"]

#: Inputs with 1 − |cos θ| below this many machine epsilons (θ < 2e-7 in float64) count as parallel: round-off
#: can hardly tell them apart. Without the rule an error of 1e-16 in cos θ = 1 becomes one of 1e-8 in θ.
PARALLEL_EPS = 64


def dense(outputs: int, W_std: float, b_std: float) -> Layer:
    """Affine map z = W_std/√fan_in · xW + b_std · b of rows, or of columns; no bias leaf if b_std is 0.

    Parameters: (W (fan_in, outputs), b (1, outputs) or None), every entry ~ N(0, 1).
    """
    init_fn, _, kernel_fn = stax.Dense(outputs, W_std=W_std, b_std=b_std or None)

    def apply_fn(params: Any, inputs: jax.Array, columns: bool = False, **_: Any) -> jax.Array:
        W, b = params
        scaled = W_std / len(W) ** 0.5 * W
        result = scaled.T @ inputs if columns else inputs @ scaled
        if b is None:
            return result
        return result + b_std * (b.T if columns else b)

    return init_fn, apply_fn, kernel_fn


def as_columns(rows: jax.Array) -> jax.Array:
    """(sample, …) → (feature, sample), laid out so in memory.

    The barrier keeps XLA from reading the rows in their place instead. Of inputs that are the same in every step of a
    loop the columns are formed once, before it.
    """
    return jax.lax.optimization_barrier(rows.reshape(len(rows), -1).T)


def head(layer: Layer) -> Layer:
    """The layer, with the option ``columns`` for what it gives to the dense layers behind it."""
    init_fn, head_fn, kernel_fn = layer

    def apply_fn(params: Any, inputs: jax.Array, columns: bool = False, **options: Any) -> jax.Array:
        rows = head_fn(params, inputs, **options)
        return as_columns(rows) if columns else rows

    return init_fn, apply_fn, kernel_fn


def conv(channels: int, size: int, padding: str, W_std: float, b_std: float, method: Convolution = "product") -> Layer:
    """Convolution of images (batch, height, width, channel) with size × size filters, stride 1.

    z = W_std/√(size² · fan_in channels) · (W * x) + b_std · b with padding SAME (zeros), VALID or CIRCULAR.
    Parameters: (W (row, column, channel in, channel out), b (1, 1, 1, channel out) or None), entries ~ N(0, 1).
    ``method`` is that of ``convolve``.
    """
    init_fn, _, kernel_fn = stax.Conv(channels, (size, size), padding=padding, W_std=W_std, b_std=b_std or None)
    before = 0 if padding == "VALID" else (size - 1) // 2
    margin = (before, 0 if padding == "VALID" else size - 1 - before)

    def apply_fn(params: Any, inputs: jax.Array, **_: Any) -> jax.Array:
        W, b = params
        norm = W_std / (size * size * inputs.shape[-1]) ** 0.5
        result = convolve(inputs, norm * W, (margin, margin), padding == "CIRCULAR", method)
        return result if b is None else result + b_std * b

    return init_fn, apply_fn, kernel_fn


def convolve(
    images: jax.Array, filters: jax.Array, margins: Margins, periodic: bool, method: Convolution, stride: int = 1
) -> jax.Array:
    """Cross-correlation of images with filters.

    Args:
      images: (batch, height, width, channel).
      filters: (row, column, channel, channel out), square.
      margins: rows added before and after, columns added before and after: zeros, or periodic images.
      periodic: which of the two.
      method: "product": the patches of all pixels times the filters, one matrix product, which on a CPU is several
        times faster than "direct": ``lax.conv``, which on a GPU is.
      stride: distance of output pixels.

    Returns:
      (batch, height out, width out, channel out).
    """
    mode = "wrap" if periodic else "constant"
    padded = jnp.pad(images, ((0, 0), *margins, (0, 0)), mode=mode) if np.any(margins) else images
    if method == "direct":
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(padded, filters, (stride, stride), "VALID", dimension_numbers=dimensions)
    size = len(filters)
    height, width = padded.shape[1] - size + 1, padded.shape[2] - size + 1
    shifted = [padded[:, i : i + height : stride, j : j + width : stride] for i in range(size) for j in range(size)]
    return jnp.concatenate(shifted, axis=-1) @ filters.reshape(-1, filters.shape[-1])  # no gather: a fast backward pass


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
