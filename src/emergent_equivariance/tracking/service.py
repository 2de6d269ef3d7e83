"""The background process of the W&B client, and its end."""

from __future__ import annotations

import subprocess
import threading
from contextlib import suppress
from typing import Any

__all__ = ["PATIENCE", "end_service"]

#: Seconds that the background process is given to end.
PATIENCE = 15.0


def end_service(seconds: float = PATIENCE) -> None:
    """Finish what is not finished and end wandb's background process, dead or alive, in bounded time.

    ``wandb.teardown`` waits for the process for ever, which (0.31) at times goes on where a server answers with errors
    alone. After ``seconds`` it is killed. Raises what teardown raises, but for the other's exit code.
    """
    import wandb

    process = _service()
    timer = threading.Timer(seconds, process.kill) if process is not None else None
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        with suppress(SystemExit):  # with the exit code of the process, it would end this one too
            wandb.teardown()
    finally:
        if timer is not None:
            timer.cancel()


def _service() -> subprocess.Popen[bytes] | None:
    """The process, where this one has started it; None too where another version of wandb keeps it elsewhere."""
    from wandb.sdk import wandb_setup

    found: Any = wandb_setup
    for name in ("_singleton", "_connection", "_proc", "_process"):
        found = getattr(found, name, None)
    return found if isinstance(found, subprocess.Popen) else None
