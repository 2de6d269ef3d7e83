"""Spectral dynamics against explicit gradient descent, neural-tangents and arithmetic with 60 digits."""

from __future__ import annotations

from decimal import Decimal, localcontext

import jax.numpy as jnp
import numpy as np
import pytest

from emergent_equivariance import dynamics
from emergent_equivariance.infinite_width import nt, stax

ROWS, OUTPUTS, SAMPLES, ORDER = 7, 3, 2, 4
POINTS = SAMPLES * ORDER


def kernel(rng: np.random.Generator) -> np.ndarray:
    """A positive definite kernel of the training rows followed by the points."""
    features = rng.standard_normal((ROWS + POINTS, 40))
    return features @ features.T / 40


@pytest.fixture
def problem() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    ntk, nngp = kernel(rng), kernel(rng)
    return {
        "gram": (ntk[:ROWS, :ROWS] + ntk[:ROWS, :ROWS].T) / 2,
        "cross_ntk": ntk[ROWS:, :ROWS],
        "train_nngp": nngp[:ROWS, :ROWS],
        "cross_nngp": nngp[ROWS:, :ROWS],
        "nngp": nngp[ROWS:, ROWS:],
        "target": rng.standard_normal((ROWS, OUTPUTS)),
    }


def orbit(matrix: np.ndarray) -> np.ndarray:
    """Diagonal blocks (sample, element, element_) of (point, point_)."""
    blocks = matrix.reshape(SAMPLES, ORDER, SAMPLES, ORDER)
    return np.stack([blocks[s, :, s] for s in range(SAMPLES)])


def descent(problem: dict[str, np.ndarray], steps: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """μ_t and Σ_t of the linearised network, one explicit step after the other.

    The state is f(x), f(X) as an affine function of the initial f(x), f(X): f_t(x) = f_0(x) − A f_0(X) + μ.
    """
    on_rows, on_points = np.eye(ROWS), np.zeros((POINTS, ROWS))
    fit_rows, fit_points = np.zeros((ROWS, OUTPUTS)), np.zeros((POINTS, OUTPUTS))
    for _ in range(steps):
        on_points = on_points - rate * problem["cross_ntk"] @ on_rows
        fit_points = fit_points - rate * problem["cross_ntk"] @ (fit_rows - problem["target"])
        on_rows = on_rows - rate * problem["gram"] @ on_rows
        fit_rows = fit_rows - rate * problem["gram"] @ (fit_rows - problem["target"])
    mix = on_points @ problem["cross_nngp"].T
    return fit_points, problem["nngp"] + on_points @ problem["train_nngp"] @ on_points.T + mix + mix.T


def solution(problem: dict[str, np.ndarray], times: list[float], eta: float, form: dynamics.Form) -> tuple:
    spectrum = dynamics.decompose(problem["gram"])
    mean = dynamics.mean(spectrum, problem["cross_ntk"], problem["target"], times, eta, form)
    covariance = dynamics.covariance(
        spectrum,
        problem["cross_ntk"].reshape(SAMPLES, ORDER, ROWS),
        problem["cross_nngp"].reshape(SAMPLES, ORDER, ROWS),
        problem["train_nngp"],
        orbit(problem["nngp"]),
        times,
        eta,
        OUTPUTS,
        form,
    )
    return mean, covariance


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9, 1.1])
def test_descent_against_explicit_steps(problem: dict[str, np.ndarray], fraction: float) -> None:
    largest = np.linalg.eigvalsh(problem["gram"])[-1]
    eta = fraction * dynamics.critical_learning_rate(largest, ROWS, OUTPUTS)
    times = [0, 1, 2, 5, 64]
    means, covariances = solution(problem, times, eta, "descent")
    for time, mean, covariance in zip(times, means, covariances, strict=True):
        expected_mean, expected_covariance = descent(problem, time, eta / (ROWS * OUTPUTS))
        scale = np.abs(expected_covariance).max()
        np.testing.assert_allclose(mean, expected_mean, rtol=1e-11, atol=1e-12 * np.abs(expected_mean).max())
        np.testing.assert_allclose(covariance, orbit(expected_covariance), rtol=1e-10, atol=1e-12 * scale)


