"""The right to train a shard: held by one process at a time, on whatever machine, and lost with that process.

On disk a lease is a hidden folder beside the shard with one file in it, whose name is a number, the generation. It says
who holds the lease, and its time of modification moves while that process lives. Without a file nobody holds it.

Taking
  A lease that nobody holds: a folder with the file ``1`` is made under another name and renamed to that of the lease. A
  rename puts a folder in the place of none or of an empty one, and fails otherwise: of several takers one succeeds.
  A lease whose holder N is dead: the file N+1 is created exclusively (O_EXCL), in the very folder that was read (by its
  descriptor). Where N is gone by then, N+1 is taken back. Else all lower ones are removed, N first.
Holding
  The holder touches its file every silence/BEATS seconds, from a thread. Where the file is gone, the lease is lost:
  ``confirm`` and ``lost`` tell.
Death
  A holder is dead if its file did not change for ``silence`` seconds of a waiter's own monotonic clock, or if it ran on
  the waiter's machine (host name, boot, namespace of processes) and is not there any more (number, time of start). No
  clock of one machine is compared with that of another. Time in which the waiter itself was stopped, or the file system
  did not answer, counts for two looks at most.
Foreign files
  What is in the folder and has no number for its name is removed. Where it cannot be, and there is no holder, it is
  waited for as for a silent holder, and then an error.
Releasing
  The holder removes its file, by descriptor and name, and then the folder if it is empty.

Why there is one holder: generations of a folder do not come back. 1 exists from the first, N+1 is kept only if N was
there after its creation, and a holder removes what is below its own before it does anything else. A folder that was
emptied is never filled again, but replaced by another one, in which the descriptors of the old one reach nothing. So a
process that slept through anything can neither take over from a holder that it did not see, nor remove another's file.

What a holder that was stopped (SIGSTOP, a frozen machine) for longer than ``silence`` can still do: finish the steps
it is in, and write temporary files. It does not put anything in its place: whoever writes asks with ``confirm`` whether
the lease is held, after the temporary file is complete, and renames it then; whoever takes over removes first the file
of the generation before, then all temporary files, and then looks what is there. So either the question fails, or the
rename, or the new holder sees the result.

Assumed of the file system: an exclusive creation and a rename are done once, for all clients, and a change of the time
of modification reaches those who open the file (close-to-open consistency), as on local disks, NFS 3 and 4, Lustre,
GPFS, CephFS and BeeGFS; not on object stores that are mounted as file systems. A listing that an NFS client keeps for
up to a minute may hide a temporary file from a new holder: one stopped between ``confirm`` and its rename for longer
than ``silence`` could then put a file in its place, a complete and valid one of the same shard.
"""

from __future__ import annotations

import errno
import functools
import glob
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType

from .errors import Interrupted, StoreError, Superseded, write_error
from .time_limit import TimeLimit, is_zombie, start_ticks

#: Seconds without a sign of life after which a holder on another machine is taken for dead.
SILENCE = 120.0
#: Signs of life, and looks of a waiter, in that time.
BEATS, LOOKS = 8, 60
#: Seconds before its time limit at which a job stops waiting.
MARGIN = 5.0
#: Seconds by which the clocks of this machine and of the file system may differ unnoticed.
CLOCK_TOLERANCE = 5.0
#: What a file system says of a file or folder that is not there any more; ESTALE: NFS, where another client removed it.
GONE = (errno.ENOENT, errno.ESTALE)


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Attributes:
      host: name of the machine.
      machine: the running system and the namespace of processes in it; "" where the system does not tell.
      process: number of the process there.
      start: when it began, in clock ticks since the machine did.
      job: number of the SLURM job, "" outside one.
      since: time of taking, UTC, by the clock of that machine.
      token: random.
    """

    host: str
    machine: str
    process: int
    start: int
    job: str
    since: str
    token: str

    def __str__(self) -> str:
        job = f", SLURM job {self.job}" if self.job else ""
        return f"{self.host}, process {self.process}{job}, since {self.since}"

    @property
    def is_gone(self) -> bool:
        """Whether the process ran on this machine and has ended; False where that cannot be told."""
        if not self.machine or (self.host, self.machine) != _machine():
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        try:
            return start_ticks(self.process) != self.start or is_zombie(self.process)
        except OSError:
            return False


@functools.cache
def _machine() -> tuple[str, str]:
    """Host name, and boot and namespace of processes; the second is "" where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return socket.gethostname(), f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return socket.gethostname(), ""


def this_process() -> Holder:
    """This process as a holder to be."""
    try:
        start = start_ticks("self")
    except OSError:
        start = 0
    return Holder(*_machine(), os.getpid(), start, os.environ.get("SLURM_JOB_ID", ""), "", os.urandom(8).hex())


def holder(path: Path) -> Holder | None:
    """Who holds the lease at ``path``, dead or alive; None if nobody does, or it does not say."""
    with _opened(path) as folder:
        generation = _highest(folder)
        return None if folder is None or not generation else _look(folder, generation).holder


