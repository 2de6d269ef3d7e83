"""Monte-Carlo NNGP and NTK of finite members against the analytic kernels (theory.md §7, item 3).

The finite side is what is trained: ``initial_parameters`` and ``apply``, with our own contraction of jacobians.
Its mean over members estimates the kernel up to a standard error and a bias that falls as 1/width.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.func import functional_call

from emergent_equivariance.kernels import gram
from emergent_equivariance.networks import Network, build_network, initial_arrays, initial_parameters
from emergent_equivariance.networks.modules import build_module
from emergent_equivariance.settings.networks import CnnNetwork, GcnnNetwork, MlpNetwork, NetworkSection

pytestmark = pytest.mark.usefixtures("float64")

SHAPE, OUTPUTS, INPUTS, CHUNK = (4, 4, 2), 2, 4, 100

#: Standard errors allowed (about 400 comparisons in all), and bias in units of the kernel's scale over the width.
ERRORS, BIAS = 4.5, 0.5


def member_kernels(network: Network, x: jax.Array, params: Any) -> tuple[jax.Array, jax.Array]:
    """NNGP and NTK sample of one member, (input, input_) each, averaged over outputs."""
    f = network.apply(params, x)
    jacobian = jax.vmap(lambda one: jax.jacrev(lambda p: network.apply(p, one[None])[0])(params))(x)
    ntk = sum(
        jnp.einsum("aoi,boi->ab", leaf, leaf)
        for leaf in (j.reshape(len(x), OUTPUTS, -1) for j in jax.tree.leaves(jacobian))
    )
    return f @ f.T / OUTPUTS, ntk / OUTPUTS


def monte_carlo(network: Network, x: np.ndarray, members: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error over members, (kernel, input, input_) each, kernel = NNGP, NTK."""
    sample = jax.jit(partial(jax.lax.map, lambda params: jnp.stack(member_kernels(network, jnp.asarray(x), params))))
    drawn = []
    for first in range(0, members, CHUNK):
        chunk = [initial_parameters(network, 0, member) for member in range(first, first + CHUNK)]
        drawn.append(np.asarray(sample(jax.tree.map(lambda *leaves: np.stack(leaves), *chunk))))
    values = np.concatenate(drawn)
    return values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(members)


