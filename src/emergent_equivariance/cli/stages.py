"""One subcommand per rule of the workflow, same name, same arguments."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..devices import use_float64
from ..errors import StoreError
from ..inputs import rate_text, read_data, read_data_store, read_kernels, read_learning_rate, read_theory
from ..products import tables
from ..study import Arm, Study, ensemble_shards, load_study, missing_members
from ..study.choice import joined_stores, store_arms
from ..study.tiling import planned_tiling
from ..study.work import gradient_steps
from .common import (
    WORKFLOW,
    ArmOption,
    KeyOption,
    ResultsOption,
    StudyArgument,
    ThreadsOption,
    app,
    check_kind,
    progress,
    say,
)

if TYPE_CHECKING:
    import xarray as xr


@app.command(rich_help_panel=WORKFLOW)
def data(study_file: StudyArgument, key: KeyOption, results: ResultsOption = Path("results")) -> None:
    """Make one data store."""
    from .. import store
    from ..tasks import build_task

    study = load_study(study_file, results)
    arm = study.arm_with("data_key", key)
    task = build_task(arm.settings)
    store.write(store.task_to_dataset(task), study.data_path(arm), store.provenance(study) | {"data_key": key})
    say(f"data: {len(task.input)} samples, {json.dumps(task.provenance, ensure_ascii=False)}")


@app.command("kernel-tiles", rich_help_panel=WORKFLOW)
def kernel_tiles(
    study_file: StudyArgument,
    key: KeyOption,
    first: Annotated[int, typer.Option("--first", help="First tile.", min=0)],
    last: Annotated[int, typer.Option("--last", help="Last tile, included.", min=0)],
    threads: ThreadsOption = None,
    results: ResultsOption = Path("results"),
) -> None:
    """Compute some tiles of the kernels between samples; tiles that an interrupted run finished are kept."""
    from ..kernel_store import compute

    use_float64()
    study = load_study(study_file, results)
    arm = _granted(study.arm_with_tiles(key), threads)
    made = compute(study, arm, read_data(study, arm), first, last, say=say, progress=progress("kernel pairs"))
    say(f"tiles: {made} computed, {last - first + 1 - made} found")


@app.command("assemble-kernels", rich_help_panel=WORKFLOW)
def assemble_kernels(study_file: StudyArgument, key: KeyOption, results: ResultsOption = Path("results")) -> None:
    """Put the tiles of the kernels between samples together into one store."""
    from ..kernel_store import assemble

    study = load_study(study_file, results)
    arm = study.arm_with_tiles(key)
    assemble(study, arm, read_data(study, arm))


@app.command("learning-rate", rich_help_panel=WORKFLOW)
def learning_rate(
    study_file: StudyArgument, key: KeyOption, threads: ThreadsOption = None, results: ResultsOption = Path("results")
) -> None:
    """Resolve a learning rate given as a fraction of the critical one."""
    from .. import store
    from ..theory import resolve_learning_rate

    use_float64()
    study = load_study(study_file, results)
    check_kind(study, "learning-rate", ensemble=True)
    arm = _granted(study.arm_with("learning_rate_key", key), threads)
    data, kernels = read_data(study, arm), read_kernels(study, arm)
    rates = resolve_learning_rate(arm.settings, data, progress(_counted(arm)), kernels)
    store.write_text(rate_text(rates, key), study.learning_rate_path(arm))
    say(", ".join(f"{name} = {value:.6g}" for name, value in rates.items()))


@app.command(rich_help_panel=WORKFLOW)
def theory(
    study_file: StudyArgument, key: KeyOption, threads: ThreadsOption = None, results: ResultsOption = Path("results")
) -> None:
    """Compute one theory store: the analytic mean and covariance on group orbits."""
    from .. import store, tracking
    from ..theory import solve

    use_float64()
    study = load_study(study_file, results)
    check_kind(study, "theory", ensemble=True)
    arm = _granted(study.arm_with("theory_key", key), threads)
    inputs = study.made_from(*_kernel_inputs(study, arm))
    data, rate, kernels = read_data(study, arm), read_learning_rate(study, arm), read_kernels(study, arm)
    solution = solve(arm.settings, data, rate, progress(_counted(arm)), kernels)
    if warning := solution.attrs.get("warning"):
        say(f"warning: {study.file}: {warning}")
    store.write(solution, study.theory_path(arm), store.provenance(study) | inputs | {"theory_key": key})
    tracking.log_theory(study, arm, solution, data)


@app.command(rich_help_panel=WORKFLOW)
def measure(
    study_file: StudyArgument, arm: ArmOption, threads: ThreadsOption = None, results: ResultsOption = Path("results")
) -> None:
    """Measure one arm of a study of kernels."""
    from .. import store
    from ..measures import get_measure

    use_float64()
    study = load_study(study_file, results)
    check_kind(study, "measure", ensemble=False)
    chosen = study.arm(arm)
    inputs = study.made_from(*_kernel_inputs(study, chosen))
    data, kernels = read_data(study, chosen), read_kernels(study, chosen)
    settings = _granted(chosen, threads).settings
    found = get_measure(study.kind).measure(settings, data, kernels=kernels, progress=progress("kernel pairs"))
    attributes = store.provenance(study, chosen) | inputs | {"config_hash": chosen.config_hash}
    store.write(found, study.measure_path(chosen), attributes)


@app.command(rich_help_panel=WORKFLOW)
def probe(study_file: StudyArgument, key: KeyOption, results: ResultsOption = Path("results")) -> None:
    """Decide how the members of an arm are trained: measure engines, or take the default where that would not pay."""
    from .. import members

    study = load_study(study_file, results)
    check_kind(study, "probe", ensemble=True)
    members.probe(study, study.arm_with("probe_key", key), say)


@app.command(rich_help_panel=WORKFLOW)
def train(
    study_file: StudyArgument,
    arm: ArmOption,
    first: Annotated[int, typer.Option("--first", help="First member of the shard.", min=0)],
    last: Annotated[int, typer.Option("--last", help="Last member of the shard, included.", min=0)],
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="Stop with a checkpoint before the process is as old.", min=0)
    ] = None,
    results: ResultsOption = Path("results"),
) -> None:
    """Train the members of one shard and record their predictions on group orbits."""
    from .. import members

    study = load_study(study_file, results)
    check_kind(study, "train", ensemble=True)
    chosen = study.arm(arm)
    members.train(study, chosen, first, last, say, progress("members", gradient_steps(chosen.settings)), minutes)


@app.command(rich_help_panel=WORKFLOW)
def aggregate(study_file: StudyArgument, arm: ArmOption, results: ResultsOption = Path("results")) -> None:
    """Form the ensembles of one arm from its shards and measure them against the theory."""
    from .. import store
    from ..ensemble import aggregate as aggregate_shards
    from ..ensemble import member_counts, reference
    from ..figures.words import missing_words

    study = load_study(study_file, results)
    check_kind(study, "aggregate", ensemble=True)
    chosen = study.arm(arm)
    ranges, missing = ensemble_shards(study, chosen), missing_members(study, chosen)
    paths = [study.shard_path(chosen, first, last) for first, last in ranges]
    known_by = [study.data_path(chosen), *([study.theory_path(chosen)] if chosen.settings.has_mean else [])]
    inputs = study.made_from(*paths, *known_by)
    solution = read_theory(study, chosen)
    shards = (store.read(path, config_hash=chosen.config_hash) for path in paths)
    members = chosen.settings.ensemble.members
    known = reference(chosen.settings, read_data(study, chosen), None if solution is None else solution.load())
    ensemble = aggregate_shards(shards, known, chosen.settings, members, missing=missing)
    if missing:
        valid = ensemble.attrs["members"]
        dropped = [size for size in member_counts(chosen.settings, members) if size > valid]
        say(f"warning: {missing_words(len(missing), members, chosen.path)}; ensembles are formed of the others")
        if dropped:
            say(f"warning: no ensembles of {', '.join(map(str, dropped))} members: {valid} are valid")
    attributes = store.provenance(study, chosen) | inputs | {"config_hash": chosen.ensemble_hash}
    store.write(ensemble, study.ensemble_path(chosen), attributes)


@app.command(rich_help_panel=WORKFLOW)
def metrics(study_file: StudyArgument, results: ResultsOption = Path("results")) -> None:
    """Join the stores of all arms into metrics.nc and the tables."""
    from .. import store
    from ..predictions import ArmStores, with_stores

    study = load_study(study_file, results)
    if study.kind == "ensemble":
        from ..summary import join

    else:
        from ..measures import get_measure

        join = get_measure(study.kind).join
    inputs = study.made_from(*(study.result_path(arm) for arm in study.arms), *joined_stores(study))
    results_of = {arm.path: _read_result(study, arm) for arm in study.arms}
    joined = join(study, list(results_of.values()))
    if study.kind == "ensemble":
        stores = {
            arm.path: ArmStores(read_data_store(study, arm), read_theory(study, arm), results_of[arm.path])
            for arm in store_arms(study)
        }
        joined = with_stores(study, joined, stores)
    for name, table in tables(study, joined).items():
        store.write_text(table.to_csv(index=False), study.table_path(name))
    # Last: where it is, the tables are, even if the workflow's own record of this job is lost.
    attributes = store.provenance(study) | inputs | {"config_hash": study.metrics_hash}
    store.write_netcdf(joined, study.metrics_path, attributes)


@app.command(rich_help_panel=WORKFLOW)
def figures(study_file: StudyArgument, results: ResultsOption = Path("results")) -> None:
    """Draw the pictures and write the report."""
    from .. import store, tracking
    from ..figures import draw_all
    from ..report import figure_files, report_html

    study = load_study(study_file, results)
    joined = store.read_netcdf(study.metrics_path)
    if joined.attrs.get("config_hash") != study.metrics_hash:
        raise StoreError(
            f"{study.metrics_path}: was made from another version of the study, or by another version of emeq.",
            remedy=f"Run `emeq metrics {study.file}` first.",
        )
    drawn = draw_all(study, joined, study.figures_folder)
    store.write_text(report_html(study, joined, figure_files(study, joined)), study.report_path)
    pictures = [path for path in drawn if path.suffix == ".png"]
    tracking.log_summary(study, joined, tables(study, joined), pictures, study.metrics_path)


def _counted(arm: Arm) -> str:
    """What the progress of an arm's theory counts."""
    return "kernel pairs" if arm.settings.theory.monte_carlo is None else "networks"


def _granted(arm: Arm, threads: int | None) -> Arm:
    """The arm with the number of threads that its job is given, where one is."""
    if threads is None:
        return arm
    execution = arm.settings.execution.model_copy(update={"kernel_threads": threads})
    return dataclasses.replace(arm, settings=arm.settings.model_copy(update={"execution": execution}))


def _read_result(study: Study, arm: Arm) -> xr.Dataset:
    from .. import store

    result = store.read(study.result_path(arm), config_hash=arm.result_hash)
    if result.attrs.get("missing") and not arm.settings.execution.allow_missing:
        raise StoreError(
            f"{study.result_path(arm)}: {result.attrs['missing']} members are missing in it, and {study.file} does not "
            "set execution.allow_missing.",
            remedy="Train their shards, or set it; then run the study again.",
        )
    return result


def _kernel_inputs(study: Study, arm: Arm) -> list[Path]:
    """What a solution or a measure is made from."""
    tiled = planned_tiling(arm.settings) is not None
    return [study.data_path(arm), *([study.kernel_path(arm)] if tiled else [])]
