"""Architectures: a finite network and its infinite-width kernel from one definition.

NTK parametrisation: every weight and bias ~ N(0, 1), scaled in the forward pass by W_std/√fan_in and b_std (Jacot et
al. 2018). ``layers`` and ``group_layers`` define layers, ``architectures`` puts them together, ``stack`` describes
convolutional networks to faster evaluations of their kernels. ``modules`` has the same networks for torch.
"""

from .architectures import build_network
from .network import STREAM_INITIAL, KernelFunction, Network, initial_arrays, initial_parameters
from .stack import ConvStack

__all__ = [
    "STREAM_INITIAL",
    "ConvStack",
    "KernelFunction",
    "Network",
    "build_network",
    "initial_arrays",
    "initial_parameters",
]
