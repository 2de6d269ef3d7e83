"""Monte-Carlo NNGP and NTK (theory.md §7, item 3) of convolutions over a group and pools, and what it would notice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import pytest
from monte_carlo import CASES, CHANNELS, DENSE, MEMBERS, REST, chain, images, in_words, measure, ratios, run

from emergent_equivariance.groups import get_group
from emergent_equivariance.networks.filters import Filters
from emergent_equivariance.networks.group_layers import group_convolution, serial
from emergent_equivariance.networks.layers import Layer
from emergent_equivariance.networks.points import PointKernels

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("case", [case for case in CASES if case[0] not in DENSE], ids=in_words)
def test_layers(case: tuple[str, str, float, str]) -> None:
    run(*case, MEMBERS)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in REST if case[0] not in DENSE], ids=in_words)
def test_layers_elsewhere(case: tuple[str, str, float, str]) -> None:
    run(*case, 2 * MEMBERS)


def doubled(layer: Layer) -> Layer:
    """The lifting NTK counted twice."""

    def kernel_fn(state: PointKernels) -> PointKernels:
        result = layer[2](state)
        return replace(result, ntk=2 * result.ntk)

    return layer[0], layer[1], kernel_fn


def diagonal_variances(layer: Layer) -> Layer:
    """A pool that averages K(p, p) for the variances instead of K(p, p′)."""

    def kernel_fn(state: PointKernels) -> PointKernels:
        result = layer[2](state)
        own = [jnp.diagonal(c).mean(axis=-1)[None, None] for c in (state.covariance1, state.covariance2)]
        return replace(result, covariance1=own[0], covariance2=own[1])

    return layer[0], layer[1], kernel_fn


def test_errors_of_published_code_are_seen() -> None:
    """The comparison refuses each of: the lifting NTK twice, bias where there is none, rh for hr, wrong variances."""
    d4, x = get_group("d4"), images(3)
    options: dict[str, Any] = {"size": 3, "padding": "CIRCULAR", "elements": (0, 1, 4)}
    opposite = Filters(replace(d4, product=d4.product.T), **options)
    right = chain("group convolution", d4, options, 1.5, 0.0, "relu")
    deep = chain("dense after global pool", get_group("c2"), {"size": 3, "padding": "SAME"}, 1.5, 0.0, "relu")
    mistaken = {
        "lifting NTK twice": [doubled(right[0]), *right[1:]],
        "bias": [*right[:2], group_convolution(Filters(d4, **options), CHANNELS, 1.5, 0.5)],
        "order of the product": [*right[:2], group_convolution(opposite, CHANNELS, 1.5, 0.0)],
        "variances of the pool": [*deep[:4], diagonal_variances(deep[4]), *deep[5:]],
    }
    measured = {len(chained): measure(serial(*chained), x) for chained in (right, deep)}
    for name, layers in mistaken.items():
        ratio, _ = ratios(measured[len(layers)], serial(*layers)[2], x, 1)
        assert ratio.max() > 1.2, f"{name}: {ratio.max(axis=(1, 2))}"
