"""Canaries: they tell when an upgrade of jax breaks neural-tangents."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emergent_equivariance.infinite_width import nt, stax


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)


def test_import_has_no_side_effects() -> None:
    code = """
import sys, jax, jax.core, jax.interpreters.ad
before = set(vars(jax.core)), set(vars(jax.interpreters.ad))
import emergent_equivariance.infinite_width
assert not jax.config.jax_enable_x64
assert (set(vars(jax.core)), set(vars(jax.interpreters.ad))) == before
assert "tensorflow" not in sys.modules and "tf2jax" not in sys.modules
"""
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_missing_neural_tangents_is_a_user_error() -> None:
    code = """
import sys
sys.modules["neural_tangents"] = None
from emergent_equivariance.errors import UserError
try:
    import emergent_equivariance.infinite_width
except UserError as error:
    print(error)
"""
    result = run(code)
    assert "pip install --no-deps neural-tangents==0.6.5" in result.stdout, result.stderr


@pytest.mark.usefixtures("float64")
def test_relu_kernel_in_closed_form() -> None:
    """One hidden ReLU layer: K and Θ from the arc-cosine formulas in plain numpy."""
    rng = np.random.default_rng(0)
    x1, x2 = rng.standard_normal((4, 6)), rng.standard_normal((5, 6))
    _, _, kernel_fn = stax.serial(stax.Dense(1, W_std=1.3, b_std=0.2), stax.Relu(), stax.Dense(1, W_std=0.7))
    kernel = kernel_fn(x1, x2, ("nngp", "ntk"))

    def first(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return 1.3**2 * (a * b).sum(-1) / 6 + 0.2**2

    cov, v1, v2 = first(x1[:, None], x2), first(x1, x1)[:, None], first(x2, x2)
    scale = np.sqrt(v1 * v2)
    theta = np.arccos(cov / scale)
    nngp = 0.7**2 * scale * (np.sin(theta) + (np.pi - theta) * np.cos(theta)) / (2 * np.pi)
    ntk = nngp + 0.7**2 * cov * (np.pi - theta) / (2 * np.pi)
    np.testing.assert_allclose(kernel.nngp, nngp, rtol=1e-13)
    np.testing.assert_allclose(kernel.ntk, ntk, rtol=1e-13)


@pytest.mark.usefixtures("float64")
def test_predict_still_works() -> None:
    gram = jnp.asarray([[2.0, 0.3], [0.3, 1.0]])
    predict = nt.predict.gradient_descent_mse(gram, jnp.asarray([[1.0], [-1.0]]))
    expected = np.asarray(gram) @ np.linalg.solve(
        gram, (np.eye(2) - np.asarray(jax.scipy.linalg.expm(-gram * 3.0 / 2))) @ [[1.0], [-1.0]]
    )
    np.testing.assert_allclose(predict(t=3.0, fx_train_0=jnp.zeros((2, 1))), expected, rtol=1e-12)
