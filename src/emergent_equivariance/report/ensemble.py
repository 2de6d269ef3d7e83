"""What is said of a study of kind ensemble. Every number comes from its metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..figures.selection import absent, all_diverged, chosen_arms, first_of, metrics_choices
from ..figures.words import augmented, diverged_words, missing_words, number, split_words
from ..groups import get_group
from ..study.products import figure_names
from .content import Block, Cell, Heading, Points, Report, Section, Table, Text, cell, named, pictures, points
from .numbers import LISTED, key_numbers
from .solutions import analytic_words, theory_words, warning_words

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from ..study import Study


def content(study: Study, metrics: xr.Dataset) -> Report:
    """The page of a study of kind ensemble. Raises StudyError if the metrics hold an arm the study does not have."""
    table = key_numbers(study, metrics)
    unit, last = metrics["step"].attrs.get("units", "step"), sorted(set(table["step"]))
    when = f"{unit} {last[0]}" if len(last) == 1 else "the last recorded times"
    has = figure_names(study)
    return Report(
        title=f"emergent equivariance at {when}",
        claim=_claim(study, metrics, table),
        remarks=[*_missing(metrics), *_observable(study, metrics), *_first_values(metrics)],
        key_figure="orbit_scaling",
        sections=[
            Section("theory", "Theory", [*_theory(study, metrics), *pictures(_OF_THEORY, has)]),
            Section(
                "ensembles",
                "Ensembles",
                [
                    *_by_split(study, metrics, table),
                    _table(study, table),
                    Text(_note(table), note=True),
                    *pictures(_OF_ENSEMBLES, has),
                ],
            ),
            Section("controls", "Controls", [*_controls(study, metrics, table), *pictures(_OF_CONTROLS, has)]),
            Section("failures", "Failures", _failures(study, metrics)),
        ],
    )


#: Which section shows which figure; the key figure stands at the top, figures named nowhere in a section of their own.
_OF_THEORY = ("measured_over_predicted", "distance_to_ntk")
_OF_ENSEMBLES = ("orbit_in_time", "same_predictions")
_OF_CONTROLS = ("mirror", "orbit_profile")


#: Column of the table → what it means.
_MEANINGS = {
    "member_deviation": "Single member: root mean square over members.",
    "ensemble_deviation": "Ensemble mean: of all members.",
    "predicted_deviation": "Predicted: from the NTK mean μ_t and covariance Σ_t, nothing fitted.",
    "orbit_variance_ratio": "Measured/predicted: of orbit variances, of ensembles of several sizes.",
    "orbit_slope": "Slope: of log orbit deviation against log ensemble size; −1/2 where the mean of infinitely many "
    "members is invariant.",
    "difference_to_ntk": "Distance to the NTK mean: root mean square, relative to that of the NTK mean.",
    "zscore_to_ntk": "z-score: the distance in units of the predicted standard error of the ensemble mean; 1 where "
    "the NTK describes the networks, growing with the number of members where it does not.",
}
_ERRORS = (
    "0.0134(10) means 0.0134 ± 0.0010, one standard error. That of a measured number says how much it varies from "
    "ensemble to ensemble (at the full size carried on from smaller ensembles)"
)
_ERRORS_OF_PREDICTIONS = "; that of a prediction, how much it depends on which inputs are evaluated"


def _note(table: pd.DataFrame) -> str:
    """What the columns of the table that hold something mean."""
    sentences = [meaning for name, meaning in _MEANINGS.items() if name in table and table[name].notna().any()]
    predicted = table["predicted_deviation"].notna().any()
    return f"{' '.join([*sentences, _ERRORS])}{_ERRORS_OF_PREDICTIONS if predicted else ''}."


# --------------------------------------------------------------------------------------------------- the claim


def _rows(metrics: xr.Dataset, table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Key numbers of the main arm and of its control (None: there is none), by split."""
    chosen = chosen_arms(metrics)
    main, control = (
        None if arm is None else table[table["arm"] == arm.key].set_index("split", drop=False)
        for arm in (chosen.main, chosen.control)
    )
    assert main is not None
    return main, control


