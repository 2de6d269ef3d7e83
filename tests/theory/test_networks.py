"""Finite networks: shapes, numbers of neural-tangents' own layers, reproducible initial weights."""

from __future__ import annotations

from math import prod
from typing import Any

import jax
import numpy as np
import pytest

from emergent_equivariance.errors import StudyError
from emergent_equivariance.groups import get_group, grid_action
from emergent_equivariance.infinite_width import stax
from emergent_equivariance.networks import Network, build_network, initial_parameters
from emergent_equivariance.networks.layers import Convolution, conv, dense
from emergent_equivariance.settings.networks import CnnNetwork, GcnnNetwork, MlpNetwork, NetworkSection

SHAPE = (6, 7, 2)


def mlp(**options: Any) -> Network:
    return build_network(MlpNetwork(name="mlp", **{"width": 5, "hidden_layers": 2, **options}), SHAPE, 3)


def cnn(**options: Any) -> Network:
    return build_network(CnnNetwork(name="cnn", **{"width": 5, **options}), SHAPE, 3)


def gcnn(**options: Any) -> Network:
    return build_network(GcnnNetwork(name="gcnn", **{"width": 5, "group": "d2", **options}), SHAPE, 3)


@pytest.mark.parametrize("method", ["product", "direct"])
@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR"])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("b_std", [0.0, 0.3])
def test_conv_gives_the_numbers_of_neural_tangents(padding: str, size: int, b_std: float, method: Convolution) -> None:
    reference_init, reference_apply, _ = stax.Conv(5, (size, size), padding=padding, W_std=1.3, b_std=b_std or None)
    _, apply_fn, _ = conv(5, size, padding, 1.3, b_std, method)
    rng = np.random.default_rng(size)
    for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-12)):
        with jax.enable_x64(dtype == np.float64):
            _, shapes = jax.eval_shape(lambda key: reference_init(key, (1, *SHAPE)), jax.random.key(0))
            params = jax.tree.map(lambda leaf, d=dtype: rng.standard_normal(leaf.shape).astype(d), shapes)
            x = rng.standard_normal((4, *SHAPE)).astype(dtype)
            ours, reference = apply_fn(params, x), reference_apply(params, x)
            assert ours.dtype == reference.dtype == dtype
            np.testing.assert_allclose(ours, reference, atol=tolerance, rtol=tolerance)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("b_std", [0.0, 0.3])
def test_dense_gives_the_numbers_of_neural_tangents(b_std: float) -> None:
    _, reference_apply, _ = stax.Dense(3, W_std=1.3, b_std=b_std or None)
    _, apply_fn, _ = dense(3, 1.3, b_std)
    rng = np.random.default_rng(0)
    params = (rng.standard_normal((6, 3)), rng.standard_normal((1, 3)) if b_std else None)
    x = rng.standard_normal((4, 6))
    expected = reference_apply(params, x)
    np.testing.assert_allclose(apply_fn(params, x), expected, rtol=1e-13)
    np.testing.assert_allclose(apply_fn(params, x.T, columns=True), expected.T, rtol=1e-13)


def test_layers_and_leaves() -> None:
    assert mlp().shapes == ((84, 5), (1, 5), (5, 5), (1, 5), (5, 3))
    assert mlp(b_std=0.0, readout_b_std=0.1).shapes == ((84, 5), (5, 5), (5, 3), (1, 3))
    assert cnn().shapes == ((3, 3, 2, 5), (1, 1, 1, 5), (3, 3, 5, 5), (1, 1, 1, 5), (5, 3))
    assert cnn(padding="VALID", head="flatten", b_std=0.0).shapes == ((3, 3, 2, 5), (3, 3, 5, 5), (2 * 3 * 5, 3))
    assert cnn().parameters == 90 + 5 + 225 + 5 + 15
    assert cnn(dense_layers=1).shapes == (*cnn().shapes[:-1], (5, 5), (1, 5), (5, 3))
    convolutions = ((9, 2, 5), (1, 1, 5), (36, 5, 5), (1, 1, 5))
    assert gcnn().shapes == (*convolutions, (1, 5, 3))
    assert gcnn(dense_layers=1).shapes == (*convolutions, (1, 5, 5), (1, 1, 5), (1, 5, 3))


