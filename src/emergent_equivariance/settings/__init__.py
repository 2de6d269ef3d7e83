"""The typed study file: every key with its type, default, unit and meaning.

One pydantic model per section, and one per kind of study that puts sections together; unknown keys are errors. The
JSON schema that editors use is generated from these models (workflow/schemas/study.schema.json).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, model_validator

from ..errors import StudyError
from ..groups import FAMILIES, GROUPS, NAMES, get_group
from .action import GroupAction
from .base import SAFE_NAME, Section
from .convergence import Convergence
from .engines import ENGINES
from .networks import (
    AnalyticNetwork,
    CnnNetwork,
    ConvolutionalNetwork,
    DenseNetwork,
    GcnnNetwork,
    KernelNetwork,
    MlpNetwork,
    Network,
    NetworkSection,
    TorchNetwork,
)
from .regression import Regression
from .sections import (
    Augmentation,
    CriticalFraction,
    Ensemble,
    Evaluate,
    Execution,
    Theory,
    Tracking,
    Training,
    normalise_augmentation,
)
from .tasks import CosineTask, CustomTask, DigitsTask, FashionMnistTask, IsingTask, PathMnistTask, Task, TaskSection

__all__ = [
    "STUDY_FILES",
    "STUDY_KEYS",
    "AnalyticNetwork",
    "AnySettings",
    "Augmentation",
    "CnnNetwork",
    "Common",
    "Convergence",
    "ConvergenceSettings",
    "ConvolutionalNetwork",
    "CosineTask",
    "CriticalFraction",
    "CustomTask",
    "DenseNetwork",
    "DigitsTask",
    "Ensemble",
    "Evaluate",
    "Execution",
    "FashionMnistTask",
    "GcnnNetwork",
    "GroupAction",
    "IsingTask",
    "MlpNetwork",
    "Network",
    "NetworkSection",
    "PathMnistTask",
    "Regression",
    "RegressionSettings",
    "Section",
    "Settings",
    "StudyFile",
    "Task",
    "TaskSection",
    "Theory",
    "TorchNetwork",
    "Tracking",
    "Training",
    "json_schema",
    "normalise_augmentation",
]

# ------------------------------------------------------------------------- what the arms of a kind depend on


def _known_group(name: str) -> str:
    try:
        return get_group(name).name
    except StudyError as error:
        raise ValueError(str(error).removeprefix("group: ").removesuffix(".")) from None


class Common(Section):
    """What arms of every kind depend on."""

    task: Task
    group: Annotated[str, AfterValidator(_known_group)] = Field(
        "c4",
        description=f"Symmetry group: {FAMILIES}. On the line c2 is x ↦ −x. Exact on square grids: c1, c2, c4, d1, d2, "
        "d4, and tk where k divides the sides; other rotations act on images by interpolation (see `action`).",
        json_schema_extra={"pattern": NAMES},
    )
    action: GroupAction = GroupAction()
    network: Network
    execution: Execution = Execution()

    @model_validator(mode="before")
    @classmethod
    def _group_of_the_network(cls, data: Any) -> Any:
        """A gcnn without a group of its own takes that of the study."""
        network = data.get("network") if isinstance(data, Mapping) else None
        if isinstance(network, Mapping) and network.get("name") == "gcnn" and network.get("group") is None:
            group = data.get("group", "c4")
            if group not in GcnnNetwork.GROUPS and re.fullmatch(NAMES, str(group)):
                raise ValueError(
                    f"network.group: a gcnn is exact for {', '.join(GcnnNetwork.GROUPS)}; {group}, the group of the "
                    "study, is none of them: give network.group, for instance c4"
                )
            return {**data, "network": {**network, "group": group}}
        return data

    @model_validator(mode="after")
    def _images_only(self) -> Self:
        if not self.task.IMAGES and self.action != GroupAction():
            raise ValueError(
                f"action: the inputs of task {self.task.name} are neither interpolated nor masked (a task of your own "
                "gives its own action); leave the section out"
            )
        return self

    @model_validator(mode="after")
    def _invariant_outputs(self) -> Self:
        if self.network.canonicalisation != "none" and isinstance(self.task, IsingTask) and self.task.target == "local":
            raise ValueError(
                "network.canonicalisation: it makes every member invariant, but site energies are permuted by the "
                "group; use canonicalisation none, or task.target: total"
            )
        return self

    @property
    def action_identity(self) -> dict[str, Any]:
        """What of the section ``action`` the data depends on; empty where groups act exactly on whole inputs."""
        shape = self.task.input_shape()
        return self.action.identity(self.group, shape) if self.task.IMAGES and shape is not None else {}

    @property
    def has_invariant_kernel(self) -> bool:
        """Whether Θ(gx, gx′) = Θ(x, x′) is known before any data is there: then κ_ij(u) gives it on whole orbits.

        Not for actions by interpolation, which custom tasks may have; not for convolutions in custom tasks and under
        shifts, which the boundary may break; not where the network sees canonical inputs.
        """
        shape, dense = self.task.input_shape(), isinstance(self.network, DenseNetwork)
        if self.network.canonicalisation != "none":
            return False
        if shape is None:
            return dense and self.group in GROUPS
        if self.task.IMAGES and self.action.interpolates(self.group, shape):
            return False
        return dense or get_group(self.group).shift is None

    def splits(self) -> list[str]:
        """Names of the splits, in the order of the data."""
        return ["train", "test", *(f"ood-{name}" for name in self.task.ood)]


class Settings(Common):
    """Everything one arm of a study of kind ensemble depends on."""

    augmentation: Annotated[Augmentation, BeforeValidator(normalise_augmentation)] = Augmentation()
    training: Training
    ensemble: Ensemble = Ensemble()
    theory: Theory = Theory()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _check(self) -> Settings:
        order = get_group(self.group).order
        if self.augmentation.subset and self.augmentation.subset > order:
            raise ValueError(
                f"augmentation.subset: {self.augmentation.subset} elements per sample, but {self.group} has {order}; "
                "give at most as many"
            )
        if self.evaluate.ensemble_mean == "softmax" and self.task.name in ("ising", "cosine"):
            raise ValueError(
                f"evaluate.ensemble_mean: softmax needs a classification task, {self.task.name} is a regression; "
                "use logits"
            )
        if isinstance(self.execution.members_at_once, int) and self.execution.members_at_once < 1:
            raise ValueError(
                f"execution.members_at_once: {self.execution.members_at_once} is below 1; give at least 1, or auto"
            )
        engine, trained = self.execution.engine, ENGINES.get(self.execution.engine)
        if trained is not None and self.network.name not in trained.networks:
            raise ValueError(
                f"execution.engine: {engine} cannot train network {self.network.name}, only "
                f"{', '.join(trained.networks)}; use auto"
            )
        if self.resolves_learning_rate and not self.has_kernel:
            raise ValueError(
                "training.learning_rate: a critical_fraction needs the NTK, and network torch has no analytic one; "
                "give a number, or theory.monte_carlo: the number of networks to estimate the NTK with"
            )
        return self

    @property
    def has_kernel(self) -> bool:
        """Whether there is an NTK to compare with: an analytic one, or one estimated from many networks."""
        return isinstance(self.network, AnalyticNetwork) or self.theory.monte_carlo is not None

    @property
    def resolves_learning_rate(self) -> bool:
        """Whether the learning rate is known only once the theory has the largest eigenvalue."""
        return isinstance(self.training.learning_rate, CriticalFraction)

    @property
    def has_mean(self) -> bool:
        """Whether this arm has a mean μ_t given by an NTK: that of the outputs, not of their softmax."""
        wanted = self.theory.mean and self.has_kernel
        return wanted and self.training.has_mean and self.evaluate.ensemble_mean == "logits"

    @property
    def has_covariance(self) -> bool:
        """Whether it has an analytic covariance Σ_t: not with fresh random elements, which add noise."""
        return self.has_mean and self.theory.covariance and self.augmentation.kind != "random"


def _with_analytic_kernel(data: Any) -> Any:
    """Refuse networks without an analytic kernel in studies of kernels."""
    network = data.get("network") if isinstance(data, Mapping) else None
    if isinstance(network, Mapping) and network.get("name") == "torch":
        raise ValueError(
            "network.name: torch has no analytic kernel, which studies of this kind are about; use mlp, cnn or gcnn, "
            "or kind ensemble with theory.monte_carlo"
        )
    return data


class ConvergenceSettings(Common):
    """Everything one arm of a study of kind kernel_convergence depends on."""

    network: KernelNetwork
    convergence: Convergence = Convergence()

    _analytic = model_validator(mode="before")(_with_analytic_kernel)

    @model_validator(mode="after")
    def _check(self) -> ConvergenceSettings:
        if self.convergence.inputs > self.task.test:
            raise ValueError(
                f"convergence.inputs: {self.convergence.inputs} inputs, but the split test has {self.task.test}; "
                "lower it, or raise task.test"
            )
        return self


class RegressionSettings(Common):
    """Everything one arm of a study of kind kernel_regression depends on."""

    network: KernelNetwork
    regression: Regression

    _analytic = model_validator(mode="before")(_with_analytic_kernel)

    @model_validator(mode="after")
    def _check(self) -> RegressionSettings:
        if max(self.regression.sizes) > self.task.train:
            raise ValueError(
                f"regression.sizes: {max(self.regression.sizes)} samples, but task.train is {self.task.train}; "
                "lower it, or raise task.train"
            )
        if self.regression.form == "descent" and any(t != "inf" and t != int(t) for t in self.regression.times):
            raise ValueError("regression.times: gradient descent counts whole steps; use form flow, or whole numbers")
        rate = self.regression.learning_rate
        if self.regression.form == "descent" and isinstance(rate, CriticalFraction) and rate.critical_fraction > 1:
            raise ValueError(
                f"regression.learning_rate: a critical_fraction of {rate.critical_fraction:g} is above the critical "
                "learning rate: gradient descent diverges; lower it, give {critical_fraction: 0.5}, or use "
                "regression.form: flow"
            )
        return self


AnySettings = Settings | ConvergenceSettings | RegressionSettings

# ------------------------------------------------------------------------------------------- the study files


class _Study(Section):
    study: str = Field(pattern=SAFE_NAME, max_length=80, description="Name of the study: its folder under results/.")
    sweep: dict[str, list[Any] | dict[str, Any]] = Field(
        default_factory=dict,
        description="Dotted keys with lists of values; their product gives the arms, e.g. network.width: [64, 128]. A "
        "mapping gives the values names: network: {CNN: {name: cnn, …}, GCNN: {name: gcnn, …}}.",
    )
    tracking: Tracking = Tracking()


class EnsembleStudy(Settings, _Study):
    """Trained ensembles against the analytic mean: emergent equivariance."""

    kind: Literal["ensemble"] = Field("ensemble", description="What the study does.")


class ConvergenceStudy(ConvergenceSettings, _Study):
    """Empirical kernels of finite networks against the analytic ones."""

    kind: Literal["kernel_convergence"] = Field(description="What the study does.")


class RegressionStudy(RegressionSettings, _Study):
    """Infinitely wide ensembles as regressors: learning curves of several kernels."""

    kind: Literal["kernel_regression"] = Field(description="What the study does.")


StudyFile = EnsembleStudy | ConvergenceStudy | RegressionStudy

#: Kind → (model of the file, model of what its arms depend on).
STUDY_FILES: dict[str, tuple[type[StudyFile], type[AnySettings]]] = {
    "ensemble": (EnsembleStudy, Settings),
    "kernel_convergence": (ConvergenceStudy, ConvergenceSettings),
    "kernel_regression": (RegressionStudy, RegressionSettings),
}

STUDY_KEYS = ("study", "kind", "sweep", "tracking")


def json_schema() -> dict[str, Any]:
    """JSON schema of study files, as kept in workflow/schemas/study.schema.json: one definition per kind."""
    definitions = TypeAdapter(StudyFile).json_schema()["$defs"]
    for definition in definitions.values():
        _allow_short_forms(definition.get("properties", {}))
    chosen: dict[str, Any] = {"$ref": f"#/$defs/{EnsembleStudy.__name__}"}
    for kind, (model, _) in list(STUDY_FILES.items())[1:]:
        chosen = {
            "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
            "then": {"$ref": f"#/$defs/{model.__name__}"},
            "else": chosen,
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A study file of emergent-equivariance",
        "type": "object",
        "properties": {"kind": {"enum": list(STUDY_FILES)}},
        **chosen,
        "$defs": definitions,
    }


def _allow_short_forms(properties: dict[str, Any]) -> None:
    if "augmentation" in properties:
        augmentation = properties["augmentation"]
        reference = {"$ref": augmentation.pop("$ref")} if "$ref" in augmentation else augmentation.pop("allOf")[0]
        augmentation["anyOf"] = [
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
            reference,
        ]
    if "ood" in properties:
        ood = properties["ood"]
        single = ood["items"]
        ood["anyOf"] = [{"type": "array", "items": single}, single, {"const": "none"}]
        ood.pop("type"), ood.pop("items")
