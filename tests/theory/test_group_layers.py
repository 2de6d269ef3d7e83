"""Lifting, group convolution and pooling: definition, equivariance, kernels without a group."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from emergent_equivariance.errors import StudyError
from emergent_equivariance.groups import Group, get_group, grid_action
from emergent_equivariance.infinite_width import stax
from emergent_equivariance.networks.filters import Filters
from emergent_equivariance.networks.group_layers import (
    activation,
    check_equivariance,
    global_pool,
    group_convolution,
    group_pool,
    lifting,
    pointwise,
    serial,
)
from emergent_equivariance.networks.layers import NONLINEARITIES, conv, relu
from emergent_equivariance.networks.points import image_features, input_kernels, regular_action

pytestmark = pytest.mark.usefixtures("float64")

MASK = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]])

#: group, grid, then padding, size, stride, mask and elements of the filters: every group, padding, stride, support.
GEOMETRIES: dict[str, tuple[str, tuple[int, int], dict[str, Any]]] = {
    "c2-circular": ("c2", (3, 4), {"size": 3, "padding": "CIRCULAR"}),
    "c4-same": ("c4", (3, 3), {"size": 3, "padding": "SAME"}),
    "c4-same-stride-2": ("c4", (5, 5), {"size": 3, "padding": "SAME", "stride": 2}),
    "c4-circular-stride-2": ("c4", (4, 4), {"size": 2, "padding": "CIRCULAR", "stride": 2}),
    "c4-partial": ("c4", (3, 3), {"size": 3, "padding": "SAME", "mask": MASK, "elements": (0, 1)}),
    "d2-same-even-grid": ("d2", (3, 4), {"size": 3, "padding": "SAME"}),
    "d2-valid-even-filter": ("d2", (4, 3), {"size": 2, "padding": "VALID"}),
    "d4-valid-stride-2": ("d4", (5, 5), {"size": 3, "padding": "VALID", "stride": 2}),
    "d4-partial": ("d4", (3, 3), {"size": 3, "padding": "CIRCULAR", "mask": MASK, "elements": (0, 2, 5)}),
}


def geometry(name: str) -> tuple[Group, tuple[int, int], Filters]:
    group, grid, options = GEOMETRIES[name]
    return get_group(group), grid, Filters(get_group(group), **options)


def features(grid: tuple[int, int], elements: int, channels: int, batch: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, *grid, elements, channels))


def structure(init_fn: Any, shape: tuple[int, ...]) -> Any:
    """Parameters of a layer as shapes."""
    return jax.eval_shape(lambda key: init_fn(key, shape)[1], jax.random.key(0))


# ---------------------------------------------------------------------------------- finite layers by definition


def by_definition(filters: Filters, lifts: bool, W: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Σ_{h,s} W(h, s) f(σt + ρ(r)s, rh), in doubled coordinates about the centre; nothing shared with the layers."""
    group, size, stride = filters.group, filters.size, filters.stride
    _, height, width, _, _ = inputs.shape
    outputs = [(n - size) // stride + 1 if filters.padding == "VALID" else -(-n // stride) for n in (height, width)]
    mask = np.ones((size, size)) if filters.mask is None else filters.mask
    taps = [(2 * i - size + 1, 2 * j - size + 1) for i in range(size) for j in range(size) if mask[i, j]]
    elements = [0] if lifts else range(group.order) if filters.elements is None else filters.elements
    result = np.zeros((len(inputs), *outputs, group.order, W.shape[-1]))
    for i, j, r in itertools.product(range(outputs[0]), range(outputs[1]), range(group.order)):
        for weight, (h, s) in zip(W, itertools.product(elements, taps), strict=True):
            y, x = group.planar[r] @ np.array(s)
            row = (stride * (2 * i - outputs[0] + 1) + y + height - 1) / 2
            column = (stride * (2 * j - outputs[1] + 1) + x + width - 1) / 2
            assert row % 1 == column % 1 == 0
            if filters.padding == "CIRCULAR":
                row, column = row % height, column % width
            if 0 <= row < height and 0 <= column < width:
                element = 0 if lifts else group.product[r, h]
                result[:, i, j, r] += inputs[:, int(row), int(column), element] @ weight
    return result


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("lifts", [True, False])
def test_convolutions_are_what_they_are_defined_to_be(name: str, lifts: bool) -> None:
    group, grid, filters = geometry(name)
    inputs = features(grid, 1 if lifts else group.order, 2)
    init_fn, apply_fn, _ = (lifting if lifts else group_convolution)(filters, 3, 1.3, 0.4)
    W, b = (np.random.default_rng(1).standard_normal(leaf.shape) for leaf in structure(init_fn, inputs.shape))
    expected = 1.3 / np.sqrt(len(W) * 2) * by_definition(filters, lifts, W, inputs) + 0.4 * b
    ours = jax.jit(apply_fn)((W, b), inputs)
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-13)


