"""The typed sections of a study file: every key with its type, default, unit and meaning.

One pydantic model per section; unknown keys are errors. The JSON schema that editors use is generated from
these models (workflow/schemas/study.schema.json).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from .errors import StudyError
from .groups import GROUPS, get_group, grid_action, line_action

SAFE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]*$"


class Section(BaseModel):
    """A section of the study file: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_booleans_as_numbers(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for key, value in data.items():
                if isinstance(value, bool) and key in cls.model_fields and cls.model_fields[key].annotation is not bool:
                    raise ValueError(f"{key}: {str(value).lower()} is given where true and false have no meaning")
        return data


def _as_tuple(value: Any) -> Any:
    if value is None or value == "none":
        return ()
    values = (value,) if isinstance(value, str) else value
    if isinstance(values, (list, tuple)) and len(set(map(str, values))) < len(values):
        raise ValueError(f"{list(values)} names a set twice; give each once")
    return values


# ---------------------------------------------------------------------------------------------- tasks


class TaskSection(Section):
    """Fields common to all tasks."""

    train: int = Field(128, ge=1, description="Number of training samples, before augmentation.")
    test: int = Field(256, ge=1, description="Number of test samples, and of samples in each out-of-distribution set.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the data: which samples are drawn or chosen.")

    #: Fields that say where the data lies, not what it is: no part of any hash.
    LOCATION: ClassVar[set[str]] = set()

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
        else:
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
            raise ValueError(f"lattice: {max(self.sides)} sites a side are more than 256")
        if min(self.sides) < 3:
            raise ValueError("lattice: a periodic lattice with four distinct neighbours needs at least 3 sites a side")
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

    def input_shape(self) -> tuple[int, ...]:
        return (8, 8, 1)

    def outputs(self) -> int:
        return 10

    @model_validator(mode="after")
    def _check(self) -> DigitsTask:
        if self.train + self.test > 1797:
            raise ValueError(f"train + test = {self.train + self.test}, but the data set has 1797 images")
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

    def input_shape(self) -> tuple[int, ...]:
        return (28, 28, 1)

    def outputs(self) -> int:
        return 10


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
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="Import path 'package.module:function' of a function (settings, group) → TaskData.",
    )
    ood: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = Field(
        (),
        description="Names of the out-of-distribution splits the factory delivers (without the prefix 'ood-').",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Free settings, read by the factory alone.")


Task = Annotated[IsingTask | DigitsTask | FashionMnistTask | CosineTask | CustomTask, Field(discriminator="name")]


# ------------------------------------------------------------------------------------------- networks


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


# --------------------------------------------------------------------------------------- augmentation


class Augmentation(Section):
    """How training inputs are transformed. Short forms: ``none``, ``full``, ``random``, ``{subset: k}``."""

    kind: Literal["none", "full", "subset", "random"] = Field(
        "none",
        description="none; full (all orbits); subset (a fixed random subset of the group per sample, "
        "identity included, the same for all members); random (a fresh element per sample and step).",
    )
    subset: int | None = Field(None, ge=1, description="For kind subset: number of elements per sample.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the subsets and of the random elements.")

    @model_validator(mode="after")
    def _check(self) -> Augmentation:
        if (self.kind == "subset") != (self.subset is not None):
            raise ValueError("subset: give the number of elements with kind subset, and with no other kind")
        return self

    @property
    def label(self) -> str:
        """The augmentation as one word: none, full, random or subset-K."""
        return f"subset-{self.subset}" if self.kind == "subset" else self.kind

    def rows(self, order: int) -> int:
        """Training rows per sample for a group of ``order`` elements."""
        return {"none": 1, "random": 1, "full": order, "subset": self.subset or 0}[self.kind]


def normalise_augmentation(value: Any) -> Any:
    if value is None:
        return {"kind": "none"}
    if isinstance(value, str):
        return {"kind": value}
    if isinstance(value, Mapping) and "subset" in value and "kind" not in value:
        return {"kind": "subset", **value}
    return value


# ------------------------------------------------------------------------------------------- training


class CriticalFraction(Section):
    """A learning rate relative to the largest stable one."""

    critical_fraction: float = Field(
        gt=0,
        description="η as a fraction of 2 N n_out/λ_max, with λ_max the largest eigenvalue of the analytic NTK on "
        "the N augmented training inputs: the same η for every width. Below 1 gradient descent is stable.",
    )


class Training(Section):
    """Loss, optimiser and what is recorded. Time is counted in gradient steps (gd) or epochs (sgd, adam)."""

    loss: Literal["mse", "cross_entropy"] = Field(
        "mse",
        description="mse: ½·mean over samples and outputs of the squared error; cross_entropy: mean over samples.",
    )
    optimizer: Literal["gd", "sgd", "adam"] = Field(
        "gd",
        description="gd: full-batch gradient descent (the setting of the theory); sgd, adam: minibatches.",
    )
    learning_rate: float | CriticalFraction = Field(
        CriticalFraction(critical_fraction=0.5),
        description="Step size η, or {critical_fraction: c}.",
        union_mode="left_to_right",
    )
    momentum: float = Field(0.0, ge=0, lt=1, description="Momentum of sgd.")
    steps: int | None = Field(None, ge=0, description="For gd, required: number of gradient steps.")
    epochs: int | None = Field(
        None, ge=0, description="For sgd and adam, required: passes over the augmented training set."
    )
    batch_size: int | None = Field(None, ge=1, description="For sgd and adam: rows per minibatch (default 128).")
    record: list[int] | Literal["auto"] = Field(
        "auto",
        description="Steps (gd) or epochs (sgd, adam) at which predictions are recorded; 0 is always recorded. "
        "auto: 0, 1, 3, 10, … and the last step; every epoch.",
    )
    store_weights: list[int] = Field(
        default_factory=list, description="Recorded steps or epochs at which the weights are stored too."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the data order (minibatches), separate for each member.")

    @model_validator(mode="after")
    def _check(self) -> Training:
        if isinstance(self.learning_rate, float) and not self.learning_rate > 0:
            raise ValueError(f"learning_rate: {self.learning_rate} is not positive")
        if self.optimizer == "gd":
            if self.steps is None or self.epochs is not None or self.batch_size is not None:
                raise ValueError("optimizer gd counts steps: give steps, and neither epochs nor batch_size")
        elif self.epochs is None or self.steps is not None:
            raise ValueError(f"optimizer {self.optimizer} counts epochs: give epochs, not steps")
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum: only optimizer sgd has momentum, not {self.optimizer}")
        if isinstance(self.learning_rate, CriticalFraction) and not self.has_mean:
            raise ValueError(
                "learning_rate: a critical_fraction is defined for loss mse with optimizer gd only; give a number"
            )
        if self.record != "auto":
            if any(step < 0 for step in self.record):
                raise ValueError(f"record: {min(self.record)} is negative")
            if self.record and max(self.record) > self.last:
                raise ValueError(
                    f"record: {max(self.record)} is beyond the last {self.unit}, {self.last}; "
                    f"record at most that, or raise {self.unit}s"
                )
        missing = sorted(set(self.store_weights) - set(self.recorded))
        if missing:
            raise ValueError(f"store_weights: {missing} are not among the recorded {self.unit}s {self.recorded}")
        return self

    @property
    def has_mean(self) -> bool:
        """Whether the NTK gives the mean in closed form: gradient descent on the squared error."""
        return self.loss == "mse" and self.optimizer == "gd"

    @property
    def unit(self) -> str:
        """What the recorded times count: "step" or "epoch"."""
        return "step" if self.optimizer == "gd" else "epoch"

    @property
    def last(self) -> int:
        """Number of steps or epochs."""
        return (self.steps if self.optimizer == "gd" else self.epochs) or 0

    @property
    def recorded(self) -> list[int]:
        """Recorded steps or epochs, ascending, 0 first."""
        if self.record != "auto":
            return sorted({0, *self.record})
        if self.unit == "epoch":
            return list(range(self.last + 1))
        decades = [m * 10**k for k in range(7) for m in (1, 3)]
        return sorted({0, self.last, *(step for step in decades if step < self.last)})

    @property
    def batch(self) -> int | None:
        """Rows per minibatch; None for full batches."""
        return None if self.optimizer == "gd" else self.batch_size or 128


# --------------------------------------------------------------------------------- the other sections


class Ensemble(Section):
    """The members of each arm."""

    members: int = Field(64, ge=1, le=10**6, description="Number of members M.")
    seed: int = Field(
        0, ge=0, lt=2**63, description="Seed of the initial weights; arms that differ in augmentation share them."
    )


class Theory(Section):
    """The analytic side."""

    mean: bool = Field(True, description="Compute the analytic mean μ_t where it exists (loss mse, optimizer gd).")
    covariance: bool = Field(
        True,
        description="Compute Σ_t on orbits too: it predicts the finite-ensemble error. Not for augmentation random.",
    )


class Evaluate(Section):
    """What is recorded and how ensembles are formed from it."""

    samples: int = Field(64, ge=1, description="Samples per split whose whole orbits are recorded (the first ones).")
    member_counts: list[Annotated[int, Field(ge=1)]] | Literal["powers_of_two"] = Field(
        "powers_of_two", description="Ensemble sizes to evaluate; the full one is always added."
    )
    ensemble_mean: Literal["logits", "softmax"] = Field(
        "logits", description="What the ensemble averages: the outputs, or their softmax."
    )
    stored_subsets: int = Field(
        4,
        ge=1,
        description="Disjoint member subsets per ensemble size whose mean predictions are kept "
        "(all enter the metrics).",
    )


class Tracking(Section):
    """Weights & Biases."""

    wandb: Literal["offline", "online", "disabled"] = Field("offline", description="Mode of Weights & Biases.")
    project: str = Field("emergent-equivariance", pattern=SAFE_NAME, description="Project the runs go to.")
    entity: str | None = Field(None, description="User or team; default: that of the logged-in user.")


class Execution(Section):
    """How the work is cut up; no number depends on it beyond floating-point round-off."""

    shard_size: int = Field(64, ge=1, description="Members trained by one job.")
    engine: Literal["auto", "jax"] = Field("auto", description="Training engine.")
    members_at_once: int | Literal["auto"] = Field(
        "auto",
        description="Members advanced together by one compiled step; auto: 1 on a CPU, the shard on a GPU.",
    )
    threads: int = Field(1, ge=1, description="CPU threads of one training job.")
    precision: Literal["float32", "float64"] = Field("float32", description="Precision of training.")


class Settings(Section):
    """Everything one arm depends on."""

    task: Task
    group: Literal[tuple(GROUPS)] = Field(  # type: ignore[valid-type]
        "c4",
        description="Symmetry group: trivial; on grids the rotations by 180° (c2) or 90° (c4, square grids), or these "
        "and reflections (d4, square grids); on the line x ↦ −x (c2).",
    )
    network: Network
    augmentation: Annotated[Augmentation, BeforeValidator(normalise_augmentation)] = Augmentation()
    training: Training
    ensemble: Ensemble = Ensemble()
    theory: Theory = Theory()
    evaluate: Evaluate = Evaluate()
    execution: Execution = Execution()

    @model_validator(mode="after")
    def _check(self) -> Settings:
        order = get_group(self.group).order
        if self.augmentation.subset and self.augmentation.subset > order:
            raise ValueError(
                f"augmentation.subset: {self.augmentation.subset} elements per sample, but {self.group} has {order}"
            )
        if self.evaluate.ensemble_mean == "softmax" and self.task.name in ("ising", "cosine"):
            raise ValueError(
                f"evaluate.ensemble_mean: softmax needs a classification task, {self.task.name} is a regression; "
                "use logits"
            )
        if isinstance(self.execution.members_at_once, int) and self.execution.members_at_once < 1:
            raise ValueError(f"execution.members_at_once: {self.execution.members_at_once} is below 1")
        return self

    def splits(self) -> list[str]:
        """Names of the splits, in the order of the data."""
        return ["train", "test", *(f"ood-{name}" for name in self.task.ood)]

    @property
    def resolves_learning_rate(self) -> bool:
        """Whether the learning rate is known only once the theory has the largest eigenvalue."""
        return isinstance(self.training.learning_rate, CriticalFraction)

    @property
    def has_mean(self) -> bool:
        """Whether this arm has an analytic mean μ_t: that of the outputs, not of their softmax."""
        return self.theory.mean and self.training.has_mean and self.evaluate.ensemble_mean == "logits"

    @property
    def has_covariance(self) -> bool:
        """Whether it has an analytic covariance Σ_t: not with fresh random elements, which add noise."""
        return self.has_mean and self.theory.covariance and self.augmentation.kind != "random"


class StudyFile(Settings):
    """A study file of emergent-equivariance."""

    study: str = Field(pattern=SAFE_NAME, max_length=80, description="Name of the study: its folder under results/.")
    kind: Literal["ensemble"] = Field("ensemble", description="What the study does.")
    sweep: dict[str, list[Any]] = Field(
        default_factory=dict,
        description="Dotted keys with lists of values; their product gives the arms, e.g. network.width: [64, 128].",
    )
    tracking: Tracking = Tracking()


STUDY_KEYS = ("study", "kind", "sweep", "tracking")


def json_schema() -> dict[str, Any]:
    """JSON schema of study files, as kept in workflow/schemas/study.schema.json."""
    schema = StudyFile.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    short = [
        {"enum": ["none", "full", "random"], "description": "Short form of {kind: …}."},
        {
            "type": "object",
            "properties": {
                "subset": {"type": "integer", "minimum": 1},
                "seed": {"type": "integer", "minimum": 0},
            },
            "required": ["subset"],
            "additionalProperties": False,
        },
    ]
    augmentation = schema["properties"]["augmentation"]
    reference = {"$ref": augmentation.pop("$ref")} if "$ref" in augmentation else augmentation.pop("allOf")[0]
    augmentation["anyOf"] = [*short, reference]
    for definition in schema["$defs"].values():
        ood = definition.get("properties", {}).get("ood")
        if ood:
            single = ood["items"]
            ood["anyOf"] = [{"type": "array", "items": single}, single, {"const": "none"}]
            ood.pop("type"), ood.pop("items")
    return schema