def _claim(study: Study, metrics: xr.Dataset, table: pd.DataFrame) -> str:
    """The result in one sentence: on test inputs where there are any."""
    main, controls = _rows(metrics, table)
    chosen = chosen_arms(metrics).main
    split = "test" if "test" in main.index else main.index[0]
    row = main.loc[split]
    size = int(row["members"])
    if get_group(study.arm(chosen.key).settings.group).order == 1:
        return "The group has one element: every orbit is one point, and all orbit deviations are 0."
    who = f"networks{f' of width {chosen.width}' if chosen.width else ''} with {augmented(chosen.augmentation)}"
    who = who.replace("with no ", "without ")
    if size == 0:
        return f"Nothing was measured: of the {who}, {diverged_words(int(row['diverged']))}."
    single = f"deviates by **{_number(row, 'member_deviation')}** over the orbit of an input"
    if size == 1:
        only = "A single member" if not int(row["diverged"]) else "The only member that did not diverge"
        text = f"{only} ({who}) {single}; with one member there is no ensemble to average"
        return f"On {split_words(split)}: {text}."
    text = (
        f"On {split_words(split)} the mean of {size} {who} deviates by **{_number(row, 'ensemble_deviation')}** over "
        f"the orbit of an input, against {_number(row, 'member_deviation')} of a single member"
    )
    others = []
    if np.isfinite(row["predicted_deviation"]):
        others.append(f"theory predicts {_number(row, 'predicted_deviation')}")
    if controls is not None and np.isfinite(controls.loc[split]["ensemble_deviation"]):
        without = _number(controls.loc[split], "ensemble_deviation")
        others.append(f"without augmentation the mean deviates by {without}")
    return f"{text}{'; ' if others else ''}{', and '.join(others)}."


def _number(row: pd.Series, name: str) -> str:
    return number(row[name], row[f"{name}_se"])


def _factor(row: pd.Series, name: str, ensemble: pd.Series) -> str:
    """How many times a number is the deviation of an ensemble mean; errors of both add in quadrature.

    Empty where that is not known, or known to no better than _VAGUE of its value.
    """
    rows = ((row, name), (ensemble, "ensemble_deviation"))
    if not all(np.isfinite(one[key]) and one[key] > 0 for one, key in rows):
        return ""
    ratio = row[name] / ensemble["ensemble_deviation"]
    relative = np.hypot(*(one[f"{key}_se"] / one[key] for one, key in rows))
    return "" if relative > _VAGUE else number(ratio, ratio * relative)


#: Relative standard error above which a factor says nothing.
_VAGUE = 0.4


def _observable(study: Study, metrics: xr.Dataset) -> list[Block]:
    """What deviates, over what."""
    chosen = chosen_arms(metrics).main
    group = study.arm(chosen.key).settings.group
    if get_group(group).order == 1:
        return [Text(f"The group {group} has one element: every orbit is one point, and all orbit deviations are 0.")]
    observable = metrics["orbit_variance"].attrs.get("observable", "output")
    return [
        Text(
            f"Orbit deviation: the standard deviation of {observable} over the orbit of an input under "
            f"{group.upper()}, as root mean square over inputs. It is zero for an invariant function."
        )
    ]


def _first_values(metrics: xr.Dataset) -> list[Block]:
    """Of which values of swept keys the claim and the figures are; nothing if there is no choice."""
    first = first_of(metrics)
    lead = "This sentence, the lists below and the figures are those of the arms with"
    return [Text(f"**{lead} {first}**; the tables hold all arms.")] if first else []


# --------------------------------------------------------------------------------------------------- ensembles


