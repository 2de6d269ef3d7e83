"""What the infinite-width kernel of a convolutional network depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..groups import Action


@dataclass(frozen=True, eq=False)
class ConvStack:
    """convolutions × [conv q×q stride 1, σ], a head, dense_layers × [dense, σ], then the readout; all per output.

    The kernels of a group-convolutional network with full group support are, up to and including its pool, the
    average over x′ ↦ gx′ of those of the ordinary network with the same filters (Misof et al. 2025; ``average``).

    Attributes:
      convolutions: number of convolutions, at least 1.
      kernel_size: side q of the square filters, in pixels.
      padding: SAME (zeros, (q − 1)//2 before), VALID or CIRCULAR.
      activation: σ.
      W_std: weight standard deviation of convolutions and hidden dense layers.
      b_std: their bias standard deviation; 0: no bias.
      head: what stands between convolutions and dense layers.
      dense_layers: hidden dense layers after the head.
      readout_W_std, readout_b_std: of the last, linear layer.
      average: action on inputs (height, width, channel) of the group that a group-convolutional network averages
        over at its pool; None for an ordinary network.
    """

    convolutions: int
    kernel_size: int
    padding: Literal["SAME", "VALID", "CIRCULAR"]
    activation: Literal["relu", "erf"]
    W_std: float
    b_std: float
    head: Literal["flatten", "global_average_pool"]
    dense_layers: int
    readout_W_std: float
    readout_b_std: float
    average: Action | None = None
