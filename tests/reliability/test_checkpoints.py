"""Checkpoints: training that is stopped anywhere goes on bit by bit, and a file that does not fit is never used."""

import errno
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from emergent_equivariance import store
from emergent_equivariance.checkpoints import Checkpoints, identity
from emergent_equivariance.errors import Interrupted, StoreError
from emergent_equivariance.interruption import Interruption
from emergent_equivariance.study import load_study, parse_study
from emergent_equivariance.tasks import build_task
from emergent_equivariance.training import Choice, build_problem, get_engine, train_shard

CONTENT = {
    "study": "small",
    "task": {"name": "ising", "lattice": 3, "target": "local", "train": 6, "test": 4},
    "network": {"name": "mlp", "width": 8},
    "training": {"learning_rate": 0.5, "steps": 12, "record": [0, 1, 5, 12], "store_weights": [0, 5]},
}
EPOCHS = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "epochs": 3, "batch_size": 5, "store_weights": [2]}
CASES = {
    "gd": {},
    "sgd": {"training": EPOCHS, "augmentation": "full"},
    "adam": {"training": {**EPOCHS, "optimizer": "adam", "momentum": 0.0}, "augmentation": "random"},
}
MEMBERS = range(3, 6)


class StopAfter(Interruption):
    """As if a signal came before the n-th pause."""

    def __init__(self, pauses):
        super().__init__()
        self.left = pauses

    def defer(self):
        self.left -= 1
        if self.left == 0:
            self.received = "SIGTERM"


def problem_of(learning_rate=0.5, **sections):
    settings = parse_study({**CONTENT, **sections}, Path("small.yaml")).arms[0].settings
    return build_problem(settings, build_task(settings), learning_rate)


class Shard:
    """A shard in training in this process."""

    def __init__(self, folder, problem, choice, members=MEMBERS):
        self.path, self.problem, self.choice, self.members = folder / ".c.zarr.zip", problem, choice, members
        self.trainer = get_engine(choice.engine).trainer(problem, choice)
        self.said = []

    def checkpoints(self, stop_after=0, config="abc", period=1e9, machine="M", choice=None):
        key = identity(config, self.members, self.problem, choice or self.choice)
        return Checkpoints(self.path, key, period, machine, StopAfter(stop_after), self.said.append)

    def train(self, stop_after=0, **more):
        """Go on until the pause, or to the end."""
        kept = self.checkpoints(stop_after, **more)
        resume = kept.load()
        result = train_shard(self.problem, self.trainer, self.choice, self.members, pause=kept.pause, resume=resume)
        return result, kept

    def stop(self, pause, **more):
        with pytest.raises(Interrupted, match=r"SIGTERM.*\.c\.zarr\.zip"):
            self.train(pause, **more)


def bits(result):
    """All arrays of a result, with one NaN."""
    return [np.where(np.isnan(a), np.nan, a).tobytes() for a in (result.prediction, result.loss, *result.weights)]


def pauses(shard):
    count = 0

    def pause(position):
        nonlocal count
        count += 1

    train_shard(shard.problem, shard.trainer, shard.choice, shard.members, pause=pause)
    return count


CHOICES = {
    "jax-map": Choice("jax", "map", 1, 4),
    "jax-vmap": Choice("jax", "vmap", 2, 4),
    "torch-loop": Choice("torch", "loop", 1, 4),
    "torch-vmap": Choice("torch", "vmap", 2, 4),
}
CNN = {
    "task": {"name": "digits", "train": 8, "test": 4, "ood": "none"},
    "network": {"name": "cnn", "width": 4},
    "training": {"optimizer": "adam", "learning_rate": 0.01, "epochs": 2, "batch_size": 3, "store_weights": [1]},
    "augmentation": "random",
}
#: The other pairs of case and choice are slow tests.
QUICK = {("gd", "jax-map"), ("adam", "jax-vmap"), ("sgd", "torch-loop"), ("adam", "torch-vmap")}
PAIRS = [
    pytest.param(case, CHOICES[name], id=f"{case}-{name}", marks=() if (case, name) in QUICK else pytest.mark.slow)
    for case in CASES
    for name in CHOICES
]
SOME = [
    pytest.param(choice, id=name, marks=() if name in ("jax-map", "torch-vmap") else pytest.mark.slow)
    for name, choice in CHOICES.items()
]


@pytest.mark.parametrize(("case", "choice"), PAIRS)
def test_training_stopped_at_any_pause_goes_on_bit_by_bit(tmp_path, case, choice):
    shard = Shard(tmp_path, problem_of(**CASES[case]), choice)
    undisturbed = bits(shard.train()[0])
    count = pauses(shard)
    assert count >= len(MEMBERS)
    for pause in range(1, count + 1):
        shard.stop(pause)
        assert shard.path.exists()
        result, kept = shard.train()
        assert bits(result) == undisturbed
        assert kept.attributes()["resumed"] == 1
        kept.remove()
        assert not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("choice", [Choice("numba", "loop", 1, 1), *CHOICES.values()], ids=str)
