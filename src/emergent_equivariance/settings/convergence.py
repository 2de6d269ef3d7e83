"""The section of studies of kind kernel_convergence."""

from __future__ import annotations

from pydantic import Field

from .base import Section


class Convergence(Section):
    """Empirical kernels of finite networks at initialisation, averaged over members, against the analytic ones."""

    members: int = Field(200, ge=2, le=10**6, description="Networks per arm whose kernels are averaged.")
    inputs: int = Field(6, ge=1, description="Inputs between which kernels are taken: the first of the split test.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the initial weights.")
    resamples: int = Field(1000, ge=100, description="Bootstrap resamples of the members, for the error bars.")
