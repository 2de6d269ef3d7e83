"""The dashboard of a study in Weights & Biases, as code: a saved view of the project, by wandb-workspaces.

It shows the runs of one study (its group), grouped by arm: what their panels hold is in docs/tracking.md. The
identifiers of view and panels are hashes, so that the same study gives the same specification, and saving it again
changes the view instead of adding one.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from ..errors import TrackingError
from ..figures import figure_names, is_classification
from ..study import Arm, Study, fingerprint
from .curves import BY_MEMBERS, BY_WIDTH, MEMBER_COUNT, PREDICTED, WIDTH, arm_keys, curve_keys
from .service import end_service

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

#: Seconds that each answer of the server is waited for; saving a dashboard takes eight of them.
TIMEOUT = 15

#: Environment variables for wandb, unless set: no error reports, nothing on stdout, stated time-outs.
SETTINGS = {
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_HTTP_TIMEOUT": str(TIMEOUT),
    "WANDB_LOGIN_TIMEOUT": str(TIMEOUT),
}

#: The inputs that panels are about.
SPLIT = "test"

#: Arms whose lines share one panel; where there are more, those that differ in width alone do.
ARMS_PER_PANEL = 8

#: Tables shown, by kind of study.
TABLES = {
    "ensemble": ["key_numbers"],
    "kernel_convergence": ["kernel_errors", "exponents"],
    "kernel_regression": ["learning_curves", "differences"],
}

#: Most lines of one panel; W&B's own default is 10.
LINES = 100


def specification(study: Study) -> str:
    """The dashboard as JSON, as it is sent to W&B: the same study gives the same text."""
    view = _workspace(study)._to_model()
    spec = view.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    content = {"project": view.project, "name": view.name, "displayName": view.display_name, "spec": spec}
    return json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def save(study: Study) -> str:
    """Save the dashboard to the study's project, in the place of an earlier one; returns its address.

    Raises TrackingError if the server does not answer in time (TIMEOUT, or WANDB_HTTP_TIMEOUT), or refuses.
    """
    if study.tracking.wandb == "disabled":
        raise TrackingError(
            f"{study.file}: tracking.wandb = disabled: the study has no runs that a dashboard could show.",
            remedy="Use offline or online.",
        )
    for variable, value in SETTINGS.items():
        os.environ.setdefault(variable, value)
    workspace = _workspace(study)
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    try:
        return _save(study, workspace)
    except (OSError, ValueError, wandb.errors.Error, WandbApiFailedError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise TrackingError(
            f"Weights & Biases: the dashboard of {study.name} was not saved: {_plain(said)}.",
            remedy="Check network, server (WANDB_BASE_URL) and key (`wandb login`) and that the project has runs "
            f"(`emeq sync {study.file}`), or write the specification with --output FILE.json.",
        ) from None
    finally:
        end_service()


def _plain(said: str) -> str:
    """What a time-out of wandb's background process means for the user."""
    if "did not respond in time" in said:
        return f"the server gave no answer, or only errors, for {os.environ['WANDB_HTTP_TIMEOUT']} s"
    return said.rstrip(".")


def _save(study: Study, workspace: Workspace) -> str:
    import wandb
    from wandb_workspaces.workspaces.internal import View

    workspace.entity = study.tracking.entity or wandb.Api().default_entity or ""
    if not workspace.entity:
        raise ValueError("the account has no default entity; give tracking.entity")
    try:
        workspace._internal_id = View.from_name(workspace.entity, workspace.project, workspace._internal_name).id
    except ValueError as error:
        if not str(error).startswith("Workspace "):  # that there is none yet
            raise
    return str(workspace.save().url)


def _workspace(study: Study) -> Workspace:
    import wandb_workspaces.workspaces as ws

    workspace = ws.Workspace(
        entity=study.tracking.entity or "",
        project=study.tracking.project,
        name=f"Study {study.name}",
        sections=_sections(study),
        settings=ws.WorkspaceSettings(max_runs=LINES),
        runset_settings=ws.RunsetSettings(
            filters=ws.And(ws.Metric("Group") == study.name),
            groupby=[ws.Config("arm")],
            order=[ws.Ordering(ws.Metric("Name"), ascending=True)],
            pinned_columns=[f"summary:{key}" for key in ("members", "diverged", "resumed", "seconds")],
        ),
    )
    workspace._internal_name = f"nw-{fingerprint([study.tracking.project, study.name])[:11]}-v"
    workspace._internal_runset_id = fingerprint([study.name, "runs"])[:12]
    for section in workspace.sections:
        panels: list[Any] = section.panels
        for index, panel in enumerate(panels):
            panel._id = fingerprint([study.name, section.name, index])[:12]
    return workspace


