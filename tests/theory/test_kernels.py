"""Blocks of analytic kernels, and their symmetry under the groups (theory.md §7, item 1)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from emergent_equivariance.errors import UserError
from emergent_equivariance.groups import get_group, grid_action, line_action
from emergent_equivariance.infinite_width import stax
from emergent_equivariance.kernels import COPIES, cross_kernels, gram, orbit_blocks
from emergent_equivariance.kernels.convolutional import bytes_per_image
from emergent_equivariance.networks import Network, build_network
from emergent_equivariance.networks.layers import relu
from emergent_equivariance.settings import CnnNetwork, MlpNetwork


def images(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((samples, 4, 4, 1))


def mlp(shape: tuple[int, ...] = (4, 4, 1), **options: Any) -> Network:
    return build_network(MlpNetwork(name="mlp", **{"hidden_layers": 2, **options}), shape, 1)


def cnn(**options: Any) -> Network:
    return build_network(CnnNetwork(name="cnn", **options), (4, 4, 1), 1)


NETWORKS = {
    "mlp": mlp(),
    "mlp-erf": mlp(activation="erf", b_std=0.0),
    "flatten-same": cnn(head="flatten"),
    "flatten-valid": cnn(head="flatten", padding="VALID", kernel_size=2),
    "pool-same": cnn(),
    "pool-circular-erf": cnn(padding="CIRCULAR", activation="erf"),
}


NETWORKS |= {
    f"{name}-kernel-fn": dataclasses.replace(network, stack=None)
    for name, network in NETWORKS.items()
    if network.stack is not None
}


def memory_of_blocks(network: Network, side: int) -> int:
    """Memory with which blocks of a matrix are side × side pairs."""
    if network.stack is None:
        return side**2 * COPIES * 8 * network.entries_per_pair
    return side * 2 * bytes_per_image(network.stack, network.input_shape)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_agree_with_one_call(name: str) -> None:
    network = NETWORKS[name]
    orbits = grid_action(get_group("c4"), 4, 4, 1).orbit(images(3))
    x = orbits.reshape(-1, 4, 4, 1)
    whole = [np.asarray(kernel) for kernel in jax.jit(lambda a: network.kernel_fn(a, a))(x)]
    calls: list[tuple[int, int]] = []
    memory = memory_of_blocks(network, 3)

    tiled = cross_kernels(network, x[:7], x[7:], memory=memory, progress=lambda *done: calls.append(done))
    for ours, theirs in zip(tiled, whole, strict=True):
        assert ours.dtype == np.float64
        np.testing.assert_allclose(ours, theirs[:7, 7:], rtol=1e-13)
    assert len(calls) == 6 and calls[-1] == (35, 35)

    for ours, theirs in zip(gram(network, x[:7], memory=memory), whole, strict=True):
        np.testing.assert_array_equal(ours, ours.T)
        np.testing.assert_allclose(ours, theirs[:7, :7], rtol=1e-13)
        assert np.linalg.eigvalsh(ours)[0] > -1e-14

    blocks = orbit_blocks(network, orbits, memory=memory_of_blocks(network, 4))
    np.testing.assert_array_equal(blocks, blocks.swapaxes(1, 2))
    for sample in range(3):
        block = slice(4 * sample, 4 * sample + 4)
        np.testing.assert_allclose(blocks[sample], whole[0][block, block], rtol=1e-13)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("spins", [True, False])
def test_kernels_are_invariant(name: str, spins: bool) -> None:
    """Θ(gx, gx′) = Θ(x, x′), and the same for K, also where x′ lies on the orbit of x; all groups are in D4."""
    network, group = NETWORKS[name], get_group("d4")
    x = np.sign(images(4)) if spins else images(4)
    orbits = grid_action(group, 4, 4, 1).orbit(x)
    others = np.concatenate([x, orbits[0]])
    expected = cross_kernels(network, x, others)
    for g in range(1, group.order):
        moved_others = np.concatenate([orbits[:, g], orbits[0][group.product[g]]])
        for ours, theirs in zip(cross_kernels(network, orbits[:, g], moved_others), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.usefixtures("float64")
def test_kernels_on_the_line_are_invariant() -> None:
    x = np.random.default_rng(0).uniform(-5, 5, (9, 1))
    orbits = line_action(get_group("c2")).orbit(x)
    expected, moved = gram(mlp((1,)), x), gram(mlp((1,)), orbits[:, 1])
    for ours, theirs in zip(moved, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-13)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("head", ["flatten", "global_average_pool"])
def test_control_asymmetric_filters_break_the_symmetry(head: str) -> None:
    """2 × 2 filters with zero padding have a support that rotations move."""
    network, x = cnn(head=head, kernel_size=2), images(4)
    rotated = grid_action(get_group("c4"), 4, 4, 1).orbit(x)[:, 1]
    for ours, theirs in zip(gram(network, rotated), gram(network, x), strict=True):
        assert np.abs(ours - theirs).max() > 1e-3 * np.abs(theirs).max()


@pytest.mark.usefixtures("float64")
def test_coincident_and_opposite_inputs_have_exact_angles() -> None:
    """Round-off in cos θ = ±1 must not become an angle of 1e-8."""
    _, _, kernel_fn = stax.serial(stax.Dense(1), relu(), stax.Dense(1))
    x = np.random.default_rng(0).standard_normal((50, 30))
    compiled = jax.jit(lambda a, b: kernel_fn(a, b, ("nngp", "ntk")))
    same = compiled(x, x)
    variance = (x**2).mean(axis=1)
    np.testing.assert_allclose(np.diag(same.nngp), variance / 2, rtol=1e-14)
    np.testing.assert_allclose(np.diag(same.ntk), variance, rtol=1e-14)
    opposite = compiled(x, -x)
    np.testing.assert_allclose(np.diag(opposite.ntk), 0, atol=1e-15)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("spatial", [True, False])
def test_relu_agrees_with_neural_tangents_away_from_coincidence(spatial: bool) -> None:
    x1, x2 = images(4), images(4, 1)

    def kernel(activation: Any) -> Any:
        head = stax.GlobalAvgPool() if spatial else stax.Flatten()
        conv = [stax.Conv(1, (3, 3), padding="SAME", W_std=1.4, b_std=0.2) for _ in range(2)]
        _, _, kernel_fn = stax.serial(conv[0], activation(), conv[1], activation(), head, stax.Dense(1))
        return jax.jit(lambda a, b: kernel_fn(a, b, ("nngp", "ntk")))(x1, x2)

    for ours, theirs in zip(kernel(relu), kernel(stax.Relu), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_black_images_are_harmless() -> None:
    x = images(3)
    x[0] = 0
    x[1, :2] = 0
    for network in (mlp(b_std=0.0), cnn(b_std=0.0), cnn(b_std=0.0, head="flatten")):
        for kernel in gram(network, x):
            assert (kernel[0] == 0).all()
            assert kernel[1, 1] > 0


def test_float64_is_required() -> None:
    with jax.enable_x64(False), pytest.raises(RuntimeError, match="jax_enable_x64"):
        gram(mlp(), images(2))


@pytest.mark.usefixtures("float64")
def test_non_finite_kernels_name_the_network() -> None:
    with pytest.raises(UserError, match=r"NNGP of mlp \(2 hidden, relu\) is not finite for 3 of 4 pairs"):
        gram(mlp(), np.concatenate([images(1), np.full((1, 4, 4, 1), 1e200)]))