def test_names_of_layers() -> None:
    assert mlp().layers == ("dense 1", "activation 1", "dense 2", "activation 2", "readout")
    head = ("convolution 1", "activation 1", "convolution 2", "activation 2")
    assert cnn(head="flatten").layers == (*head, "flatten", "readout")
    assert cnn(dense_layers=1).layers == (*head, "pool", "dense 1", "activation 3", "readout")
    assert gcnn().layers == ("lifting", "activation 1", "group convolution 2", "activation 2", "pool", "readout")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("network", [mlp(), cnn(), gcnn()], ids=["mlp", "cnn", "gcnn"])
def test_prefixes_end_in_the_whole_kernel(network: Network) -> None:
    x = np.random.default_rng(0).standard_normal((2, *SHAPE))
    (names, kernels) = zip(*network.prefixes(), strict=True)
    assert names == network.layers
    first, whole = (kernel(x[:1], x[1:], ("nngp",)).nngp for kernel in (kernels[0], kernels[-1]))
    assert np.shape(first)[:2] == np.shape(whole) == (1, 1)
    np.testing.assert_array_equal(whole, network.kernel_fn(x[:1], x[1:], ("nngp",)).nngp)


@pytest.mark.parametrize("network", [mlp(), cnn(), cnn(head="flatten"), cnn(dense_layers=2), gcnn(dense_layers=2)])
def test_one_batch(network: Network) -> None:
    x = np.random.default_rng(0).standard_normal((4, *SHAPE)).astype(np.float32)
    params = jax.tree.map(np.float32, initial_parameters(network, 0, 0))
    assert network.apply(params, x).shape == (4, 3)
    assert jax.tree.structure(params) == network.structure


def test_initial_weights_depend_on_seed_member_and_leaf_alone() -> None:
    network = mlp()
    leaves = jax.tree.leaves(initial_parameters(network, 3, 17))
    again = jax.tree.leaves(initial_parameters(mlp(W_std=2.0), 3, 17))
    assert all(np.array_equal(a, b) and a.dtype == np.float64 for a, b in zip(leaves, again, strict=True))
    for other in (initial_parameters(network, 4, 17), initial_parameters(network, 3, 18)):
        assert not any(np.array_equal(a, b) for a, b in zip(leaves, jax.tree.leaves(other), strict=True))
    assert not np.array_equal(leaves[1], leaves[3]), "leaves of one shape differ"


def test_initial_weights_are_standard_normal() -> None:
    network = mlp(width=200)
    for leaf in jax.tree.leaves(initial_parameters(network, 0, 0)):
        error = 1 / np.sqrt(leaf.size)
        assert abs(leaf.mean()) < 4.5 * error
        assert abs(leaf.var() - 1) < 4.5 * np.sqrt(2) * error


def test_networks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(StudyError, match="cnn needs images"):
        build_network(CnnNetwork(name="cnn"), (5,), 1)
    with pytest.raises(StudyError, match="do not fit"):
        build_network(CnnNetwork(name="cnn", conv_layers=4, padding="VALID"), (8, 8, 1), 1)
    with pytest.raises(StudyError, match="gcnn needs images"):
        build_network(GcnnNetwork(name="gcnn", group="c4"), (5,), 1)
    with pytest.raises(StudyError, match="do not fit"):
        build_network(GcnnNetwork(name="gcnn", group="c4", conv_layers=4, padding="VALID"), (8, 8, 1), 1)
    with pytest.raises(StudyError, match=r"4×6 pixels .*; c4 is not one of them\. Use one of c2, d2, or a square grid"):
        build_network(GcnnNetwork(name="gcnn", group="c4"), (4, 6, 1), 1)
    with pytest.raises(StudyError, match=r"trivial is not one of them\. Use one of c2, c4, d2, d4\."):
        build_network(GcnnNetwork(name="gcnn"), (6, 6, 1), 1)
    with pytest.raises(StudyError, match=r"kernel_size: 2 is even.*Use an odd kernel_size, or padding VALID"):
        build_network(GcnnNetwork(name="gcnn", group="c4", kernel_size=2), (6, 6, 1), 1)


