"""A training process has no more running threads than it was given."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TRAIN = """
import sys
from pathlib import Path
from emergent_equivariance.devices import limit_threads
limit_threads(1)
from emergent_equivariance.study import parse_study
from emergent_equivariance.tasks import build_task
from emergent_equivariance.training import build_problem, get_engine

FOLDER = Path("/proc/self/task")

def ticks():
    stats = [(file.parent.name, file.read_text().rsplit(")", 1)[1].split()) for file in FOLDER.glob("*/stat")]
    return {thread: int(fields[11]) + int(fields[12]) for thread, fields in stats}

content = {"study": "small", "task": {"name": "ising", "lattice": 5, "train": 128, "test": 4}, "augmentation": "full",
           "network": {"name": "mlp", "width": 256, "hidden_layers": 3},
           "training": {"learning_rate": 0.01, "steps": 300}}
settings = parse_study(content, Path("small.yaml")).arms[0].settings
problem = build_problem(settings, build_task(settings), 0.01)
engine = get_engine(sys.argv[1])
choice = engine.candidates(problem, 4)[0]
trainer = engine.trainer(problem, choice)
state = trainer.advance(trainer.start(range(choice.members_at_once)), 0, 1)
before = ticks()
trainer.advance(state, 1, 400 // choice.members_at_once)
print(*sorted((count - before.get(thread, 0) for thread, count in ticks().items()), reverse=True))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
@pytest.mark.parametrize("engine", ["jax", "torch"])
def test_one_thread_does_all_the_work(engine: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("NPROC", "OMP_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, engine], check=True, capture_output=True, text=True, env=environment
    )
    first, *others = map(int, done.stdout.split())
    assert first > 20  # hundredths of a second
    assert sum(others) < 0.1 * first
