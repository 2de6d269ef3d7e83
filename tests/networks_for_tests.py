"""Factories of torch networks for tests."""

from __future__ import annotations

from math import prod

import torch
from torch import nn


class Scaled(nn.Linear):
    """NTK parametrisation: W, b ~ N(0, 1), output W_std/√fan_in · Wx + b_std · b."""

    def __init__(self, inputs: int, outputs: int, W_std: float, b_std: float) -> None:
        super().__init__(inputs, outputs, bias=b_std > 0)
        self.W_std, self.b_std = W_std, b_std
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.b_std * self.bias
        return nn.functional.linear(x, self.W_std / self.in_features**0.5 * self.weight, bias)


def mlp(input_shape, outputs, width=16, W_std=1.4142, b_std=0.1):
    """The study's mlp with one hidden layer."""
    hidden = Scaled(prod(input_shape), width, W_std, b_std)
    return nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), Scaled(width, outputs, 1.0, 0.0))


def normalised(input_shape, outputs, width=12, dropout=0.25):
    """BatchNorm and dropout."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(prod(input_shape), width),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(width, outputs),
    )
