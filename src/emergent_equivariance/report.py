"""The study's key numbers, as a table and in words. Every number comes from the metrics dataset.

Orbit deviation means √orbit_variance; its standard error is that of the variance divided by 2√variance.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import (
    Choice,
    choose,
    full_ensemble,
    last_step,
    metrics_choices,
    read_series,
    with_arm_coordinates,
)

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from .figures import Stores
    from .study import Arm, Study

#: Metrics of the full ensemble that are listed where the study has them → heading of the column.
LISTED = {
    "difference_to_ntk": "distance to NTK mean",
    "zscore_to_ntk": "z-score to NTK mean",
    "orbit_same_predictions": "orbit same predictions",
    "accuracy": "accuracy",
}


def number(value: float, error: float = np.nan) -> str:
    """A value with its standard error, rounded to two digits of the error, or to three digits without one.

    >>> number(0.01234, 0.00056), number(1.5e-6), number(float("nan"))
    ('0.01234 ± 0.00056', '1.50×10⁻⁶', '–')
    """
    if not np.isfinite(value):
        return "–"
    known = bool(np.isfinite(error) and error > 1e-9 * abs(value))  # less is round-off
    size = max(abs(value), error if known else 0.0)
    if size == 0:
        return "0"
    exponent = int(np.floor(np.log10(size)))
    shift = 0 if -4 < exponent < 5 else exponent
    last = int(np.floor(np.log10(error))) - 1 if known else int(np.floor(np.log10(abs(value)))) - 2
    decimals = int(np.clip(shift - last, 0, 12))
    text = f"{value / 10.0**shift:.{decimals}f}".replace("-", "−")
    if known:
        text += f" ± {error / 10.0**shift:.{decimals}f}"
    if not shift:
        return text
    power = "10" + str(shift).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"({text})×{power}" if known else f"{text}×{power}"


def key_numbers(study: Study, metrics: xr.Dataset) -> pd.DataFrame:
    """One row per arm and split at the last recorded step; the numbers the report says in words.

    Columns: the arm, its swept keys, split, step, ensemble_size, diverged; member_deviation (root mean square over
    members) with its _se and member_deviation_std (over members); ensemble_deviation and predicted_deviation with
    _se; orbit_slope and orbit_variance_ratio with _se; and of LISTED what the study has, with _se.
    """
    import pandas as pd

    metrics = with_arm_coordinates(study, metrics)
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
    row["ensemble_size"] = full_ensemble(metrics, choice)
    row["diverged"] = int(metrics["diverged"].sel(arm=choice.key))
    row |= _members_deviation(metrics, choice, split, step)
    for column, name in (("ensemble_deviation", "orbit_variance"), ("predicted_deviation", "predicted_orbit_variance")):
        row[column], row[f"{column}_se"] = _at(metrics, name, choice, split, step, root=True)
    for name in ("orbit_slope", "orbit_variance_ratio", *LISTED):
        if name in metrics:
            row[name], row[f"{name}_se"] = _at(metrics, name, choice, split, step)
    return row


def _members_deviation(metrics: xr.Dataset, arm: Choice, split: str, step: Any) -> dict[str, float]:
    """Root mean square orbit deviation of single members, its standard error, and their standard deviation."""
    names = ("member_deviation", "member_deviation_se", "member_deviation_std")
    if "member_orbit_variance" not in metrics:
        return dict.fromkeys(names, np.nan)
    variance = metrics["member_orbit_variance"].sel(arm=arm.key, split=split, step=step).values.astype(float)
    variance = variance[np.isfinite(variance) & (variance >= 0)]
    if not len(variance):
        return dict.fromkeys(names, np.nan)
    root = np.sqrt(variance.mean())
    error = variance.std(ddof=1) / np.sqrt(len(variance)) if len(variance) > 1 else np.nan
    spread = np.sqrt(variance).std(ddof=1) if len(variance) > 1 else np.nan
    return dict(zip(names, (root, error / (2 * root) if root else np.nan, spread), strict=True))


def _at(metrics: xr.Dataset, name: str, arm: Choice, split: str, step: Any, root: bool = False) -> tuple[float, float]:
    series = read_series(metrics, name, arm, split, "step", root=root)
    here = np.flatnonzero(series.x == step)
    return (float(series.y[here[0]]), float(series.error[here[0]])) if len(here) else (np.nan, np.nan)


def why_no_mean(arm: Arm) -> str:
    """Why an arm has no analytic mean, in words; empty if it has one."""
    training = arm.settings.training
    if training.loss != "mse":
        return f"loss {training.loss}"
    if training.optimizer != "gd":
        return f"optimizer {training.optimizer}"
    return "" if arm.settings.theory.mean else "theory.mean is false"


def why_no_covariance(arm: Arm) -> str:
    """Why an arm with an analytic mean has no covariance, in words; empty if it has one, or no mean either."""
    if not arm.settings.has_mean or arm.settings.has_covariance:
        return ""
    random = arm.settings.augmentation.kind == "random"
    return "fresh random group elements add noise to it" if random else "theory.covariance is false"


def summary_html(study: Study, metrics: xr.Dataset, stores: Mapping[str, Stores] | None = None) -> str:
    """The key numbers in words, as one self-contained HTML page. The same input gives the same text.

    Args:
      stores: (data, theory or None, ensemble) by arm path; from the data the provenance is quoted, and from the
        theory its warnings. Numbers come from the metrics only.
    """
    metrics = with_arm_coordinates(study, metrics)
    table = key_numbers(study, metrics)
    unit, last = metrics["step"].attrs.get("units", "step"), sorted(set(table["step"]))
    when = f"{unit} {last[0]}" if len(last) == 1 else "the last recorded times"
    name = html.escape(study.name)
    parts = [
        f"<h1>{name}: key numbers at {when}</h1>",
        *_claims(metrics, table),
        *_theory_words(study, metrics),
        *_warnings(stores or {}),
        *_member_words(study, metrics),
        _html_table(study, table),
        f"<p class='note'>{_NOTE}</p>",
        *_provenance(metrics, stores or {}),
    ]
    head = f"<meta charset='utf-8'><title>{name}: key numbers</title><style>{_CSS}</style>"
    return f"<!DOCTYPE html>\n<html lang='en'><head>{head}</head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"


_CSS = (
    "body{font:15px/1.5 sans-serif;max-width:75em;margin:2em auto;padding:0 1em;color:#222}"
    "h1{font-size:1.35em}h2{font-size:1.1em}table{border-collapse:collapse;font-size:.85em}"
    "th,td{padding:.25em .7em;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}"
    "th{vertical-align:bottom;white-space:normal}td.text,th.text{text-align:left}.note{color:#555;font-size:.9em}"
    ".scroll{overflow-x:auto}"
)

_NOTE = (
    "Orbit deviation: square root of the variance over the group orbit, averaged over samples. Member: root mean "
    "square over members. Errors are standard errors. Slope: of log orbit deviation "
    "against log ensemble size; −1/2 is expected where the infinite ensemble is invariant. Measured/predicted: "
    "of orbit variances, nothing fitted. Distance to the NTK mean: root mean square, relative to that of the NTK mean."
)


def _claims(metrics: xr.Dataset, table: pd.DataFrame) -> list[str]:
    chosen = choose(metrics_choices(metrics))
    observable = html.escape(str(metrics["orbit_variance"].attrs.get("observable", "output")))
    result = []
    for arm in (chosen.main, chosen.control):
        if arm is None:
            continue
        lines = [_claim(row, observable) for _, row in table[table["arm"] == arm.key].iterrows()]
        kind = "without augmentation" if arm.augmentation == "none" else f"with {arm.augmentation} augmentation"
        title = f"Networks of width {arm.width} trained {kind} <small>({html.escape(arm.key)})</small>"
        result.append(f"<h2>{title}</h2>\n<ul>\n" + "\n".join(f"<li>{line}</li>" for line in lines) + "\n</ul>")
    return result


def _claim(row: pd.Series, observable: str) -> str:
    size, split = int(row["ensemble_size"]), html.escape(row["split"])
    place = {"train": "training inputs", "test": "test inputs"}.get(split)
    place = place or f"out-of-distribution inputs ({split.removeprefix('ood-')})"
    member = number(row["member_deviation"], row["member_deviation_se"])
    text = f"<b>On {place}</b> the orbit deviation of {observable} is {member} for a single member"
    if size == 1:
        return text + "; with one member there is no ensemble to average."
    mean = number(row["ensemble_deviation"], row["ensemble_deviation_se"])
    text += f", and <b>{mean}</b> for the mean of {size} members"
    if row["ensemble_deviation"] > 0 and np.isfinite(row["member_deviation"]):
        factor = number(row["member_deviation"] / row["ensemble_deviation"])
        text += f" ({factor} times less; √{size} = {number(np.sqrt(size))})"
    if np.isfinite(row["predicted_deviation"]):
        text += f", predicted {number(row['predicted_deviation'], row['predicted_deviation_se'])}"
    if np.isfinite(row.get("orbit_slope", np.nan)):
        text += f"; slope {number(row['orbit_slope'], row['orbit_slope_se'])}"
    if np.isfinite(row.get("orbit_variance_ratio", np.nan)):
        ratio = number(row["orbit_variance_ratio"], row["orbit_variance_ratio_se"])
        text += f"; measured/predicted variance {ratio}"
    for name, words in LISTED.items():
        if np.isfinite(row.get(name, np.nan)):
            text += f"; {words} {number(row[name], row[f'{name}_se'])}"
    return text + "."


def _theory_words(study: Study, metrics: xr.Dataset) -> list[str]:
    result = []
    for path in metrics["arm"].values:
        arm = study.arm(str(path))
        if reason := why_no_mean(arm):
            result.append(f"<p>Arm {html.escape(arm.path)}: no analytic mean μ<sub>t</sub>: {reason}.</p>")
        elif reason := why_no_covariance(arm):
            lack = "no analytic covariance Σ<sub>t</sub>, hence no predicted deviation"
            result.append(f"<p>Arm {html.escape(arm.path)}: {lack}: {reason}.</p>")
    return result


def _member_words(study: Study, metrics: xr.Dataset) -> list[str]:
    diverged = {
        str(arm): int(count) for arm, count in zip(metrics["arm"].values, metrics["diverged"].values, strict=True)
    }
    text = f"Members diverged, and left out of all statistics: {sum(diverged.values())}"
    where = [f"{html.escape(arm)}: {count}" for arm, count in diverged.items() if count]
    result = [f"<p>{text}{' (' + ', '.join(where) + ')' if where else ''}.</p>"]
    missing = [html.escape(arm.path) for arm in study.arms if arm.path not in diverged]
    if missing:
        result.append(f"<p>Not computed yet: {', '.join(missing)}.</p>")
    return result


def _html_table(study: Study, table: pd.DataFrame) -> str:
    keys = [key for key in study.arms[0].coords if key in table]
    pairs = [
        ("member deviation", "member_deviation", "member_deviation_se"),
        ("ensemble deviation", "ensemble_deviation", "ensemble_deviation_se"),
        ("predicted", "predicted_deviation", "predicted_deviation_se"),
        ("slope", "orbit_slope", "orbit_slope_se"),
        ("measured/<wbr>predicted variance", "orbit_variance_ratio", "orbit_variance_ratio_se"),
        *((words, name, f"{name}_se") for name, words in LISTED.items()),
    ]
    pairs = [pair for pair in pairs if pair[1] in table and table[pair[1]].notna().any()]
    heads = "".join(f"<th class='text'>{html.escape(head)}</th>" for head in [*keys, "split"])
    heads += "".join(f"<th>{head}</th>" for head in ["members", "diverged", *(pair[0] for pair in pairs)])
    lines = []
    for _, row in table.iterrows():
        cells = "".join(f"<td class='text'>{html.escape(str(row[key]))}</td>" for key in [*keys, "split"])
        cells += f"<td>{row['ensemble_size']}</td><td>{row['diverged']}</td>"
        cells += "".join(f"<td>{number(row[value], row[error])}</td>" for _, value, error in pairs)
        lines.append(f"<tr>{cells}</tr>")
    body = "\n".join(lines)
    return f"<h2>All arms</h2>\n<div class='scroll'><table>\n<tr>{heads}</tr>\n{body}\n</table></div>"


def _warnings(stores: Mapping[str, Stores]) -> list[str]:
    """Warnings that the theory stores carry, each once with its arms."""
    found: dict[str, list[str]] = {}
    for path, (_, theory, _) in stores.items():
        if theory is not None and theory.attrs.get("warning"):
            found.setdefault(str(theory.attrs["warning"]), []).append(path)
    return [f"<p><b>Warning</b> ({html.escape(', '.join(arms))}): {html.escape(t)}</p>" for t, arms in found.items()]


def _provenance(metrics: xr.Dataset, stores: Mapping[str, Stores]) -> list[str]:
    """Where the data came from and what computed the numbers, as the attributes of metrics and stores say."""
    found = [("data_provenance", data.attrs.get("data_provenance")) for data, _, _ in stores.values()]
    found += [(name, metrics.attrs.get(name)) for name in ("data_provenance", "versions", "git_commit")]
    items = [
        f"<li><b>{html.escape(name.replace('_', ' '))}</b>: {html.escape(_flat(value))}</li>"
        for name, value in dict.fromkeys(found)
        if value is not None
    ]
    return ["<h2>Provenance</h2>\n<ul>\n" + "\n".join(items) + "\n</ul>"] if items else []


def _flat(value: Any) -> str:
    """A value, or a JSON text of a mapping, as ``key: value; …``."""
    if isinstance(value, str) and value.startswith(("{", "[")):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return value
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_flat(item)}" for key, item in value.items())
    return ", ".join(_flat(item) for item in value) if isinstance(value, list) else str(value)