def test_training_of_a_cnn_stopped_in_the_middle_goes_on_bit_by_bit(tmp_path, choice):
    shard = Shard(tmp_path, problem_of(**CNN), choice)
    undisturbed = bits(shard.train()[0])
    shard.stop(2)
    assert bits(Shard(tmp_path, shard.problem, choice).train()[0]) == undisturbed


@pytest.mark.parametrize(
    "choice",
    [pytest.param(c, id=n, marks=() if n == "torch-vmap" else pytest.mark.slow) for n, c in CHOICES.items()],
)
def test_training_stopped_at_every_pause_by_processes_of_their_own_goes_on_bit_by_bit(tmp_path, choice):
    problem = problem_of(**CASES["adam"])
    pauses_each = 2 if choice.members_at_once == 1 else 1
    undisturbed = bits(Shard(tmp_path, problem, choice).train()[0])
    stops = 0
    while True:
        shard = Shard(tmp_path, problem, choice)  # its own compiled programs
        try:
            result, kept = shard.train(stop_after=pauses_each, machine="ABA"[stops % 3])
        except Interrupted:
            stops += 1
            continue
        break
    assert stops >= 3
    assert bits(result) == undisturbed
    assert kept.attributes() == {"resumed": stops, "machines": '["A", "B"]'}


