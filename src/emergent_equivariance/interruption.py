"""Signals that ask a job to stop: SIGTERM, SIGUSR1 (a scheduler's warning before the time limit) and SIGINT (Ctrl-C).

A job that can go on later stops at the next safe moment with the exit code errors.INTERRUPTED.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType

from .errors import INTERRUPTED

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

_MEANINGS = {
    "SIGTERM": "preempted or cancelled from outside",
    "SIGUSR1": "warned from outside",
    "SIGINT": "Ctrl-C, or cancelled from outside",
}

#: Seconds within which a second signal is the same request: terminals and schedulers send one to a process and to its
#: group.
SAME_REQUEST = 2.0


class Interruption:
    """Takes the signals in a ``with`` block of the main thread.

    Until ``defer`` is called there is nothing to save, and a signal ends the process at once. From then on the first
    one is noted in ``received``, and another one after SAME_REQUEST seconds ends the process at once. After ``finish``
    none counts.

    The handlers of before come back with the end of the block, unless the process is to end with the exit code it has
    earned: after ``finish`` or a noted signal, the signals are ignored from there on, by the operating system, because
    Python's own handlers are gone before its interpreter is. ``restore`` brings them back then.

    Attributes:
      received: name of the signal that was noted, or None.
      cleanup: called before the process is ended at once.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self.cleanup: Callable[[], None] = lambda: None
        self._deferring = self._finished = False
        self._since = 0.0
        self._before: list[object] = []

    def __enter__(self) -> Interruption:
        self._before = [signal.signal(number, self._handle) for number in SIGNALS]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._finished or self.received is not None:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
        else:
            self.restore()

    def restore(self) -> None:
        """Bring back the handlers of before the block."""
        for number, handler in zip(SIGNALS, self._before, strict=True):
            signal.signal(number, handler)  # type: ignore[arg-type]

    def defer(self) -> None:
        """From now on there is something to save."""
        self._deferring = True

    def reason(self, at_limit: bool) -> str | None:
        """The signal that was noted and what it means, None without one.

        Args:
          at_limit: whether the job is at its time limit, where a scheduler sends them too.
        """
        if self.received is None:
            return None
        return f"{self.received} ({'time limit' if at_limit else _MEANINGS[self.received]})"

    def finish(self) -> None:
        """What there was to do is done and saved: the process ends with 0, whatever is sent to it."""
        self._finished = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._finished:
            return
        name, now = signal.Signals(number).name, time.monotonic()
        if self._deferring and self.received is None:
            self.received, self._since = name, now
        elif not self._deferring or now - self._since > SAME_REQUEST:
            try:
                self.cleanup()
            finally:
                _leave(name)


def _leave(name: str) -> None:
    """End the process, whatever it is doing: an exception raised from a handler may be lost in a library's callback."""
    os.write(
        2,
        f"{name}: stopped at once. Run the same command again; it goes on from the last checkpoint, if any.\n".encode(),
    )
    os._exit(INTERRUPTED)
