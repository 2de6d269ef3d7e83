"""The sections of a study file that are neither task nor network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from .base import SAFE_NAME, Section
from .engines import ENGINES

if TYPE_CHECKING:
    EngineName = str
else:
    EngineName = Literal["auto", *ENGINES]

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
    seed: int = Field(
        0,
        ge=0,
        lt=2**63,
        description="Seed of the data order (minibatches), and of what a network of your own draws in training (masks "
        "of dropout); separate for each member.",
    )

    @model_validator(mode="after")
    def _check(self) -> Training:
        if isinstance(self.learning_rate, float) and not self.learning_rate > 0:
            raise ValueError(f"learning_rate: {self.learning_rate} is not positive; give a number above 0")
        if self.optimizer == "gd":
            if self.steps is None or self.epochs is not None or self.batch_size is not None:
                raise ValueError("optimizer gd counts steps: give steps, and neither epochs nor batch_size")
        elif self.epochs is None or self.steps is not None:
            raise ValueError(f"optimizer {self.optimizer} counts epochs: give epochs, not steps")
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum: only optimizer sgd has momentum, not {self.optimizer}; leave it out")
        if isinstance(self.learning_rate, CriticalFraction) and not self.has_mean:
            raise ValueError(
                "learning_rate: a critical_fraction is defined for loss mse with optimizer gd only; give a number"
            )
        if self.record != "auto":
            if any(step < 0 for step in self.record):
                raise ValueError(f"record: {min(self.record)} is negative; give steps from 0 on")
            if self.record and max(self.record) > self.last:
                raise ValueError(
                    f"record: {max(self.record)} is beyond the last {self.unit}, {self.last}; "
                    f"record at most that, or raise {self.unit}s"
                )
        missing = sorted(set(self.store_weights) - set(self.recorded))
        if missing:
            raise ValueError(
                f"store_weights: {missing} are not among the recorded {self.unit}s {self.recorded}; give some of these"
            )
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
    form: Literal["descent", "flow"] = Field(
        "descent",
        description="descent: whole gradient steps, as members are trained, (1 − ηλ/(N n_out))^t; flow: gradient flow, "
        "exp(−ηλt/(N n_out)).",
    )
    route: Literal["auto", "direct"] = Field(
        "auto",
        description="auto: with full augmentation the problem is solved in blocks, one per irreducible representation "
        "of the group; direct: on the whole augmented set, |G|² times the memory (a check of the former).",
    )
    monte_carlo: int | None = Field(
        None,
        ge=8,
        description="Number K of networks whose empirical kernels at initialisation, averaged, stand for the analytic "
        "ones: for networks that have none, or as a check of those that do. null: no such estimate.",
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
    engine: EngineName = Field(
        "auto",
        description="Training engine; auto: the one that a short measurement before training finds fastest. numba "
        "trains cnn and gcnn, on one CPU thread.",
    )
    members_at_once: int | Literal["auto"] = Field(
        "auto",
        description="Members trained together: the unit that memory grows with; auto: by the same measurement.",
    )
    checkpoint_period: float = Field(120.0, gt=0, description="Seconds between two checkpoints of a shard in training.")
    threads: int = Field(1, ge=1, description="CPU threads of one training job.")
    kernel_threads: int = Field(2, ge=1, description="CPU threads of one job that computes kernels or analytic means.")
    memory: float = Field(
        8.0, gt=0, description="Memory budget in GB (10⁹ bytes) of one job that computes kernels or analytic means."
    )
    tiles_above: int = Field(
        4000,
        ge=1,
        description="Kernel matrices with more rows (samples before augmentation) than this are computed in tiles, by "
        "jobs of their own, and kept under results/STUDY/kernels/.",
    )
    tile_size: int = Field(256, ge=1, description="Side of a tile, in samples.")
    tiles_per_job: int = Field(16, ge=1, description="Tiles computed by one job.")
    precision: Literal["float32", "float64"] = Field("float32", description="Precision of training.")
    allow_missing: bool = Field(
        False,
        description="Form ensembles of the shards that are there, and neither train nor wait for the others: closes a "
        "study of which shards fail for good. How many members are missing stands in everything that is made of them.",
    )

    @property
    def block_memory(self) -> int:
        """Bytes of the memory budget that intermediate covariances of one block of kernels may take."""
        return min(512 * 2**20, int(self.memory * 1e9 / 4))
