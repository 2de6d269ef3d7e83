"""What the image classification tasks share: normalisation, targets, synthetic smooth images.

- Pixels are shifted and scaled by two *scalars*, mean and standard deviation over training pixels, which
  commutes with every action on the grid.
- Targets for the squared error are centred one-hot vectors, 1[class = k] − 1/classes: zero on average, like the
  outputs of a network at initialisation. The cross-entropy uses the labels instead.
- Groups act on the pixels, by interpolation where they do not map the grid to itself, and leave the logits alone. A
  circular mask sets the pixels outside the inscribed disc to the value of ``action.fill``, after normalisation.
- Synthetic out-of-distribution images: c = 0 ∈ C^{n×(n//2+1)}, c[:5, :5] = N(0, 1) + i N(0, 1), image =
  irfft2(c, (n, n)) per channel (Gerken & Kessel 2024), each then shifted to zero mean and scaled to unit standard
  deviation over its pixels, to be comparable to the normalised inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..groups import Group, invariant_action
from ..interpolation import disc, image_action
from ..settings import GroupAction
from .base import Readout, TaskData
from .splits import OOD_SMOOTH, join, stream

SMOOTH_SOURCE = "generated: irfft2 of 5×5 complex Gaussian low frequencies, each image of zero mean and unit std"


def smooth_images(seed: int, samples: int, side: int, channels: int = 1) -> np.ndarray:
    """Synthetic smooth images, (sample, side, side, channel), each channel of zero mean and unit standard deviation."""
    kept = min(5, side // 2 + 1)
    draw = stream(seed, OOD_SMOOTH).standard_normal((samples, channels, 2, kept, kept))
    spectrum = np.zeros((samples, channels, side, side // 2 + 1), dtype=np.complex128)
    spectrum[..., :kept, :kept] = draw[:, :, 0] + 1j * draw[:, :, 1]
    image = np.fft.irfft2(spectrum, (side, side))
    image -= image.mean(axis=(2, 3), keepdims=True)
    image /= image.std(axis=(2, 3), keepdims=True)
    return np.moveaxis(image, 1, -1)


def centred_one_hot(label: np.ndarray, classes: int) -> np.ndarray:
    """(sample,) classes → (sample, class) 1[class = k] − 1/classes; NaN where the label is −1."""
    target = np.eye(classes)[label] - 1.0 / classes
    target[label < 0] = np.nan
    return target


def classification(
    image: Mapping[str, np.ndarray],
    label: Mapping[str, np.ndarray],
    group: Group,
    action: GroupAction,
    provenance: dict[str, Any],
    classes: int = 10,
) -> TaskData:
    """Put the splits of an image task together.

    Args:
      image: split → (sample, height, width, channel) normalised images.
      label: split → (sample,) classes 0…classes − 1; splits without labels are left out.
      group: acts on the pixels and leaves the logits alone.
      action: how it does where it does not map the grid to itself, and whether images are masked.
      provenance: where the images came from and how they are normalised.

    Raises StudyError for shifts by no whole number of pixels.
    """
    pixels, split = join(image)
    labels, _ = join({name: label.get(name, np.full(len(part), -1)) for name, part in image.items()})
    _, height, width, channels = pixels.shape
    if action.masks(group.name, pixels.shape[1:]):
        pixels = np.where(disc(height, width)[..., None], pixels, action.fill)
        provenance = {**provenance, "input_mask": f"{action.fill:g} outside the inscribed disc, after normalisation"}
    if action.interpolates(group.name, pixels.shape[1:]):
        said = f"{group.name} by {action.interpolation} interpolation, {action.fill:g} outside the grid: not exact"
        provenance = {**provenance, "input_action": said}
    return TaskData(
        input=pixels,
        target=centred_one_hot(labels, classes),
        split=split,
        input_action=image_action(group, height, width, channels, action.interpolation, action.fill),
        output_action=invariant_action(group, (classes,)),
        output_name="logits",
        readout=Readout("logits", np.eye(classes)),
        label=labels.astype(np.int64),
        provenance={**provenance, "target_normalisation": f"centred one-hot: 1[class = k] − 1/{classes}"},
    )
