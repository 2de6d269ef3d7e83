"""The lease of a shard: real processes that take it, die, are stopped, and wake up again."""

import errno
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from emergent_equivariance import lease as leases
from emergent_equivariance import store
from emergent_equivariance.errors import Interrupted, StoreError, Superseded
from emergent_equivariance.lease import Lease, holder, this_process
from emergent_equivariance.time_limit import TimeLimit

ROOT = Path(__file__).parents[2]
#: Seconds after which a holder on another machine is dead in these tests.
SILENCE = 0.6


@pytest.fixture
def path(tmp_path):
    return tmp_path / "arm" / ".members-000000-000005.lease"


def elsewhere():
    """This process as if it ran on another machine: only its silence tells that it has ended."""
    return replace(this_process(), host="elsewhere", machine="another boot")


def taken(path, said=None, *, silence=SILENCE, me=None):
    lease = Lease(path, "members 0 to 5", (said if said is not None else []).append, silence=silence, me=me)
    lease.acquire()
    return lease


def mute(lease):
    """As if the process were stopped or killed: no sign of life any more."""
    lease._released.put(None)
    return lease


def test_a_lease_is_one_file_that_names_its_holder_and_nothing_is_left(path):
    assert holder(path) is None
    with taken(path) as lease:
        assert [file.name for file in path.parent.iterdir()] == [path.name]
        assert [file.name for file in path.iterdir()] == ["1"]
        found = holder(path)
        assert (found.process, found.host, found.token) == (os.getpid(), lease.me.host, lease.me.token)
        assert not found.is_gone
        lease.confirm()
    assert not any(path.parent.iterdir())
    lease.release()
    with taken(path):  # once more
        assert holder(path) is not None
    assert not any(path.parent.iterdir())


def test_who_waits_says_for_whom_and_ends_at_his_time_limit(path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    said = []
    with taken(path, me=elsewhere()) as first:
        second = Lease(path, "members 0 to 5", said.append, silence=SILENCE)
        limit = TimeLimit(time.monotonic() + leases.MARGIN + 3 * SILENCE, "--minutes 1")
        with pytest.raises(Interrupted, match=r"time limit \(--minutes 1\): members 0 to 5 are still being trained"):
            second.acquire(limit)
        first.confirm()  # though it was waited for longer than a dead one would be
        assert said == [f"members 0 to 5: waiting for another job that trains them ({holder(path)})."]
        assert str(holder(path)).startswith(f"elsewhere, process {os.getpid()}, SLURM job 17, since 20")
    assert not any(path.parent.iterdir())


#: Takes a lease as PLACE and does something with it.
TAKER = """
import sys, time
from dataclasses import replace
from pathlib import Path
from emergent_equivariance import lease as leases, store
from emergent_equivariance.errors import Superseded
def say(line):
    print(line, flush=True)
def place(me):
    return me if sys.argv[3] == "here" else replace(me, host=sys.argv[3], machine=sys.argv[3])
path = Path(sys.argv[1])
lease = leases.Lease(path, "members 0 to 5", say, silence=float(sys.argv[2]), me=place(leases.this_process()))
lease.acquire()
say("taken")
{then}
lease.release()
"""
WRITE = """
with store.atomic_path(path.parent / "file", lease.confirm) as temporary:
    temporary.write_text("written")
    say(sys.stdin.readline())
"""


def start(path, silence=60.0, where="here", then="sys.stdin.readline()"):
    command = [sys.executable, "-c", TAKER.format(then=then), str(path), str(silence), where]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)


def test_a_lease_that_is_released_goes_to_the_one_that_waits(path):
    first = taken(path)
    with start(path) as waiter:
        assert "waiting for another job" in waiter.stdout.readline()
        first.release()
        assert waiter.stdout.readline() == "members 0 to 5: released by that job.\n"
        assert waiter.stdout.readline() == "taken\n"
        assert holder(path).process == waiter.pid
        waiter.communicate("\n")
    assert not any(path.parent.iterdir())


def test_the_lease_of_a_killed_process_of_this_machine_is_taken_over_at_once(path):
    """With a silence that nobody would wait for; also while the dead one is a zombie."""
    with start(path) as first:
        assert first.stdout.readline() == "taken\n"
        dead, said = holder(path), []
        assert not dead.is_gone
        first.kill()
        while not dead.is_gone:
            time.sleep(0.01)
        assert first.returncode is None
        with taken(path, said, silence=1e6):
            assert [file.name for file in path.iterdir()] == ["2"]
        assert said == [f"members 0 to 5: taken over from a job that has ended ({dead})."]
        first.wait()
        assert dead.is_gone
    assert not any(path.parent.iterdir())


