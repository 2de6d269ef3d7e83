"""PathMNIST: stained colon tissue in nine classes, 28×28 pixels, three colours (CC BY 4.0).

The patches of NCT-CRC-HE-100K and CRC-VAL-HE-7K (Kather et al. 2019), reduced to 28×28 by MedMNIST v2 (Yang et al.
2023): 89,996 training and 7,180 test images, the latter from another hospital. (The 10,004 validation images are not
used.) Smaller images are averages over blocks of 2×2 or 4×4 pixels: sums of whole numbers, so that they commute with
rotations and reflections of the grid without round-off.

Where a data directory has no pathmnist.npz but the 718 test images that are known as a substitute (see ``sources``),
training and test images are chosen from these.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import DataError
from ..groups import Group
from ..settings import GroupAction, PathMnistTask
from .base import TaskData
from .images import SMOOTH_SOURCE, classification, smooth_images
from .sources import load_npz, three_ways
from .splits import TEST, TRAIN, stream

CLASSES = 9

#: Pixels a side of the published images.
SIDE = 28


def build(task: PathMnistTask, group: Group, action: GroupAction) -> TaskData:
    """Images (sample, side, side, 3), normalised by mean and std of the training pixels; centred one-hot targets.

    From the full set training images are a random choice (by task.seed) of the official training images, test
    images of the official test images. From the substitute both are disjoint random choices of its images.

    Raises DataError if the set is missing or damaged, or its substitute has too few images; StudyError if the group
    does not act on the grid.
    """
    arrays, origin = load_npz("path_mnist", task.data_dir)
    pixels, label = _choose(task, arrays, "substitute" in origin)
    image = {name: block_averages(part, task.side) for name, part in pixels.items()}
    mean, std = image["train"].mean(), image["train"].std()
    image = {name: (part - mean) / std for name, part in image.items()}
    reduced = f", means over blocks of {SIDE // task.side}×{SIDE // task.side} pixels" if task.side < SIDE else ""
    provenance: dict[str, Any] = {
        **origin,
        "source_licence": "CC BY 4.0",
        "input_normalisation": f"(pixel/255{reduced} − mean)/std with mean and std over the chosen training pixels",
        "input_mean": float(mean),
        "input_std": float(std),
    }
    if "smooth" in task.ood:
        image["ood-smooth"] = smooth_images(task.seed, task.test, task.side, channels=3)
        provenance["ood_smooth_source"] = SMOOTH_SOURCE
    return classification(image, label, group, action, provenance, CLASSES)


def block_averages(pixels: np.ndarray, side: int) -> np.ndarray:
    """(sample, height, width, channel) uint8 → (sample, side, side, channel): block means, divided by 255."""
    samples, height, width, channels = pixels.shape
    rows, columns = height // side, width // side
    blocks = pixels.reshape(samples, side, rows, side, columns, channels)
    return blocks.sum(axis=(2, 4), dtype=np.int64) / (255.0 * rows * columns)


def _choose(
    task: PathMnistTask, arrays: dict[str, np.ndarray], substitute: bool
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Split → (sample, 28, 28, 3) uint8, and split → (sample,) classes."""
    if substitute:
        images, classes = arrays["images"], arrays["labels"]
        if task.train + task.test > len(images):
            raise DataError(
                f"task: train + test = {task.train} + {task.test} images, but only a substitute of PathMNIST with "
                f"{len(images)} images was found.",
                remedy=f"Lower task.train or task.test, or use the full set. {three_ways('path_mnist')}",
            )
        order = stream(task.seed, TRAIN).permutation(len(images))
        chosen = {"train": order[: task.train], "test": order[::-1][: task.test]}
        return {k: images[v] for k, v in chosen.items()}, {k: classes[v].astype(np.int64) for k, v in chosen.items()}
    pixels, label = {}, {}
    for name, purpose, wanted in (("train", TRAIN, task.train), ("test", TEST, task.test)):
        available = arrays[f"{name}_images"]
        index = stream(task.seed, purpose).permutation(len(available))[:wanted]
        pixels[name] = available[index]
        label[name] = arrays[f"{name}_labels"].reshape(-1)[index].astype(np.int64)
    return pixels, label
