"""The jobs that train: how the members of an arm are trained is measured once, then its shards are trained so."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import devices
from .errors import StoreError, StudyError, Superseded
from .inputs import read_data, read_learning_rate
from .interruption import Interruption
from .lease import CLOCK_TOLERANCE, Lease
from .study import Arm, Probe, Study, header, read_probe
from .study.work import training_seconds
from .time_limit import TimeLimit, time_limit

if TYPE_CHECKING:
    import xarray as xr

    from .tasks.base import TaskData

Say = Callable[[str], None]
Progress = Callable[[float, int], None]


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
        shard = _Shard(study, arm, range(first, last + 1), interruption, time_limit(minutes), say)
        place = study.lease_path(arm, first, last)
        if shard.is_trained() and not (shard.checkpoint.exists() or place.exists()):
            return
        with Lease(place, shard.name, say) as lease:
            interruption.cleanup = lease.release
            try:
                trained = shard.train(lease, progress)
            except Superseded:
                if shard.is_trained():
                    return
                raise
        if trained is not None:
            from . import tracking

            tracking.log_shard(study, arm, *trained)


@dataclass(frozen=True)
class _Shard:
    """A shard that this process is to train.

    Attributes:
      study, arm: what it belongs to.
      members: its members.
      interruption: asked whether to stop.
      limit: when this job has to be over, if that is known.
      say: told how it goes.
    """

    study: Study
    arm: Arm
    members: range
    interruption: Interruption
    limit: TimeLimit | None
    say: Say

    @property
    def name(self) -> str:
        return f"members {self.members[0]} to {self.members[-1]}"

    @property
    def path(self) -> Path:
        return self.study.shard_path(self.arm, self.members[0], self.members[-1])

    @property
    def checkpoint(self) -> Path:
        return self.study.checkpoint_path(self.arm, self.members[0], self.members[-1])

    def is_trained(self) -> bool:
        """Whether the shard is there, whole, and of these settings; says so."""
        if not self.path.exists():
            return False
        from . import store

        try:
            store.read(self.path, config_hash=self.arm.config_hash)
        except StoreError as error:
            self.say(f"warning: {error.message} It is trained again.")
            return False
        self.say(f"{self.path}: is there, and nothing is trained. Delete it to have it trained again.")
        return True

    def train(self, lease: Lease, progress: Progress) -> tuple[xr.Dataset, TaskData] | None:
        """Train the shard and write it, unless another job has done so meanwhile; → the shard and its data."""
        study, arm = self.study, self.arm
        inputs = study.made_from(study.data_path(arm))
        data, rate, probed = read_data(study, arm), read_learning_rate(study, arm), _read_probe(study, arm)
        if not self._begin(lease):
            return None
        _use_device(arm, probed, self.say)
        _prepare(study, arm, self.say)
        from . import store
        from .checkpoints import Checkpoints, identity
        from .training import build_problem, get_engine, train_shard

        problem, choice = build_problem(arm.settings, data, rate), probed.choice
        engine = get_engine(choice.engine)
        if probed.device != "cpu" and engine.device() == "cpu":
            raise StudyError(
                f"{study.probe_path(arm)}: {choice} was chosen on {probed.device}, and {choice.engine} finds no GPU "
                "here.",
                remedy="Train where there is one, or delete this file and run again to have it measured here; nothing "
                "that is trained is lost.",
            )
        with _choice_of(study.probe_path(arm)):
            trainer = engine.trainer(problem, choice)
        checkpoints = Checkpoints(
            self.checkpoint,
            identity(arm.config_hash, self.members, problem, choice),
            arm.settings.execution.checkpoint_period,
            f"{devices.machine()}, {engine.device()}",
            self.interruption,
            self.say,
            self.limit,
            lease,
        )
        start, resume = time.monotonic(), checkpoints.load()
        with _choice_of(study.probe_path(arm)):
            trained = train_shard(
                problem, trainer, choice, self.members, progress=progress, pause=checkpoints.pause, resume=resume
            )
        self.interruption.defer()  # what is trained is written
        shard = trained.to_dataset(problem, self.members)
        seconds = checkpoints.seconds + time.monotonic() - start
        described = _training_attributes(arm, probed, engine.device()) | checkpoints.attributes()
        attributes = store.provenance(study, arm) | inputs | described | {"seconds": seconds}
        store.write(shard, self.path, attributes, lease.confirm)
        self.interruption.finish()
        checkpoints.remove()
        diverged = int(shard["diverged"].sum())
        self.say(
            f"{len(self.members)} members in {seconds:.2f} s" + (f", {diverged} of them diverged" if diverged else "")
        )
        return shard.assign_attrs(described, seconds=seconds), data

    def _begin(self, lease: Lease) -> bool:
        """Take the lease, and remove what killed jobs left; → whether the shard is still to be trained."""
        lease.acquire(self.limit)
        _compare_clocks(lease, self.path.parent, self.say)
        from . import store

        store.remove_unfinished(self.path)
        store.remove_unfinished(self.checkpoint)
        if trained := self.is_trained():
            self.checkpoint.unlink(missing_ok=True)
        return not trained


def _compare_clocks(lease: Lease, folder: Path, say: Say) -> None:
    """Warn where the clock of this machine and that of the file system differ."""
    if abs(error := lease.clock_error) > CLOCK_TOLERANCE:
        how = f"{abs(error):.0f} s {'ahead of' if error > 0 else 'behind'}"
        say(
            f"warning: the clock of {socket.gethostname()} is {how} that of the disk with {folder}: Snakemake may take "
            "files for newer or older than they are, and SLURM may refuse jobs or end them early. Have the clocks set "
            "(NTP); training does not depend on them."
        )


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


@contextmanager
def _choice_of(path: Path) -> Iterator[None]:
    """Where an engine cannot train as it was chosen to, the file that says so is named."""
    try:
        yield
    except StudyError as error:
        if not error.message.startswith("engine "):
            raise
        raise StudyError(
            f"{path}: {error.message}",
            remedy="Delete this file and run the study again to have it chosen anew; nothing that is trained is lost.",
        ) from None


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
