"""One arm of a study, and what its numbers depend on.

Everything downstream is keyed by hashes of exactly those fields that its numbers depend on, so that adding an arm,
raising the number of members or renaming the study re-uses what is already on disk.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..settings import ConvergenceSettings, RegressionSettings, Section, Settings, TorchNetwork
from .work import WORTHWHILE, members_per_shard, training_seconds

#: Part of every hash: raised when stored numbers change their meaning.
FORMAT = 1

#: What metrics.nc holds of an arm; 2: predictions that pictures show, and what theories say of themselves.
METRICS_FORMAT = 2

#: How fresh random elements are drawn; 2: from one stream per epoch or full-batch step.
RANDOM_STREAM = 2

#: How an analytic solution is computed unless the study says otherwise.
DEFAULTS = ("descent", "auto")


def fingerprint(content: Any) -> str:
    """16 hexadecimal digits that identify a JSON-serialisable value."""
    text = json.dumps([FORMAT, content], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Arm:
    """One cell of the sweep: one ensemble.

    Attributes:
      labels: last part of each swept key (the full dotted key where two would clash) → value as label.
      coords: the same keys → value as a coordinate (numbers stay numbers).
      settings: everything the arm depends on.

    The hashes of training and theory belong to arms of kind ensemble.
    """

    labels: dict[str, str]
    coords: dict[str, Any]
    settings: Settings = field(repr=False)

    @property
    def path(self) -> str:
        """Folder of the arm in Paramspace style, e.g. ``width~256/augmentation~full``."""
        return "/".join(f"{key}~{label}" for key, label in self.labels.items())

    @cached_property
    def data_fields(self) -> dict[str, Any]:
        """What the data store depends on."""
        task, action = self.settings.task, self.settings.action_identity
        fields = {"task": task.model_dump(mode="json", exclude=task.LOCATION), "group": self.settings.group}
        return {**fields, "action": action} if action else fields

    @cached_property
    def kernel_fields(self) -> dict[str, Any]:
        """What the kernels between an arm's samples depend on: neither width nor augmentation nor time."""
        network = self.settings.network
        return {
            **self.data_fields,
            "network": network.identity(exclude=network.WIDTHS),
            "samples": self._kernel_samples(),
        }

    def _kernel_samples(self) -> int | None:
        return self.settings.evaluate.samples

    @cached_property
    def learning_rate_fields(self) -> dict[str, Any]:
        """What a learning rate given as a fraction of the critical one depends on: Θ(X, X), not the recorded steps."""
        s, sampled = self.settings, self.settings.theory.monte_carlo
        return {
            **self.data_fields,
            "network": s.network.identity(exclude=s.network.WIDTHS if sampled is None else None),
            "augmentation": self._augmentation(),
            "learning_rate": s.training.model_dump(mode="json", include={"learning_rate"}),
            **({} if sampled is None else {"monte_carlo": sampled}),
        }

    @cached_property
    def theory_fields(self) -> dict[str, Any]:
        """What the theory store depends on: not the members, and not the width unless kernels are estimated."""
        s = self.settings
        # Left out at their defaults, so that solutions of earlier versions keep their keys.
        chosen = {k: v for k, v in {"form": s.theory.form, "route": s.theory.route}.items() if v not in DEFAULTS}
        return {
            **self.learning_rate_fields,
            "record": s.training.recorded,
            "samples": s.evaluate.samples,
            "mean": s.has_mean,
            "covariance": s.has_covariance,
            **chosen,
        }

    @cached_property
    def member_fields(self) -> dict[str, Any]:
        """What the predictions of a member depend on: not the shard size, not the member count."""
        s = self.settings
        seeded = s.training.unit == "epoch" or isinstance(s.network, TorchNetwork)  # the order of the data; masks
        unused = {"record", "steps", "epochs"} | (set() if seeded else {"seed"})
        training = s.training.model_dump(mode="json", exclude=unused)
        drawn = {"stream": RANDOM_STREAM} if s.augmentation.kind == "random" else {}
        return {
            **self.data_fields,
            "network": s.network.identity(),
            "augmentation": self._augmentation() | drawn,
            "training": {**training, "record": s.training.recorded, "batch_size": s.training.batch},
            "ensemble_seed": s.ensemble.seed,
            "samples": s.evaluate.samples,
            "precision": s.execution.precision,
        }

    @cached_property
    def probe_fields(self) -> dict[str, Any]:
        """What the speed of training depends on, and whether that is worth measuring: neither seeds nor the learning
        rate nor the recorded steps."""
        s = self.settings
        task = {name: value for name, value in self.data_fields["task"].items() if name != "seed"}
        execution = {"engine", "members_at_once", "threads", "precision"}
        return {
            **self.data_fields,
            "task": task,
            "network": s.network.identity(),
            "augmentation": s.augmentation.label,
            "training": [s.training.loss, s.training.optimizer, s.training.momentum > 0, s.training.batch],
            "samples": s.evaluate.samples,
            "execution": s.execution.model_dump(mode="json", include=execution),
            "members": members_per_shard(s),
            "worthwhile": training_seconds(s) >= WORTHWHILE,
        }

    def _augmentation(self) -> dict[str, Any]:
        augmentation = self.settings.augmentation
        seeded = augmentation.kind in ("subset", "random")
        return augmentation.model_dump(mode="json", exclude=set() if seeded else {"seed"})

    @cached_property
    def ensemble_fields(self) -> dict[str, Any]:
        """What the ensemble store depends on."""
        s = self.settings
        return {
            "members": s.ensemble.members,
            "config": self.config_hash,
            "theory": self.theory_key if s.has_mean else None,
            "evaluate": s.evaluate.model_dump(mode="json"),
        }

    @property
    def data_key(self) -> str:
        """Hash naming the data store."""
        return fingerprint(self.data_fields)

    @property
    def kernel_key(self) -> str:
        """Hash naming the store of kernels computed in tiles."""
        return fingerprint(self.kernel_fields)

    @property
    def theory_key(self) -> str:
        """Hash naming the theory store."""
        return fingerprint(self.theory_fields)

    @property
    def learning_rate_key(self) -> str:
        """Hash naming the learning rate file."""
        return fingerprint(self.learning_rate_fields)

    @property
    def probe_key(self) -> str:
        """Hash naming the file that says how the members are trained."""
        return fingerprint(self.probe_fields)

    @property
    def ensemble_hash(self) -> str:
        """Hash the ensemble store carries."""
        return fingerprint(self.ensemble_fields)

    @property
    def result_hash(self) -> str:
        """Hash the store that enters metrics.nc carries."""
        return self.ensemble_hash

    @property
    def join_fields(self) -> list[Any]:
        """What the arm's part of metrics.nc depends on."""
        return [self.path, self.result_hash, METRICS_FORMAT]

    @property
    def config_hash(self) -> str:
        """Hash every shard of this arm carries."""
        return fingerprint(self.member_fields)


