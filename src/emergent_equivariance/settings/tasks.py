"""The task sections: which data, how much of it, under which names."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from ..groups import get_group, grid_action, line_action
from .base import IMPORT_PATH, Section


def _as_tuple(value: Any) -> Any:
    if value is None or value == "none":
        return ()
    values = (value,) if isinstance(value, str) else value
    if isinstance(values, (list, tuple)) and len(set(map(str, values))) < len(values):
        raise ValueError(f"{list(values)} names a set twice; give each once")
    return values


class TaskSection(Section):
    """Fields common to all tasks."""

    train: int = Field(128, ge=1, description="Number of training samples, before augmentation.")
    test: int = Field(256, ge=1, description="Number of test samples, and of samples in each out-of-distribution set.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the data: which samples are drawn or chosen.")

    #: Fields that say where the data lies, not what it is: no part of any hash.
    LOCATION: ClassVar[set[str]] = set()

    #: Whether inputs are images, which can be interpolated and masked.
    IMAGES: ClassVar[bool] = False

    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of one input, or None if only the data can tell."""
        return None

    def outputs(self) -> int | None:
        """Number of outputs, or None if only the data can tell."""
        return None

    def check_group(self, group: str) -> None:
        """Raise StudyError if the group does not act on the inputs."""
        shape = self.input_shape()
        if shape is None:
            return
        if len(shape) == 1:
            line_action(get_group(group))
        elif not self.IMAGES or get_group(group).shift is not None:
            grid_action(get_group(group), shape[0], shape[1])


class IsingTask(TaskSection):
    """Energies of the two-dimensional Ising model, J = 1, periodic boundaries, spins iid ±1."""

    name: Literal["ising"]
    lattice: int | tuple[int, int] = Field(5, description="Sites per side, or [rows, columns].")
    target: Literal["local", "total"] = Field(
        "total",
        description="local: site energies E_i = Σ_j s_i s_j (equivariant outputs, judged on the total energy); "
        "total: the scalar −(J/n) Σ_i E_i.",
    )
    ood: Annotated[tuple[Literal["gaussian"], ...], BeforeValidator(_as_tuple)] = Field(
        ("gaussian",), description="Out-of-distribution inputs: gaussian (spins ~ N(0, 1)), or none."
    )

    @property
    def sides(self) -> tuple[int, int]:
        """(rows, columns) of the lattice."""
        return (self.lattice, self.lattice) if isinstance(self.lattice, int) else self.lattice

    @model_validator(mode="after")
    def _check(self) -> IsingTask:
        if max(self.sides) > 256:
            raise ValueError(f"lattice: {max(self.sides)} sites a side are more than 256; give at most that")
        if min(self.sides) < 3:
            raise ValueError(
                f"lattice: {min(self.sides)} sites a side give no periodic lattice with four distinct neighbours; "
                "give at least 3"
            )
        return self

    def input_shape(self) -> tuple[int, ...]:
        return (*self.sides, 1)

    def outputs(self) -> int:
        return 1 if self.target == "total" else self.sides[0] * self.sides[1]


class DigitsTask(TaskSection):
    """scikit-learn's 8×8 handwritten digits (1,797 real images, embedded in the package)."""

    name: Literal["digits"]
    ood: Annotated[tuple[Literal["smooth"], ...], BeforeValidator(_as_tuple)] = Field(
        ("smooth",), description="Out-of-distribution inputs: smooth (synthetic smooth images), or none."
    )
    IMAGES: ClassVar[bool] = True

    def input_shape(self) -> tuple[int, ...]:
        return (8, 8, 1)

    def outputs(self) -> int:
        return 10

    @model_validator(mode="after")
    def _check(self) -> DigitsTask:
        if self.train + self.test > 1797:
            raise ValueError(
                f"train + test = {self.train + self.test}, but the data set has 1797 images; lower one of them"
            )
        return self


class FashionMnistTask(TaskSection):
    """FashionMNIST: 28×28 grey images of clothing in 10 classes, 60,000 + 10,000."""

    name: Literal["fashion_mnist"]
    train: int = Field(1000, ge=1, le=60000, description="Number of training images, of 60,000.")
    test: int = Field(500, ge=1, le=10000, description="Number of test images, and of images in each OOD set.")
    ood: Annotated[tuple[Literal["mnist", "smooth"], ...], BeforeValidator(_as_tuple)] = Field(
        ("mnist", "smooth"),
        description="Out-of-distribution inputs: mnist, smooth (synthetic smooth images), or none.",
    )
    data_dir: str | None = Field(
        None,
        description="Directory with the IDX files; otherwise $EMEQ_DATA_DIR, the system's data sets, then a download.",
    )
    LOCATION: ClassVar[set[str]] = {"data_dir"}
    IMAGES: ClassVar[bool] = True

    def input_shape(self) -> tuple[int, ...]:
        return (28, 28, 1)

    def outputs(self) -> int:
        return 10


class PathMnistTask(TaskSection):
    """PathMNIST (NCT-CRC-HE at 28×28): colour images of stained colon tissue in 9 classes, 89,996 + 7,180."""

    name: Literal["path_mnist"]
    train: int = Field(1000, ge=1, le=89996, description="Number of training images, of 89,996.")
    test: int = Field(500, ge=1, le=7180, description="Number of test images, and of images in each OOD set.")
    side: Literal[28, 14, 7] = Field(
        28, description="Pixels a side: 28 as published; 14, 7: averages over blocks of 2×2, 4×4 pixels."
    )
    ood: Annotated[tuple[Literal["smooth"], ...], BeforeValidator(_as_tuple)] = Field(
        (), description="Out-of-distribution inputs: smooth (synthetic smooth images), or none."
    )
    data_dir: str | None = Field(
        None,
        description="Directory with pathmnist.npz; otherwise $EMEQ_DATA_DIR, the system's data sets, then a download.",
    )
    LOCATION: ClassVar[set[str]] = {"data_dir"}
    IMAGES: ClassVar[bool] = True

    def input_shape(self) -> tuple[int, ...]:
        return (self.side, self.side, 3)

    def outputs(self) -> int:
        return 9


class CosineTask(TaskSection):
    """The mirror toy: target cos(x) on a symmetric interval, group C2 acting by x ↦ −x."""

    name: Literal["cosine"]
    train: int = Field(12, ge=1, description="Number of training points, iid uniform on [−domain, domain].")
    test: int = Field(101, ge=2, description="Number of evenly spaced test points on [−domain, domain].")
    domain: float = Field(5.3, gt=0, description="Half-width of the training interval.")
    ood: Annotated[tuple[Literal["outside"], ...], BeforeValidator(_as_tuple)] = Field(
        ("outside",), description="Out-of-distribution inputs: outside (domain < |x| < 1.5 domain), or none."
    )

    def input_shape(self) -> tuple[int, ...]:
        return (1,)

    def outputs(self) -> int:
        return 1


class CustomTask(TaskSection):
    """The user's own task."""

    name: Literal["custom"]
    factory: str = Field(
        pattern=IMPORT_PATH,
        description="Import path 'package.module:function' of a function (settings, group) → TaskData.",
    )
    ood: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = Field(
        (),
        description="Names of the out-of-distribution splits the factory delivers (without the prefix 'ood-').",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Free settings, read by the factory alone.")


Task = Annotated[
    IsingTask | DigitsTask | FashionMnistTask | PathMnistTask | CosineTask | CustomTask, Field(discriminator="name")
]