# ------------------------------------------------------------------------------------------------- equivariance


@pytest.mark.parametrize("name", GEOMETRIES)
def test_every_layer_is_equivariant(name: str) -> None:
    """f(gx)(t, r) = f(x)(g⁻¹t, g⁻¹r), and the kernels likewise in either argument."""
    group, grid, filters = geometry(name)
    images = [features(grid, 1, 2, seed=seed) for seed in range(2)]
    maps = [features(grid, group.order, 2, seed=seed) for seed in range(2)]
    check_equivariance(group_convolution(filters, 2, 1.3, 0.0), group, *maps)
    if name in ("c2-circular", "c4-same-stride-2", "d2-valid-even-filter", "d4-partial"):
        check_equivariance(lifting(filters, 2, 1.3, 0.4), group, *images)
    if name == "c4-same":
        for layer in (group_pool(), global_pool(), activation("relu"), activation("erf"), pointwise(2, 1.3, 0.4)):
            check_equivariance(layer, group, *maps)


def test_control_wrong_order_of_the_product_is_not_equivariant() -> None:
    """f(hr, …) instead of f(rh, …) gives another layer for a group that does not commute."""
    group, grid, _ = geometry("d4-partial")
    opposite = replace(group, product=group.product.T)
    layer = group_convolution(Filters(opposite, 3, "CIRCULAR", elements=(0, 2, 5)), 2, 1.3, 0.0)
    with pytest.raises(AssertionError, match=r"f\(gx\)"):
        check_equivariance(layer, group, features(grid, 8, 2), features(grid, 8, 2, seed=1))


def test_control_asymmetric_margins_are_not_equivariant() -> None:
    """What the refusal of even filters with padding SAME is for: pixels are sampled off centre."""
    group, x = get_group("c4"), features((4, 4), 1, 2)
    _, apply_fn, _ = conv(3, 2, "SAME", 1.0, 0.0)
    W = np.random.default_rng(0).standard_normal((2, 2, 2, 3))
    turned = grid_action(group, 4, 4, 2).orbit(x[:, :, :, 0])[:, 1]
    rotated_back = np.asarray(apply_fn((np.rot90(W, 1), None), turned))
    expected = np.rot90(np.asarray(apply_fn((W, None), x[:, :, :, 0])), 1, axes=(1, 2))
    assert np.abs(rotated_back - expected).max() > 0.1


@pytest.mark.parametrize("group", ["c2", "c4", "d2", "d4"])
def test_regular_action_is_an_action(group: str) -> None:
    regular_action(get_group(group), 2, 2, get_group(group).order, 2).check()
    regular_action(get_group(group), 2, 2, 1, 2).check()


