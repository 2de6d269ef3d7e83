"""Mean and covariance of an infinite ensemble at training time t, from kernels.

Members are trained on the loss L = 1/(2 N n_out) Σ|f(x) − y|² over N rows and n_out outputs with step η, so that
the component of the error along an eigenvector of the NTK Gram matrix Θ(X, X) with eigenvalue λ decays at the
one rate constant λ → η λ/(N n_out). After time t, counted in steps, a share D_t(λ) of it is left:

- descent (whole steps, exact for the linearised network): D_t = (1 − ηλ/(N n_out))^t,
- flow (continuous time):                                  D_t = exp(−η λ t/(N n_out)).

With T_t = 1 − D_t(Θ(X,X)) and A_t(x) = Θ(x,X) Θ(X,X)⁻¹ T_t (Jacot et al. 2018; Lee et al. 2019):

- mean        μ_t(x) = A_t(x) Y,
- covariance  Σ_t(x,x′) = K(x,x′) + A_t(x) K(X,X) A_t(x′)ᵀ − A_t(x) K(X,x′) − K(x,X) A_t(x′)ᵀ.

T_t Θ⁻¹ is evaluated as a function of the spectrum. It is finite for λ → 0 (its limit is ηt/(N n_out)), so that no
ridge is added at finite t. At t = ∞ only the modes above round-off are fitted (``Spectrum.kept``); their number
is there to be reported. Everything holds for Hermitian matrices too, with ᵀ read as the adjoint: ``orbit_solve``
applies it to the diagonal blocks of a Gram matrix with a symmetry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.linalg

Form = Literal["descent", "flow"]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigendecomposition of a Hermitian Gram matrix, or of one diagonal block of it.

    Attributes:
      eigenvalue: (mode,) ascending. Round-off may make the smallest ones negative.
      eigenvector: (row, mode), orthonormal columns; complex for a complex matrix.
      rows: number of training rows N, those of the other blocks included.
      cutoff: eigenvalues up to N ε λ_max, λ_max that of all blocks, are round-off.
    """

    eigenvalue: np.ndarray
    eigenvector: np.ndarray
    rows: int
    cutoff: float

    @property
    def kept(self) -> np.ndarray:
        """(mode,) whether an eigenvalue is above round-off; only these count at t = ∞."""
        return self.eigenvalue > self.cutoff


def decompose(gram: np.ndarray) -> Spectrum:
    """Eigendecomposition of a Gram matrix (row, row_) in double precision.

    Raises ValueError if it is not exactly Hermitian or not finite.
    """
    if gram.ndim != 2 or not np.isfinite(gram).all() or not np.array_equal(gram, gram.conj().T):
        raise ValueError(f"a Gram matrix must be square, finite and exactly symmetric; got shape {gram.shape}")
    eigenvalue, eigenvector = np.linalg.eigh(gram)
    return Spectrum(eigenvalue, eigenvector, len(gram), cutoff(len(gram), float(eigenvalue[-1])))


def cutoff(rows: int, largest: float) -> float:
    """N ε λ_max: eigenvalues up to this size cannot be told from round-off."""
    return rows * float(np.finfo(np.float64).eps) * largest


def largest_eigenvalue(gram: np.ndarray) -> float:
    """Largest eigenvalue of a Hermitian matrix (row, row_)."""
    last = len(gram) - 1
    return float(scipy.linalg.eigvalsh(gram, subset_by_index=[last, last])[0])


def critical_learning_rate(largest: float, rows: int, outputs: int) -> float:
    """Largest stable step 2 N n_out/λ_max of gradient descent (rate constant λ → ηλ/(N n_out))."""
    return 2.0 * rows * outputs / largest


def decay(
    eigenvalue: np.ndarray, time: float, learning_rate: float, rows: int, outputs: int, form: Form = "descent"
) -> np.ndarray:
    """D_t(λ), the share of the initial error left along each mode.

    Args:
      eigenvalue: (mode,) λ of Θ(X, X).
      time: t in steps of size η, at least 0; whole for descent.
      learning_rate: η, in the rate constant λ → ηλ/(N n_out).
      rows: N.
      outputs: n_out.
      form: descent or flow.

    Returns:
      (mode,) D_t(λ).
    """
    z = np.asarray(eigenvalue, dtype=np.float64) * (learning_rate / (rows * outputs))
    return 1.0 - z * _accumulated(z, _checked(time, form), form)


def response(
    eigenvalue: np.ndarray, time: float, learning_rate: float, rows: int, outputs: int, form: Form = "descent"
) -> np.ndarray:
    """(1 − D_t(λ))/λ, finite for λ → 0 where it tends to ηt/(N n_out); arguments as for ``decay``, t finite.

    The rate constant is λ → ηλ/(N n_out).
    """
    rate = learning_rate / (rows * outputs)
    z = np.asarray(eigenvalue, dtype=np.float64) * rate
    return rate * _accumulated(z, _checked(time, form), form)


