"""FashionMNIST (Xiao, Rasul & Vollgraf 2017), with MNIST digits and smooth images as out-of-distribution inputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..groups import Group
from ..settings import FashionMnistTask, GroupAction
from .base import TaskData
from .images import SMOOTH_SOURCE, classification, smooth_images
from .sources import load_idx
from .splits import OOD_MNIST, TEST, TRAIN, stream

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def build(task: FashionMnistTask, group: Group, action: GroupAction) -> TaskData:
    """Images (sample, 28, 28, 1), normalised by mean and std of *all* official training pixels.

    Training images are a random choice (by task.seed) from the official training set, test images from the
    official test set, ``ood-mnist`` from MNIST's test set; the latter is normalised with the same two numbers.
    Raises DataError if a set is missing or damaged, StudyError as ``classification``.
    """
    clothes, origin = load_idx("fashion_mnist", (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS), task.data_dir)
    mean, std = _mean_std(clothes[TRAIN_IMAGES])
    provenance: dict[str, Any] = {
        **origin,
        "input_normalisation": "(pixel/255 − mean)/std with mean and std over all official training pixels",
        "input_mean": mean,
        "input_std": std,
    }
    chosen = {
        "train": _choose(task.seed, TRAIN, len(clothes[TRAIN_IMAGES]), task.train),
        "test": _choose(task.seed, TEST, len(clothes[TEST_IMAGES]), task.test),
    }
    pixels = {"train": clothes[TRAIN_IMAGES][chosen["train"]], "test": clothes[TEST_IMAGES][chosen["test"]]}
    label = {"train": clothes[TRAIN_LABELS][chosen["train"]], "test": clothes[TEST_LABELS][chosen["test"]]}
    image = {name: _normalise(part, mean, std) for name, part in pixels.items()}
    for name in task.ood:
        if name == "mnist":
            digits, origin = load_idx("mnist", (TEST_IMAGES,), task.data_dir)
            index = _choose(task.seed, OOD_MNIST, len(digits[TEST_IMAGES]), task.test)
            image["ood-mnist"] = _normalise(digits[TEST_IMAGES][index], mean, std)
            provenance |= {f"ood_mnist_{key}": value for key, value in origin.items()}
        else:
            image["ood-smooth"] = smooth_images(task.seed, task.test, 28)
            provenance["ood_smooth_source"] = SMOOTH_SOURCE
    return classification(image, {k: v.astype(np.int64) for k, v in label.items()}, group, action, provenance)


def _choose(seed: int, purpose: int, available: int, wanted: int) -> np.ndarray:
    return stream(seed, purpose).permutation(available)[:wanted]


def _mean_std(pixels: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of uint8 pixels divided by 255, from their histogram."""
    weight = np.bincount(pixels.reshape(-1), minlength=256) / pixels.size
    value = np.arange(256) / 255.0
    mean = weight @ value
    return float(mean), float(np.sqrt(weight @ (value - mean) ** 2))


def _normalise(pixels: np.ndarray, mean: float, std: float) -> np.ndarray:
    return (pixels[..., None] / 255.0 - mean) / std