def test_float64_is_kept(tmp_path):
    """In a process of its own: 64 bits are a setting of the whole process."""
    code = (
        "import jax; jax.config.update('jax_enable_x64', True)\n"
        "from pathlib import Path; from tests.reliability.test_checkpoints import *\n"
        f"shard = Shard(Path({str(tmp_path)!r}), problem_of(**CASES['adam'], execution={{'precision': 'float64'}}), "
        "Choice('jax', 'map', 1, 4))\n"
        "undisturbed = shard.train()[0]\n"
        "assert undisturbed.loss.dtype == undisturbed.weights[0].dtype == np.float64\n"
        "shard.stop(6)\n"
        "assert bits(shard.train()[0]) == bits(undisturbed)\n"
        "print('equal')"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [os.sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.stdout.strip() == "equal", done.stderr


@pytest.mark.parametrize("choice", SOME)
def test_diverged_members_are_frozen_and_the_others_go_on_even_after_a_stop(tmp_path, choice):
    """At this learning rate the members 0, 1 and 8 of ten diverge."""
    training = {**CONTENT["training"], "learning_rate": 20.0, "steps": 60, "record": [0, 10, 30, 60]}
    problem = problem_of(20.0, training={**training, "store_weights": [60]})
    shard = Shard(tmp_path, problem, choice, range(10))
    undisturbed = shard.train()[0]
    np.testing.assert_array_equal(np.flatnonzero(undisturbed.diverged), [0, 1, 8])
    assert np.isnan(undisturbed.prediction[undisturbed.diverged, 2:]).all()
    assert np.isnan(undisturbed.weights[0][undisturbed.diverged]).all()
    calm = Shard(tmp_path, problem, choice, [2, 3, 4, 5, 6, 7, 7, 9]).train()[0]  # none moves within its pair
    expected = np.delete(calm.prediction, 6, axis=0)
    np.testing.assert_array_equal(undisturbed.prediction[~undisturbed.diverged], expected)
    for pause in range(1, pauses(shard) + 1, 9):
        shard.stop(pause)
        assert bits(shard.train()[0]) == bits(undisturbed)
        shard.path.unlink()


def test_checkpoints_are_written_at_the_period_and_cost_at_most_a_hundredth(tmp_path, monkeypatch):
    """With a clock that stands still but for writing."""
    shard = Shard(tmp_path, problem_of(), Choice("jax", "map", 1, 1))
    now, written = 0.0, []
    monkeypatch.setattr("emergent_equivariance.checkpoints.time.monotonic", lambda: now)

    def write(*_):
        nonlocal now
        now += cost
        written.append(now)

    monkeypatch.setattr("emergent_equivariance.checkpoints.store.write", write)
    for period, cost, apart in [(10.0, 0.0625, 10.0), (1.0, 0.0625, 6.25)]:
        now, written = 0.0, []
        position = train_shard_position(shard)
        kept = shard.checkpoints(period=period)
        while now < 100:
            now += 0.5
            kept.pause(lambda position=position: position)
        gaps = np.diff(written) - cost
        assert gaps.min() >= apart
        assert gaps.max() <= apart + 0.5
        assert kept.written == len(written)
        assert kept.writing == pytest.approx(cost * len(written))


def train_shard_position(shard):
    """Some position of a shard."""
    found = []

    def pause(position):
        found.append(position())

    train_shard(shard.problem, shard.trainer, shard.choice, shard.members[:1], pause=pause)
    return found[0]


@pytest.fixture
def stopped(tmp_path):
    """A shard with a checkpoint, and what it gives undisturbed."""
    shard = Shard(tmp_path, problem_of(**CASES["adam"]), Choice("jax", "map", 1, 4))
    undisturbed = bits(shard.train()[0])
    shard.stop(5)
    assert not shard.said
    return shard, undisturbed


def test_a_torn_or_altered_checkpoint_is_told_and_not_used(stopped, capfd):
    shard, undisturbed = stopped
    whole = shard.path.read_bytes()
    position = shard.checkpoints().load()
    rng = np.random.default_rng(0)
    torn = [
        whole[:length] for length in (0, 1, 100, len(whole) // 2, len(whole) - 1, *rng.integers(len(whole), size=20))
    ]
    altered = []
    for at, change in zip(rng.integers(len(whole), size=200), rng.integers(1, 256, size=200), strict=True):
        altered.append(whole[:at] + bytes([whole[at] ^ int(change)]) + whole[at + 1 :])
    refused = 0
    for content in (*torn, *altered):
        shard.path.write_bytes(content)
        found = shard.checkpoints().load()
        if found is None:
            refused += 1
            assert str(shard.path) in shard.said[-1]
            assert "damaged" in shard.said[-1]
            assert "Members 3 to 5 are trained from the beginning" in shard.said[-1]
        else:  # the byte was one that nobody reads, such as a date
            assert bits(found.result) == bits(position.result)
            assert [a.tobytes() for a in found.state] == [a.tobytes() for a in position.state]
            assert (found.finished, found.record, found.step) == (position.finished, position.record, position.step)
    assert refused >= len(torn) + 0.9 * len(altered)
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err + captured.out
    shard.path.write_bytes(torn[3])
    result, kept = shard.train()
    assert bits(result) == undisturbed
    assert kept.attributes() == {}


def test_a_checkpoint_of_another_run_is_told_and_not_used(stopped, monkeypatch):
    shard, undisturbed = stopped
    other = Choice("jax", "vmap", 2, 4)
    assert shard.checkpoints(config="xyz").load() is None
    assert "config_hash abc, now xyz" in shard.said[-1]
    assert shard.checkpoints(choice=other).load() is None
    assert "choice" in shard.said[-1]
    assert "'vmap'" in shard.said[-1]
    moved = Shard(shard.path.parent, shard.problem, shard.choice, range(3, 9))
    assert moved.checkpoints().load() is None
    assert "members [3, 5], now [3, 8]" in moved.said[-1]
    rate = Shard(shard.path.parent, problem_of(0.4, **CASES["adam"]), shard.choice)
    assert rate.checkpoints().load() is None
    assert "learning_rate 0.5, now 0.4" in rate.said[-1]
    with monkeypatch.context() as patched:
        patched.setattr(store, "versions", lambda names: dict.fromkeys(names, "99"))
        assert shard.checkpoints().load() is None
        assert "versions" in shard.said[-1]
    assert all("from the beginning" in line and "\n" not in line for line in shard.said)
    assert bits(shard.train()[0]) == undisturbed


def test_another_type_of_machine_is_told(stopped):
    shard, _ = stopped
    assert shard.checkpoints(machine="N").load() is not None
    assert "another type of machine (M, this is N)" in shard.said[-1]


def test_a_full_disk_is_an_error_and_the_last_good_checkpoint_stays(stopped, monkeypatch):
    shard, undisturbed = stopped
    before = shard.path.read_bytes()

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("emergent_equivariance.store.os.fsync", full)
        with pytest.raises(StoreError, match=r"disk is full.*last good checkpoint stays.*Make room"):
            shard.train(stop_after=2)
    assert shard.path.read_bytes() == before
    assert [path.name for path in shard.path.parent.iterdir()] == [shard.path.name]
    assert bits(shard.train()[0]) == undisturbed


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    shard = Shard(tmp_path, problem_of(), Choice("jax", "map", 1, 4))
    shard.path = tmp_path / "file" / ".c.zarr.zip"
    shard.path.parent.write_text("not a folder")
    with pytest.raises(StoreError, match=r"\.c\.zarr\.zip: cannot be written.*No checkpoint was written before"):
        shard.train(stop_after=2)


def test_what_killed_writers_left_is_removed_and_nothing_else(stopped):
    shard, _ = stopped
    folder, name = shard.path.parent, shard.path.name
    other = folder / ".d.zarr.zip.0.tmp"
    for file in (folder / f".{name}.0123abc.tmp", folder / f".{name}.7.tmp", other):
        file.write_bytes(b"half")
    store.remove_unfinished(shard.path)
    assert sorted(path.name for path in folder.iterdir()) == [name, other.name]
    assert shard.checkpoints().load() is not None


def test_a_checkpoint_is_not_taken_for_a_shard(tmp_path):
    import yaml

    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({**CONTENT, "tracking": {"wandb": "disabled"}}))
    study = load_study(file, tmp_path)
    path = study.checkpoint_path(study.arms[0], 0, 63)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    assert study.existing_shards(study.arms[0]) == []
