"""Lifting, group convolution and group pooling: finite layers and their infinite-width kernels.

A feature map lives on the points (t, r) of a grid of pixels t times elements r of a finite group G of rotations and
reflections ρ(r) of the plane, which act about the centre of the grid (one "element" before lifting; one pixel for a
network over G alone). A layer with shared weights collects, at every output point p, the inputs at the points
table[p, s], s in its support S (0 outside the grid, where the padding is SAME):

    f_out(p) = W_std/√(|S| C_in) Σ_s W(s) f_in(table[p, s]) + b_std b

    lifting              f_out(t, r) ∝ Σ_s     W(s)    f_in(σt + ρ(r)s)
    group convolution    f_out(t, r) ∝ Σ_{h,s} W(h, s) f_in(σt + ρ(r)s, rh)        stride σ, h ∈ H ⊆ G

so that a transformed input (gx)(t) = x(g⁻¹t) transforms features by the left regular action, f(gx)(t, r) =
f(x)(g⁻¹t, g⁻¹r). In the limit of many channels the kernels K = E f(x)f(x′) and Θ follow (Misof et al., *Equivariant
Neural Tangent Kernels*, ICML 2025, generalised to any such table, with bias):

    K_out(p, p′) = W_std²/|S| Σ_s K_in(table[p, s], table[p′, s]) + b_std²
    Θ_out(p, p′) = K_out(p, p′) + W_std²/|S| Σ_s Θ_in(table[p, s], table[p′, s]),        Θ = 0 for inputs

A layer is a triple (init_fn, apply_fn, kernel_fn) to be put together by ``serial``:

    init_fn(key, shape) → (shape of the output, parameters)      shapes (batch, height, width, element, channel)
    apply_fn(parameters, features) → features
    kernel_fn(PointKernels) → PointKernels

Cost of this recursion per pair of inputs, with P = |G|·pixels points: P²(q² + |G|) additions per layer for each of K
and Θ, and 10 to 19 arrays of 8·P² bytes (the latter for a single pair, where K(x, x) and K(x′, x′) weigh as much as K).
It is the reference, and the route for partial supports, strides and group pools: with full supports the kernels at a
global pool are averages of ordinary convolutional kernels (docs/kernels.md), which take far less.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from math import prod
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ..groups import Group
from .filters import Filters
from .layers import NONLINEARITIES, Convolution, Layer, convolve
from .points import Grid, PointKernels, input_kernels, regular_action

__all__ = [
    "activation",
    "check_equivariance",
    "global_pool",
    "group_convolution",
    "group_pool",
    "lifting",
    "pointwise",
    "serial",
]


def lifting(filters: Filters, channels: int, W_std: float, b_std: float, method: Convolution = "product") -> Layer:
    """From images to functions on pixels and group; parameters (W (s, channel in, channel), b (1, 1, channel)).

    ``channels`` counts per group element; W_std and b_std are the standard deviations of weights and bias, there is
    no bias leaf if b_std is 0; ``method`` is that of ``convolve``. The layer raises StudyError for grids that the
    filters do not fit exactly.
    """
    return _convolution(replace(filters, lifts=True), channels, W_std, b_std, method)


def group_convolution(
    filters: Filters, channels: int, W_std: float, b_std: float, method: Convolution = "product"
) -> Layer:
    """Between functions on pixels and group; parameters (W (h · s, channel in, channel), b (1, 1, channel)).

    As ``lifting``. On a single pixel, with filters of size 1, it is the convolution over the group alone.
    """
    return _convolution(replace(filters, lifts=False), channels, W_std, b_std, method)


def _convolution(filters: Filters, channels: int, W_std: float, b_std: float, method: Convolution) -> Layer:
    group, expansion = filters.group, filters.expansion()
    before = 1 if filters.lifts else group.order

    def init_fn(key: jax.Array, shape: tuple[int, ...]) -> Any:
        batch, height, width, elements, fan_in = shape
        if elements != before:
            raise ValueError(f"features on {elements} elements where the layer of {group.name} takes {before}")
        extent, _ = filters.fit(height, width)
        return (batch, *extent, group.order, channels), _initial(key, (filters.weights, fan_in, channels), b_std)

    def apply_fn(params: Any, features: jax.Array) -> jax.Array:
        W, b = params
        batch, height, width, _, fan_in = features.shape
        extent, margins = filters.fit(height, width)
        images = features.reshape(batch, height, width, before * fan_in)
        norm = W_std / (filters.weights * fan_in) ** 0.5
        expanded = norm * jnp.einsum("grs,scd->gcrd", expansion.astype(W.dtype), W)
        kernel = expanded.reshape(filters.size, filters.size, before * fan_in, group.order * channels)
        result = convolve(images, kernel, margins, filters.padding == "CIRCULAR", method, filters.stride)
        result = result.reshape(batch, *extent, group.order, channels)
        return result if b is None else result + b_std * b

    def kernel_fn(state: PointKernels) -> PointKernels:
        extent, _ = filters.fit(*state.grid[:2])
        tables = filters.tables(state.grid)
        return state.affine(lambda k: reduce(_mean_of_pairs, tables, k), (*extent, group.order), W_std, b_std)

    return init_fn, apply_fn, kernel_fn


def pointwise(channels: int, W_std: float, b_std: float) -> Layer:
    """The same dense layer at every point; parameters (W (1, channel in, channel), b (1, 1, channel) or None)."""

    def init_fn(key: jax.Array, shape: tuple[int, ...]) -> Any:
        return (*shape[:-1], channels), _initial(key, (1, shape[-1], channels), b_std)

    def apply_fn(params: Any, features: jax.Array) -> jax.Array:
        W, b = params
        result = features @ (W_std / features.shape[-1] ** 0.5 * W[0])
        return result if b is None else result + b_std * b

    def kernel_fn(state: PointKernels) -> PointKernels:
        return state.affine(lambda kernel: kernel, state.grid, W_std, b_std)

    return init_fn, apply_fn, kernel_fn


def activation(name: Literal["relu", "erf"]) -> Layer:
    """Elementwise σ: K_out = E[σσ], Θ_out = Θ E[σ′σ′], with the variances K(x, x) at the two points."""
    function, product, derivative_product = NONLINEARITIES[name]

    def kernel_fn(state: PointKernels) -> PointKernels:
        variance1, variance2 = (jnp.moveaxis(jnp.diagonal(c), -1, 0) for c in (state.covariance1, state.covariance2))
        v1, v2 = variance1[:, None, :, None], variance2[None, :, None, :]
        return PointKernels(
            nngp=product(state.nngp, v1, v2),
            ntk=state.ntk * derivative_product(state.nngp, v1, v2),
            covariance1=product(state.covariance1, variance1[:, None], variance1[None]),
            covariance2=product(state.covariance2, variance2[:, None], variance2[None]),
            grid=state.grid,
        )

    return _without_parameters(lambda shape: shape, function, kernel_fn)


def group_pool() -> Layer:
    """Mean over the group at every pixel: K_out(t, t′) = mean over r, r′ of K((t, r), (t′, r′)), Θ likewise."""
    return _pool(lambda height, width, elements: (height, width, 1))


def global_pool() -> Layer:
    """Mean over pixels and group, of both points of K and Θ."""
    return _pool(lambda height, width, elements: (1, 1, 1))


def serial(*layers: Layer) -> Layer:
    """Layers one after another, as one layer; parameters: a list, () for layers without any."""

    def init_fn(key: jax.Array, shape: tuple[int, ...]) -> Any:
        params = []
        for layer, one in zip(layers, jax.random.split(key, max(1, len(layers))), strict=False):
            shape, initial = layer[0](one, shape)
            params.append(initial)
        return shape, params

    def apply_fn(params: Any, features: jax.Array) -> jax.Array:
        for layer, one in zip(layers, params, strict=True):
            features = layer[1](one, features)
        return features

    def kernel_fn(state: PointKernels) -> PointKernels:
        for layer in layers:
            state = layer[2](state)
        return state

    return init_fn, apply_fn, kernel_fn


def check_equivariance(layer: Layer, group: Group, x1: np.ndarray, x2: np.ndarray, rtol: float = 1e-12) -> None:
    """Raise AssertionError unless a layer and its kernels commute with the left regular action.

    f(gx) = g f(x) for random parameters, and K(gx, hx′)(p, p′) = K(x, x′)(g⁻¹p, h⁻¹p′), Θ likewise, for all g and h;
    x1, x2 are features (batch, height, width, element, channel), errors are relative to the largest value.
    """
    init_fn, apply_fn, kernel_fn = layer
    _, height, width, elements, channels = x1.shape
    before = regular_action(group, height, width, elements, channels)
    orbit1, orbit2 = (before.orbit(x).reshape(-1, *x.shape[1:]) for x in (x1, x2))
    structure = jax.eval_shape(lambda key: init_fn(key, x1.shape)[1], jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.random.default_rng(0).standard_normal(leaf.shape), structure)

    def check(ours: Any, expected: np.ndarray, what: str) -> None:
        error = np.abs(np.asarray(ours).reshape(expected.shape) - expected).max()
        assert error <= rtol * np.abs(expected).max(), f"{what}: differs by {error:.3g} at most"

    features = np.asarray(jax.jit(apply_fn)(params, orbit1))
    _, height, width, elements, channels = features.shape
    behind = regular_action(group, height, width, elements, channels)
    check(features, behind.orbit(features[:: group.order]), "f(gx) = g f(x)")
    points = regular_action(group, height, width, elements, channels=1).source
    state = jax.jit(lambda a, b: kernel_fn(input_kernels(a, b)))(orbit1, orbit2)
    for name in ("nngp", "ntk"):
        kernel = np.asarray(getattr(state, name))
        plain = kernel[:, :, :: group.order, :: group.order]
        moved = plain[points[:, None, :, None], points[None, :, None, :]]  # (g, h, point, point_, x1, x2)
        check(kernel, moved.transpose(2, 3, 4, 0, 5, 1), f"{name}(gx, hx′)")


def _initial(key: jax.Array, shape: tuple[int, ...], b_std: float) -> tuple[jax.Array, jax.Array | None]:
    W, b = jax.random.split(key)
    return jax.random.normal(W, shape), jax.random.normal(b, (1, 1, shape[-1])) if b_std else None


def _without_parameters(shape_of: Callable[..., Any], function: Callable[..., Any], kernel_fn: Any) -> Layer:
    return lambda key, shape: (shape_of(shape), ()), lambda params, features: function(features), kernel_fn


def _pool(behind: Callable[[int, int, int], Grid]) -> Layer:
    """Mean over the points of (height, width, element) that ``behind`` leaves out: the last ones in C order."""

    def shape_of(shape: tuple[int, ...]) -> tuple[int, ...]:
        batch, height, width, elements, channels = shape
        return (batch, *behind(height, width, elements), channels)

    def function(features: jax.Array) -> jax.Array:
        shape = shape_of(features.shape)
        return features.reshape(len(features), prod(shape[1:4]), -1, shape[-1]).mean(axis=2).reshape(shape)

    def kernel_fn(state: PointKernels) -> PointKernels:
        grid = behind(*state.grid)
        kept, pooled = prod(grid), prod(state.grid) // prod(grid)
        return state.averaged(lambda k: k.reshape(kept, pooled, kept, pooled, *k.shape[2:]).mean(axis=(1, 3)), grid)

    return _without_parameters(shape_of, function, kernel_fn)


def _mean_of_pairs(kernel: jax.Array, table: np.ndarray) -> jax.Array:
    """(point, point_, …) → mean over s of kernel[table[p, s], table[p_, s]]; an index beyond the points counts as 0."""
    columns = jnp.asarray(table.T)

    def add(s: jax.Array, total: jax.Array) -> jax.Array:
        points = columns[s]
        return total + kernel.at[points[:, None], points].get(mode="fill", fill_value=0)

    start = jnp.zeros((len(table), len(table), *kernel.shape[2:]), kernel.dtype)
    return jax.lax.fori_loop(0, len(columns), add, start) / len(columns)
