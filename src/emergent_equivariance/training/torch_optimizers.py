"""Optimisers on lists of tensors, in place, by the formulas of optax: every update is a few calls for all leaves.

``torch.optim`` gives the same numbers, but spends more time in Python than a small network takes for its step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ..settings import Training

#: What the functions for lists of tensors take.
Tensors = list[Tensor] | tuple[Tensor, ...]


class Optimizer(Protocol):
    """Updates parameters, and the moments of their gradients that it keeps."""

    def moments(self, leaves: Sequence[Tensor]) -> list[list[Tensor]]:
        """Those of the first step, per kind one tensor for each leaf."""

    def update(self, leaves: list[Tensor], gradients: Tensors, moments: list[list[Tensor]], step: int) -> None:
        """Step number ``step`` (the first is 0), in place; to be called without recording of gradients."""


def build_optimizer(training: Training, learning_rate: float) -> Optimizer:
    """The optimiser of an arm."""
    if training.optimizer == "adam":
        return Adam(learning_rate)
    return Descent(learning_rate, training.momentum)


@dataclass(frozen=True)
class Descent:
    """m ← momentum · m + g, θ ← θ − ηm; without momentum θ ← θ − ηg."""

    learning_rate: float
    momentum: float

    def moments(self, leaves: Sequence[Tensor]) -> list[list[Tensor]]:
        return [_zeros(leaves)] if self.momentum else []

    def update(self, leaves: list[Tensor], gradients: Tensors, moments: list[list[Tensor]], step: int) -> None:
        for trace in moments:
            torch._foreach_mul_(trace, self.momentum)
            torch._foreach_add_(trace, gradients)
            gradients = trace
        torch._foreach_add_(leaves, gradients, alpha=-self.learning_rate)


@dataclass(frozen=True)
class Adam:
    """m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², θ ← θ − η m̂/(√v̂ + ε) with m̂ = m/(1 − β₁ᵗ), v̂ = v/(1 − β₂ᵗ).

    Kingma & Ba 2015, with β₁ = 0.9, β₂ = 0.999, ε = 1e-8 and t counted from 1.
    """

    learning_rate: float

    BETA1: ClassVar[float] = 0.9
    BETA2: ClassVar[float] = 0.999
    EPSILON: ClassVar[float] = 1e-8

    def moments(self, leaves: Sequence[Tensor]) -> list[list[Tensor]]:
        return [_zeros(leaves), _zeros(leaves)]

    def update(self, leaves: list[Tensor], gradients: Tensors, moments: list[list[Tensor]], step: int) -> None:
        mean, square = moments
        torch._foreach_lerp_(mean, gradients, 1 - self.BETA1)
        torch._foreach_mul_(square, self.BETA2)
        torch._foreach_addcmul_(square, gradients, gradients, 1 - self.BETA2)
        root = torch._foreach_sqrt(square)
        torch._foreach_div_(root, (1 - self.BETA2 ** (step + 1)) ** 0.5)
        torch._foreach_add_(root, self.EPSILON)
        torch._foreach_addcdiv_(leaves, mean, root, -self.learning_rate / (1 - self.BETA1 ** (step + 1)))


def _zeros(leaves: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(leaf, requires_grad=False) for leaf in leaves]
