"""Training that is killed at random instants: run again, every shard has the bits of an undisturbed run.

The processes are real ones. ``-s`` prints where the kills landed.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from emergent_equivariance import store
from emergent_equivariance.errors import INTERRUPTED
from emergent_equivariance.interruption import SAME_REQUEST, SIGNALS, Interruption
from emergent_equivariance.study import Probe, load_study
from emergent_equivariance.tasks import build_task
from emergent_equivariance.training import Choice

ROOT = Path(__file__).parents[2]
RESUMED = "going on from this checkpoint"
STUDY = {
    "study": "tiny",
    "task": {"name": "ising", "lattice": 3, "target": "local", "train": 16, "test": 8},
    "network": {"name": "mlp", "width": 64},
    "ensemble": {"members": 6},
    "evaluate": {"samples": 8},
    "theory": {"covariance": False},
    "tracking": {"wandb": "disabled"},
    "execution": {"shard_size": 6, "checkpoint_period": 0.05},
}
DESCENT = {"training": {"learning_rate": 0.2, "steps": 30000, "record": [0, 10000, 30000]}, "augmentation": "full"}
EPOCHS = {
    "training": {"optimizer": "adam", "learning_rate": 0.001, "epochs": 1200, "batch_size": 8, "record": [0, 1200]},
    "augmentation": "random",
}
CNN = {
    "task": {"name": "ising", "lattice": 4, "target": "local", "train": 16, "test": 8},
    "network": {"name": "cnn", "conv_layers": 2, "width": 4},
    "training": {"learning_rate": 0.2, "steps": 2400, "record": [0, 800, 2400]},
}
#: Sections of a study, and how its members are trained: seconds per shard, with many pauses.
CASES = {
    "gd": (DESCENT, Choice("jax", "map", 1, 500)),
    "adam": (EPOCHS, Choice("torch", "loop", 1, 50)),
    "cnn": (CNN, Choice("numba", "loop", 1, 50)),
}
SNAKEMAKE = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "1", "all_members"]
PROFILE = ["--workflow-profile", str(ROOT / "profiles" / "default")]


class Study:
    """A small study in a folder, ready to be trained."""

    def __init__(self, folder, case, **sections):
        more, choice = CASES[case]
        self.folder, self.file = folder, folder / "study.yaml"
        self.file.write_text(yaml.safe_dump({**STUDY, **more, **sections}))
        self.study = load_study(self.file, folder / "results")
        (self.arm,) = self.study.arms
        self.shards = self.study.shards(self.arm)
        data = store.task_to_dataset(build_task(self.arm.settings))
        store.write(data, self.study.data_path(self.arm), store.provenance(self.study))
        probe = Probe(self.arm.probe_key, choice, reason="for this test", device="cpu", machine="any", threads=1)
        store.write_text(probe.to_json(), self.study.probe_path(self.arm))

    def train(self, shard, *options, program=("-m", "emergent_equivariance")):
        """Start to train a shard."""
        first, last = map(str, shard)
        command = [sys.executable, *program, "train", str(self.file), "--arm", self.arm.path]
        where = ["--first", first, "--last", last, "--results", str(self.study.results), *options]
        environment = {**os.environ, "NPROC": "1", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([*command, *where], stderr=subprocess.PIPE, text=True, env=environment)

    def finish(self, shard):
        """Train a shard to its end, undisturbed; → what was said."""
        process = self.train(shard)
        said = process.communicate(timeout=300)[1]
        assert process.returncode == 0, said
        assert "warning" not in said
        return said

    def path(self, shard):
        return self.study.shard_path(self.arm, *shard)

    def checkpoint(self, shard):
        return self.study.checkpoint_path(self.arm, *shard)

    def members(self):
        return self.path(self.shards[0]).parent

    def contents(self):
        """Shard → its checksum over all arrays, which does not tell one NaN from another; and its attributes."""
        return {shard: store.read(self.path(shard)).attrs for shard in self.shards}

    def remove_shards(self):
        for file in self.members().iterdir():
            file.unlink()


def undisturbed(study):
    """Train the shards and remove them again; → their contents, and the seconds the last one took."""
    for shard in study.shards:
        begin = time.monotonic()
        study.finish(shard)
        seconds = time.monotonic() - begin
    contents = study.contents()
    assert not any("resumed" in attributes for attributes in contents.values())
    assert sorted(file.name for file in study.members().iterdir()) == [study.path(s).name for s in study.shards]
    study.remove_shards()
    return contents, seconds


def stamp(path):
    """What changes when a file is replaced, None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def half_written(study):
    folder = study.members()
    return folder.is_dir() and any(name.endswith(".tmp") for name in os.listdir(folder))


