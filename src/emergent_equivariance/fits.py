"""Power laws through measured numbers, and when a number counts as seen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["SEEN", "Series", "power_law", "root_power_law"]

#: Standard errors from zero at which a number counts as seen.
SEEN = 3.0


class Series(NamedTuple):
    """Numbers without the missing ones: y ± error at x."""

    x: np.ndarray
    y: np.ndarray
    error: np.ndarray


def power_law(series: Series) -> tuple[float, float]:
    """(exponent, its standard error) of y ∝ x^exponent: least squares in logarithms, errors propagated."""
    usable = series.y > 0
    x, y, error = (part[usable] for part in series)
    if len(x) < 2:
        return np.nan, np.nan
    centred = np.log(x) - np.log(x).mean()
    weights = centred / (centred @ centred)
    return float(weights @ np.log(y)), float(np.sqrt(np.sum((weights * error / y) ** 2)))


def root_power_law(series: Series) -> tuple[float, float]:
    """(p, its standard error) of y ∝ x^(2p), least squares with the errors as weights; y may be negative.

    NaN unless the factor of proportionality is more than SEEN of its standard errors from zero.
    """
    from scipy.optimize import curve_fit

    if len(series.x) < 2 or not (series.error > 0).all():
        return np.nan, np.nan
    x, scale = series.x / series.x[0], np.abs(series.y).max()
    try:
        best, covariance = curve_fit(
            lambda x, a, p: a * x ** (2 * p), x, series.y / scale, (1.0, -1.0), series.error / scale, True
        )
    except RuntimeError:  # no convergence: there is no such power
        return np.nan, np.nan
    error = np.sqrt(np.diag(covariance))
    return (float(best[1]), float(error[1])) if best[0] > SEEN * error[0] else (np.nan, np.nan)
