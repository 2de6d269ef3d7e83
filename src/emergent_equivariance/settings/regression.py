"""The section of studies of kind kernel_regression."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Section
from .sections import CriticalFraction

#: A training time in gradient steps; inf: trained to the end.
Time = Annotated[float, Field(ge=0)] | Literal["inf"]


class Regression(Section):
    """Infinitely wide ensembles as regressors: test error against the number of training samples."""

    sizes: list[Annotated[int, Field(ge=1)]] = Field(
        min_length=1, description="Numbers of training samples n, at most task.train."
    )
    repeats: int = Field(
        5, ge=1, description="Random choices of n of the task.train samples, the same for all kernels of the study."
    )
    times: list[Time] = Field(["inf"], min_length=1, description="Training times t in gradient steps; inf: the limit.")
    form: Literal["descent", "flow"] = Field("flow", description="Gradient descent (whole steps) or gradient flow.")
    learning_rate: float | CriticalFraction = Field(
        CriticalFraction(critical_fraction=0.5),
        description="Step size η that finite times count in, or {critical_fraction: c} of that of each training set.",
        union_mode="left_to_right",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the choices of training samples.")
