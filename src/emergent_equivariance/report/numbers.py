"""The key numbers of a study of kind ensemble as a table. Every number comes from the metrics dataset.

Orbit deviation means √orbit_variance; its standard error is that of the variance divided by 2√variance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..figures.selection import Choice, absent, last_step, metrics_choices, read_at

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from ..study import Arm, Study

#: Metrics that are listed at the end of the table where the study has them → heading of the column.
LISTED = {
    "difference_to_ntk": "distance to NTK mean",
    "zscore_to_ntk": "z-score to NTK mean",
    "orbit_same_predictions": "same predictions",
    "member_orbit_same_predictions": "same predictions, single member",
    "accuracy": "accuracy",
}


def key_numbers(study: Study, metrics: xr.Dataset) -> pd.DataFrame:
    """One row per arm and split at the last recorded step of the arm: tables/key_numbers.csv and the report's numbers.

    Columns: the arm, its swept keys, split, step, members (valid ones: the full ensemble), diverged,
    missing; member_deviation (of a single member: root mean square over members), ensemble_deviation (of the full
    ensemble) and predicted_deviation; orbit_slope and orbit_variance_ratio; and of LISTED what the study has; each
    with _se; composition_error (root mean square) where the action on the inputs of an arm is not exact.
    Raises StudyError if the metrics hold an arm that the study does not have.
    """
    import pandas as pd

    return pd.DataFrame(
        [
            _row(study.arm(choice.key), choice, metrics, str(split))
            for choice in metrics_choices(metrics)
            for split in metrics["split"].values
        ]
    )


def _row(arm: Arm, choice: Choice, metrics: xr.Dataset, split: str) -> dict[str, Any]:
    step = last_step(metrics, choice)
    row: dict[str, Any] = {"arm": choice.key, **arm.coords, "split": split, "step": int(step)}
    row |= {name: int(metrics[name].sel(arm=choice.key)) for name in ("members", "diverged")}
    row["missing"], _ = absent(metrics, choice)
    single = {"member_count": 1}
    columns: dict[str, tuple[str, dict[str, Any]]] = {
        "member_deviation": ("orbit_variance", {"root": True, **single}),
        "ensemble_deviation": ("orbit_variance", {"root": True}),
        "predicted_deviation": ("predicted_orbit_variance", {"root": True}),
        **{name: (name, {}) for name in ("orbit_slope", "orbit_variance_ratio", *LISTED)},
        "member_orbit_same_predictions": ("orbit_same_predictions", single),
    }
    for column, (name, options) in columns.items():
        if name in metrics or column.endswith("deviation"):
            row[column], row[f"{column}_se"] = read_at(metrics, name, choice, split, step, **options)
    if "composition_error" in metrics:
        row["composition_error"] = float(metrics["composition_error"].sel(arm=choice.key))
    return row


def why_no_mean(arm: Arm) -> str:
    """Why an arm has no analytic mean to compare with, in words; empty if it has one."""
    training = arm.settings.training
    if not arm.settings.has_kernel:
        return "network torch has no analytic kernel, and theory.monte_carlo does not ask for an estimated one"
    if training.loss != "mse":
        return f"loss {training.loss}"
    if training.optimizer != "gd":
        return f"optimizer {training.optimizer}"
    if not arm.settings.theory.mean:
        return "theory.mean is false"
    if arm.settings.evaluate.ensemble_mean == "softmax":
        return "the ensemble averages probabilities; μ_t is that of the logits"
    return ""


def why_no_covariance(arm: Arm) -> str:
    """Why an arm with an analytic mean has no covariance, in words; empty if it has one, or no mean either."""
    if not arm.settings.has_mean or arm.settings.has_covariance:
        return ""
    random = arm.settings.augmentation.kind == "random"
    return "fresh random group elements add noise to it" if random else "theory.covariance is false"
