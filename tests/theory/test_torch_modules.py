"""The study's networks as torch modules: outputs and empirical kernels are those of the JAX networks."""

from __future__ import annotations

from itertools import product
from typing import Any

import jax
import numpy as np
import pytest
import torch

from emergent_equivariance.empirical import empirical_ntk, torch_empirical_ntk
from emergent_equivariance.errors import StudyError
from emergent_equivariance.networks import build_network, initial_arrays
from emergent_equivariance.networks.modules import build_module
from emergent_equivariance.settings.networks import CnnNetwork, GcnnNetwork, MlpNetwork, NetworkSection

#: Relative to the largest output.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}

OUTPUTS = 3

MLPS = [
    (MlpNetwork(name="mlp", width=5, hidden_layers=h, activation=a, b_std=b, readout_b_std=c, W_std=1.7), (4, 6, 2))
    for h, a, b, c in product([1, 3], ["relu", "erf"], [0.0, 0.3], [0.0, 0.2])
]

#: padding and side of the filters; even sides have unequal margins.
FILTERS = [("SAME", 3), ("SAME", 2), ("VALID", 2), ("VALID", 3), ("CIRCULAR", 3), ("CIRCULAR", 4), ("SAME", 1)]

#: Every 17th of filters × head × activation × bias × depths: every value of each occurs.
CNNS = [
    (
        CnnNetwork(
            name="cnn",
            width=4,
            padding=f[0],
            kernel_size=f[1],
            head=head,
            activation=a,
            b_std=b,
            readout_b_std=b / 2,
            conv_layers=n,
            dense_layers=d,
        ),
        (7, 8, 2),
    )
    for f, head, a, b, (n, d) in product(
        FILTERS, ["flatten", "global_average_pool"], ["relu", "erf"], [0.0, 0.3], [(1, 0), (2, 1), (3, 2)]
    )
][::17]

#: Likewise every 31st, with all groups; c2 and d2 on grids that are not square.
GCNNS = [
    (
        GcnnNetwork(
            name="gcnn",
            group=g,
            width=8,
            padding=f[0],
            kernel_size=f[1],
            activation=a,
            b_std=b,
            readout_b_std=b / 2,
            conv_layers=n,
            dense_layers=d,
        ),
        (7, 8 if g in ("c2", "d2") else 7, 2),
    )
    for g, f, a, b, (n, d) in product(
        ["c2", "c4", "d2", "d4"],
        [("SAME", 3), ("VALID", 2), ("VALID", 3), ("CIRCULAR", 3)],
        ["relu", "erf"],
        [0.0, 0.3],
        [(1, 0), (2, 1), (3, 2)],
    )
][::31]


def module_of(section: NetworkSection, shape: tuple[int, ...], arrays: list[np.ndarray], dtype: str) -> Any:
    module = build_module(section, shape, OUTPUTS).to(getattr(torch, dtype))
    with torch.no_grad():
        for parameter, array in zip(module.parameters(), arrays, strict=True):
            parameter.copy_(torch.from_numpy(array))
    return module


@pytest.mark.parametrize("cases", [MLPS, CNNS, GCNNS], ids=["mlp", "cnn", "gcnn"])
def test_outputs_are_those_of_the_jax_network(cases: list[tuple[NetworkSection, tuple[int, ...]]]) -> None:
    rng = np.random.default_rng(0)
    for section, shape in cases:
        network = build_network(section, shape, OUTPUTS)
        arrays, x = initial_arrays(network.shapes, 0, 1), rng.standard_normal((5, *shape))
        for dtype, tolerance in TOLERANCE.items():
            module = module_of(section, shape, arrays, dtype)
            assert [tuple(parameter.shape) for parameter in module.parameters()] == list(network.shapes), section
            ours = module(torch.from_numpy(x.astype(dtype))).detach().numpy()
            with jax.enable_x64(dtype == "float64"):
                tree = jax.tree.unflatten(network.structure, [array.astype(dtype) for array in arrays])
                theirs = np.asarray(network.apply(tree, x.astype(dtype)))
            assert ours.dtype == theirs.dtype == dtype
            difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
            assert difference < tolerance, f"{dtype}, {section}: {difference}"


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("padding", "size", "channels"), [("SAME", 5, 2), ("SAME", 5, 3), ("VALID", 3, 3)])
def test_one_channel_has_gradients(padding: str, size: int, channels: int, dtype: str) -> None:
    """torch takes another algorithm there, with demands on the filters' strides."""
    section, shape = CnnNetwork(name="cnn", width=1, kernel_size=size, padding=padding, conv_layers=1), (6, 6, channels)
    network = build_network(section, shape, OUTPUTS)
    arrays = [array.astype(dtype) for array in initial_arrays(network.shapes, 0, 1)]
    x = np.random.default_rng(0).standard_normal((1, *shape)).astype(dtype)
    module = module_of(section, shape, arrays, dtype)
    module(torch.from_numpy(x)).sum().backward()
    with jax.enable_x64(dtype == "float64"):
        tree = jax.tree.unflatten(network.structure, arrays)
        theirs = jax.tree.leaves(jax.grad(lambda tree: network.apply(tree, x).sum())(tree))
    for parameter, gradient in zip(module.parameters(), theirs, strict=True):
        atol = TOLERANCE[dtype] * np.abs(gradient).max()
        np.testing.assert_allclose(parameter.grad, gradient, rtol=0, atol=atol)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("index", [3, 40], ids=["first", "second"])
@pytest.mark.parametrize("cases", [MLPS, CNNS, GCNNS], ids=["mlp", "cnn", "gcnn"])
def test_empirical_kernels_are_those_of_the_jax_network(cases: list[Any], index: int) -> None:
    section, shape = cases[index % len(cases)]
    network = build_network(section, shape, OUTPUTS)
    arrays, x = initial_arrays(network.shapes, 3, 5), np.random.default_rng(1).standard_normal((4, *shape))
    theirs = empirical_ntk(network.apply, jax.tree.unflatten(network.structure, arrays), x)
    ours = torch_empirical_ntk(module_of(section, shape, arrays, "float64"), torch.from_numpy(x))
    np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-12 * np.abs(theirs).max())


def test_every_value_is_among_the_cases() -> None:
    for cases, values in ((CNNS, (7, 2, 2, 2, 3)), (GCNNS, (4, 2, 2, 3))):
        sections = [section for section, _ in cases]
        found = [{(s.padding, s.kernel_size) for s in sections}] if cases is CNNS else []
        found += [{getattr(s, key) for s in sections} for key in (["head"] if cases is CNNS else ["group"])]
        found += [{getattr(s, key) for s in sections} for key in ("activation", "b_std", "conv_layers")]
        assert [len(each) for each in found] == list(values)
        assert {s.padding for s in sections} == {"SAME", "VALID", "CIRCULAR"}


def test_networks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(StudyError, match="cnn needs images"):
        build_module(CnnNetwork(name="cnn"), (5,), 1)