@pytest.mark.usefixtures("float64")
def test_flow_against_neural_tangents(problem: dict[str, np.ndarray]) -> None:
    eta, times = 2.5, [0.0, 0.5, 3.0, 40.0]
    means, covariances = solution(problem, times, eta, "flow")
    predict = nt.predict.gradient_descent_mse(
        jnp.asarray(problem["gram"]), jnp.asarray(problem["target"]), learning_rate=eta
    )
    start = np.random.default_rng(1).standard_normal((ROWS + POINTS, OUTPUTS))
    zero = np.zeros_like(start)
    for time, mean, covariance in zip(times, means, covariances, strict=True):
        arguments = {"k_test_train": jnp.asarray(problem["cross_ntk"]), "t": time}
        fitted = predict(fx_train_0=jnp.asarray(zero[:ROWS]), fx_test_0=jnp.asarray(zero[ROWS:]), **arguments)[1]
        np.testing.assert_allclose(mean, fitted, rtol=1e-10, atol=1e-12)
        response = np.stack(
            [
                predict(fx_train_0=jnp.asarray(unit), fx_test_0=jnp.asarray(zero[ROWS:]), **arguments)[1][:, 0]
                - fitted[:, 0]
                for unit in np.eye(ROWS)[:, :, None] * np.ones(OUTPUTS)
            ],
            axis=1,
        )
        mix = response @ problem["cross_nngp"].T
        expected = problem["nngp"] + response @ problem["train_nngp"] @ response.T + mix + mix.T
        np.testing.assert_allclose(covariance, orbit(expected), rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("time", [0.0, 0.5, 30.0, np.inf])
def test_mean_and_covariance_against_the_ensemble_of_neural_tangents(time: float) -> None:
    rng = np.random.default_rng(0)
    train, points, target = rng.standard_normal((6, 5)), rng.standard_normal((4, 5)), rng.standard_normal((6, 2))
    _, _, kernel_fn = stax.serial(stax.Dense(1, W_std=1.4, b_std=0.1), stax.Erf(), stax.Dense(1))
    predict = nt.predict.gradient_descent_mse_ensemble(kernel_fn, train, target, learning_rate=2.5)
    expected = predict(t=None if np.isinf(time) else time, x_test=points, get="ntk", compute_cov=True)
    nngp, ntk = (np.asarray(kernel_fn(np.concatenate([train, points]), None, get)) for get in ("nngp", "ntk"))
    spectrum = dynamics.decompose((ntk[:6, :6] + ntk[:6, :6].T) / 2)
    cross = ntk[None, 6:, :6], nngp[None, 6:, :6]
    mean = dynamics.mean(spectrum, cross[0], target, [time], 2.5, "flow")
    covariance = dynamics.covariance(spectrum, *cross, nngp[:6, :6], nngp[None, 6:, 6:], [time], 2.5, 2, "flow")
    np.testing.assert_allclose(mean[0, 0], expected.mean, rtol=0, atol=1e-13)
    np.testing.assert_allclose(covariance[0, 0], expected.covariance, rtol=0, atol=1e-13)


def test_descent_in_small_steps_is_flow(problem: dict[str, np.ndarray]) -> None:
    """(1 − z/n)^(nt) → exp(−zt): the difference halves with the step."""
    flow, flow_covariance = solution(problem, [3.0], 2.0, "flow")
    differences = []
    for parts in (256, 512):
        mean, covariance = solution(problem, [3 * parts], 2.0 / parts, "descent")
        differences.append([np.abs(mean - flow).max(), np.abs(covariance - flow_covariance).max()])
    np.testing.assert_allclose(np.divide(*differences), 2, rtol=0.02)
    assert max(differences[1]) < 1e-2


def test_hermitian_gram_matrix(problem: dict[str, np.ndarray]) -> None:
    """A unitary change of basis of the rows changes nothing."""
    rng = np.random.default_rng(3)
    unitary = np.linalg.qr(rng.standard_normal((ROWS, ROWS)) + 1j * rng.standard_normal((ROWS, ROWS)))[0]
    turned = {
        **problem,
        "train_nngp": unitary.conj().T @ problem["train_nngp"] @ unitary,
        "cross_ntk": problem["cross_ntk"] @ unitary,
        "cross_nngp": problem["cross_nngp"] @ unitary,
        "target": unitary.conj().T @ problem["target"],
    }
    gram = unitary.conj().T @ problem["gram"] @ unitary
    turned["gram"] = (gram + gram.conj().T) / 2
    for form in ("descent", "flow"):
        for got, expected in zip(
            solution(turned, [0, 7, np.inf], 1.0, form), solution(problem, [0, 7, np.inf], 1.0, form), strict=True
        ):
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-11)