@dataclass(frozen=True)
class KernelArm(Arm):
    """One cell of the sweep of a study of kernels: one network, nothing trained. Attributes as of Arm."""

    settings: ConvergenceSettings | RegressionSettings = field(repr=False)  # type: ignore[assignment]

    #: Keys of the kind's section that matter when arms are joined, and not before.
    JOINED = frozenset({"published", "resamples"})

    @property
    def _section(self) -> Section:
        s = self.settings
        return s.convergence if isinstance(s, ConvergenceSettings) else s.regression

    @cached_property
    def member_fields(self) -> dict[str, Any]:
        """What the arm's store depends on: everything but how the work is cut up."""
        s = self.settings
        unused = s.network.WIDTHS if isinstance(s, RegressionSettings) else set()
        return {
            **self.data_fields,
            "network": s.network.identity(exclude=unused),
            "section": self._section.model_dump(mode="json", exclude=set(self.JOINED)),
        }

    @property
    def result_hash(self) -> str:
        """Hash the store that enters metrics.nc carries."""
        return self.config_hash

    @property
    def join_fields(self) -> list[Any]:
        """What the arm's part of metrics.nc depends on."""
        return [self.path, self.result_hash, self._section.model_dump(mode="json", include=set(self.JOINED))]

    def _kernel_samples(self) -> int | None:
        return None  # all of them
