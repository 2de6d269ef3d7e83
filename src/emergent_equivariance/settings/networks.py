"""The network sections, with their size and cost."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from ..errors import StudyError
from ..groups import get_group
from .base import IMPORT_PATH, Section

#: Largest standard deviation of weights and biases: beyond it kernels overflow.
LARGEST_STD = 1e6


class NetworkSection(Section):
    """Fields common to all networks."""

    #: Fields the infinite-width kernel does not depend on.
    WIDTHS: ClassVar[set[str]] = set()

    canonicalisation: Literal["none", "orbit_maximum"] = Field(
        "none",
        description="What the network sees of an input x: x itself, or ρ(ĝ)x with ĝ the element of the group of the "
        "study that maximises a fixed linear score ⟨w, ρ(g)x⟩: then every member is invariant (exactly so where the "
        "group acts exactly).",
    )

    #: Fields that came later, left out of every hash at their defaults so that older results keep theirs.
    ADDED: ClassVar[set[str]] = {"canonicalisation"}

    def identity(self, exclude: set[str] | None = None) -> dict[str, Any]:
        """What a hash of the network holds, without the fields in ``exclude``."""
        added = {name for kind in type(self).__mro__ for name in vars(kind).get("ADDED", ())}
        default = {name for name in added if getattr(self, name) == type(self).model_fields[name].default}
        return self.model_dump(mode="json", exclude=(exclude or set()) | default)

    def check_input(self, shape: tuple[int, ...], group: str) -> None:
        """Raise StudyError if inputs of ``shape`` do not fit the network."""

    def forward_flops(self, shape: tuple[int, ...], outputs: int) -> float | None:
        """Floating-point operations of one forward pass of one sample (matrix products only); None: unknown."""
        raise NotImplementedError

    def parameters(self, shape: tuple[int, ...], outputs: int) -> int | None:
        """Number of weights and biases; None: unknown."""
        raise NotImplementedError


class AnalyticNetwork(NetworkSection):
    """Fields common to networks with an analytic kernel: NTK parametrisation, weights ~ N(0, 1) times W_std/√fan_in."""

    width: int = Field(128, ge=1, description="Units of each hidden layer (channels of each convolution).")
    activation: Literal["relu", "erf"] = Field("relu", description="Nonlinearity after each hidden layer.")
    W_std: float = Field(1.4142, gt=0, le=LARGEST_STD, description="Weight standard deviation of the hidden layers.")
    b_std: float = Field(
        0.1, ge=0, le=LARGEST_STD, description="Bias standard deviation of the hidden layers; 0: no bias."
    )
    readout_W_std: float = Field(1.0, gt=0, le=LARGEST_STD, description="Weight standard deviation of the readout.")
    readout_b_std: float = Field(
        0.0, ge=0, le=LARGEST_STD, description="Bias standard deviation of the readout; 0: no bias."
    )

    WIDTHS: ClassVar[set[str]] = {"width"}

    def forward_flops(self, shape: tuple[int, ...], outputs: int) -> float:
        raise NotImplementedError

    def parameters(self, shape: tuple[int, ...], outputs: int) -> int:
        raise NotImplementedError


class DenseNetwork(AnalyticNetwork):
    """Fields common to networks of dense layers: hidden_layers of ``width`` units, then a readout. Inputs are flat."""

    hidden_layers: int = Field(1, ge=1, description="Number of hidden layers.")

    def forward_flops(self, shape: tuple[int, ...], outputs: int) -> float:
        return 2.0 * self.width * (prod(shape) + (self.hidden_layers - 1) * self.width + outputs)

    def parameters(self, shape: tuple[int, ...], outputs: int) -> int:
        biases = self.hidden_layers * self.width * (self.b_std > 0) + outputs * (self.readout_b_std > 0)
        return int(self.forward_flops(shape, outputs) / 2) + biases


class MlpNetwork(DenseNetwork):
    """Fully connected: hidden_layers × [dense, activation], then the readout. Inputs are flattened."""

    name: Literal["mlp"]


class ConvolutionalNetwork(AnalyticNetwork):
    """Fields common to networks on images (height, width, channel): convolutions with square filters, stride 1."""

    conv_layers: int = Field(2, ge=1, description="Number of convolutions, stride 1.")
    kernel_size: int = Field(3, ge=1, description="Side of the square filters, in pixels.")
    padding: Literal["SAME", "VALID", "CIRCULAR"] = Field(
        "SAME", description="Boundary: zeros (SAME), none (VALID), periodic (CIRCULAR)."
    )
    dense_layers: int = Field(
        0, ge=0, description="Hidden dense layers [dense, activation] of `width` units between head and readout."
    )

    def extents(self, shape: tuple[int, ...]) -> list[tuple[int, int]]:
        """(height, width) after each convolution."""
        shrink = self.kernel_size - 1 if self.padding == "VALID" else 0
        return [(shape[0] - k * shrink, shape[1] - k * shrink) for k in range(1, self.conv_layers + 1)]

    def _check_images(self, shape: tuple[int, ...], name: str) -> None:
        if len(shape) != 3:
            raise StudyError(
                f"network.name: {name} needs images (height, width, channels), the task gives inputs of shape {shape}.",
                remedy="Use network {name: mlp}, or a task on a grid.",
            )
        if min(self.extents(shape)[-1]) < 1 or self.kernel_size > min(shape[:2]):
            shrinking = self.padding == "VALID" and self.kernel_size <= min(shape[:2])
            raise StudyError(
                f"network: {self.conv_layers} {self.padding} convolutions of size {self.kernel_size} "
                f"do not fit inputs of {shape[0]}×{shape[1]} pixels.",
                remedy="Lower network.kernel_size or network.conv_layers, or use padding SAME."
                if shrinking
                else f"Lower network.kernel_size to {min(shape[:2])} or less.",
            )

    def _check_support(self, group: str, consequence: str) -> None:
        turned = get_group(group).order > 1 and get_group(group).shift is None
        if turned and self.padding != "VALID" and self.kernel_size % 2 == 0:
            raise StudyError(
                f"network.kernel_size: {self.kernel_size} is even: with padding {self.padding} the filter support "
                f"is not mapped to itself by {group}, so that {consequence}.",
                remedy="Use an odd kernel_size, or padding VALID.",
            )

    def _tail_flops(self, features: int, outputs: int) -> float:
        """Of the dense layers and the readout behind a head that gives ``features`` numbers."""
        units = [features, *[self.width] * self.dense_layers, outputs]
        return sum(2.0 * a * b for a, b in pairwise(units))

    def _biases(self, outputs: int) -> int:
        hidden = self.conv_layers + self.dense_layers
        return hidden * self.width * (self.b_std > 0) + outputs * (self.readout_b_std > 0)


class CnnNetwork(ConvolutionalNetwork):
    """Convolutional: conv_layers × [convolution, activation], a head, dense_layers × [dense, activation], readout."""

    name: Literal["cnn"]
    width: int = Field(16, ge=1, description="Channels of each convolution, units of each dense layer.")
    head: Literal["flatten", "global_average_pool"] = Field(
        "global_average_pool", description="What stands between the convolutions and the dense layers."
    )

    ADDED: ClassVar[set[str]] = {"dense_layers"}

    def check_input(self, shape: tuple[int, ...], group: str) -> None:
        self._check_images(shape, self.name)
        self._check_support(group, "even the infinite ensemble is not equivariant")

    def forward_flops(self, shape: tuple[int, ...], outputs: int) -> float:
        channels, total = shape[2], 0.0
        for height, width in self.extents(shape):
            total += 2.0 * height * width * self.kernel_size**2 * channels * self.width
            channels = self.width
        return total + self._tail_flops(self._features(shape), outputs)

    def parameters(self, shape: tuple[int, ...], outputs: int) -> int:
        taps = self.kernel_size**2 * self.width * (shape[2] + (self.conv_layers - 1) * self.width)
        return taps + int(self._tail_flops(self._features(shape), outputs) / 2) + self._biases(outputs)

    def _features(self, shape: tuple[int, ...]) -> int:
        """Numbers that the head gives."""
        return self.width * (prod(self.extents(shape)[-1]) if self.head == "flatten" else 1)


class GcnnNetwork(ConvolutionalNetwork):
    """Group-convolutional, every member invariant: lifting, (conv_layers − 1) × group convolution (each followed by
    the activation), average over pixels and group, dense_layers × [dense, activation], readout."""

    name: Literal["gcnn"]
    width: int = Field(16, ge=1, description="Channels per group element of each convolution, units of dense layers.")
    conv_layers: int = Field(2, ge=1, description="Number of convolutions, stride 1: one lifting, then group ones.")
    group: Literal["c2", "c4", "d2", "d4"] | None = Field(
        None, description="Group of rotations and reflections of the pixel grid; null: the group of the study."
    )

    #: The groups a gcnn exists for.
    GROUPS: ClassVar[tuple[str, ...]] = ("c2", "c4", "d2", "d4")

    def check_input(self, shape: tuple[int, ...], group: str) -> None:
        self._check_images(shape, self.name)
        name = self.group or group
        exact = [known for known in self.GROUPS if get_group(known).acts_on_grid(*shape[:2])]
        if name not in exact:
            raise StudyError(
                f"network.group: the kernels of a gcnn are exact for groups that map the grid of {shape[0]}×{shape[1]} "
                f"pixels to itself; {name} is not one of them.",
                remedy=f"Use one of {', '.join(exact)}" + ("." if shape[0] == shape[1] else ", or a square grid."),
            )
        self._check_support(name, "the members are not invariant")

    def forward_flops(self, shape: tuple[int, ...], outputs: int) -> float:
        order = self._order
        channels, total = shape[2], 0.0
        for height, width in self.extents(shape):
            total += 2.0 * height * width * self.kernel_size**2 * channels * order * self.width
            channels = order * self.width
        return total + self._tail_flops(self.width, outputs)

    def parameters(self, shape: tuple[int, ...], outputs: int) -> int:
        taps = self.kernel_size**2 * self.width * (shape[2] + (self.conv_layers - 1) * self._order * self.width)
        return taps + int(self._tail_flops(self.width, outputs) / 2) + self._biases(outputs)

    @property
    def _order(self) -> int:
        if self.group is None:
            raise ValueError("the group of a gcnn must be filled in before its size is known")
        return get_group(self.group).order


class TorchNetwork(NetworkSection):
    """The user's own torch network; it has no analytic kernel, but may have a Monte-Carlo one (theory.monte_carlo)."""

    name: Literal["torch"]
    factory: str = Field(
        pattern=IMPORT_PATH,
        description="Import path 'package.module:function' of a function (input_shape, outputs, …) → torch.nn.Module; "
        "see docs/custom_network.md.",
    )
    width: int | None = Field(
        None, ge=1, description="Size of the network, passed to the factory as width= where given; can be swept."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Further arguments of the factory, by name.")

    @field_validator("options")
    @classmethod
    def _names(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted({"width", "input_shape", "outputs"} & set(value)):
            raise ValueError(f"{taken[0]} is passed by itself: give network.width, and leave the shapes out")
        return value

    def forward_flops(self, shape: tuple[int, ...], outputs: int) -> None:
        return None

    def parameters(self, shape: tuple[int, ...], outputs: int) -> None:
        return None


#: Networks with an analytic kernel.
KernelNetwork = Annotated[MlpNetwork | CnnNetwork | GcnnNetwork, Field(discriminator="name")]

Network = Annotated[MlpNetwork | CnnNetwork | GcnnNetwork | TorchNetwork, Field(discriminator="name")]