def test_a_number_that_another_process_got_is_not_the_holder():
    me = this_process()
    assert not me.is_gone
    assert replace(me, start=me.start + 1).is_gone
    assert not replace(me, start=me.start + 1, machine="another boot").is_gone
    assert not replace(me, start=me.start + 1, machine="").is_gone


def test_a_holder_on_another_machine_is_dead_after_its_silence_and_does_nothing_when_it_wakes(path):
    said = []
    old = mute(taken(path, me=elsewhere()))
    dead = holder(path)
    with taken(path, said) as new:
        assert said == [
            f"members 0 to 5: waiting for another job that trains them ({dead}).",
            f"members 0 to 5: taken over from a job that has not been heard of for 0.6 s ({dead}).",
        ]
        with pytest.raises(
            Superseded, match=rf"taken over by another job \(.*process {os.getpid()}.*writes nothing more"
        ):
            old.confirm()
        old.release()
        new.confirm()
        assert [file.name for file in path.iterdir()] == ["2"]
    assert not any(path.parent.iterdir())


def test_a_process_that_was_stopped_too_long_writes_nothing(path):
    with start(path, SILENCE, "elsewhere", then=WRITE) as old:
        assert old.stdout.readline() == "taken\n"
        while not list(path.parent.glob(".file.*.tmp")):
            time.sleep(0.01)
        old.send_signal(signal.SIGSTOP)
        with taken(path) as new:
            store.remove_unfinished(path.parent / "file")
            old.send_signal(signal.SIGCONT)
            _, told = old.communicate("go on\n")
            assert "Superseded: members 0 to 5: taken over by another job" in told
            assert old.returncode == 1
            new.confirm()
        assert not any(path.parent.iterdir())


def test_a_holder_that_is_not_stopped_is_waited_for(path):
    """Signs of life come from a thread, whatever the process computes."""
    with start(
        path, SILENCE, "elsewhere", then=f"end = time.time() + {5 * SILENCE}\nwhile time.time() < end: pass"
    ) as old:
        assert old.stdout.readline() == "taken\n"
        said = []
        with taken(path, said):
            assert said[-1] == "members 0 to 5: released by that job."
        assert old.wait() == 0


def test_a_process_that_was_stopped_between_its_last_look_and_its_rename_writes_nothing(path, monkeypatch):
    old, file = mute(taken(path, me=elsewhere())), path.parent / "file"
    rename = os.replace

    def stopped(*paths):
        with taken(path):
            store.remove_unfinished(file)
        rename(*paths)

    monkeypatch.setattr(store.os, "replace", stopped)
    with pytest.raises(Superseded), store.atomic_path(file, old.confirm) as temporary:
        temporary.write_text("old")
    assert not any(path.parent.iterdir())


def test_who_saw_an_old_listing_takes_nothing_from_a_new_holder(path):
    """Whatever became of the lease between the look and the taking."""
    late = Lease(path, "members 0 to 5", print)
    taken(path).release()
    with taken(path, me=elsewhere()) as first:
        folder = os.open(path, os.O_RDONLY)
        mute(first)
        second = taken(path)
        assert not late._take_over(folder, 1)  # there is a second generation
        second.confirm()
        second.release()
        assert not late._take_over(folder, 1)  # there is no folder
        with taken(path) as third:
            assert not late._take_over(folder, 1)  # there is another folder with that generation
            third.confirm()
    path.mkdir()
    os.close(folder)
    folder = os.open(path, os.O_RDONLY)
    assert not late._take_over(folder, 1)  # there is no such generation
    os.close(folder)
    assert not any(path.parent.iterdir())


def test_a_lease_that_was_removed_by_hand_is_lost(path):
    lease = taken(path)
    (path / "1").unlink()
    with pytest.raises(Superseded, match="the lease of this job is gone"):
        lease.confirm()
    with taken(path) as other:
        with pytest.raises(Superseded):
            lease.confirm()
        lease.release()
        other.confirm()


@pytest.mark.parametrize("left", ["", "{", '{"host": 1}'])
@pytest.mark.parametrize("generation", [1, 7])
def test_a_holder_that_died_over_its_own_file_is_taken_over_from(path, generation, left):
    path.mkdir(parents=True)
    (path / str(generation)).write_text(left)
    said = []
    with taken(path, said):
        assert [file.name for file in path.iterdir()] == [str(generation + 1)]
        assert holder(path) is not None
    assert said[-1].endswith("not been heard of for 0.6 s (unknown).")
    assert not any(path.parent.iterdir())