def torch_monte_carlo(section: NetworkSection, x: np.ndarray, members: int) -> tuple[np.ndarray, np.ndarray]:
    """``monte_carlo`` with the members that the torch engine trains: all of a chunk in one operation."""
    module, inputs = build_module(section, SHAPE, OUTPUTS).double(), torch.from_numpy(x)
    names, parameters = zip(*module.named_parameters(), strict=True)
    shapes = [tuple(parameter.shape) for parameter in parameters]

    def outputs(leaves: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return functional_call(module, dict(zip(names, leaves, strict=True)), (inputs,))

    def sample(leaves: tuple[torch.Tensor, ...]) -> torch.Tensor:
        f, jacobians = outputs(leaves), torch.func.jacrev(outputs)(leaves)
        ntk = sum(torch.einsum("aoi,boi->ab", leaf, leaf) for leaf in (j.flatten(2) for j in jacobians))
        return torch.stack([f @ f.T, ntk]) / OUTPUTS

    drawn = []
    for first in range(0, members, CHUNK):
        chunk = [initial_arrays(shapes, 0, member) for member in range(first, first + CHUNK)]
        leaves = tuple(torch.from_numpy(np.stack(arrays)) for arrays in zip(*chunk, strict=True))
        drawn.append(torch.vmap(sample)(leaves).numpy(force=True))
    values = np.concatenate(drawn)
    return values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(members)


def check(
    network: Network,
    width: int,
    members: int,
    ntk_resolution: float = 0.06,
    torch_section: NetworkSection | None = None,
) -> None:
    """Of the members that the JAX engine trains, or of those of the torch engine."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((INPUTS, *SHAPE))
    x[1] = 0.8 * x[0] + 0.6 * x[1]
    analytic = np.stack(gram(network, x))
    scale = np.sqrt(
        np.diagonal(analytic, axis1=1, axis2=2)[:, :, None] * np.diagonal(analytic, axis1=1, axis2=2)[:, None]
    )
    estimate, error = (
        torch_monte_carlo(torch_section, x, members) if torch_section else monte_carlo(network, x, members)
    )
    allowed = ERRORS * error + BIAS / width * scale
    ratio = np.abs(estimate - analytic) / allowed
    assert ratio.max() < 1, f"(NNGP, NTK): {ratio.max(axis=(1, 2))} of what is allowed"
    # The test must see errors of published code: a factor 2 in the NNGP, a few per cent of the NTK.
    resolution = (allowed / scale).max(axis=(1, 2))
    assert resolution[0] < 0.3 and resolution[1] < ntk_resolution, resolution


@pytest.mark.parametrize("activation", ["relu", "erf"])
@pytest.mark.parametrize("biases", [(0.0, 0.0), (0.7, 0.0), (0.7, 0.4)])
@pytest.mark.parametrize("hidden_layers", [1, 2])
def test_mlp(hidden_layers: int, biases: tuple[float, float], activation: str) -> None:
    width = 128
    section = MlpNetwork(
        name="mlp",
        width=width,
        hidden_layers=hidden_layers,
        activation=activation,
        W_std=1.5,
        b_std=biases[0],
        readout_W_std=0.8,
        readout_b_std=biases[1],
    )
    check(build_network(section, SHAPE, OUTPUTS), width, 800)


@pytest.mark.parametrize("head", ["flatten", "global_average_pool"])
@pytest.mark.parametrize(
    ("padding", "kernel_size", "activation", "b_std"),
    [("SAME", 3, "relu", 0.3), ("VALID", 2, "erf", 0.0), ("CIRCULAR", 3, "relu", 0.0), ("SAME", 2, "erf", 0.5)],
)
def test_cnn(padding: str, kernel_size: int, activation: str, b_std: float, head: str) -> None:
    width = 48
    section = CnnNetwork(
        name="cnn",
        width=width,
        kernel_size=kernel_size,
        padding=padding,
        activation=activation,
        head=head,
        W_std=1.5,
        b_std=b_std,
        readout_W_std=0.8,
    )
    check(build_network(section, SHAPE, OUTPUTS), width, 600)


def test_cnn_with_dense_layers() -> None:
    width = 48
    section = CnnNetwork(name="cnn", width=width, W_std=1.5, b_std=0.3, dense_layers=2, readout_W_std=0.8)
    check(build_network(section, SHAPE, OUTPUTS), width, 600, ntk_resolution=0.09)


@pytest.mark.parametrize(
    ("group", "options"),
    [
        ("c2", {"padding": "CIRCULAR", "b_std": 0.0, "dense_layers": 1, "readout_b_std": 0.4}),
        ("c4", {"padding": "VALID", "kernel_size": 2, "b_std": 0.3}),
        ("d2", {"padding": "CIRCULAR", "conv_layers": 1, "activation": "erf", "b_std": 0.3}),
        ("d4", {"padding": "SAME", "b_std": 0.0, "activation": "erf", "conv_layers": 1, "dense_layers": 2}),
    ],
    ids=["c2", "c4", "d2", "d4"],
)
def test_gcnn(group: str, options: dict[str, Any]) -> None:
    width = 32
    section = GcnnNetwork(name="gcnn", group=group, width=width, W_std=1.5, readout_W_std=0.8, **options)
    check(build_network(section, SHAPE, OUTPUTS), width, 500, ntk_resolution=0.09)


TORCH = {
    "mlp": MlpNetwork(name="mlp", width=64, hidden_layers=2, b_std=0.7, readout_b_std=0.4),
    "cnn": CnnNetwork(name="cnn", width=32, padding="SAME", b_std=0.3, conv_layers=1, dense_layers=1),
    "gcnn": GcnnNetwork(name="gcnn", group="c4", width=16, padding="VALID", kernel_size=2, activation="erf"),
}


@pytest.mark.parametrize("name", TORCH)
def test_torch_modules(name: str) -> None:
    section = TORCH[name]
    check(build_network(section, SHAPE, OUTPUTS), section.width, 600, ntk_resolution=0.09, torch_section=section)


def test_outputs_are_independent() -> None:
    """The kernel is the identity over outputs: E f_o f_p and E ∇f_o·∇f_p vanish for o ≠ p."""
    network = build_network(MlpNetwork(name="mlp", width=64), SHAPE, OUTPUTS)
    x = np.random.default_rng(0).standard_normal((1, *SHAPE))
    (nngp,), (ntk,) = (kernel[0] for kernel in gram(network, x))
    products, overlaps = [], []
    for member in range(400):
        params = initial_parameters(network, 0, member)
        f = np.asarray(network.apply(params, x))[0]
        products.append(f[0] * f[1])
        if member < 20:
            jacobian = jax.tree.leaves(jax.jacobian(network.apply)(params, x))
            overlaps.append(sum(float(jnp.vdot(j[0, 0], j[0, 1])) for j in jacobian))
    assert abs(np.mean(products)) < 4.5 * nngp / np.sqrt(400)
    assert abs(np.mean(overlaps)) < 4.5 * ntk / np.sqrt(20 * 64)