@pytest.mark.parametrize(
    ("group", "grid", "options", "message"),
    [
        (
            "c4",
            (4, 4),
            {"size": 2, "padding": "SAME"},
            r"kernel_size 2 .*SAME on 4 pixels.*c4.*kernel_size 1, 3\.",
        ),
        ("d4", (4, 4), {"size": 3, "padding": "SAME", "stride": 2}, r"stride 2 .*d4.*Use kernel_size 2, 4\."),
        ("c2", (6, 6), {"size": 3, "padding": "VALID", "stride": 2}, r"VALID on 6 .*Use kernel_size 2, 4, 6\."),
        ("c2", (5, 5), {"size": 2, "padding": "CIRCULAR", "stride": 2}, r"CIRCULAR on 5 .*Use another stride"),
        ("c4", (3, 4), {"size": 3, "padding": "SAME"}, r"c4 does not act on a 3×4 grid"),
    ],
)
def test_inexact_grids_are_refused(group: str, grid: tuple[int, int], options: dict[str, Any], message: str) -> None:
    filters = Filters(get_group(group), **options)
    init_fn, _, kernel_fn = lifting(filters, 2, 1.0, 0.0)
    with pytest.raises(StudyError, match=message):
        init_fn(jax.random.key(0), (1, *grid, 1, 2))
    with pytest.raises(StudyError, match=message):
        kernel_fn(input_kernels(features(grid, 1, 2), features(grid, 1, 2)))


def test_wrong_layers_and_masks_are_refused() -> None:
    filters = Filters(get_group("c4"), 3, "SAME")
    with pytest.raises(ValueError, match="4 elements where the layer of c4 takes 1"):
        lifting(filters, 2, 1.0, 0.0)[0](jax.random.key(0), (1, 3, 3, 4, 2))
    with pytest.raises(ValueError, match="mask"):
        lifting(Filters(get_group("c4"), 3, "SAME", mask=np.zeros((3, 3))), 2, 1.0, 0.0)


# ------------------------------------------------------------------------------- kernels against neural-tangents


@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR"])
@pytest.mark.parametrize("stride", [1, 2])
def test_trivial_group_gives_the_kernels_of_neural_tangents(padding: str, stride: int) -> None:
    """Between all pairs of pixels, two layers deep, with strides."""
    n, size = (4, 2) if (stride, padding) == (2, "CIRCULAR") else (5, 3)
    x1, x2 = (np.random.default_rng(seed).standard_normal((1, n, n, 2)) for seed in range(2))
    filters = Filters(get_group("trivial"), size, padding, stride)
    ours = serial(
        lifting(filters, 2, 1.3, 0.4), activation("relu"), group_convolution(Filters(filters.group, 3, "SAME"), 2, 1, 0)
    )
    reference = stax.serial(
        stax.Conv(2, (size, size), (stride, stride), padding, W_std=1.3, b_std=0.4),
        relu(),
        stax.Conv(2, (3, 3), padding="SAME", W_std=1.0),
    )
    kernels = jax.jit(lambda a, b: ours[2](input_kernels(image_features(a), image_features(b))).kernels())(x1, x2)
    expected = jax.jit(lambda a, b: reference[2](a, b, ("nngp", "ntk")))(x1, x2)
    for name in ("nngp", "ntk"):
        theirs = np.moveaxis(getattr(expected, name), (2, 4, 3, 5), (2, 3, 4, 5))
        np.testing.assert_allclose(getattr(kernels, name), theirs.reshape(getattr(kernels, name).shape), rtol=1e-12)


def test_erf_has_the_kernel_of_neural_tangents() -> None:
    x1, x2 = (np.random.default_rng(seed).standard_normal((3, 4)) for seed in range(2))
    reference = stax.serial(stax.Dense(1, W_std=1.3), stax.Erf())[2](x1, x2, ("nngp", "ntk"))
    covariance, v1, v2 = (1.69 * np.asarray(a) for a in (x1 @ x2.T / 4, (x1**2).mean(1), (x2**2).mean(1)))
    ours = NONLINEARITIES["erf"]
    np.testing.assert_allclose(ours.product(covariance, v1[:, None], v2), reference.nngp, rtol=1e-12)
    derivative = ours.derivative_product(covariance, v1[:, None], v2)
    np.testing.assert_allclose(covariance * derivative, reference.ntk, rtol=1e-12)
