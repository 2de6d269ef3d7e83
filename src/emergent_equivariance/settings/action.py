"""The section on how a group acts on images."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..groups import get_group
from ..interpolation import Interpolation
from .base import Section


class GroupAction(Section):
    """How groups act on images whose pixels they do not map to each other, and the mask. Of image tasks only."""

    interpolation: Interpolation = Field(
        "bilinear",
        description="Value between pixels, for rotations that do not map the grid to itself: that of the nearest "
        "pixel, or linear in both directions (bilinear).",
    )
    fill: float = Field(0.0, description="Value outside the grid and outside the mask, in units of normalised inputs.")
    mask: Literal["auto"] | bool = Field(
        "auto",
        description="Whether inputs of all splits are set to `fill` outside the inscribed disc, so that corners "
        "neither enter nor leave; auto: where the group needs interpolation.",
    )

    def interpolates(self, group: str, shape: tuple[int, ...]) -> bool:
        """Whether the group moves pixels of images (height, width, channels) between pixels."""
        known = get_group(group)
        return known.shift is None and not known.acts_on_grid(*shape[:2])

    def masks(self, group: str, shape: tuple[int, ...]) -> bool:
        """Whether images of ``shape`` are masked."""
        return self.interpolates(group, shape) if self.mask == "auto" else self.mask

    def identity(self, group: str, shape: tuple[int, ...]) -> dict[str, bool | float | str]:
        """What a hash of the data holds: the fields that the data depends on, none where the group acts exactly."""
        result: dict[str, bool | float | str] = {}
        if self.interpolates(group, shape):
            result |= {"interpolation": self.interpolation, "fill": self.fill}
        if self.masks(group, shape):
            result |= {"mask": True, "fill": self.fill}
        return result
