"""μ_t of a group-convolutional network on plain data = μ_t of an ordinary network on augmented data, for all t and x
(Misof et al. 2025; theory.md §4, §7 item 6), and where it ends: behind a nonlinearity after the pool.

Both sides hold because Θ(gcnn)(x, x′) = mean over g of Θ(cnn)(x, gx′), K likewise, up to and including the pool.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import numpy as np
import pytest

from emergent_equivariance import dynamics
from emergent_equivariance.groups import Action, get_group, grid_action, line_action
from emergent_equivariance.kernels import cross_kernels, gram
from emergent_equivariance.networks import Network, build_network
from emergent_equivariance.networks.filters import Filters
from emergent_equivariance.networks.group_layers import activation, group_convolution, group_pool, pointwise, serial
from emergent_equivariance.networks.points import input_kernels, orbit_features
from emergent_equivariance.settings.networks import CnnNetwork, GcnnNetwork, MlpNetwork

pytestmark = pytest.mark.usefixtures("float64")

TRAIN, TEST, OUTPUTS = 4, 3, 2
TIMES = [0, 1, 10, 100, np.inf]

#: group, input shape, options of the network: every group, padding and nonlinearity, with and without bias.
CASES: dict[str, tuple[str, tuple[int, int, int], dict[str, Any]]] = {
    "c2-valid": ("c2", (4, 3, 2), {"padding": "VALID", "kernel_size": 2, "b_std": 0.3}),
    "c4-same": ("c4", (4, 4, 2), {"padding": "SAME", "b_std": 0.4, "readout_b_std": 0.2}),
    "d2-circular-erf": ("d2", (3, 4, 1), {"padding": "CIRCULAR", "activation": "erf", "b_std": 0.0}),
    "d4-same": ("d4", (3, 3, 1), {"padding": "SAME", "b_std": 0.0, "conv_layers": 3}),
}

#: NNGP and NTK.
Kernels = tuple[np.ndarray, np.ndarray]


def networks(case: str, **more: Any) -> tuple[Network, Network, Action, np.ndarray]:
    """gcnn and cnn of the same filters, the action, and inputs: TRAIN, then TEST."""
    group, shape, options = CASES[case]
    options = {"W_std": 1.5, **options, **more}
    gcnn = build_network(GcnnNetwork(name="gcnn", group=group, **options), shape, OUTPUTS)
    cnn = build_network(CnnNetwork(name="cnn", **options), shape, OUTPUTS)
    return gcnn, cnn, grid_action(get_group(group), *shape), inputs(shape)


def inputs(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((TRAIN + TEST, *shape))


def recursion(network: Network, x1: np.ndarray, x2: np.ndarray) -> Kernels:
    """Of the network's own definition: neural-tangents for a cnn, the full group recursion for a gcnn."""
    both = jax.jit(lambda a, b: network.kernel_fn(a, b, ("nngp", "ntk")))(x1, x2)
    return np.asarray(both.nngp), np.asarray(both.ntk)


@cache
def plain_and_augmented(case: str) -> tuple[Kernels, Kernels]:
    """By recursion: of the gcnn (input, input_), of the cnn (input, element, input_, element_)."""
    gcnn, cnn, action, x = networks(case)
    return recursion(gcnn, x, x), on_orbits(cnn, action, x)


def on_orbits(network: Network, action: Action, x: np.ndarray) -> Kernels:
    orbits = action.orbit(x)
    rows = orbits.reshape(-1, *action.shape)
    nngp, ntk = recursion(network, rows, rows)
    shape = (*orbits.shape[:2], *orbits.shape[:2])
    return nngp.reshape(shape), ntk.reshape(shape)


def difference(plain: np.ndarray, augmented: np.ndarray) -> np.ndarray:
    """Of the two μ_t on the TEST inputs, per time: rms of their difference over rms of the first.

    The NTKs are (input, input_) and (input, element, input_, element_); both have the same step size.
    """
    targets = np.random.default_rng(1).standard_normal((TRAIN, OUTPUTS))
    order = augmented.shape[1]
    rows = TRAIN * order
    within = augmented[:TRAIN, :, :TRAIN].reshape(rows, rows)
    problems = [
        (plain[:TRAIN, :TRAIN], plain[TRAIN:, :TRAIN], targets),
        (within, augmented[TRAIN:, 0, :TRAIN].reshape(TEST, rows), np.repeat(targets, order, axis=0)),
    ]
    # The augmented problem has all eigenvalues of the plain one, and more: they set what is stable.
    eta = 0.9 * dynamics.critical_learning_rate(dynamics.largest_eigenvalue(within), rows, OUTPUTS)
    means = []
    for ntk, cross, y in problems:
        mean = dynamics.mean(dynamics.decompose((ntk + ntk.T) / 2), cross, y, TIMES, eta)
        assert (mean[0] == 0).all() and (np.abs(mean[1:]).max(axis=(1, 2)) > 1e-3).all()
        means.append(mean[1:].reshape(len(TIMES) - 1, -1))
    return np.sqrt(((means[0] - means[1]) ** 2).mean(axis=1) / (means[0] ** 2).mean(axis=1))


@pytest.mark.parametrize("case", CASES)
def test_means_agree(case: str) -> None:
    """Full group recursion on plain data against neural-tangents on augmented data."""
    (_, plain), (_, augmented) = plain_and_augmented(case)
    assert difference(plain, augmented).max() < 1e-8


@pytest.mark.parametrize("case", CASES)
def test_means_agree_in_production(case: str) -> None:
    """The same through ``gram``."""
    gcnn, cnn, action, x = networks(case)
    orbits = action.orbit(x)
    augmented = gram(cnn, orbits.reshape(-1, *action.shape))[1].reshape(*orbits.shape[:2], *orbits.shape[:2])
    assert difference(gram(gcnn, x)[1], augmented).max() < 1e-8


