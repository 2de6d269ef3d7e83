"""What predictions are judged on and compared with: the task, and the analytic mean and covariance."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from xarray import DataArray, Dataset

from .errors import StoreError
from .groups import Action
from .tasks.base import TaskData

__all__ = ["Reference", "file_of"]


@dataclass(frozen=True, eq=False)
class Reference:
    """What predictions are judged on and compared with. Sample and element labels are those of the stores.

    Attributes:
      split: (sample,) "train", "test", "ood-NAME", with the coordinate ``sample``.
      target: (sample, output), NaN where there is none.
      label: (sample,) class index, −1 where there is none; None for regression.
      readout: (observable, output) matrix R of the invariant observable.
      observable: its name.
      output_name: what the outputs are.
      output_action: how the group acts on outputs.
      loss: the training loss.
      averaged: what the ensemble averages, and hence what predictions are: the outputs ("logits") or their
        softmax. There is no theory for the mean of the softmax: ``mean`` and ``covariance`` are then None.
      mean: (step, sample, element, output) analytic mean μ_t, or None.
      covariance: (step, sample, element, element_) analytic covariance Σ_t per output on each orbit, or None.
      provenance: where the data came from, as JSON; empty if unknown.
    """

    split: DataArray
    target: DataArray
    label: DataArray | None
    readout: DataArray
    observable: str
    output_name: str
    output_action: Action
    loss: Literal["mse", "cross_entropy"]
    averaged: Literal["logits", "softmax"] = "logits"
    mean: DataArray | None = None
    covariance: DataArray | None = None
    provenance: str = ""

    @classmethod
    def of(
        cls,
        data: TaskData,
        *,
        samples: int,
        loss: Literal["mse", "cross_entropy"],
        averaged: Literal["logits", "softmax"] = "logits",
        theory: Dataset | None = None,
    ) -> Reference:
        """The reference of a task, its first ``samples`` samples of each split, and a theory store.

        Args:
          theory: ``mean`` and, unless it does not exist, ``orbit_covariance``; None without theory.
        Raises StoreError if the theory is of other samples, elements or outputs.
        """
        chosen = data.evaluated(samples)
        sample = {"sample": chosen}
        mean = covariance = None
        if theory is not None and averaged == "logits":
            mean = theory["mean"].transpose("step", "sample", "element", "output").astype(np.float64).load()
            mean.encoding = {"file": file_of(theory)}
            expected = (len(chosen), data.output_action.group.order, data.target.shape[1])
            elements = data.output_action.group.elements
            if (
                mean.shape[1:] != expected
                or not np.array_equal(mean["sample"], chosen)
                or tuple(mean["element"].values.tolist()) != elements
            ):
                raise StoreError(
                    f"{file_of(theory)}: the theory is of {mean.shape[1:]} (sample, element, output) or of other "
                    f"labels; the task has {expected}.",
                    remedy="Delete the file and run again.",
                )
            if "orbit_covariance" in theory:
                dims = ("step", "sample", "element", "element_")
                covariance = theory["orbit_covariance"].transpose(*dims).astype(np.float64).load()
                covariance = covariance.drop_vars("element_", errors="ignore")
        return cls(
            split=DataArray(data.split[chosen], sample, "sample"),
            target=DataArray(data.target[chosen], sample, ("sample", "output")),
            label=None if data.label is None else DataArray(data.label[chosen], sample, "sample"),
            readout=DataArray(np.asarray(data.readout.matrix, np.float64), dims=("observable", "output")),
            observable=data.readout.name if averaged == "logits" else "probabilities",
            output_name=data.output_name if averaged == "logits" else "probabilities",
            output_action=data.output_action,
            loss=loss,
            averaged=averaged,
            mean=mean,
            covariance=covariance,
            provenance=json.dumps(data.provenance) if data.provenance else "",
        )

    @cached_property
    def splits(self) -> dict[str, np.ndarray]:
        """Split → positions of its samples, in the order of the data."""
        values = self.split.values.astype(str)
        return {str(name): np.flatnonzero(values == name) for name in dict.fromkeys(values)}

    @cached_property
    def variance(self) -> DataArray | None:
        """(step, sample, element) Σ_t(gx, gx)."""
        if self.covariance is None:
            return None
        diagonal = np.diagonal(self.covariance.values, axis1=-2, axis2=-1)
        return self.covariance.isel(element_=0, drop=True).copy(data=diagonal)


def file_of(dataset: Dataset | DataArray) -> str:
    """Name of the file a dataset or an array was read from, for messages."""
    return str(dataset.encoding.get("file") or dataset.attrs.get("file") or "dataset in memory")