def disturb(study, shard, number, rng, counts, *, seconds=None):
    """Train a shard and send a signal at a random instant: → exit code and what was said.

    Some time after this run's first checkpoint; with ``seconds``, which an undisturbed run takes, at times at any
    instant or while a file is being written.
    """
    checkpoint, before = study.checkpoint(shard), stamp(study.checkpoint(shard))
    assert not study.path(shard).exists()
    process = study.train(shard)
    kind = rng.choice(["any", "writing", "training"], p=[0.2, 0.2, 0.6]) if seconds else "training"
    if kind == "any":
        until = time.monotonic() + rng.uniform(0, 1.1 * seconds)
        while time.monotonic() < until and process.poll() is None:
            time.sleep(0.002)
    elif kind == "writing":
        while process.poll() is None and not half_written(study):
            pass
    else:
        while process.poll() is None and stamp(checkpoint) in (None, before):
            time.sleep(0.002)
        time.sleep(rng.exponential(0.1))
    training, written = stamp(checkpoint) not in (None, before), study.path(shard).exists()
    if process.poll() is None:
        process.send_signal(number)
        counts["shard written" if written else "in training" if training else "before a new checkpoint"] += 1
        counts["signals"] += 1
    said = process.communicate(timeout=300)[1]
    assert "Traceback" not in said, said
    assert "warning" not in said, said
    counts["resumed"] += RESUMED in said
    counts["file half written"] += half_written(study)
    return process.returncode, said


def compare(study, expected):
    """The shards hold the same bits as undisturbed ones, and nothing lies beside them; → resumes they tell of."""
    found = study.contents()
    for shard, attributes in found.items():
        assert attributes["checksum"] == expected[shard]["checksum"]
        if "resumed" in attributes:
            assert len(json.loads(attributes["machines"])) == 1
    assert sorted(file.name for file in study.members().iterdir()) == [study.path(s).name for s in study.shards]
    return sum(attributes.get("resumed", 0) for attributes in found.values())


def report(name, counts, resumed):
    print(f"\n{name}: {dict(counts)}; resumes told by the shards: {resumed}")


@pytest.mark.slow
def test_a_shard_killed_and_stopped_a_few_times_has_the_bits_of_an_undisturbed_one(tmp_path):
    training = {**DESCENT["training"], "steps": 20000, "record": [0, 10000, 20000]}
    study, rng, counts = Study(tmp_path, "gd", training=training), np.random.default_rng(0), Counter()
    expected, _ = undisturbed(study)
    (shard,) = study.shards
    for _ in range(2):
        code, _ = disturb(study, shard, signal.SIGKILL, rng, counts)
        assert code == -signal.SIGKILL
        assert study.checkpoint(shard).exists()
    code, said = disturb(study, shard, signal.SIGTERM, rng, counts)
    assert code == INTERRUPTED
    assert said.strip().splitlines()[-1] == (
        "SIGTERM (preempted or cancelled from outside): stopped after writing "
        f"{study.checkpoint(shard)}. Run the same command again to go on."
    )
    assert study.checkpoint(shard).exists()
    assert RESUMED in study.finish(shard)
    assert compare(study, expected) == 3
    report("a few", counts, 3)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_shards_killed_at_random_instants_have_the_bits_of_undisturbed_ones(tmp_path, case):
    """At least 20 kills each."""
    study, rng, counts, resumed = Study(tmp_path, case), np.random.default_rng(1), Counter(), 0
    expected, seconds = undisturbed(study)
    (shard,) = study.shards
    while counts["signals"] < 20:
        code, _ = disturb(study, shard, signal.SIGKILL, rng, counts, seconds=seconds)
        assert code in (0, -signal.SIGKILL)
        if study.path(shard).exists():
            if code:  # a checkpoint may be left
                study.finish(shard)
            resumed += compare(study, expected)
            study.remove_shards()
    study.finish(shard)
    resumed += compare(study, expected)
    report(f"SIGKILL, {case}", counts, resumed)
    assert counts["in training"] >= counts["signals"] / 2
    assert resumed >= counts["signals"] / 4


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_at_any_instant_ends_training_with_its_exit_code_and_loses_nothing(tmp_path, number):
    study, rng, counts = Study(tmp_path, "adam"), np.random.default_rng(2), Counter()
    expected, seconds = undisturbed(study)
    (shard,) = study.shards
    for _ in range(6):
        code, said = disturb(study, shard, number, rng, counts, seconds=seconds)
        assert code in (0, INTERRUPTED) or code == -number  # the last before the command has begun
        if code == INTERRUPTED:
            last = said.strip().splitlines()[-1]
            assert re.match(rf"{number.name}(: stopped at once| \(.*\): stopped after)", last)
            assert last.startswith(f"{number.name}: stopped at once") or study.checkpoint(shard).exists()
        assert not half_written(study)
        assert not study.members().exists() or not list(study.members().glob(".*.lease*"))
        if code == 0:
            compare(study, expected)
            study.remove_shards()
    study.finish(shard)
    report(number.name, counts, compare(study, expected))