@pytest.mark.parametrize("left", [[], [".nfs000000000123"]], ids=["empty", "removed file of NFS"])
def test_what_killed_takers_left_is_taken_at_once_and_removed(path, left):
    path.mkdir(parents=True)
    for name in left:
        (path / name).touch()
    other = path.with_name(f"{path.name}.0123")
    other.mkdir()
    (other / "1").touch()
    with taken(path, silence=3.0):
        assert [file.name for file in path.parent.iterdir()] == [path.name]
        assert [file.name for file in path.iterdir()] == ["1"]
    assert not any(path.parent.iterdir())


def test_what_cannot_be_removed_is_told_at_once_and_an_error_after_the_silence(path):
    """A folder in that of the lease, as any file that another user, or a process on another client, keeps there."""
    (path / "sub").mkdir(parents=True)
    made, said = [], []
    lease = Lease(path, "members 0 to 5", said.append, silence=SILENCE)
    lease._take = lambda: made.append(1)
    with pytest.raises(StoreError, match=rf"{path}: no job holds .* sub in it .* for {SILENCE:g} s.*remove the folder"):
        lease.acquire()
    (line,) = said
    assert line.startswith(
        f"members 0 to 5: no job trains them, but sub in {path} cannot be removed: waiting {SILENCE:g} s"
    )
    assert not made
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_could_not_be_removed_and_goes_is_no_obstacle(path, monkeypatch):
    (path / "sub").mkdir(parents=True)
    sleep = time.sleep
    monkeypatch.setattr(leases.time, "sleep", lambda seconds: (path / "sub").exists() and (path / "sub").rmdir())
    with taken(path):
        assert [file.name for file in path.iterdir()] == ["1"]
    monkeypatch.setattr(leases.time, "sleep", sleep)
    (path / "sub").mkdir(parents=True)
    with pytest.raises(Interrupted, match=rf"time limit \(a test\): members 0 to 5 wait for {path}\."):
        Lease(path, "members 0 to 5", print, silence=1e6).acquire(TimeLimit(time.monotonic() + 1.0, "a test"))


@pytest.mark.parametrize(
    ("name", "number"), [*product(["open", "listdir", "read"], [1, 2, 3]), ("utime", 1), ("utime", 2)]
)
def test_a_folder_that_another_client_of_nfs_removed_is_one_that_is_not_there(path, monkeypatch, name, number):
    """ESTALE instead of ENOENT, whichever call is the one that meets it."""
    calls, call = 0, getattr(os, name)

    def stale(*args, **options):
        nonlocal calls
        calls += 1
        if calls == number:
            raise OSError(errno.ESTALE, "Stale file handle")
        return call(*args, **options)

    mute(taken(path, me=elsewhere()))
    monkeypatch.setattr(leases.os, name, stale)
    with taken(path) as lease:
        assert holder(path).token == lease.me.token
    monkeypatch.undo()
    assert calls >= number
    assert holder(path) is None


def test_time_in_which_the_waiter_slept_is_no_silence_of_the_holder(path, monkeypatch):
    """With a clock by which hours pass between two looks."""
    now, looks = 0.0, 0

    def sleep(seconds):
        nonlocal now, looks
        now += 3600
        looks += 1

    mute(taken(path, me=elsewhere()))
    monkeypatch.setattr(leases.time, "monotonic", lambda: now)
    monkeypatch.setattr(leases.time, "sleep", sleep)
    waiter = Lease(path, "members 0 to 5", lambda line: None, silence=120.0)
    waiter._wait(None)
    assert looks >= leases.LOOKS / 2
    waiter.release()


