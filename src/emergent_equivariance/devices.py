"""What training runs on: threads, precision, one GPU per process. Nothing heavy is imported, for all of this is to be
settled before jax and torch are."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

#: Environment variables that limit the threads of XLA and of OpenMP (torch, numpy).
THREADS = ("NPROC", "OMP_NUM_THREADS")

#: Seconds between two looks for a free GPU.
PATIENCE = 1.0

#: Locks of this process; the system releases them when it ends, however it does.
_claimed: list[IO[bytes]] = []


def use_float64() -> None:
    """Let JAX compute in double precision."""
    import jax

    jax.config.update("jax_enable_x64", True)


def limit_threads(threads: int) -> None:
    """Use at most so many CPU threads, unless the environment says otherwise; before jax and torch are imported."""
    for name in THREADS:
        os.environ.setdefault(name, str(threads))


def machine() -> str:
    """Processor and its instruction sets as a hash: where both agree, and the program does, so do the bits."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    name = found.get("model name") or platform.processor() or platform.machine()
    features = " ".join(sorted(found.get("flags", found.get("Features", "")).split()))
    return f"{name}, {hashlib.sha256(features.encode()).hexdigest()[:8]}"


def list_gpus() -> list[str]:
    """Names by which CUDA_VISIBLE_DEVICES knows the GPUs that this process may use, [] if none.

    Unique names are taken from ``nvidia-smi``, which lists those the process is allowed to use; CUDA_VISIBLE_DEVICES
    restricts them further. There are none for an installation whose jax and torch compute on CPUs alone.
    """
    command = shutil.which("nvidia-smi")
    if command is None or not has_cuda():
        return []
    query = [command, "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return []
    if "CUDA_VISIBLE_DEVICES" not in os.environ:
        return listed
    visible = []
    for name in filter(None, os.environ["CUDA_VISIBLE_DEVICES"].split(",")):
        if name.lstrip("-").isdigit():
            if not 0 <= int(name) < len(listed):
                break  # CUDA uses none from the first invalid one on
            visible.append(listed[int(name)])
        else:
            visible.append(name)
    return visible


def has_cuda() -> bool:
    """Whether the installed jax or torch can use CUDA, as their files say; neither is imported."""
    if any("cuda" in point.name for point in importlib.metadata.entry_points(group="jax_plugins")):
        return True
    try:
        version = importlib.metadata.distribution("torch").locate_file("torch/version.py")
        text = Path(str(version)).read_text(encoding="utf-8")
    except (importlib.metadata.PackageNotFoundError, OSError):
        return False
    return re.search(r"^cuda\b[^=]*= *['\"]", text, re.MULTILINE) is not None


def use_cpu() -> None:
    """Leave the GPUs alone; before jax and torch are imported."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["JAX_PLATFORMS"] = "cpu"


def use_gpu(gpus: Sequence[str], say: Callable[[str], None] = lambda text: None, folder: Path | None = None) -> None:
    """Use one of ``gpus`` that no other process has claimed, waiting for one; before jax and torch are imported.

    JAX takes memory as it needs it, not three quarters of the GPU at once, so that torch can be measured beside it.

    Args:
      gpus: names that CUDA_VISIBLE_DEVICES understands; nothing happens if there are none.
      say: told when all are taken.
      folder: where the locks lie, the system's folder for temporary files by default. Locks are per user.
    """
    if not gpus:
        return
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    waiting = False
    while True:
        for gpu in gpus:
            if _claim(gpu, folder or Path(tempfile.gettempdir())):
                os.environ["CUDA_VISIBLE_DEVICES"] = gpu
                return
        if not waiting:
            say(f"all {len(gpus)} GPUs are used by other training jobs: waiting for one")
            waiting = True
        time.sleep(PATIENCE)


def _claim(gpu: str, folder: Path) -> bool:
    file = (folder / f"emergent-equivariance-{os.getuid()}-{gpu.replace('/', '-')}.lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    _claimed.append(file)
    return True
