"""Training sets drawn from one pool, and standard errors of means over them and over test samples.

The value of a measure with a training set S and a test sample x is v(S, x). Reported is its mean over R sets S of n of
the N samples of a pool, and over T test samples; its error has two parts.

*The choice of training samples.* The sets are arcs of the pool in random order, closed to a ring, at equal distances:
disjoint where R n ≤ N, else every sample is in as many of them as any other, up to one. Two sets with m samples in
common have at most the correlation m/n, exactly that where v is a sum over samples (in the expansion of Hoeffding
1948 the terms of order k have the correlation C(m,k)/C(n,k) ≤ m/n). With ρ the mean of m/n over pairs, the variance
s² seen between sets is 1 − ρ of that of a single set, and the mean over R of them has the variance

    s² [1/R + ρ/(1 − ρ)]:

unbiased for disjoint sets, otherwise too large rather than too small. (The second term is the delete-d jackknife,
Shao & Wu 1989, d = N − n.) At n = N there is one set only; its variance is taken from the largest smaller size n′, as
that of a single set times n′/N.

*The choice of test samples.* The standard deviation over x of the mean over S of v, over √T.

Together: the root of the sum of both squares. What depends on training set and test sample alike is in both, so
that the sum is slightly too large.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..augmentation import stream

#: Philox stream of the order of the pool; see augmentation.stream.
STREAM_POOL = 48


def training_sets(seed: int, repeats: int, pool: int, size: int) -> np.ndarray:
    """(repeat, row) positions in the pool, ascending; each set is a part of the same repeat's larger ones."""
    order = stream(seed, STREAM_POOL).permutation(pool)
    start = np.arange(repeats) * pool // repeats
    return np.sort(order[(start[:, None] + np.arange(size)) % pool], axis=1)


def overlap(repeats: int, pool: int, size: int) -> float:
    """Mean over pairs of training sets of the share m/n of samples they have in common; at least two repeats."""
    inside = np.zeros((repeats, pool))
    np.put_along_axis(inside, training_sets(0, repeats, pool, size), 1.0, axis=1)  # the same for every order
    shared = inside @ inside.T / size
    return float((shared.sum() - repeats) / (repeats * (repeats - 1)))


class Estimate(NamedTuple):
    """A mean with its standard errors, each (size, …).

    Attributes:
      value: the mean.
      repeats: its standard error by the choice of training samples; NaN for a single repeat, and at n = N where
        there is no smaller size.
      test: by the choice of test samples; NaN for a single one.
    """

    value: np.ndarray
    repeats: np.ndarray
    test: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """Standard error by both choices."""
        return np.hypot(self.repeats, self.test)


def estimate(values: np.ndarray, sizes: np.ndarray, pool: int) -> Estimate:
    """Mean over repeats and test samples.

    Args:
      values: (size, repeat, …, sample), the repeats those of ``training_sets``.
      sizes: (size,) ascending numbers n of training samples.
      pool: N, the number of samples they are drawn from.
    """
    repeats, samples = values.shape[1], values.shape[-1]
    unknown = np.full((len(sizes), *values.shape[2:-1]), np.nan)
    test = values.mean(axis=1).std(axis=-1, ddof=1) / np.sqrt(samples) if samples > 1 else unknown
    variance, single = unknown.copy(), np.nan
    spread = values.mean(axis=-1).var(axis=1, ddof=1) if repeats > 1 else unknown
    for i, size in enumerate(sizes):
        if size < pool and repeats > 1:
            shared = overlap(repeats, pool, size)
            single = spread[i] / (1 - shared) * size  # of a set of one sample, were the variance ∝ 1/n
            variance[i] = spread[i] * (1 / repeats + shared / (1 - shared))
        else:
            variance[i] = single / size
    return Estimate(values.mean(axis=(1, -1)), np.sqrt(variance), test)