class Lease:
    """The lease of one shard, as a context manager around everything that reads or writes its checkpoint.

    Args:
      path: its folder.
      what: what is held, for messages.
      say: told who is waited for, and how that ended.
      silence: see SILENCE.
      me: this process.

    Attributes:
      lost: whether another process has taken over, as far as is known.
      clock_error: seconds by which the clock of this machine is ahead of the file system's, seen when taking.
    """

    def __init__(
        self,
        path: Path,
        what: str,
        say: Callable[[str], None],
        *,
        silence: float = SILENCE,
        me: Holder | None = None,
    ) -> None:
        self.path, self.me = path, me or this_process()
        self.lost, self.clock_error = False, 0.0
        self._what, self._say, self._silence = what, say, silence
        self._content = b""
        self._new = path.with_name(f"{path.name}.{self.me.token}")
        self._folder: int | None = None
        self._name = ""
        self._released: SimpleQueue[None] = SimpleQueue()  # may be put to from the handler of a signal

    def acquire(self, limit: TimeLimit | None = None) -> None:
        """Take the lease as soon as nobody holds it, or its holder is dead.

        Raises Interrupted where the time limit comes before that, StoreError if the file system refuses, or if for
        ``silence`` seconds there is no holder, but something in the folder that this process cannot remove.
        """
        self._wait(limit)
        assert self._folder is not None
        threading.Thread(target=self._beat, args=(os.dup(self._folder),), daemon=True).start()

    def _wait(self, limit: TimeLimit | None) -> None:
        poll, before, silent, last = self._silence / LOOKS, _Look(), 0.0, time.monotonic()
        while True:
            try:
                look, how = self._try(before if silent >= self._silence else None)
            except OSError as error:
                raise write_error(self.path, error) from None
            if look is None:
                break
            now = time.monotonic()
            unchanged = look == before or (look.foreign and before.foreign)
            silent = silent + min(now - last, 2 * poll) if unchanged else 0.0
            if look.foreign:
                self._heed_foreign(look.foreign, first=not before.foreign, silent=silent)
            if look.generation and look.content != before.content:
                self._say(f"{self._what}: waiting for another job that trains them ({look.holder or 'unknown'}).")
            if limit is not None and limit.left < MARGIN:
                why = f"are still being trained by another job ({look.holder or 'unknown'})"
                raise Interrupted(
                    f"time limit ({limit.name}): {self._what} {f'wait for {self.path}' if look.foreign else why}. "
                    "Run the same command again to wait for it."
                )
            before, last = look, now
            time.sleep(poll)
        if how or before.generation:
            self._say(f"{self._what}: {how or 'released by that job'}.")

    def _heed_foreign(self, names: tuple[str, ...], *, first: bool, silent: float) -> None:
        """Say what is in a folder that nobody holds and cannot be removed; raise StoreError if it stays."""
        listed = ", ".join(names)
        if silent >= self._silence:
            raise StoreError(
                f"{self.path}: no job holds it, but {listed} in it could not be removed for {self._silence:g} s.",
                remedy=f"Look whose that is (`ls -la {self.path}`; .nfs…: a file that some process still has open), "
                "remove the folder, and run the same command again.",
            )
        if first:
            self._say(
                f"{self._what}: no job trains them, but {listed} in {self.path} cannot be removed: "
                f"waiting {self._silence:g} s for that to go."
            )

    def _try(self, dead: _Look | None) -> tuple[_Look | None, str]:
        """Take the lease if nobody holds it, or a process that has ended or is ``dead``.

        → Who holds it, None if this process does now; and from whom it was taken over, "" from nobody.
        """
        with _opened(self.path) as folder:
            generation = _highest(folder)
            if folder is None or not generation:
                if foreign := _clear(folder):
                    return _Look(foreign=foreign), ""
                return None if self._take() else _Look(), ""
            look = _look(folder, generation)
            if look.generation and look.holder and look.holder.is_gone:
                why = "has ended"
            elif look.generation and look == dead:
                why = f"has not been heard of for {self._silence:g} s"
            else:
                return look, ""
            if not self._take_over(folder, generation):
                return look, ""
        return None, f"taken over from a job that {why} ({look.holder or 'unknown'})"

    def _take(self) -> bool:
        """Put a folder with the generation 1 in the place of none, or of an empty one; → whether that succeeded."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._new.mkdir()
        self._name = "1"
        try:
            self._folder = os.open(self._new, os.O_RDONLY)
            self._create()
            self._new.rename(self.path)
        except OSError as error:
            self._give_back()
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, *GONE):
                raise
            return False
        return self._settle()

    def _take_over(self, folder: int, generation: int) -> bool:
        """Create the next generation in a folder whose holder is dead; → whether that succeeded."""
        self._name = str(generation + 1)
        self._folder = os.dup(folder)
        try:
            self._create()
        except OSError as error:
            self._give_back()
            if error.errno not in (errno.EEXIST, *GONE):
                raise
            return False
        if str(generation) not in _names(folder):
            self._give_back()
            return False
        for lower in sorted((int(name) for name in _names(folder) if name.isdecimal()), reverse=True):
            if lower <= generation:
                with _unless_gone():
                    os.unlink(str(lower), dir_fd=folder)
        return self._settle()

    def _create(self) -> None:
        """Create the file of this process, or nothing."""
        since = datetime.now(UTC).isoformat(timespec="seconds")
        self._content = json.dumps(asdict(self.me) | {"since": since}).encode()
        file = os.open(self._name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=self._folder)
        try:
            os.write(file, self._content)
            os.fsync(file)
            before = time.time()
            os.utime(file)
            modified, after = os.fstat(file).st_mtime, time.time()
        except OSError:
            os.unlink(self._name, dir_fd=self._folder)
            raise
        finally:
            os.close(file)
        self.clock_error = min(0.0, after - modified) + max(0.0, before - modified)

    def _settle(self) -> bool:
        """Remove what killed takers left; → whether this process is the holder still."""
        for other in self.path.parent.glob(f"{glob.escape(self.path.name)}.*"):
            shutil.rmtree(other, ignore_errors=True)
        self.lost = False
        self._touch()
        if self.lost:
            self._give_back()
        return not self.lost

    def _touch(self, folder: int | None = None) -> None:
        """Give a sign of life; raises OSError if the file system refuses."""
        try:
            os.utime(self._name, dir_fd=self._folder if folder is None else folder)
        except OSError as error:
            if error.errno not in GONE:
                raise
            self.lost = True

    def _beat(self, folder: int) -> None:
        """Give signs of life until the lease is released or lost; one that the file system refuses is made up for."""
        while not self.lost:
            try:
                self._released.get(timeout=self._silence / BEATS)
                break
            except Empty:
                with suppress(OSError):
                    self._touch(folder)
        os.close(folder)

    def confirm(self) -> None:
        """Raise Superseded if another process has taken over, StoreError if that cannot be told."""
        try:
            self._touch()
        except OSError as error:
            raise write_error(self.path, error) from None
        if self.lost:
            now = holder(self.path)
            how = f"taken over by another job ({now})" if now else "the lease of this job is gone"
            raise Superseded(
                f"{self._what}: {how}: this one was not heard of for {self._silence:g} s, or {self.path} was removed. "
                "It ends and writes nothing more. Run the same command again to go on."
            )

    def _give_back(self) -> None:
        """Remove the file of this process, and the folder if it is empty; may be called again while it runs."""
        if self._folder is not None:
            with suppress(OSError):
                if _look(self._folder, int(self._name)).content == self._content:
                    os.unlink(self._name, dir_fd=self._folder)
        for path in (self._new, self.path):
            with suppress(OSError):
                path.rmdir()
        if self._folder is not None:
            folder, self._folder = self._folder, None
            os.close(folder)

    def release(self) -> None:
        """Give the lease back, if it is held. May be called from the handler of a signal."""
        self._released.put(None)
        self._give_back()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


@dataclass(frozen=True)
class _Look:
    """What is seen of a holder: nothing (0) where there is none, but maybe foreign files that cannot be removed."""

    generation: int = 0
    content: bytes = b""
    modified: int = 0
    foreign: tuple[str, ...] = ()

    @property
    def holder(self) -> Holder | None:
        """None if the file does not say, as when its writer died over it."""
        try:
            return Holder(**json.loads(self.content))
        except (ValueError, TypeError):
            return None


@contextmanager
def _unless_gone() -> Iterator[None]:
    """Ends where the file or folder in question is not there any more."""
    try:
        yield
    except OSError as error:
        if error.errno not in GONE:
            raise


@contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    """A descriptor of a folder, None if there is none."""
    folder = None
    with _unless_gone():
        folder = os.open(path, os.O_RDONLY)
    try:
        yield folder
    finally:
        if folder is not None:
            os.close(folder)


def _names(folder: int | None) -> list[str]:
    if folder is not None:
        with _unless_gone():
            return os.listdir(folder)
    return []


def _highest(folder: int | None) -> int:
    return max((int(name) for name in _names(folder) if name.isdecimal()), default=0)


def _clear(folder: int | None) -> tuple[str, ...]:
    """Remove what no holder made, as NFS keeps of a removed file after a client died; → what cannot be, ascending."""
    foreign = [name for name in _names(folder) if not name.isdecimal()]
    for name in foreign:
        with suppress(OSError):
            os.unlink(name, dir_fd=folder)
    return tuple(sorted(name for name in _names(folder) if not name.isdecimal())) if foreign else ()


def _look(folder: int, generation: int) -> _Look:
    with _unless_gone():
        file = os.open(str(generation), os.O_RDONLY, dir_fd=folder)
        try:
            return _Look(generation, os.read(file, 4096), os.fstat(file).st_mtime_ns)
        finally:
            os.close(file)
    return _Look()
