"""How far the mean of empirical kernels is from the analytic one, with error bars over members.

For the kernels Θ̂_m of M members and the analytic Θ, let d_m = (Θ̂_m − Θ)/‖Θ‖ (Frobenius norm) with mean d̄. With
E d̄ = β, the bias of finite width, and cov d̄ = C/M:

    relative_error    |d̄|                              expectation of its square: |β|² + tr C/M
    entrywise_error   mean over entries of abs(Θ̄ − Θ)/abs(Θ), Θ̄ the mean: as in the public code of Misof et al. (2025)
    member_error      mean over members of |d_m|
    noise             √[(mean |d_m|² − |d̄|²)/(M − 1)]   its square estimates tr C/M: where relative_error is no larger,
                      it says nothing about the width's bias
    squared_bias      relative_error² − noise² = Σ_{m≠m′} d_m·d_m′/(M(M − 1)), a U-statistic: its expectation is |β|²
                      exactly, so that it may be negative

Errors: bootstrap over members. The squared norm of a mean is degenerate where β = 0: resampled around d̄ its variance,
4 d̄ᵀCd̄/M + 2 tr C²/M², would be three times too large, because d̄ is noise. Members are therefore resampled
around the multiple of d̄ whose squared norm is max(squared_bias, 0), which is right in both limits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["NAMES", "kernel_errors"]

#: Statistics with a standard error → in words.
NAMES = {
    "relative_error": "relative error of the mean kernel (Frobenius norm)",
    "entrywise_error": "relative error of the mean kernel, mean over its entries",
    "member_error": "relative error of the kernel of one network (Frobenius norm), mean over networks",
    "squared_bias": "squared relative error of the infinite mean kernel (U-statistic)",
}

#: Numbers drawn at once by the bootstrap.
DRAWS = 10**7


def kernel_errors(
    kernels: np.ndarray, analytic: np.ndarray, resamples: int, random: np.random.Generator
) -> dict[str, tuple[float, float]]:
    """(value, standard error) of each of NAMES, and noise with the error NaN.

    Args:
      kernels: (member, input, input_), at least two members.
      analytic: (input, input_), not zero.
    """
    members, norm = len(kernels), np.linalg.norm(analytic)
    deviation = ((kernels - analytic) / norm).reshape(members, -1)
    size = np.linalg.norm(deviation, axis=1)
    mean = deviation.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        per_entry = norm / np.abs(analytic).ravel()

    def statistics(mean: np.ndarray, mean_square: np.ndarray) -> list[np.ndarray]:
        """Of means (…, entry) and mean squared norms (…): all but the member error."""
        square = (mean**2).sum(axis=-1)
        bias = (members * square - mean_square) / (members - 1)
        return [np.sqrt(square), (np.abs(mean) * per_entry).mean(axis=-1), bias]

    error, entrywise, bias = (float(value) for value in statistics(mean, (size**2).mean()))
    centred = deviation - mean
    centre = mean * np.sqrt(max(bias, 0.0)) / error if error > 0 else mean
    square = ((centred + centre) ** 2).sum(axis=1)
    drawn = []
    for share in _shares(members, resamples, random):
        one, two, three = statistics(share @ centred + centre, share @ square)
        drawn.append(np.stack([one, two, share @ size, three]))
    spread = np.concatenate(drawn, axis=1).std(axis=1, ddof=1) * np.sqrt(members / (members - 1))
    values = (error, entrywise, size.mean(), bias)
    found = {name: (float(v), float(s)) for name, v, s in zip(NAMES, values, spread, strict=True)}
    return {**found, "noise": (float(np.sqrt(max(error**2 - bias, 0.0))), np.nan)}


def _shares(members: int, resamples: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Share of every member in every resample, (resample, member), in parts."""
    together = max(1, DRAWS // members)
    for start in range(0, resamples, together):
        rows = min(together, resamples - start)
        chosen = random.integers(members, size=(rows, members)) + members * np.arange(rows)[:, None]
        yield np.bincount(chosen.ravel(), minlength=rows * members).reshape(rows, members) / members