def _by_split(study: Study, metrics: xr.Dataset, table: pd.DataFrame) -> list[Block]:
    """What averaging does to the main arm, one sentence per split, with the control beside it."""
    chosen = chosen_arms(metrics).main
    order = get_group(study.arm(chosen.key).settings.group).order
    if order == 1:
        return []
    main, control = _rows(metrics, table)
    size = f" of {chosen.size}" if chosen.width else ""
    title = f"Networks{size} with {augmented(chosen.augmentation)}".replace("with no ", "without ")
    lines = [_of_split(row, None if control is None else control.loc[split], order) for split, row in main.iterrows()]
    return [Heading(title), Points(lines)]


def _of_split(row: pd.Series, control: pd.Series | None, order: int) -> str:
    """One split in words.

    Args:
      row, control: key numbers of the main arm and of the arm without augmentation.
      order: of the group.
    """
    size, start = int(row["members"]), f"**On {split_words(row['split'])}**"
    if size == 0:
        return f"{start} nothing was measured: {diverged_words(int(row['diverged']))}."
    text = f"{start} the orbit deviation of a single member is {_number(row, 'member_deviation')}"
    if size == 1:
        return text + "; with one member there is no ensemble to average."
    text += f", that of the mean of {size} members **{_number(row, 'ensemble_deviation')}**"
    if factor := _factor(row, "member_deviation", row):
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


def _table(study: Study, table: pd.DataFrame) -> Table:
    """Key numbers of all arms and splits."""
    keys = [key for key in study.arms[0].coords if key in table]
    columns = {
        "member_deviation": "single member",
        "ensemble_deviation": "ensemble mean",
        "predicted_deviation": "predicted",
        "orbit_variance_ratio": "measured/predicted variance",
        "orbit_slope": "slope",
        **LISTED,
    }
    columns = {name: head for name, head in columns.items() if name in table and table[name].notna().any()}
    counts = ["members", *(name for name in ("diverged", "missing") if table[name].any())]
    rows: list[list[Cell | str | int]] = [
        [
            *(_swept(row[key]) for key in keys),
            *(int(row[count]) for count in counts),
            str(row["split"]),
            *(cell(row[name], row[f"{name}_se"]) for name in columns),
        ]
        for _, row in table.iterrows()
    ]
    heads = [*keys, *counts, "split", *columns.values()]
    title = f"All arms: orbit deviation{' and distance from the NTK' if 'difference_to_ntk' in columns else ''}"
    return Table("key_numbers", title, heads, rows, table)


def _swept(value: object) -> Cell | str:
    """A value of a swept key: numbers are sorted as numbers."""
    text = str(value)
    return Cell(text, float(text)) if isinstance(value, int | float | np.number) else text


# ---------------------------------------------------------------------------------------- theory and controls


_PREDICTED = (
    "The mean of an ensemble of m members is predicted with nothing fitted: from the mean μ_t and the covariance Σ_t "
    "of the outputs of infinitely wide networks, which the neural tangent kernel (NTK) gives at every training time."
)
_MEAN_ONLY = (
    "The neural tangent kernel (NTK) gives the mean μ_t of the outputs of infinitely wide networks at every training "
    "time, with nothing fitted; how far a finite ensemble deviates from it is not predicted in this study."
)
_UNPREDICTED = "No arm of this study has an analytic mean: ensembles are compared with single members and the control."


def _theory(study: Study, metrics: xr.Dataset) -> list[Block]:
    covariance, mean = (
        any(getattr(arm.settings, f"has_{name}") for arm in study.arms) for name in ("covariance", "mean")
    )
    return [
        Text(_PREDICTED if covariance else _MEAN_ONLY if mean else _UNPREDICTED),
        *(Text(text) for text in warning_words(metrics)),
        *points(theory_words(study)),
        *analytic_words(metrics),
    ]


