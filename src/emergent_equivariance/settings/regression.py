"""The section of studies of kind kernel_regression."""

from __future__ import annotations

from math import inf, nan
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from .base import Section
from .sections import CriticalFraction


def _time(value: Any) -> Any:
    """A number, or "inf", which JSON can hold; YAML's .inf means the same."""
    try:
        number = nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = nan
    if not number >= 0:
        raise ValueError(f"{value!r} is not a training time; give a number of steps, at least 0, or inf")
    return "inf" if number == inf else number


#: A training time in gradient steps; inf: trained to the end.
Time = Annotated[Annotated[float, Field(ge=0)] | Literal["inf"], BeforeValidator(_time)]


class Published(Section):
    """A value from the literature, drawn beside the study's own curves; no number of the study depends on it."""

    label: str = Field(
        min_length=1, description="What it was measured with; as an arm of the study is named, if it is one."
    )
    size: int = Field(ge=1, description="Number of training samples.")
    value: float = Field(description="The value.")
    metric: Literal["accuracy", "mse"] = Field("accuracy", description="What it is a value of.")
    source: str = Field(
        min_length=1, description="Where it is published, how exact it is, what differs from this study."
    )


class Regression(Section):
    """Infinitely wide ensembles as regressors: test error against the number of training samples."""

    sizes: list[Annotated[int, Field(ge=1)]] = Field(
        min_length=1, description="Numbers of training samples n, at most task.train."
    )
    repeats: int = Field(
        5,
        ge=1,
        description="Random choices of n of the task.train samples, the same for all kernels of the study; disjoint "
        "where repeats · n ≤ task.train, which gives the best error bars.",
    )
    times: list[Time] = Field(["inf"], min_length=1, description="Training times t in gradient steps; inf: the limit.")
    form: Literal["descent", "flow"] = Field("flow", description="Gradient descent (whole steps) or gradient flow.")
    learning_rate: float | CriticalFraction = Field(
        CriticalFraction(critical_fraction=0.5),
        description="Step size η that finite times count in, or {critical_fraction: c} of that of each training set.",
        union_mode="left_to_right",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the choices of training samples.")
    published: list[Published] = Field(
        default_factory=list, description="Values from the literature to draw beside the study's own."
    )

    @model_validator(mode="after")
    def _check(self) -> Regression:
        if isinstance(self.learning_rate, float) and not self.learning_rate > 0:
            raise ValueError(f"learning_rate: {self.learning_rate} is not positive; give a number above 0")
        for key, values in (("sizes", self.sizes), ("times", self.times)):
            if len(set(values)) < len(values):
                raise ValueError(f"{key}: {values} names a value twice; give each once")
        return self
