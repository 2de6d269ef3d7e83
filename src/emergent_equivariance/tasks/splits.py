"""Labelled splits and the random streams that fill them.

Each split is drawn from a stream of its own, in the order of its samples: raising ``task.train`` keeps the
earlier training samples and leaves test and out-of-distribution samples alone (but for ``digits``, whose
normalisation follows the training pixels).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..augmentation import stream

__all__ = ["OOD_GAUSSIAN", "OOD_MNIST", "OOD_SMOOTH", "TEST", "TRAIN", "join", "stream"]

#: Purposes of the streams drawn from task.seed (the other modules use purposes below 32).
TRAIN, TEST, OOD_GAUSSIAN, OOD_SMOOTH, OOD_MNIST = 32, 33, 34, 35, 36


def join(parts: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate the arrays of all splits, in the order of the mapping.

    Args:
      parts: split → (sample in the split, …).

    Returns:
      (sample, …) values and (sample,) names of the splits.
    """
    return np.concatenate(list(parts.values())), np.repeat(list(parts), [len(part) for part in parts.values()])
