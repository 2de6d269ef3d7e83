"""Which transforms of the training inputs a member sees: none, full orbits, a fixed subset, random elements.

The rows of the augmented training set are pairs (sample, element). The theory uses the same rows as the
members, so that a fixed subset has its own analytic mean; fresh random elements obey, in the mean of the
linearised dynamics, the analytic solution of the full orbit (theory: Gerken & Kessel 2024, section 4).
"""

from __future__ import annotations

import numpy as np

from .settings import Augmentation

#: Distinguishes the Philox streams drawn from one seed.
STREAM_SUBSET, STREAM_ELEMENT = 1, 2


def stream(seed: int, purpose: int, *counter: int) -> np.random.Generator:
    """Counter-based generator: the same (seed, purpose, counter) gives the same numbers everywhere.

    Args:
      seed: user-visible seed.
      purpose: which kind of numbers are drawn (keeps streams of one seed apart).
      counter: at most three indices, e.g. member and layer; streams never overlap.
    """
    words = [0, *counter, *([0] * (3 - len(counter)))]
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=words))


def augmented_rows(augmentation: Augmentation, samples: int, order: int) -> np.ndarray:
    """Rows of the augmented training set, (row, 2) pairs (sample, element), identity first per sample.

    For ``random`` these are the rows of the full orbit: the set the elements are drawn from.
    """
    if augmentation.kind == "none":
        elements = np.zeros((samples, 1), dtype=np.int64)
    elif augmentation.kind == "subset":
        assert augmentation.subset is not None
        draw = stream(augmentation.seed, STREAM_SUBSET).random((samples, order - 1)).argsort(axis=1)
        others = np.sort(draw[:, : augmentation.subset - 1] + 1, axis=1)
        elements = np.concatenate([np.zeros((samples, 1), dtype=np.int64), others], axis=1)
    else:
        elements = np.tile(np.arange(order), (samples, 1))
    sample = np.repeat(np.arange(samples), elements.shape[1])
    return np.stack([sample, elements.reshape(-1)], axis=1)


def random_elements(augmentation: Augmentation, member: int, block: int, draws: int, order: int) -> np.ndarray:
    """(draws,) elements for the training rows that one member consumes in one epoch, or in one full-batch step."""
    return stream(augmentation.seed, STREAM_ELEMENT, member, block).integers(order, size=draws, dtype=np.int32)