# ------------------------------------------------------------------------------------------ group convolutions


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("group", "shape", "options"),
    [
        ("c2", (4, 5, 2), {"padding": "CIRCULAR", "activation": "erf"}),
        ("c4", (5, 5, 1), {"padding": "SAME", "conv_layers": 3}),
        ("d2", (5, 4, 1), {"padding": "VALID", "kernel_size": 2, "b_std": 0.0}),
        ("d4", (4, 4, 2), {"padding": "SAME", "dense_layers": 2}),
    ],
)
def test_members_of_a_gcnn_are_invariant(group: str, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    network = build_network(GcnnNetwork(name="gcnn", group=group, width=4, **options), shape, 3)
    action = grid_action(get_group(group), *shape)
    x = np.random.default_rng(0).standard_normal((5, *shape))
    orbits = action.orbit(x).reshape(-1, *shape)
    compiled = jax.jit(network.apply)
    for member in range(5):
        f = np.asarray(compiled(initial_parameters(network, 0, member), orbits)).reshape(5, action.group.order, 3)
        assert np.ptp(f, axis=1).max() < 1e-12 * np.abs(f).max()
        assert np.ptp(f, axis=0).min() > 1e-6, "outputs depend on the input"


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR"])
@pytest.mark.parametrize("name", ["cnn", "gcnn"])
def test_both_ways_to_convolve_agree_with_their_gradients(name: str, padding: str) -> None:
    section: NetworkSection = CnnNetwork(name="cnn", width=3, padding=padding, dense_layers=1)
    if name == "gcnn":
        section = GcnnNetwork(name="gcnn", width=3, padding=padding, group="d4")
    x = np.random.default_rng(0).standard_normal((4, 6, 6, 2))
    found = []
    for convolution in ("product", "direct"):
        network = build_network(section, x.shape[1:], 2, convolution)
        params = initial_parameters(network, 0, 0)
        loss = jax.value_and_grad(lambda p, network=network: (network.apply(p, x) ** 2).sum())
        found.append(jax.tree.leaves(loss(params)))
    for product, direct in zip(*found, strict=True):
        np.testing.assert_allclose(product, direct, rtol=1e-11, atol=1e-12)


def test_parameters_and_operations_of_the_sections() -> None:
    """The sizes that plans are made of, against the leaves themselves and the arithmetic of the compiled network."""
    convolutional = {"width": 6, "conv_layers": 3, "dense_layers": 2, "b_std": 0.1}
    sections: list[NetworkSection] = [
        MlpNetwork(name="mlp", width=6, hidden_layers=3),
        CnnNetwork(name="cnn", padding="VALID", head="flatten", readout_b_std=0.1, **convolutional),
        CnnNetwork(name="cnn", **{**convolutional, "dense_layers": 0}),
        GcnnNetwork(name="gcnn", group="d4", padding="VALID", readout_b_std=0.1, **convolutional),
        GcnnNetwork(name="gcnn", group="c4", **{**convolutional, "dense_layers": 0, "b_std": 0}),
    ]
    for section in sections:
        network = build_network(section, (8, 8, 2), 3)
        assert network.parameters == section.parameters((8, 8, 2), 3)
        params = jax.tree.unflatten(network.structure, [np.zeros(s, np.float32) for s in network.shapes])
        batch = 13  # divides the results of those products alone that samples enter
        jaxpr = jax.make_jaxpr(network.apply)(params, np.zeros((batch, 8, 8, 2), np.float32))
        products = 0
        for equation in jaxpr.jaxpr.eqns:
            if equation.primitive.name == "dot_general" and equation.outvars[0].aval.size % batch == 0:
                (summed, _), _ = equation.params["dimension_numbers"]
                fan_in = prod(equation.invars[0].aval.shape[axis] for axis in summed)
                products += 2 * fan_in * equation.outvars[0].aval.size
        assert products == batch * section.forward_flops((8, 8, 2), 3)


def test_identity_leaves_out_what_older_studies_do_not_have() -> None:
    """Hashes of results made before a field existed hold for its default."""
    assert "dense_layers" not in CnnNetwork(name="cnn").identity()
    assert CnnNetwork(name="cnn", dense_layers=1).identity()["dense_layers"] == 1
    assert "width" not in CnnNetwork(name="cnn").identity(exclude={"width"})
    assert GcnnNetwork(name="gcnn", group="c4").identity()["group"] == "c4"
