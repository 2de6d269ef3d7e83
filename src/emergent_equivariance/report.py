"""The study's key numbers, as a table and in words. Every number comes from the metrics dataset.

Orbit deviation means √orbit_variance; its standard error is that of the variance divided by 2√variance.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures.selection import Choice, absent, all_diverged, choose, last_step, metrics_choices, read_at
from .figures.words import augmented, diverged_words, missing_words, number, split_words
from .groups import get_group
from .pages import page, provenance

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from .figures import ArmStores
    from .study import Arm, Study

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
    """Why an arm has no analytic mean to compare with, in words (HTML); empty if it has one."""
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
        return "the ensemble averages probabilities; μ<sub>t</sub> is that of the logits"
    return ""


def why_no_covariance(arm: Arm) -> str:
    """Why an arm with an analytic mean has no covariance, in words; empty if it has one, or no mean either."""
    if not arm.settings.has_mean or arm.settings.has_covariance:
        return ""
    random = arm.settings.augmentation.kind == "random"
    return "fresh random group elements add noise to it" if random else "theory.covariance is false"


def summary_html(study: Study, metrics: xr.Dataset, stores: Mapping[str, ArmStores] | None = None) -> str:
    """The key numbers in words, as one self-contained HTML page. The same input gives the same text.

    Args:
      stores: by arm path; from the data the provenance is quoted, and from the theory its warnings. Numbers come
        from the metrics only.
    """
    table = key_numbers(study, metrics)
    unit, last = metrics["step"].attrs.get("units", "step"), sorted(set(table["step"]))
    when = f"{unit} {last[0]}" if len(last) == 1 else "the last recorded times"
    name = html.escape(study.name)
    parts = [
        f"<h1>{name}: key numbers at {when}</h1>",
        *_missing_words(study, metrics),
        *_claims(study, metrics, table),
        *_action_words(study, metrics),
        *_theory_words(study, metrics),
        *_warnings(study, stores or {}),
        *_member_words(study, metrics),
        _html_table(study, table),
        f"<p class='note'>{_NOTE}</p>",
        *_analytic(stores or {}),
        *_provenance(metrics, stores or {}),
    ]
    return page(f"{study.name}: key numbers", parts)


_NOTE = (
    "Single member: root mean square over members. Ensemble mean: of all members. Predicted: from the NTK mean "
    "μ<sub>t</sub> and covariance Σ<sub>t</sub>, nothing fitted. Measured/predicted: of orbit variances, of ensembles "
    "of several sizes. Slope: of log orbit deviation against log ensemble size; −1/2 where the mean of infinitely many "
    "members is invariant. Distance to the NTK mean: root mean square, relative to that of the NTK mean. z-score: the "
    "same in units of the predicted standard error of the ensemble mean; 1 where the NTK describes the networks, "
    "growing with the number of members where it does not. "
    "0.0134(10) means 0.0134 ± 0.0010, one standard error. That of a measured number says how much it varies from "
    "ensemble to ensemble (at the full size carried on from smaller ensembles); that of a "
    "prediction, how much it depends on which inputs are evaluated."
)


def _claims(study: Study, metrics: xr.Dataset, table: pd.DataFrame) -> list[str]:
    """What averaging does to the main arm, one sentence per split, with the control beside it."""
    chosen = choose(metrics_choices(metrics))
    observable = html.escape(str(metrics["orbit_variance"].attrs.get("observable", "output")))
    group = study.arm(chosen.main.key).settings.group
    rows = {arm: table[table["arm"] == arm.key].set_index("split", drop=False) for arm in chosen.pair}
    order = get_group(group).order
    lines = [
        _claim(row, rows[chosen.control].loc[split] if chosen.control else None, order)
        for split, row in rows[chosen.main].iterrows()
    ]
    if order == 1:
        return [f"<p>The group {group} has one element: every orbit is one point, and all orbit deviations are 0.</p>"]
    size = f" of {chosen.main.size}" if chosen.main.width else ""
    title = f"Networks{size} with {augmented(chosen.main.augmentation)}"
    return [
        f"<p>Orbit deviation: the standard deviation of {observable} over the orbit of an input under {group.upper()}, "
        "as root mean square over inputs. It is zero for an invariant function.</p>",
        f"<h2>{title.replace('with no', 'without')}</h2>",
        "<ul>\n" + "\n".join(f"<li>{line}</li>" for line in lines) + "\n</ul>",
    ]


def _claim(row: pd.Series, control: pd.Series | None, order: int) -> str:
    """One split in words.

    Args:
      row, control: key numbers of the main arm and of the arm without augmentation.
      order: of the group.
    """
    size, start = int(row["members"]), f"<b>On {html.escape(split_words(row['split']))}</b>"
    if size == 0:
        return f"{start} nothing was measured: {diverged_words(int(row['diverged']))}."
    text = f"{start} the orbit deviation of a single member is {_number(row, 'member_deviation')}"
    if size == 1:
        return text + "; with one member there is no ensemble to average."
    text += f", that of the mean of {size} members <b>{_number(row, 'ensemble_deviation')}</b>"
    if row["ensemble_deviation"] > 0 and np.isfinite(row["member_deviation"]):
        factor = number(row["member_deviation"] / row["ensemble_deviation"])
        text += f": {factor} times smaller (√{size} = {number(np.sqrt(size))})"
    if np.isfinite(row["predicted_deviation"]):
        text += f". Predicted: {_number(row, 'predicted_deviation')}"
        if np.isfinite(row.get("orbit_variance_ratio", np.nan)):
            text += f"; measured over predicted variance {_number(row, 'orbit_variance_ratio')}"
    if np.isfinite(row.get("orbit_slope", np.nan)):
        text += f". Slope against ensemble size: {_number(row, 'orbit_slope')}"
    if control is not None and np.isfinite(control["ensemble_deviation"]):
        text += f". Without augmentation that of the mean is {_number(control, 'ensemble_deviation')}"
    same = "orbit_same_predictions"
    if np.isfinite(row.get(same, np.nan)):
        others = [f"single member: {_number(row, f'member_{same}')}"]
        if control is not None:
            others.append(f"mean without augmentation: {_number(control, same)}")
        text += f". Of the {order} transforms of an input {_number(row, same)} get the same class ({'; '.join(others)})"
    return text + "."


def _number(row: pd.Series, name: str, compact: bool = False) -> str:
    return number(row[name], row[f"{name}_se"], compact=compact)


def _action_words(study: Study, metrics: xr.Dataset) -> list[str]:
    """Where the action on the inputs is not exact, and by how much: one sentence per group and size of the error."""
    if "composition_error" not in metrics:
        return []
    found: dict[tuple[str, float, float], list[str]] = {}
    for path in map(str, metrics["arm"].values):
        rms, largest = (float(metrics[f"composition_error{end}"].sel(arm=path)) for end in ("", "_largest"))
        found.setdefault((study.arm(path).settings.group.upper(), rms, largest), []).append(path)
    lines = []
    for (group, rms, largest), arms in found.items():
        if rms > 0:
            which = f" ({html.escape(', '.join(arms))})" if len(found) > 1 else ""
            lines.append(
                f"<p><b>The action of {group} on the inputs is not exact</b>{which}: it interpolates between pixels, "
                f"and ρ(g)ρ(h)x differs from ρ(gh)x by {100 * rms:.3g} % of its norm (root mean square over pairs of "
                f"elements and samples; at most {100 * largest:.3g} %). The mean of infinitely many members is "
                "invariant only approximately, and keeps an orbit deviation; what is predicted contains it.</p>"
            )
    return lines


def _theory_words(study: Study, metrics: xr.Dataset) -> list[str]:
    result = []
    for path in metrics["arm"].values:
        arm = study.arm(str(path))
        networks = arm.settings.theory.monte_carlo
        if networks is not None and arm.settings.has_mean:
            result.append(
                f"<p>Arm {html.escape(arm.path)}: μ<sub>t</sub> and Σ<sub>t</sub> are not analytic: they follow from a "
                f"<b>Monte-Carlo kernel of {networks} networks</b> at initialisation, of the members' own width.</p>"
            )
        if reason := why_no_mean(arm):
            result.append(f"<p>Arm {html.escape(arm.path)}: no analytic mean μ<sub>t</sub>: {reason}.</p>")
        elif reason := why_no_covariance(arm):
            lack = "no analytic covariance Σ<sub>t</sub>, hence no predicted deviation"
            result.append(f"<p>Arm {html.escape(arm.path)}: {lack}: {reason}.</p>")
    return result


_REMEDY = (
    "A smaller <code>training.learning_rate</code> helps (with loss mse and optimizer gd: one below the critical, such "
    "as <code>{critical_fraction: 0.5}</code>). Change it and give the study another name, or delete the arm's folder "
    "under <code>members/</code> first."
)


def _missing_words(study: Study, metrics: xr.Dataset) -> list[str]:
    """How many members of which arm are missing, and what follows from it; nothing if none is."""
    counts = {choice.key: absent(metrics, choice) for choice in metrics_choices(metrics)}
    lacking = {arm: (missing, asked) for arm, (missing, asked) in counts.items() if missing}
    if not lacking:
        return []
    lines = "\n".join(f"<li>{html.escape(missing_words(*count, arm))}</li>" for arm, count in lacking.items())
    complete = [html.escape(arm) for arm in counts if arm not in lacking]
    return [
        "<p><b>Members are missing.</b> Their shards were not there when the ensembles were formed, and "
        "<code>execution.allow_missing</code> allows it. All numbers are those of the members that are there, in the "
        "order of their index; ensembles of more members than that are left out.</p>\n"
        f"<ul>\n{lines}\n</ul>",
        f"<p>Complete arms: {', '.join(complete) or 'none'}.</p>",
    ]


def _member_words(study: Study, metrics: xr.Dataset) -> list[str]:
    diverged = {
        str(arm): int(count) for arm, count in zip(metrics["arm"].values, metrics["diverged"].values, strict=True)
    }
    text = f"Members diverged, and left out of all statistics: {sum(diverged.values())}"
    where = [f"{html.escape(arm)}: {count}" for arm, count in diverged.items() if count]
    result = [f"<p>{text}{' (' + ', '.join(where) + ')' if where else ''}.</p>"]
    gone = {c.key: count for c in metrics_choices(metrics) if (count := all_diverged(metrics, c))}
    if gone:
        which = ", ".join(f"{html.escape(arm)} ({count} of {count})" for arm, count in gone.items())
        result.append(f"<p><b>All members diverged</b>: {which}: nothing was measured there. {_REMEDY}</p>")
    missing = [html.escape(arm.path) for arm in study.arms if arm.path not in diverged]
    if missing:
        result.append(f"<p>Not computed yet: {', '.join(missing)}.</p>")
    return result


def _html_table(study: Study, table: pd.DataFrame) -> str:
    """Key numbers of all arms; what the splits of an arm have in common stands in their first row."""
    keys = [key for key in study.arms[0].coords if key in table]
    columns = {
        "member_deviation": "single member",
        "ensemble_deviation": "ensemble mean",
        "predicted_deviation": "predicted",
        "orbit_variance_ratio": "measured/<wbr>predicted variance",
        "orbit_slope": "slope",
        **LISTED,
    }
    columns = {name: head for name, head in columns.items() if name in table and table[name].notna().any()}
    counts = ["members", *(name for name in ("diverged", "missing") if table[name].any())]
    heads = "".join(f"<th class='text'>{html.escape(key)}</th>" for key in keys)
    heads += "".join(f"<th>{head}</th>" for head in counts) + "<th class='text'>split</th>"
    heads += "".join(f"<th>{head}</th>" for head in columns.values())
    lines = [f"<tr>{heads}</tr>"]
    for _, rows in table.groupby("arm", sort=False):
        for first, (_, row) in zip([True] + [False] * (len(rows) - 1), rows.iterrows(), strict=True):
            cells = ""
            if first:
                span = f"rowspan='{len(rows)}'"
                cells += "".join(f"<td class='text' {span}>{html.escape(str(row[key]))}</td>" for key in keys)
                cells += "".join(f"<td {span}>{row[count]}</td>" for count in counts)
            cells += f"<td class='text'>{html.escape(row['split'])}</td>"
            cells += "".join(f"<td>{_number(row, name, compact=True)}</td>" for name in columns)
            lines.append(f"<tr{' class=arm' * first}>{cells}</tr>")
    body = "\n".join(lines)
    title = "<h2>All arms: orbit deviation and distance from the NTK</h2>"
    return f"{title}\n<div class='scroll'><table>\n{body}\n</table></div>"


def _warnings(study: Study, stores: Mapping[str, ArmStores]) -> list[str]:
    """Warnings that the theory stores carry, each once with all arms that share such a store."""
    found: dict[str, list[str]] = {}
    for path, (_, theory, _) in stores.items():
        if theory is not None and theory.attrs.get("warning"):
            key = study.arm(path).theory_key
            sharing = [arm.path for arm in study.arms if arm.theory_key == key and arm.settings.has_mean]
            arms = found.setdefault(str(theory.attrs["warning"]), [])
            arms += [arm for arm in sharing if arm not in arms]
    return [f"<p><b>Warning</b> ({html.escape(', '.join(arms))}): {html.escape(t)}</p>" for t, arms in found.items()]


def _analytic(stores: Mapping[str, ArmStores]) -> list[str]:
    """By which route each solution was computed, how well conditioned it is, and how certain if estimated."""
    items = []
    for theory in {id(theory): theory for _, theory, _ in stores.values() if theory is not None}.values():
        said = theory.attrs
        if "modes" not in said:  # a solution of an earlier version
            continue
        smallest = said.get("smallest_kept_eigenvalue")
        above = "none above round-off" if smallest is None else f"smallest above round-off {smallest:.3g}"
        items.append(
            f"<li>{html.escape(said['route'])}. Eigenvalues of Θ(X, X) ({html.escape(said['modes'])}): largest "
            f"{said['largest_eigenvalue']:.3g}, {above}; {said['rank']} of {theory.sizes['mode']} above round-off, "
            f"{said['negative_eigenvalues']} negative.{_uncertainty(theory)}</li>"
        )
    if not items:
        return []
    text = "No ridge is added: at finite times none is needed, and at t = ∞ modes below round-off are not fitted."
    estimated = any(theory is not None and "mean_error" in theory for _, theory, _ in stores.values())
    title = "Analytic and estimated solutions" if estimated else "Analytic solutions"
    return [f"<h2>{title}</h2>\n<ul>\n" + "\n".join(dict.fromkeys(items)) + f"\n</ul>\n<p>{text}</p>"]


def _uncertainty(theory: xr.Dataset) -> str:
    """How certain a solution from an estimated kernel is; empty for an analytic one."""
    if "mean_error" not in theory:
        return ""
    error, mean = (float(np.sqrt((theory[name].isel(step=-1) ** 2).mean())) for name in ("mean_error", "mean"))
    text = f" Standard error of μ<sub>t</sub> at the last step, root mean square: {number(error)}"
    text += f" ({number(error / mean)} of that of μ<sub>t</sub>)" if mean > 0 else ""
    said = theory.attrs
    return (
        f"{text}. Besides a multiple of the identity over outputs the kernel has {number(said['output_deviation'])} of "
        f"its norm; from noise alone {number(said['output_deviation_noise'])} are expected."
    )


def _provenance(metrics: xr.Dataset, stores: Mapping[str, ArmStores]) -> list[str]:
    """Where the data came from and what computed the numbers, as the attributes of metrics and stores say."""
    found = [("data_provenance", data.attrs.get("data_provenance")) for data, _, _ in stores.values()]
    if not any(value for _, value in found):
        found = [("data_provenance", metrics.attrs.get("data_provenance"))]
    found += [(name, metrics.attrs.get(name)) for name in ("versions", "git_commit")]
    return provenance(found)
