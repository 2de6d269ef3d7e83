"""The jobs that train: how the members of an arm are trained is measured once, then its shards are trained so."""

from __future__ import annotations

import time
from collections.abc import Callable

from . import devices
from .errors import StoreError, StudyError
from .inputs import read_data, read_learning_rate
from .interruption import Interruption
from .study import Arm, Probe, Study, header, read_probe
from .study.work import training_seconds
from .time_limit import TimeLimit, time_limit

Say = Callable[[str], None]
Progress = Callable[[int, int], None]


def probe(study: Study, arm: Arm, say: Say) -> None:
    """Decide how the arms that share this one's probe are trained, and write it down."""
    data, execution = read_data(study, arm), arm.settings.execution
    devices.limit_threads(execution.threads)
    devices.use_gpu(devices.list_gpus(), say)
    _prepare(study, arm, say)
    from . import store
    from .training import build_problem
    from .training.probe import LEARNING_RATE, choose

    problem = build_problem(arm.settings, data, LEARNING_RATE)
    sharing = [other.settings for other in study.arms if other.probe_key == arm.probe_key]
    decision = choose(problem, sum(map(training_seconds, sharing)), say=say)
    found = Probe(
        probe_key=arm.probe_key,
        machine=devices.machine(),
        threads=execution.threads,
        versions=store.versions(store.NUMERICAL),
        **vars(decision),
    )
    store.write_text(found.to_json(), study.probe_path(arm))
    say(f"{found.choice} on {found.device}: {found.reason}")


def train(
    study: Study,
    arm: Arm,
    first: int,
    last: int,
    say: Say,
    progress: Progress,
    minutes: float | None = None,
) -> None:
    """Train the members first…last of an arm and write their shard, going on from its checkpoint if there is one.

    Raises Interrupted with a checkpoint written after SIGTERM, SIGUSR1 or SIGINT, and before ``minutes`` have passed
    since this process began or the SLURM job around it ends. Before there is anything to save the signals end the
    process with the exit code errors.INTERRUPTED.
    """
    if last < first:
        raise StudyError(f"--last {last} is below --first {first}.", remedy="Give a range of members.")
    path = study.shard_path(arm, first, last)
    if (found := header(path).get("config_hash")) not in (None, arm.config_hash):
        raise StoreError(
            f"{path}: was written by another version of the study (config hash {found}, now {arm.config_hash}).",
            remedy="It is not overwritten: rename the study, or delete the file.",
        )
    with Interruption() as interruption:
        _train(study, arm, range(first, last + 1), interruption, time_limit(minutes), say, progress)


def _train(
    study: Study,
    arm: Arm,
    members: range,
    interruption: Interruption,
    limit: TimeLimit | None,
    say: Say,
    progress: Progress,
) -> None:
    data, rate, probed = read_data(study, arm), read_learning_rate(study, arm), _read_probe(study, arm)
    _use_device(arm, probed, say)
    _prepare(study, arm, say)
    from . import store, tracking
    from .checkpoints import Checkpoints, identity
    from .training import build_problem, get_engine, train_shard

    path = study.shard_path(arm, members[0], members[-1])
    problem, choice = build_problem(arm.settings, data, rate), probed.choice
    engine = get_engine(choice.engine)
    if probed.device != "cpu" and engine.device() == "cpu":
        raise StudyError(
            f"{study.probe_path(arm)}: {choice} was chosen on {probed.device}, and {choice.engine} finds no GPU here.",
            remedy="Train where there is one, or delete this file and run again to have it measured here; nothing that "
            "is trained is lost.",
        )
    trainer = engine.trainer(problem, choice)
    machine = f"{devices.machine()}, {engine.device()}"
    checkpoints = Checkpoints(
        study.checkpoint_path(arm, members[0], members[-1]),
        identity(arm.config_hash, members, problem, choice),
        arm.settings.execution.checkpoint_period,
        machine,
        interruption,
        say,
        limit,
    )
    store.remove_unfinished(path)
    start, resume = time.monotonic(), checkpoints.load()
    trained = train_shard(problem, trainer, choice, members, progress=progress, pause=checkpoints.pause, resume=resume)
    interruption.defer()  # what is trained is written
    shard = trained.to_dataset(problem, members)
    seconds = checkpoints.seconds + time.monotonic() - start
    described = {**_training_attributes(arm, probed, engine.device()), **checkpoints.attributes(), "seconds": seconds}
    store.write(shard, path, {**store.provenance(study, arm), **described})
    interruption.finish()
    checkpoints.remove()
    diverged = int(shard["diverged"].sum())
    say(f"{len(members)} members in {seconds:.2f} s" + (f", {diverged} of them diverged" if diverged else ""))
    tracking.log_shard(study, arm, shard, data)


def _training_attributes(arm: Arm, probed: Probe, device: str) -> dict[str, str | int]:
    """What a shard says of how it was trained."""
    choice = probed.choice
    return {
        "config_hash": arm.config_hash,
        "engine": choice.engine,
        "variant": choice.variant,
        "members_at_once": choice.members_at_once,
        "device": device,
        "probe_key": probed.probe_key,
    }


def _read_probe(study: Study, arm: Arm) -> Probe:
    path = study.probe_path(arm)
    found = read_probe(path, arm.probe_key)
    if found is None:
        raise StoreError(
            f"{path}: does not exist.", remedy=f"Run `emeq probe {study.file} --key {arm.probe_key}` first."
        )
    return found


def _use_device(arm: Arm, probed: Probe, say: Say) -> None:
    """Compute where the arm was measured; before jax and torch are imported."""
    devices.limit_threads(arm.settings.execution.threads)
    if probed.device == "cpu":
        devices.use_cpu()
    else:
        devices.use_gpu(devices.list_gpus(), say)


def _prepare(study: Study, arm: Arm, say: Say) -> None:
    """Precision of this process, and the compiled programs it shares with others."""
    if arm.settings.execution.precision == "float64":
        devices.use_float64()
    from .training.compilation import use_compilation_cache

    try:
        use_compilation_cache(study.compilation_cache)
    except OSError as error:
        say(f"warning: {study.compilation_cache}: {error.strerror}: programs are compiled again by every job")
