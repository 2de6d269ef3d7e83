"""One GPU per process: which are there, which is taken, and what happens when all are."""

import os
import subprocess
import sys

import pytest

from emergent_equivariance import devices

GPUS = ["GPU-aa", "GPU-bb"]

HOLDER = """
import sys, time
from pathlib import Path
from emergent_equivariance import devices
devices.use_gpu(sys.argv[2:], folder=Path(sys.argv[1]))
import os
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
time.sleep(100)
"""


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS", "XLA_PYTHON_CLIENT_PREALLOCATE", *devices.THREADS):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(devices, "_claimed", claimed := [])
    yield
    for file in claimed:
        file.close()


def hold(folder, *gpus):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder), *gpus], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    return holder, holder.stdout.readline().strip()


def fake_nvidia_smi(folder, monkeypatch, script):
    monkeypatch.setattr(devices, "has_cuda", lambda: True)
    command = folder / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("visible", "listed"),
    [
        (None, GPUS),
        ("", []),
        ("-1", []),
        ("1", ["GPU-bb"]),
        ("1,0", ["GPU-bb", "GPU-aa"]),
        ("0,7,1", ["GPU-aa"]),
        ("GPU-bb", ["GPU-bb"]),
        ("MIG-1", ["MIG-1"]),
    ],
)
def test_gpus_are_those_that_are_visible(tmp_path, monkeypatch, visible, listed):
    fake_nvidia_smi(tmp_path, monkeypatch, f"printf '{GPUS[0]}\\n{GPUS[1]}\\n'")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.list_gpus() == listed


def test_no_driver_means_no_gpu(tmp_path, monkeypatch):
    fake_nvidia_smi(tmp_path, monkeypatch, "echo 'NVIDIA-SMI has failed'; exit 9")
    assert devices.list_gpus() == []
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert devices.list_gpus() == []


def install(folder, name, file, text):
    """A package as far as its files say."""
    information = folder / f"{name}-9.9.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")
    target = information / file if file == "entry_points.txt" else folder / file
    target.parent.mkdir(exist_ok=True)
    target.write_text(text)


@pytest.mark.parametrize(
    ("name", "file", "text", "cuda"),
    [
        ("torch", "torch/version.py", "cuda: Optional[str] = '13.0'\n", True),
        ("torch", "torch/version.py", "__version__ = '9+cpu'\ncuda: Optional[str] = None\nhip = '6'\n", False),
        ("torch", "torch/other.py", "", False),
        ("jax_cuda13_pjrt", "entry_points.txt", "[jax_plugins]\nxla_cuda13 = jax_plugins.xla_cuda13\n", True),
        ("jax_tpu", "entry_points.txt", "[jax_plugins]\ntpu = jax_plugins.tpu\n", False),
    ],
)
def test_gpus_are_for_installations_that_can_use_them(tmp_path, monkeypatch, name, file, text, cuda):
    able = devices.has_cuda
    fake_nvidia_smi(tmp_path, monkeypatch, "echo GPU-aa")
    monkeypatch.setattr(devices, "has_cuda", able)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    install(tmp_path / "site", name, file, text)
    assert devices.list_gpus() == (["GPU-aa"] if cuda else [])


def test_without_a_gpu_nothing_changes(tmp_path):
    before = dict(os.environ)
    devices.use_gpu([], folder=tmp_path)
    assert dict(os.environ) == before and not list(tmp_path.iterdir())


def test_every_process_gets_a_gpu_of_its_own_and_a_killed_one_gives_it_back(tmp_path, monkeypatch):
    first, name = hold(tmp_path, *GPUS)
    try:
        assert name == "GPU-aa"
        devices.use_gpu(GPUS, folder=tmp_path)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-bb"
        assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
        said, naps = [], []

        def nap(seconds):
            naps.append(seconds)
            first.kill()
            first.wait()

        monkeypatch.setattr(devices.time, "sleep", nap)
        devices.use_gpu(GPUS, said.append, tmp_path)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-aa"
        assert len(naps) == 1 and said == ["all 2 GPUs are used by other training jobs: waiting for one"]
    finally:
        first.kill()
        first.wait()


def test_the_cpu_is_used_where_a_gpu_is_not_wanted():
    devices.use_cpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "" and os.environ["JAX_PLATFORMS"] == "cpu"


def test_threads_given_by_the_rule_stay(monkeypatch):
    monkeypatch.setenv("NPROC", "3")
    devices.limit_threads(2)
    assert (os.environ["NPROC"], os.environ["OMP_NUM_THREADS"]) == ("3", "2")


def test_the_machine_has_a_name_and_its_features():
    assert devices.machine() == devices.machine()
    name, _, features = devices.machine().rpartition(", ")
    assert name and len(features) == 8
