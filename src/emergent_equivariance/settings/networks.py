"""The network sections, with their size and cost."""

from __future__ import annotations

from math import prod
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..errors import StudyError
from .base import Section


class NetworkSection(Section):
    """Fields common to all networks, in NTK parametrisation: weights ~ N(0, 1) times W_std/√fan_in."""

    width: int = Field(128, ge=1, description="Units of each hidden layer (channels of each convolution).")
    activation: Literal["relu", "erf"] = Field("relu", description="Nonlinearity after each hidden layer.")
    W_std: float = Field(1.4142, gt=0, description="Weight standard deviation of the hidden layers.")
    b_std: float = Field(0.1, ge=0, description="Bias standard deviation of the hidden layers; 0: no bias.")
    readout_W_std: float = Field(1.0, gt=0, description="Weight standard deviation of the readout.")
    readout_b_std: float = Field(0.0, ge=0, description="Bias standard deviation of the readout; 0: no bias.")

    #: Fields the infinite-width kernel does not depend on.
    WIDTHS: ClassVar[set[str]] = {"width"}

    def check_input(self, shape: tuple[int, ...], group: str) -> None:
        """Raise StudyError if inputs of ``shape`` do not fit the network."""

    def forward_flops(self, shape: tuple[int, ...], outputs: int) -> float:
        """Floating-point operations of one forward pass of one sample (matrix products only)."""
        raise NotImplementedError

    def parameters(self, shape: tuple[int, ...], outputs: int) -> int:
        """Number of weights and biases."""
        raise NotImplementedError


class MlpNetwork(NetworkSection):
    """Fully connected: hidden_layers × [dense, activation], then the readout. Inputs are flattened."""

    name: Literal["mlp"]
    hidden_layers: int = Field(1, ge=1, description="Number of hidden layers.")

    def forward_flops(self, shape: tuple[int, ...], outputs: int) -> float:
        return 2.0 * self.width * (prod(shape) + (self.hidden_layers - 1) * self.width + outputs)

    def parameters(self, shape: tuple[int, ...], outputs: int) -> int:
        biases = self.hidden_layers * self.width * (self.b_std > 0) + outputs * (self.readout_b_std > 0)
        return int(self.forward_flops(shape, outputs) / 2) + biases


class CnnNetwork(NetworkSection):
    """Convolutional: conv_layers × [convolution, activation], a head, then the readout."""

    name: Literal["cnn"]
    width: int = Field(16, ge=1, description="Channels of each convolution.")
    conv_layers: int = Field(2, ge=1, description="Number of convolutions, stride 1.")
    kernel_size: int = Field(3, ge=1, description="Side of the square filters, in pixels.")
    padding: Literal["SAME", "VALID", "CIRCULAR"] = Field(
        "SAME", description="Boundary: zeros (SAME), none (VALID), periodic (CIRCULAR)."
    )
    head: Literal["flatten", "global_average_pool"] = Field(
        "global_average_pool", description="What stands between the convolutions and the readout."
    )

    def _extents(self, shape: tuple[int, ...]) -> list[tuple[int, int]]:
        shrink = self.kernel_size - 1 if self.padding == "VALID" else 0
        return [(shape[0] - k * shrink, shape[1] - k * shrink) for k in range(1, self.conv_layers + 1)]

    def check_input(self, shape: tuple[int, ...], group: str) -> None:
        if len(shape) != 3:
            raise StudyError(
                f"network.name: cnn needs images (height, width, channels), the task gives inputs of shape {shape}.",
                remedy="Use network {name: mlp}, or a task on a grid.",
            )
        if min(self._extents(shape)[-1]) < 1 or self.kernel_size > min(shape[:2]):
            raise StudyError(
                f"network: {self.conv_layers} {self.padding} convolutions of size {self.kernel_size} "
                f"do not fit inputs of {shape[0]}×{shape[1]} pixels.",
                remedy="Lower network.kernel_size or network.conv_layers, or use padding SAME.",
            )
        if group != "trivial" and self.padding != "VALID" and self.kernel_size % 2 == 0:
            raise StudyError(
                f"network.kernel_size: {self.kernel_size} is even: with padding {self.padding} the filter support "
                f"is not mapped to itself by {group}, so that even the infinite ensemble is not equivariant.",
                remedy="Use an odd kernel_size, or padding VALID.",
            )

    def forward_flops(self, shape: tuple[int, ...], outputs: int) -> float:
        channels, total = shape[2], 0.0
        for height, width in self._extents(shape):
            total += 2.0 * height * width * self.kernel_size**2 * channels * self.width
            channels = self.width
        return total + 2.0 * self._features(shape) * outputs

    def parameters(self, shape: tuple[int, ...], outputs: int) -> int:
        taps = self.kernel_size**2 * self.width * (shape[2] + (self.conv_layers - 1) * self.width)
        biases = self.conv_layers * self.width * (self.b_std > 0) + outputs * (self.readout_b_std > 0)
        return taps + biases + self._features(shape) * outputs

    def _features(self, shape: tuple[int, ...]) -> int:
        """Inputs of the readout."""
        return self.width * (prod(self._extents(shape)[-1]) if self.head == "flatten" else 1)


Network = Annotated[MlpNetwork | CnnNetwork, Field(discriminator="name")]