def mean(
    spectrum: Spectrum,
    cross_ntk: np.ndarray,
    target: np.ndarray,
    times: Sequence[float],
    learning_rate: float,
    form: Form = "descent",
) -> np.ndarray:
    """μ_t(x) = Θ(x,X) Θ(X,X)⁻¹ T_t Y.

    Args:
      spectrum: of Θ(X, X), N rows.
      cross_ntk: (..., row) Θ(x, X) at any points x.
      target: (row, ..., output) Y.
      times: t in steps of size η, with the rate constant λ → ηλ/(N n_out); inf is allowed.
      learning_rate: η.
      form: descent (whole steps) or flow.

    Returns:
      (time, axes of the points, further axes of the target, output); exactly 0 at t = 0.
    """
    modes = cross_ntk @ spectrum.eigenvector
    coefficients = spectrum.eigenvector.conj().T @ target.reshape(len(target), -1)
    weights = _responses(spectrum, times, learning_rate, target.shape[-1], form)
    with np.errstate(over="ignore", invalid="ignore"):  # above the critical learning rate
        fitted = np.stack([modes @ (weight[:, None] * coefficients) for weight in weights])
    return fitted.reshape(len(times), *cross_ntk.shape[:-1], *target.shape[1:])


def covariance(
    spectrum: Spectrum,
    cross_ntk: np.ndarray,
    cross_nngp: np.ndarray,
    train_nngp: np.ndarray,
    nngp: np.ndarray,
    times: Sequence[float],
    learning_rate: float,
    outputs: int,
    form: Form = "descent",
) -> np.ndarray:
    """Σ_t within groups of points, per output.

    Args:
      spectrum: of Θ(X, X), N rows.
      cross_ntk: (sample, element, row) Θ(x, X).
      cross_nngp: (sample, element, row) K(x, X).
      train_nngp: (row, row_) K(X, X).
      nngp: (sample, element, element_) K(x, x′).
      times: t in steps of size η, with the rate constant λ → ηλ/(N n_out); inf is allowed.
      learning_rate: η.
      outputs: n_out.
      form: descent (whole steps) or flow.

    Returns:
      (time, sample, element, element_), Hermitian in the last two; exactly ``nngp`` at t = 0.
    """
    vectors = spectrum.eigenvector
    ntk_modes, nngp_modes = cross_ntk @ vectors, cross_nngp @ vectors
    train_modes = vectors.conj().T @ train_nngp @ vectors
    result = []
    for weight in _responses(spectrum, times, learning_rate, outputs, form):
        with np.errstate(over="ignore", invalid="ignore"):  # above the critical learning rate
            fitted = ntk_modes * weight
            half = (fitted @ (train_modes / 2) - nngp_modes) @ fitted.conj().swapaxes(-1, -2)
            result.append(nngp + (half + half.conj().swapaxes(-1, -2)))
    return np.stack(result)


def _responses(
    spectrum: Spectrum, times: Sequence[float], learning_rate: float, outputs: int, form: Form
) -> list[np.ndarray]:
    """(mode,) T_t/λ for every time."""
    result = []
    for time in times:
        if np.isposinf(time):
            kept = spectrum.kept
            result.append(np.where(kept, 1.0 / np.where(kept, spectrum.eigenvalue, 1.0), 0.0))
        else:
            result.append(response(spectrum.eigenvalue, time, learning_rate, spectrum.rows, outputs, form))
    return result


def _checked(time: float, form: Form) -> float:
    if not (np.isfinite(time) and time >= 0):
        raise ValueError(f"time {time} is not finite and at least 0")
    if form == "descent" and time != int(time):
        raise ValueError(f"gradient descent counts whole steps, got time {time}")
    return float(time)


def _accumulated(z: np.ndarray, time: float, form: Form) -> np.ndarray:
    """(1 − D_t)/z with D_t = (1−z)^t or exp(−zt), accurate for small z and for z near 2; t where z = 0."""
    if time == 0:
        return np.zeros_like(z)
    safe = np.where(z == 0, 1.0, z)
    with np.errstate(over="ignore", divide="ignore"):
        if form == "flow":
            share = -np.expm1(-safe * time)
        else:
            below = -np.expm1(time * np.log1p(-np.minimum(safe, 1.0)))
            magnitude = time * np.log1p(np.maximum(safe, 1.0) - 2.0)  # log |1 − z|^t for z > 1
            above = 1.0 + np.exp(magnitude) if time % 2 else -np.expm1(magnitude)
            share = np.where(safe <= 1, below, above)
    return np.where(z == 0, time, share / safe)