@pytest.mark.parametrize(("sigma", "case"), [("relu", "c4-same"), ("erf", "c2-valid"), ("relu", "d4-same")])
def test_control_nonlinearity_after_the_pool(sigma: str, case: str) -> None:
    """With a hidden dense layer behind the pool the two means differ at all times."""
    gcnn, cnn, action, x = networks(case, dense_layers=1, activation=sigma)
    orbits = action.orbit(x)
    augmented = gram(cnn, orbits.reshape(-1, *action.shape))[1].reshape(*orbits.shape[:2], *orbits.shape[:2])
    assert (difference(gram(gcnn, x)[1], augmented) > 1e-3).all()


@pytest.mark.parametrize("case", CASES)
def test_control_covariances_are_not_equal(case: str) -> None:
    """Members of the gcnn are invariant, those of the cnn are not: only the averages of their NNGPs agree."""
    (invariant, _), (ordinary, _) = plain_and_augmented(case)
    own = np.stack([ordinary[i, :, i] for i in range(len(ordinary))])
    assert np.ptp(own, axis=(1, 2)).min() > 1e-2 * ordinary.max()
    np.testing.assert_allclose(np.diagonal(invariant), own.mean(axis=(1, 2)), rtol=1e-12)


# ------------------------------------------------------------------------------------------ kernel identities


@pytest.mark.parametrize("case", CASES)
def test_kernel_is_the_average_of_ordinary_ones(case: str) -> None:
    for ours, theirs in zip(*plain_and_augmented(case), strict=True):
        np.testing.assert_allclose(ours, theirs[:, 0].mean(axis=2), rtol=1e-12)


@pytest.mark.parametrize(("case", "dense_layers"), [*((case, 0) for case in CASES), ("c4-same", 2), ("c2-valid", 1)])
def test_production_kernels_are_those_of_the_full_recursion(case: str, dense_layers: int) -> None:
    """The compiled engine's averages against the recursion over all points; also of an input with its own orbit."""
    gcnn, _, action, x = networks(case, dense_layers=dense_layers)
    x = np.concatenate([x, action.orbit(x[:1])[0]])
    expected = recursion(gcnn, x, x)
    for kernels in (gram(gcnn, x), cross_kernels(gcnn, x, x)):
        for ours, theirs in zip(kernels, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_dense_tail_by_hand() -> None:
    """From the averaged kernels at the pool on, one dense layer with ReLU, written out, averaging K(x, x) too."""
    gcnn, cnn, action, x = networks("c4-same", dense_layers=1)
    pool, orbits = dict(cnn.prefixes())["pool"], action.orbit(x)
    both = jax.jit(lambda a, b: pool(a, b, ("nngp", "ntk")))(x, orbits.reshape(-1, *action.shape))
    nngp, ntk = (np.asarray(kernel).reshape(len(x), *orbits.shape[:2]).mean(axis=2) for kernel in both)

    nngp, ntk = 1.5**2 * nngp + 0.4**2, 1.5**2 * (nngp + ntk) + 0.4**2
    scale = np.sqrt(np.outer(np.diag(nngp), np.diag(nngp)))
    angle = np.arccos(np.clip(nngp / scale, -1, 1))
    np.fill_diagonal(angle, 0)
    expected_nngp = (scale * np.sin(angle) + (np.pi - angle) * nngp) / (2 * np.pi) + 0.2**2
    expected_ntk = expected_nngp + ntk * (np.pi - angle) / (2 * np.pi)
    for kernels in (gram(gcnn, x), recursion(gcnn, x, x)):
        np.testing.assert_allclose(kernels[0], expected_nngp, rtol=1e-12)
        np.testing.assert_allclose(kernels[1], expected_ntk, rtol=1e-12)


# ----------------------------------------------------------------------------------------- the group alone


@pytest.mark.parametrize(
    ("action", "b_std", "sigma", "dense_layers"),
    [
        (line_action(get_group("c2")), 0.4, "relu", 0),
        (line_action(get_group("c2")), 0.4, "relu", 1),
        (grid_action(get_group("d2"), 2, 3, 2), 0.0, "erf", 0),
        (grid_action(get_group("d4"), 3, 3, 1), 0.4, "relu", 0),
    ],
    ids=["c2-line", "c2-line-tail", "d2-images", "d4-images"],
)
def test_mlp_and_convolution_over_the_group(action: Action, b_std: float, sigma: Any, dense_layers: int) -> None:
    """Augmented MLP against lifting with full support, group convolution, pool; different with a tail behind it."""
    mlp = MlpNetwork(name="mlp", hidden_layers=2 + dense_layers, activation=sigma, W_std=1.5, b_std=b_std)
    x = inputs(action.shape)
    augmented = on_orbits(build_network(mlp, action.shape, OUTPUTS), action, x)
    tail = [pointwise(1, 1.5, b_std), activation(sigma)] * dense_layers
    _, _, kernel_fn = serial(
        pointwise(1, 1.5, b_std),
        activation(sigma),
        group_convolution(Filters(action.group, 1, "VALID"), 1, 1.5, b_std),
        activation(sigma),
        group_pool(),
        *tail,
        pointwise(1, 1.0, 0.0),
    )
    features = orbit_features(action, x)
    plain = [np.asarray(k) for k in jax.jit(lambda a: kernel_fn(input_kernels(a, a)).kernels())(features)]
    if dense_layers:
        assert (difference(plain[1], augmented[1]) > 1e-3).all()
    else:
        for ours, theirs in zip(plain, augmented, strict=True):
            np.testing.assert_allclose(ours, theirs[:, 0].mean(axis=2), rtol=1e-12)
        assert difference(plain[1], augmented[1]).max() < 1e-8