def test_a_disk_that_refuses_is_an_error_and_nothing_is_left(path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("write", "mkdir", "fsync"):
        with monkeypatch.context() as patched:
            patched.setattr(leases.os, name, full)
            with pytest.raises(StoreError, match=r"000005\.lease: cannot be written: the disk is full.*Make room"):
                taken(path)
        assert not path.parent.exists() or not any(path.parent.iterdir())
    lease = taken(path)
    monkeypatch.setattr(leases.os, "utime", full)
    with pytest.raises(StoreError, match="disk is full"):
        lease.confirm()
    monkeypatch.undo()
    lease.confirm()
    lease.release()


def as_another_user(function):
    """Run a function in a process of the user nobody; → what it returns, a text."""
    reading, writing = os.pipe()
    if (process := os.fork()) == 0:
        try:
            os.setuid(65534)
            os.write(writing, function().encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(process, 0)
    with open(reading) as pipe:
        return pipe.read()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_sees_who_holds_a_lease_and_is_told_what_he_may_not_write():
    def attempt():
        try:
            taken(path)
        except StoreError as error:
            return error.message
        return "taken"

    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / ".members-000000-000005.lease"
        with taken(path):
            assert as_another_user(lambda: str(holder(path).is_gone)) == "False"
        assert as_another_user(attempt).startswith(f"{path}: cannot be written: Permission denied.")
        path.mkdir()
        (path / "1").write_text("of a dead process")
        assert as_another_user(attempt).startswith(f"{path}: cannot be written: Permission denied.")
        assert [file.name for file in path.iterdir()] == ["1"]


@pytest.mark.parametrize("shift", [100.0, -100.0, 2.0])
def test_a_clock_that_differs_from_that_of_the_disk_is_told(path, monkeypatch, shift):
    from emergent_equivariance import members

    said, clock = [], time.time
    monkeypatch.setattr(leases.time, "time", lambda: clock() + shift)
    with taken(path) as lease:
        assert lease.clock_error == pytest.approx(shift, abs=1.0)
        members._compare_clocks(lease, path.parent, said.append)
    if abs(shift) <= leases.CLOCK_TOLERANCE:
        assert said == []
    else:
        (line,) = said
        assert line.startswith(f"warning: the clock of {lease.me.host} is ")
        assert "ahead of" in line if shift > 0 else "behind" in line


#: Takes the lease again and again and adds lines to a file, as a job replaces its checkpoint; says what it has added.
WRITER = """
import os, random, sys, time
from pathlib import Path
sys.path.insert(0, "src")
from dataclasses import replace
from emergent_equivariance import lease as leases, store
from emergent_equivariance.errors import StoreError, Superseded
path, end, where = Path(sys.argv[1]), time.time() + float(sys.argv[2]), sys.argv[3]
silence, leases.LOOKS = (60.0, 60000) if where == "here" else (0.5, 250)
rng, file, rounds = random.Random(os.getpid()), path.parent / "file", 0
me = leases.this_process()
if where != "here":
    me = replace(me, host=str(me.process), machine=str(me.process))
print("ready", flush=True)
while time.time() < end or rounds < 10:
    rounds += 1
    me = replace(me, token=os.urandom(8).hex())
    with leases.Lease(path, "", lambda line: None, silence=silence, me=me) as lease:
        lease.acquire()
        store.remove_unfinished(file)
        lines = file.read_text().splitlines() if file.exists() else []
        try:
            for _ in range(rng.randrange(3)):
                added = os.urandom(4).hex()
                with store.atomic_path(file, lease.confirm) as temporary:
                    temporary.write_text("\\n".join([*lines, added]))
                lines.append(added)
                print("added", added, flush=True)
        except Superseded:
            print("superseded", flush=True)
    print("round", flush=True)
"""


def disturbed(path, where, seconds, signals, count=5):
    """Let processes write while they get signals; → the lines in the file, those that were said to be, other words."""
    rng, deadline, pipes = random.Random(0), time.time() + seconds, []
    running = []
    while time.time() < deadline:
        while len(running) < count:
            out = path.with_name(f"out{len(pipes)}").open("w+")
            command = [sys.executable, "-c", WRITER, str(path), str(deadline - time.time()), where]
            pipes.append(out)
            running.append(subprocess.Popen(command, stdout=out, cwd=ROOT))
        time.sleep(rng.uniform(0, 0.3))
        victim = rng.choice(running)
        if "ready" in Path(pipes[-1].name).read_text():
            for number, pause in signals:
                victim.send_signal(number)
                time.sleep(pause * rng.random())
        running = [process for process in running if process.poll() is None]
    for process in running:
        assert process.wait(timeout=120) in (0, *(-number for number, _ in signals))  # the last victim may die late
    words = []
    for out in pipes:
        out.seek(0)
        words += out.read().splitlines()
        out.close()
    return (
        (path.parent / "file").read_text().splitlines(),
        [w.split()[1] for w in words if w.startswith("added")],
        words,
    )


@pytest.mark.parametrize(
    ("where", "signals"),
    [("here", [(signal.SIGKILL, 0)]), ("elsewhere", [(signal.SIGSTOP, 1.5), (signal.SIGCONT, 0)])],
    ids=["killed on one machine", "stopped on several machines"],
)
@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_of_many_takers_one_writes_at_a_time(path, where, signals, seconds):
    """Nothing that was written is lost, as it would be where two read the same state and both write."""
    path.parent.mkdir()
    lines, added, words = disturbed(path, where, seconds, signals)
    print(f"\n{where}: {words.count('round')} rounds, {len(lines)} lines, {words.count('superseded')} superseded")
    assert len(set(lines)) == len(lines)
    assert set(added) <= set(lines)
    assert len(lines) >= len(added)
    assert words.count("round") >= 50
    left = [file.name for file in path.parent.iterdir() if not file.name.startswith("out")]
    with taken(path):
        store.remove_unfinished(path.parent / "file")
    assert len(left) <= 3, left
    assert sorted(file.name for file in path.parent.iterdir() if not file.name.startswith("out")) == ["file"]
