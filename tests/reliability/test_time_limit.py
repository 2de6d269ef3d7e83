"""A job that ends itself before its time is over, with a checkpoint, and gets on every time."""

import os
import time

import numpy as np
import pytest

from emergent_equivariance import checkpoints, time_limit
from emergent_equivariance.checkpoints import Checkpoints, identity
from emergent_equivariance.errors import INTERRUPTED, Interrupted
from emergent_equivariance.interruption import Interruption
from emergent_equivariance.time_limit import TimeLimit
from emergent_equivariance.training import Choice, train_shard

from .test_checkpoints import CASES, Shard, bits, problem_of, train_shard_position
from .test_kill import DESCENT, RESUMED, Study, compare, undisturbed

CHOICE = Choice("jax", "map", 1, 4)


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """Gives what a program called squeue answers in job 7; None: it fails."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def answer(text):
        script = "exit 1" if text is None else f'[ "$*" = "--noheader --jobs 7 --format %L" ] && echo " {text}"'
        (tmp_path / "squeue").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "squeue").chmod(0o755)

    return answer


def test_without_a_limit_there_is_none(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert time_limit.time_limit(None) is None


def test_minutes_count_from_the_start_of_the_process(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    age = time_limit.process_age()
    assert age > 0.1
    limit = time_limit.time_limit(100.5)
    assert limit.name == "--minutes 100.5"
    assert limit.left == pytest.approx(6030 - age, abs=30)
    assert limit.left < 6030 - age


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1:02", 62), ("0:00", 0), ("02:03:04", 7384), ("1-00:00:00", 86400), ("2-03:04:05", 183845)],
)
def test_the_end_of_the_slurm_job_counts_where_it_is_earlier(squeue, text, seconds):
    squeue(text)
    limit = time_limit.time_limit(None)
    assert limit.name == "the end of SLURM job 7"
    assert limit.left == pytest.approx(seconds, abs=30)
    assert time_limit.time_limit(1e6).name == limit.name
    assert time_limit.time_limit(seconds / 60 - 100).name.startswith("--minutes")


@pytest.mark.parametrize("text", ["UNLIMITED", "NOT_SET", "INVALID", ""])
def test_a_slurm_job_without_a_limit_has_none(squeue, text):
    squeue(text)
    assert time_limit.time_limit(None) is None


def test_where_slurm_cannot_be_asked_its_variable_counts(squeue, monkeypatch):
    squeue(None)
    assert time_limit.time_limit(None) is None
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 500))
    assert time_limit.time_limit(None).left == pytest.approx(500, abs=30)


class Clock:
    """A clock that moves when it is told to, while checkpoints take a given time."""

    def __init__(self, monkeypatch, tmp_path, writing=1.0, period=1e9, left=600.0):
        self.now, self.written, self.said = 1000.0, [], []
        self.shard = Shard(tmp_path, problem_of(), CHOICE)
        self.position = train_shard_position(self.shard)
        monkeypatch.setattr(checkpoints.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(checkpoints.store, "write", lambda *_: self.write(writing))
        key = identity("abc", self.shard.members, self.shard.problem, CHOICE)
        self.limit = TimeLimit(self.now + left, "--minutes 10")
        path = tmp_path / ".c.zarr.zip"
        self.kept = Checkpoints(path, key, period, "M", Interruption(), self.said.append, self.limit)

    def write(self, seconds):
        self.written.append(self.now)
        self.now += seconds

    def run(self, gap):
        """Pause every ``gap`` seconds until training stops; → seconds that were left then, and why it did."""
        with pytest.raises(Interrupted) as stopped:
            while True:
                self.now += gap
                self.kept.pause(lambda: self.position)
        return self.limit.deadline - self.written[-1], str(stopped.value)


def test_training_stops_a_margin_before_the_limit(tmp_path, monkeypatch):
    clock = Clock(monkeypatch, tmp_path)
    left, why = clock.run(gap=0.5)
    assert checkpoints.MARGIN - 0.5 < left <= checkpoints.MARGIN
    assert len(clock.written) == 1
    assert clock.said == []
    assert why.startswith("time limit (--minutes 10): stopped after writing")


def test_the_margin_holds_what_pauses_and_checkpoints_take(tmp_path, monkeypatch):
    left, _ = Clock(monkeypatch, tmp_path).run(gap=30)
    assert 60 <= left <= 90  # two pauses
    left, _ = Clock(monkeypatch, tmp_path, writing=25.0, period=100).run(gap=1)
    assert 75 <= left <= 78  # three checkpoints
    monkeypatch.setattr(checkpoints, "EXPECTED_RATE", 1.0)
    clock = Clock(monkeypatch, tmp_path, left=1e6)
    left, _ = clock.run(gap=1)
    result = clock.position.result
    expected = 3 * sum(a.nbytes for a in (result.prediction, result.loss, *result.weights, *clock.position.state))
    assert left == pytest.approx(expected, abs=2)


@pytest.mark.parametrize("left", [30.0, 5.0, -100.0])
def test_where_there_is_too_little_time_half_of_it_is_used_and_that_is_said(tmp_path, monkeypatch, left):
    clock = Clock(monkeypatch, tmp_path, left=left)
    kept, _ = clock.run(gap=0.5)
    assert kept == pytest.approx(max(left - 0.5, 0) / 2 if left > 0 else left - 0.5, abs=0.5)
    (line,) = clock.said
    assert line.startswith("warning: --minutes 10: ")
    assert "stops after half of what is left; give it more minutes" in line


def test_a_signal_is_told_from_the_time_limit(tmp_path, monkeypatch):
    clock = Clock(monkeypatch, tmp_path)
    for name, meaning in (("SIGTERM", "preempted or cancelled"), ("SIGUSR1", "warned"), ("SIGINT", "Ctrl-C")):
        clock.kept._interruption.received = name
        assert clock.run(gap=0.1)[1].startswith(f"{name} ({meaning}")
    clock.now = clock.limit.deadline
    assert clock.run(gap=0.1)[1].startswith("SIGINT (time limit)")


def test_training_whose_time_is_over_again_and_again_gets_on_to_the_same_bits(tmp_path):
    shard = Shard(tmp_path, problem_of(**CASES["adam"]), CHOICE)
    undisturbed = bits(shard.train()[0])
    pieces, result = 0, None
    while result is None:
        key = identity("abc", shard.members, shard.problem, CHOICE)
        over = TimeLimit(time.monotonic(), "--minutes 0")
        kept = Checkpoints(shard.path, key, 1e9, "M", Interruption(), shard.said.append, over)
        resume = kept.load()
        try:
            result = train_shard(shard.problem, shard.trainer, CHOICE, shard.members, pause=kept.pause, resume=resume)
        except Interrupted as stopped:
            assert str(stopped).startswith("time limit (--minutes 0)")
            pieces += 1
    assert pieces >= 5
    assert bits(result) == undisturbed
    assert kept.attributes()["resumed"] == pieces


SHORT = {"training": {**DESCENT["training"], "steps": 1500, "record": [0, 1500]}, "ensemble": {"members": 2}}


def piece(study):
    """Train with a time limit that is over before training begins; → exit code and what was said."""
    process = study.train(study.shards[0], "--minutes", "0.001")
    said = process.communicate(timeout=300)[1]
    assert process.returncode in (0, INTERRUPTED), said
    if process.returncode:
        assert "time limit (--minutes 0.001): stopped after writing" in said.splitlines()[-1]
        assert "give it more minutes" in said
        assert [file.name for file in study.members().iterdir()] == [study.checkpoint(study.shards[0]).name]
    return process.returncode, said


@pytest.mark.slow
def test_a_job_past_its_time_limit_stops_with_its_checkpoint_and_the_next_goes_on(tmp_path):
    study = Study(tmp_path, "gd", **SHORT)
    code, said = piece(study)
    assert code == INTERRUPTED
    assert RESUMED not in said
    assert RESUMED in study.finish(study.shards[0])
    assert store_of(study).attrs["resumed"] == 1


def store_of(study):
    from emergent_equivariance import store

    return store.read(study.path(study.shards[0]))


@pytest.mark.slow
def test_a_shard_trained_in_many_jobs_has_the_bits_of_an_undisturbed_one(tmp_path):
    study = Study(tmp_path, "gd", **SHORT)
    expected, _ = undisturbed(study)
    stops = 0
    while (found := piece(study))[0]:
        stops += 1
        assert (RESUMED in found[1]) == (stops > 1)
    assert stops >= 5
    assert compare(study, expected) == stops
    assert np.isfinite(store_of(study)["prediction"]).all()
