"""The section of studies of kind kernel_convergence."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import Section


class PublishedError(Section):
    """A relative error from the literature, drawn beside the study's own; no number of the study depends on it."""

    label: str = Field(
        min_length=1, description="What it was measured with; as a curve of the study is named, if it is one."
    )
    kind: Literal["nngp", "ntk"] = Field("ntk", description="Which kernel.")
    width: int = Field(ge=1, description="Width of the networks.")
    value: float = Field(gt=0, description="Relative error of the mean kernel.")
    source: str = Field(
        min_length=1, description="Where it is published, how exact it is, what differs from this study."
    )


class Convergence(Section):
    """Empirical kernels of finite networks at initialisation, averaged over members, against the analytic ones."""

    members: int = Field(200, ge=2, le=10**6, description="Networks per arm whose kernels are averaged.")
    inputs: int = Field(6, ge=1, description="Inputs between which kernels are taken: the first of the split test.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the initial weights.")
    resamples: int = Field(1000, ge=100, description="Bootstrap resamples of the members, for the error bars.")
    published: list[PublishedError] = Field(
        default_factory=list, description="Values from the literature to draw beside the study's own."
    )
