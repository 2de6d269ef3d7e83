"""Layers in NTK parametrisation that neural-tangents lacks, or evaluates too slowly or too inexactly.

A layer is a triple ``(init_fn, apply_fn, kernel_fn)`` for ``stax.serial``. ``dense`` and ``conv`` keep the
initialisation and the kernel of neural-tangents and replace the finite network's ``apply_fn`` by one that does
the same arithmetic as a single matrix product: inside a compiled loop on a CPU, ``lax.conv`` is an order of
magnitude slower.

``relu`` has the arc-cosine kernels (Cho & Saul 2009): for covariance κ = √(v₁v₂) cos θ of variances v₁, v₂,
E[σσ] = (√(v₁v₂) sin θ + (π − θ) κ)/2π and E[σ′σ′] = (π − θ)/2π.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..infinite_width import stax

#: An (init_fn, apply_fn, kernel_fn) triple.
Layer = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]

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
    after = 0 if padding == "VALID" else size - 1 - before
    margins = ((0, 0), (before, after), (before, after), (0, 0))
    mode = "wrap" if padding == "CIRCULAR" else "constant"

    def apply_fn(params: Any, inputs: jax.Array, **_: Any) -> jax.Array:
        W, b = params
        padded = jnp.pad(inputs, margins, mode=mode) if before or after else inputs
        height, width = padded.shape[1] - size + 1, padded.shape[2] - size + 1
        patches = jnp.concatenate(
            [padded[:, i : i + height, j : j + width] for i in range(size) for j in range(size)], axis=-1
        )
        norm = W_std / (size * size * inputs.shape[-1]) ** 0.5
        result = patches @ (norm * W.reshape(-1, W.shape[-1]))
        return result if b is None else result + b_std * b

    return init_fn, apply_fn, kernel_fn


def relu() -> Layer:
    """max(0, x), with θ = 0 exactly for coincident inputs and θ = π exactly for opposite ones."""
    return stax.Elementwise(jax.nn.relu, _relu_product, _relu_derivative_product)


def erf() -> Layer:
    """The error function erf(x) = 2/√π ∫₀ˣ exp(−s²) ds."""
    return stax.Erf()


ACTIVATIONS: dict[str, Callable[[], Layer]] = {"relu": relu, "erf": erf}


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