def _controls(study: Study, metrics: xr.Dataset, table: pd.DataFrame) -> list[Block]:
    """The arm without augmentation, and how exact the action is."""
    chosen = chosen_arms(metrics)
    main, control = _rows(metrics, table)
    blocks: list[Block] = []
    if control is None or chosen.control is None:
        blocks.append(Text("No arm without augmentation is there to compare with."))
    else:
        size = f" of {chosen.control.size}" if chosen.control.width else ""
        blocks.append(
            Text(
                f"Networks{size} trained without augmentation, from the same initial weights. Their mean has no reason "
                "to be invariant: it keeps an orbit deviation however many members are averaged."
            )
        )
        lines = []
        for split, row in control.iterrows():
            if not np.isfinite(row["ensemble_deviation"]):
                continue
            text = f"**On {split_words(str(split))}** the mean of {int(row['members'])} members deviates by "
            text += _number(row, "ensemble_deviation")
            if factor := _factor(row, "ensemble_deviation", main.loc[split]):
                text += f", {factor} times that with {augmented(chosen.main.augmentation)}"
            if np.isfinite(row["predicted_deviation"]):
                text += f"; predicted: {_number(row, 'predicted_deviation')}"
            lines.append(text + ".")
        blocks += points(lines) or [Text("Nothing was measured in it.")]
    return blocks + [Text(text) for text in _action_words(study, metrics)]


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
            which = f" ({', '.join(arms)})" if len(found) > 1 else ""
            lines.append(
                f"**The action of {group} on the inputs is not exact**{which}: it interpolates between pixels, "
                f"and ρ(g)ρ(h)x differs from ρ(gh)x by {100 * rms:.3g} % of its norm (root mean square over pairs of "
                f"elements and samples; at most {100 * largest:.3g} %). The mean of infinitely many members is "
                "invariant only approximately, and keeps an orbit deviation; what is predicted contains it."
            )
    return lines


# --------------------------------------------------------------------------------------------------- failures

_REMEDY = (
    "A smaller `training.learning_rate` helps (with loss mse and optimizer gd: one below the critical, such "
    "as `{critical_fraction: 0.5}`). Change it and give the study another name, or delete the arm's folder "
    "under `members/` first."
)


def _lacking(metrics: xr.Dataset) -> dict[str, tuple[int, int]]:
    """Arms that lack members: how many, and how many the study asks for."""
    counts = {choice.key: absent(metrics, choice) for choice in metrics_choices(metrics)}
    return {arm: count for arm, count in counts.items() if count[0]}


def _missing(metrics: xr.Dataset) -> list[Block]:
    """How many members of which arm are missing, and what follows from it; nothing if none is."""
    lacking = _lacking(metrics)
    if not lacking:
        return []
    complete = [str(arm) for arm in metrics["arm"].values if str(arm) not in lacking]
    return [
        Text(
            "**Members are missing.** Their shards were not there when the ensembles were formed, and "
            "`execution.allow_missing` allows it. All numbers are those of the members that are there, in the "
            "order of their index; ensembles of more members than that are left out."
        ),
        Points([missing_words(*count, arm) for arm, count in lacking.items()]),
        Text(f"Complete arms: {', '.join(complete) or 'none'}."),
    ]


def _failures(study: Study, metrics: xr.Dataset) -> list[Block]:
    diverged = {str(arm): int(n) for arm, n in zip(metrics["arm"].values, metrics["diverged"].values, strict=True)}
    where = named(diverged)
    text = f"Members diverged, and left out of all statistics: {sum(diverged.values()) or 'none'}"
    lines = [f"{text}{f' ({where})' if where else ''}."]
    gone = {c.key: count for c in metrics_choices(metrics) if (count := all_diverged(metrics, c))}
    if gone:
        which = ", ".join(f"{arm} ({count} of {count})" for arm, count in gone.items())
        lines.append(f"**All members diverged**: {which}: nothing was measured there. {_REMEDY}")
    lacking = [missing_words(*count, arm) for arm, count in _lacking(metrics).items()]
    lines.append(f"Missing members (their shards are not there): {'; '.join(lacking) or 'none'}.")
    uncomputed = [arm.path for arm in study.arms if arm.path not in diverged]
    lines.append(f"Arms not computed yet: {', '.join(uncomputed) or 'none'}.")
    return [Points(lines)]