WAITING = """
import time
from emergent_equivariance.interruption import Interruption
with Interruption() as interruption:
    interruption.cleanup = lambda: print("cleaned up", flush=True)
    if {deferring}:
        interruption.defer()
    print("ready", flush=True)
    while True:
        time.sleep(0.01)
"""


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_before_there_is_something_to_save_a_signal_ends_the_process_at_once(number):
    command = [sys.executable, "-c", WAITING.format(deferring=False)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stderr.read().startswith(f"{number.name}: stopped at once. Run the same command again")
        assert process.stdout.read() == "cleaned up\n"
    assert process.returncode == INTERRUPTED


def test_a_second_request_ends_the_process_at_once_and_a_repeated_one_does_not():
    command = [sys.executable, "-c", WAITING.format(deferring=True)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        for number in SIGNALS:  # one request
            process.send_signal(number)
        time.sleep(SAME_REQUEST + 0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.stderr.read().startswith("SIGTERM: stopped at once")
        assert process.stdout.read() == "cleaned up\n"
    assert process.returncode == INTERRUPTED


ENDING = """
import atexit, os, signal, time
from emergent_equivariance.interruption import SIGNALS, Interruption

class Last:
    def __del__(self):
        self.kill(self.pid, 15)  # the interpreter is being taken apart

last = Last()
last.kill, last.pid = os.kill, os.getpid()

def send(*, wait=0.0):
    for number in SIGNALS:
        os.kill(os.getpid(), number)
    time.sleep(wait)

atexit.register(send)
with Interruption() as interruption:
    interruption.defer()
    {early}
    interruption.finish()
    send(wait=0.1)
    time.sleep({pause})
    send(wait=0.1)
send(wait=0.1)
print("done", flush=True)
"""


@pytest.mark.parametrize("early", ["pass", "send()"], ids=["not asked before", "asked before"])
def test_no_signal_counts_when_the_work_is_done(early):
    """Neither one after the other in the block, nor behind it, nor while the interpreter shuts down."""
    script = ENDING.format(early=early, pause=SAME_REQUEST + 0.2)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


INTERRUPTED_TWICE = """
import atexit, os, signal, sys
from emergent_equivariance.errors import INTERRUPTED
from emergent_equivariance.interruption import Interruption
atexit.register(os.kill, os.getpid(), signal.SIGTERM)
with Interruption() as interruption:
    interruption.defer()
    os.kill(os.getpid(), signal.SIGTERM)
    sys.exit(INTERRUPTED)
"""


def test_a_signal_repeated_while_the_process_ends_does_not_change_its_exit_code():
    assert subprocess.run([sys.executable, "-c", INTERRUPTED_TWICE], timeout=60).returncode == INTERRUPTED


def test_handlers_of_before_are_restored_unless_the_process_is_to_end():
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interruption():
        assert all(signal.getsignal(number) != handler for number, handler in zip(SIGNALS, before, strict=True))
    assert [signal.getsignal(number) for number in SIGNALS] == before
    with Interruption() as interruption:
        interruption.finish()
    behind = [signal.getsignal(number) for number in SIGNALS]
    interruption.restore()
    assert behind == [signal.SIG_IGN] * len(SIGNALS)
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.slow
def test_a_workflow_killed_at_random_instants_goes_on_to_the_same_bits(tmp_path):
    """Snakemake and its jobs at once, as when a machine goes down."""
    study = Study(tmp_path, "gd", ensemble={"members": 8}, execution={"shard_size": 4, "checkpoint_period": 0.05})
    rng, counts = np.random.default_rng(3), Counter()
    expected, _ = undisturbed(study)
    command = [*SNAKEMAKE, *PROFILE, "--configfile", str(study.file)]

    def finished(*more):
        done = subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr

    def checkpoints():
        return [stamp(study.checkpoint(shard)) for shard in study.shards]

    for kill in range(6):
        before = checkpoints()
        with subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            until = time.monotonic() + (rng.uniform(0, 12) if kill % 3 == 2 else 120)
            while checkpoints() == before and time.monotonic() < until and process.poll() is None:
                time.sleep(0.005)
            time.sleep(rng.exponential(0.2))
            counts["in training"] += checkpoints() != before
            counts["signals"] += process.poll() is None
            os.killpg(process.pid, signal.SIGKILL)
        finished("--unlock")
    finished("--rerun-incomplete")
    report("Snakemake", counts, compare(study, expected))
    assert counts["in training"] >= 3