def _sections(study: Study) -> list[Section]:
    import wandb_workspaces.workspaces as ws

    trained = study.kind == "ensemble"
    named = {
        "Results": _results(study),
        "Training": _training(study) if trained else [],
        "Failures": _failures(study) if trained else [],
        "Tables": _tables(TABLES[study.kind]),
        "Pictures": _pictures(study),
    }
    layout = ws.SectionLayoutSettings(columns=2, rows=2)
    return [
        ws.Section(name=name, panels=panels, is_open=True, layout_settings=layout)
        for name, panels in named.items()
        if panels
    ]


def _results(study: Study) -> list[Any]:
    """Panels of what the summary run holds."""
    import wandb_workspaces.reports.v2 as wr

    trained = study.kind == "ensemble"
    panels: list[Any] = []
    if trained:
        panels += [_against_members(study, title, arms) for title, arms in _together(study)]
    if len({arm.settings.network.width for arm in study.arms} - {None}) > 1:
        panels += _against_width(study)
    keys = arm_keys(study)
    predicted = [keys[arm.path] for arm in study.arms if trained and arm.settings.has_covariance]
    if predicted:
        ratios: list[Any] = [f"orbit_variance_ratio/{SPLIT}/{key}" for key in predicted]
        panels.append(wr.BarPlot(title="Measured over predicted orbit variance", metrics=ratios))
    return panels


def _together(study: Study) -> list[tuple[str, list[Arm]]]:
    """Arms that share a panel, with what its title ends with."""
    if len(study.arms) <= ARMS_PER_PANEL:
        return [("", study.arms)]
    curves = curve_keys(study)
    return [
        (f", {curve}", [arm for arm in study.arms if curves[arm.path] == curve])
        for curve in dict.fromkeys(curves.values())
    ]


def _against_members(study: Study, title: str, arms: list[Arm]) -> Any:
    import wandb_workspaces.reports.v2 as wr

    keys = arm_keys(study)
    measured: list[Any] = [f"{BY_MEMBERS}/{SPLIT}/{keys[arm.path]}" for arm in arms]
    predicted: list[Any] = [f"{PREDICTED}/{SPLIT}/{keys[arm.path]}" for arm in arms if arm.settings.has_covariance]
    return wr.LinePlot(
        title=f"Orbit deviation against ensemble size, with the prediction{title}",
        x=MEMBER_COUNT,
        y=measured + predicted,
        log_x=True,
        log_y=True,
    )


def _against_width(study: Study) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    curves = curve_keys(study)
    if study.kind == "kernel_convergence":
        shown = {"nngp": "Error of the mean NNGP", "ntk": "Error of the mean NTK"}
        having = study.arms
    else:
        shown = {SPLIT: "Distance to the NTK mean"}
        having = [arm for arm in study.arms if study.kind == "ensemble" and arm.settings.has_mean]
    found = dict.fromkeys(curves[arm.path] for arm in having)
    return [
        wr.LinePlot(
            title=f"{title} against width",
            x=WIDTH,
            y=[f"{BY_WIDTH}/{name}/{curve}" for curve in found],
            log_x=True,
            log_y=True,
        )
        for name, title in shown.items()
        if found
    ]


def _training(study: Study) -> list[Any]:
    """Curves of the shards, averaged over those of an arm, and the theory's under the same keys."""
    import wandb_workspaces.reports.v2 as wr

    shown = {
        f"orbit_deviation/{SPLIT}/mean": "Orbit deviation of one member",
        f"orbit_deviation/{SPLIT}/ensemble": "Orbit deviation of the mean of one shard",
        f"loss/{SPLIT}/mean": "Loss of one member",
        "training_loss/mean": "Training loss",
    }
    if any(is_classification(arm) for arm in study.arms):
        shown[f"accuracy/{SPLIT}/ensemble"] = "Accuracy of the mean of one shard"
    units = dict.fromkeys(arm.settings.training.unit for arm in study.arms)
    return [
        wr.LinePlot(title=title, x=unit, y=[key], log_y=not key.startswith("accuracy"), groupby_rangefunc="minmax")
        for unit in units
        for key, title in shown.items()
    ]


def _failures(study: Study) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    missing: list[Any] = [f"missing/{key}" for key in arm_keys(study).values()]
    by_arm: dict[str, Any] = {"groupby": wr.Config("arm"), "groupby_aggfunc": "sum"}
    return [
        wr.BarPlot(title="Diverged members", metrics=["diverged"], **by_arm),
        wr.BarPlot(title="Resumed shards", metrics=["resumed"], **by_arm),
        wr.BarPlot(title="Missing members", metrics=missing),
        *_tables(["failures"]),
    ]


def _tables(names: list[str]) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [wr.WeavePanelSummaryTable(table_name=f"tables/{name}") for name in names]


def _pictures(study: Study) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [wr.MediaBrowser(title=name, media_keys=[f"figures/{name}"]) for name in figure_names(study)]