def test_time_zero_and_infinity(problem: dict[str, np.ndarray]) -> None:
    for form in ("descent", "flow"):
        means, covariances = solution(problem, [0, np.inf], 1.0, form)
        assert (means[0] == 0).all()
        np.testing.assert_array_equal(covariances[0], orbit(problem["nngp"]))
        np.testing.assert_allclose(
            means[1], problem["cross_ntk"] @ np.linalg.solve(problem["gram"], problem["target"]), rtol=1e-10
        )
        fitted = problem["cross_ntk"] @ np.linalg.inv(problem["gram"])
        mix = fitted @ problem["cross_nngp"].T
        expected = problem["nngp"] + fitted @ problem["train_nngp"] @ fitted.T - mix - mix.T
        np.testing.assert_allclose(covariances[1], orbit(expected), rtol=1e-9, atol=1e-11)


def test_rank_deficient_gram_matrix_needs_no_ridge() -> None:
    vectors = np.random.default_rng(0).standard_normal((8, 3))
    gram = vectors @ vectors.T
    spectrum = dynamics.decompose((gram + gram.T) / 2)
    assert spectrum.kept.sum() == 3
    target = vectors @ [[1.0], [-2.0], [0.5]]
    means = dynamics.mean(spectrum, gram, target, [1e6, np.inf], 0.1, "flow")
    np.testing.assert_allclose(means, np.stack([target, target]), rtol=1e-9)


@pytest.mark.parametrize("time", [1, 2, 3, 10, 1001, 100000])
@pytest.mark.parametrize(
    "z", [0.0, 1e-300, 1e-17, -1e-17, 1e-9, 0.3, 1 - 1e-12, 1.0, 1 + 1e-12, 1.7, 2 - 1e-14, 2.0, 2 + 1e-14]
)
def test_descent_response_has_no_cancellation(z: float, time: int) -> None:
    got = float(dynamics.response(np.array([z]), time, 1.0, 1, 1)[0])
    with localcontext() as context:
        context.prec = 400
        exact = float((1 - (1 - Decimal(z)) ** time) / Decimal(z)) if z else float(time)
    # Two terms of opposite sign near z = 2, even t: the scale is the condition number of the function itself.
    assert got == pytest.approx(exact, rel=1e-12, abs=1e-12)


def test_decay_is_one_minus_eigenvalue_times_response() -> None:
    eigenvalue = np.array([1e-12, 0.1, 1.0, 2.0, 5.9])
    np.testing.assert_allclose(
        dynamics.decay(eigenvalue, 5, 1.5, 2, 3), (1 - eigenvalue * 0.25) ** 5, rtol=1e-12, atol=1e-15
    )
    np.testing.assert_allclose(
        dynamics.decay(eigenvalue, 0.7, 1.5, 2, 3, "flow"), np.exp(-eigenvalue * 0.25 * 0.7), rtol=1e-12
    )
    assert dynamics.critical_learning_rate(5.9, 2, 3) * 5.9 / 6 == pytest.approx(2)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="whole steps"):
        dynamics.response(np.ones(1), 0.5, 1.0, 1, 1)
    with pytest.raises(ValueError, match="at least 0"):
        dynamics.decay(np.ones(1), -1, 1.0, 1, 1)
    with pytest.raises(ValueError, match="exactly symmetric"):
        dynamics.decompose(np.array([[1.0, 0.1], [0.2, 1.0]]))
