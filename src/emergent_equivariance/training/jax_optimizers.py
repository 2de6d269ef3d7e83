"""Adam for JAX whose float32 steps are as exact as float32 allows.

``optax.adam`` forms 1 − β₂ᵗ from the rounded 0.999: at the first steps this is off by 5e-5 of its value, and so is
the step. Over an epoch that grows to a hundred times what round-off makes otherwise.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

#: β₁, β₂ and ε of Kingma & Ba 2015.
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class _Moments(NamedTuple):
    """Number of steps made, and means of gradients and of their squares, trees like the parameters."""

    step: jax.Array
    mean: Any
    square: Any


def adam(learning_rate: float) -> optax.GradientTransformation:
    """The formulas of ``optax.adam``: m̂ = m/(1 − β₁ᵗ), v̂ = v/(1 − β₂ᵗ), θ ← θ − η m̂/(√v̂ + ε)."""

    def init(parameters: Any) -> _Moments:
        zeros = jax.tree.map(jnp.zeros_like, parameters)
        return _Moments(jnp.zeros([], jnp.int32), zeros, zeros)

    def update(gradient: Any, state: _Moments, parameters: Any = None) -> tuple[Any, _Moments]:
        step = state.step + 1
        mean = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, state.mean, gradient)
        square = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g**2, state.square, gradient)

        def change(m: jax.Array, v: jax.Array) -> jax.Array:
            mean_part, square_part = (-jnp.expm1(math.log(beta) * step.astype(m.dtype)) for beta in (BETA1, BETA2))
            return -learning_rate * (m / mean_part) / (jnp.sqrt(v / square_part) + EPSILON)

        return jax.tree.map(change, mean, square), _Moments(step, mean, square)

    return optax.GradientTransformation(init, update)
