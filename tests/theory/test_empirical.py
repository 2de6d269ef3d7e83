"""Empirical kernels: against formulas written out, finite differences, torch, and the analytic limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from scipy.special import erf

from emergent_equivariance import empirical, store
from emergent_equivariance.empirical import (
    empirical_nngp,
    empirical_ntk,
    member_kernels,
    stored_parameters,
    torch_empirical_nngp,
    torch_empirical_ntk,
)
from emergent_equivariance.errors import StoreError
from emergent_equivariance.kernels import gram
from emergent_equivariance.networks import Network, build_network, initial_parameters
from emergent_equivariance.settings.networks import CnnNetwork, GcnnNetwork, MlpNetwork
from emergent_equivariance.study import parse_study
from emergent_equivariance.tasks import build_task
from emergent_equivariance.training import build_problem, train_members

SHAPE, OUTPUTS = (4, 4, 2), 3

SECTIONS: dict[str, Any] = {
    "mlp": MlpNetwork(name="mlp", width=5, hidden_layers=2, b_std=0.4, readout_b_std=0.3),
    "cnn": CnnNetwork(name="cnn", width=3, activation="erf", b_std=0.4),
    "gcnn": GcnnNetwork(name="gcnn", group="c4", width=2, dense_layers=1, b_std=0.4, readout_b_std=0.3),
}


def network_of(name: str) -> Network:
    return build_network(SECTIONS[name], SHAPE, OUTPUTS)


def inputs(number: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((number, *SHAPE))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_one_hidden_layer_written_out(activation: str) -> None:
    """f_o = a V_o·σ(z)/√n, z = s Wx/√d + βb with its gradient by hand."""
    n, s, beta, a = 7, 1.3, 0.5, 0.8
    section = MlpNetwork(name="mlp", width=n, activation=activation, W_std=s, b_std=beta, readout_W_std=a)
    network = build_network(section, SHAPE, OUTPUTS)
    x = inputs(4)
    (W, b), _, (V, _) = parameters = initial_parameters(network, 3, 1)
    flat = x.reshape(4, -1)
    d = flat.shape[1]
    z = s * flat @ W / np.sqrt(d) + beta * b
    value, slope = {
        "relu": (np.maximum(z, 0), (z > 0).astype(float)),
        "erf": (erf(z), 2 / np.sqrt(np.pi) * np.exp(-(z**2))),
    }[activation]
    of_readout = a**2 * value @ value.T / n
    back = a / np.sqrt(n) * slope[:, None] * V.T  # (input, output, unit)
    inner = s**2 * flat @ flat.T / d + beta**2
    full = np.einsum("iou,jpu,ij->ijop", back, back, inner) + of_readout[..., None, None] * np.eye(OUTPUTS)
    np.testing.assert_allclose(empirical_ntk(network.apply, parameters, x, full=True), full, rtol=1e-12, atol=1e-14)
    found = member_kernels(network, parameters, x)
    np.testing.assert_allclose(found.ntk, np.trace(full, axis1=2, axis2=3) / OUTPUTS, rtol=1e-12)
    np.testing.assert_allclose(found.nngp, of_readout, rtol=1e-12)
    f = a * value @ V / np.sqrt(n)
    np.testing.assert_allclose(empirical_nngp(network.apply, parameters, x), f @ f.T / OUTPUTS, rtol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["mlp", pytest.param("cnn", marks=pytest.mark.slow), "gcnn"])
def test_finite_differences(name: str) -> None:
    network, x = network_of(name), inputs(3)
    parameters = initial_parameters(network, 0, 0)
    leaves, structure = jax.tree.flatten(parameters)
    apply = jax.jit(network.apply)
    step, rows = 1e-5, []
    for leaf in leaves:
        for at in np.ndindex(leaf.shape):
            sides = []
            for sign in (1, -1):
                leaf[at] += sign * step
                sides.append(np.asarray(apply(jax.tree.unflatten(structure, leaves), x)))
                leaf[at] -= sign * step
            rows.append((sides[0] - sides[1]) / (2 * step))
    jacobian = np.stack(rows, axis=-1)
    expected = np.einsum("iop,jqp->ijoq", jacobian, jacobian)
    found = empirical_ntk(network.apply, parameters, x, full=True)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("rows", [0, 2, 6], ids=["single rows", "uneven outputs", "uneven inputs"])
def test_any_blocks_give_the_same(rows: int) -> None:
    """Blocks of ``rows`` rows of a Jacobian, at least one, against one block of all."""
    x, other = inputs(5), inputs(3, 1)
    parameters = np.random.default_rng(0).standard_normal((x[0].size, OUTPUTS))

    def apply(parameters: Any, x: Any) -> Any:
        return jax.numpy.sin(x.reshape(len(x), -1) @ parameters)

    whole = empirical_ntk(apply, parameters, np.concatenate([x, other]), full=True)
    mean = np.trace(whole, axis1=2, axis2=3) / OUTPUTS
    memory = max(1, 2 * rows * parameters.nbytes)
    ntk = empirical_ntk(apply, parameters, x, memory=memory)
    np.testing.assert_allclose(ntk, mean[:5, :5], rtol=1e-12)
    crossed = empirical_ntk(apply, parameters, x, other, memory=memory)
    np.testing.assert_allclose(crossed, mean[:5, 5:], rtol=1e-11, atol=1e-13)
    full = empirical_ntk(apply, parameters, x, full=True, memory=memory)
    np.testing.assert_allclose(full, whole[:5, :5], rtol=1e-11, atol=1e-12)


class TorchMlp(torch.nn.Module):
    """The mlp of the section in NTK parametrisation."""

    def __init__(self, section: MlpNetwork, leaves: list[np.ndarray]) -> None:
        super().__init__()
        self.section = section
        self.leaves = torch.nn.ParameterList(torch.nn.Parameter(torch.as_tensor(leaf)) for leaf in leaves)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s, x = self.section, x.flatten(1)
        for layer in range(s.hidden_layers + 1):
            W, b = self.leaves[2 * layer], self.leaves[2 * layer + 1]
            last = layer == s.hidden_layers
            scales = (s.readout_W_std, s.readout_b_std) if last else (s.W_std, s.b_std)
            x = scales[0] / W.shape[0] ** 0.5 * x @ W + scales[1] * b
            x = x if last else torch.relu(x)
        return x


@pytest.mark.usefixtures("float64")
def test_torch_and_jax_agree_on_the_same_weights() -> None:
    network, x, other = network_of("mlp"), inputs(3), inputs(2, 1)
    parameters = initial_parameters(network, 0, 5)
    module = TorchMlp(SECTIONS["mlp"], jax.tree.leaves(parameters))
    there, over_there = torch.as_tensor(x), torch.as_tensor(other)
    np.testing.assert_allclose(module(there).detach(), network.apply(parameters, x), rtol=1e-13)
    for full in (False, True):
        expected = empirical_ntk(network.apply, parameters, x, full=full)
        for memory in (1, empirical.MEMORY):
            options: dict[str, Any] = {"full": full, "memory": memory}
            ours = torch_empirical_ntk(module, there, **options)
            np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=1e-13)
        crossed = empirical_ntk(network.apply, parameters, x, other, full=full)
        ours = torch_empirical_ntk(module, there, over_there, full=full)
        np.testing.assert_allclose(ours, crossed, rtol=1e-11, atol=1e-13)
    expected = empirical_nngp(network.apply, parameters, x, other)
    np.testing.assert_allclose(torch_empirical_nngp(module, there, over_there), expected, rtol=1e-12)
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.usefixtures("float64")
def test_torch_takes_other_parameters_and_holds_the_rest_constant() -> None:
    network, x = network_of("mlp"), inputs(3)
    first, second = (initial_parameters(network, 0, member) for member in (0, 1))
    module = TorchMlp(SECTIONS["mlp"], jax.tree.leaves(first))
    others = TorchMlp(SECTIONS["mlp"], jax.tree.leaves(second))
    found = torch_empirical_ntk(module, torch.as_tensor(x), parameters=dict(others.named_parameters()))
    np.testing.assert_allclose(found, empirical_ntk(network.apply, second, x), rtol=1e-12)
    readout = {name: p for name, p in module.named_parameters() if name in ("leaves.4", "leaves.5")}
    part = torch_empirical_ntk(module, torch.as_tensor(x), parameters=readout)
    np.testing.assert_allclose(part, member_kernels(network, first, x).nngp, rtol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["mlp", pytest.param("cnn", marks=pytest.mark.slow), "gcnn"])
def test_nngp_is_the_mean_over_readouts(name: str) -> None:
    """Fresh readouts under the same hidden layers: the mean of f fᵀ/n_out is the NNGP of the member."""
    network, x, draws = network_of(name), inputs(3), 3000
    parameters = initial_parameters(network, 0, 0)
    expected = member_kernels(network, parameters, x).nngp
    rng = np.random.default_rng(0)
    apply = jax.jit(jax.vmap(lambda readout: network.apply([*parameters[:-1], readout], x)))
    readouts = jax.tree.map(lambda leaf: rng.standard_normal((draws, *leaf.shape)), parameters[-1])
    f = np.asarray(apply(readouts))
    samples = np.einsum("mio,mjo->mij", f, f) / OUTPUTS
    error = samples.std(axis=0, ddof=1) / np.sqrt(draws)
    assert (np.abs(samples.mean(axis=0) - expected) < 4 * error).all()
    assert (error < 0.05 * np.sqrt(np.outer(np.diag(expected), np.diag(expected)))).all()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_mean_over_members_is_the_analytic_kernel(activation: str) -> None:
    width, members = 32, 150
    section = GcnnNetwork(name="gcnn", group="c4", width=width, activation=activation, W_std=1.5, b_std=0.3)
    network, x = build_network(section, SHAPE, 1), inputs(3)
    analytic = np.stack(gram(network, x))
    samples = np.stack(
        [np.stack(member_kernels(network, initial_parameters(network, 0, m), x)) for m in range(members)]
    )
    error = samples.std(axis=0, ddof=1) / np.sqrt(members)
    diagonal = np.diagonal(analytic, axis1=1, axis2=2)
    scale = np.sqrt(diagonal[:, :, None] * diagonal[:, None])
    allowed = 4 * error + 0.5 / width * scale
    assert (np.abs(samples.mean(axis=0) - analytic) < allowed).all()
    assert (allowed < 0.12 * scale).all()


# ---------------------------------------------------------------------------------------- trained members

CONTENT = {
    "study": "stored",
    "task": {"name": "ising", "lattice": 3, "target": "local", "train": 6, "test": 4},
    "network": {"name": "mlp", "width": 8},
    "training": {"learning_rate": 0.5, "steps": 20, "record": [0, 20], "store_weights": [0, 20]},
    "execution": {"precision": "float64"},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: Any) -> Any:
    """(problem, shard with the members 2 and 3) of a tiny arm, the shard written and read."""
    settings = parse_study(CONTENT, Path("stored.yaml")).arms[0].settings
    path = tmp_path_factory.mktemp("trained") / "members.zarr.zip"
    with jax.enable_x64(True):
        problem = build_problem(settings, build_task(settings), 0.5)
        shard = train_members(problem, [2, 3]).to_dataset(problem, [2, 3])
    store.write(shard, path, {"format": store.FORMAT})
    return problem, store.read(path)


@pytest.mark.usefixtures("float64")
def test_weights_of_a_shard_are_those_that_made_its_predictions(trained: Any) -> None:
    problem, shard = trained
    rows = problem.orbit_input.reshape(-1, *problem.orbit_input.shape[2:])
    kernels = []
    for step in (0, 20):
        parameters = stored_parameters(shard, problem.network, 3, step)
        expected = shard["prediction"].sel(member=3, step=step).values.reshape(len(rows), -1)
        np.testing.assert_allclose(problem.network.apply(parameters, rows), expected, rtol=1e-5, atol=1e-6)
        kernels.append(empirical_ntk(problem.network.apply, parameters, rows[:4]))
    initial = initial_parameters(problem.network, problem.settings.ensemble.seed, 3)
    np.testing.assert_allclose(kernels[0], empirical_ntk(problem.network.apply, initial, rows[:4]), rtol=1e-12)
    assert np.linalg.norm(kernels[1] - kernels[0]) > 1e-3 * np.linalg.norm(kernels[0])  # it moves in training


def test_weights_that_are_not_there_are_named(trained: Any) -> None:
    problem, shard = trained
    with pytest.raises(StoreError, match=r"members\.zarr\.zip: holds no weights at member 4\. Use one of 2, 3"):
        stored_parameters(shard, problem.network, 4, 20)
    with pytest.raises(StoreError, match=r"stored_step 3\. Use one of 0, 20"):
        stored_parameters(shard, problem.network, 2, 3)
    with pytest.raises(StoreError, match="store_weights"):
        stored_parameters(shard.drop_vars([f"weight_{k}" for k in range(3)]), problem.network, 2, 20)
    with pytest.raises(StoreError, match="shapes"):
        stored_parameters(shard, network_of("mlp"), 2, 20)
