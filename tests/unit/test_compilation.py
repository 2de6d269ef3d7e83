"""Compiled programs on disk: shared by processes, and torn ones compiled anew."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from emergent_equivariance.training.compilation import check_private

TRAIN = """
import sys, warnings
from pathlib import Path
from emergent_equivariance.training.compilation import use_compilation_cache
own = use_compilation_cache(Path(sys.argv[1]))
if len(sys.argv) > 2:  # torn after it was looked through, as by a job that writes at this moment
    for entry in own.glob("jit_all_members*-cache"):
        entry.write_bytes(entry.read_bytes()[:-7])
import jax
loaded = []
jax.monitoring.register_event_listener(lambda event, **_: loaded.append(event))
from emergent_equivariance.study import parse_study
from emergent_equivariance.tasks import build_task
from emergent_equivariance.training import build_problem, train_members
content = {"study": "small", "task": {"name": "ising", "lattice": 3, "train": 6, "test": 4},
           "network": {"name": "mlp", "width": 8}, "training": {"learning_rate": 0.5, "steps": 3}}
settings = parse_study(content, Path("small.yaml")).arms[0].settings
result = train_members(build_problem(settings, build_task(settings), 0.5), range(2))
hits, misses = (sum(event.endswith(f"cache_{what}") for event in loaded) for what in ("hits", "misses"))
print(hits, misses, result.prediction.tobytes().hex())
"""


def train(folder: Path, *tear: str) -> tuple[int, int, str, str]:
    """(programs found, programs compiled, predictions, what was said) of a process of its own."""
    command = [sys.executable, "-W", "always", "-c", TRAIN, str(folder), *tear]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "NPROC": "1"})
    hits, misses, prediction = done.stdout.split()
    return int(hits), int(misses), prediction, done.stderr


def test_programs_are_shared_and_torn_ones_compiled_anew(tmp_path: Path) -> None:
    _, compiled, expected, _ = train(tmp_path)
    assert compiled > 1
    hits, misses, prediction, _ = train(tmp_path)
    assert (hits, misses, prediction) == (compiled, 0, expected)
    hits, misses, prediction, said = train(tmp_path, "torn")
    assert (hits, misses, prediction) == (compiled - 2, 2, expected)
    assert "Error reading persistent compilation cache entry" in said
    (own,) = tmp_path.iterdir()
    (own / "empty-cache").touch()
    hits, misses, prediction, said = train(tmp_path)
    assert (hits, misses, prediction) == (compiled - 2, 2, expected)  # removed, compiled and kept
    assert "Error" not in said
    assert not (own / "empty-cache").exists()
    assert train(tmp_path)[:3] == (compiled, 0, expected)


@pytest.mark.parametrize("mode", [0o777, 0o720])
def test_programs_that_others_could_have_put_there_are_not_run(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(PermissionError, match="others can write there"):
        check_private(tmp_path)
    tmp_path.chmod(0o700)
    check_private(tmp_path)
