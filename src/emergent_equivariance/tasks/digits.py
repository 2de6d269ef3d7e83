"""scikit-learn's handwritten digits: 1,797 real 8×8 grey images, values 0…16, embedded in the package.

(The test part of the UCI set "Optical Recognition of Handwritten Digits", Alpaydin & Kaynak 1998.)
"""

from __future__ import annotations

import hashlib

import numpy as np

from ..groups import Group
from ..settings import DigitsTask, GroupAction
from .base import TaskData
from .images import SMOOTH_SOURCE, classification, smooth_images
from .splits import TRAIN, stream


def build(task: DigitsTask, group: Group, action: GroupAction) -> TaskData:
    """Images (sample, 8, 8, 1), normalised by mean and std of the training pixels; centred one-hot targets.

    A permutation fixed by task.seed orders the set: training images from its front, test images from its back.
    Raises StudyError if the group does not act on the grid.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = stream(task.seed, TRAIN).permutation(len(digits.images))
    chosen = {"train": order[: task.train], "test": order[::-1][: task.test]}
    grey = digits.images[..., None] / 16.0
    mean, std = grey[chosen["train"]].mean(), grey[chosen["train"]].std()
    image = {name: (grey[index] - mean) / std for name, index in chosen.items()}
    provenance = {
        "source": "scikit-learn load_digits (1797 images, embedded in the package)",
        "source_md5": hashlib.md5(digits.images.astype(np.uint8).tobytes(), usedforsecurity=False).hexdigest(),
        "input_normalisation": "(pixel/16 − mean)/std with mean and std over the chosen training pixels",
        "input_mean": float(mean),
        "input_std": float(std),
    }
    if "smooth" in task.ood:
        image["ood-smooth"] = smooth_images(task.seed, task.test, 8)
        provenance["ood_smooth_source"] = SMOOTH_SOURCE
    label = {name: digits.target[index] for name, index in chosen.items()}
    return classification(image, label, group, action, provenance)
