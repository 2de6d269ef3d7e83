"""The memory that training is predicted to take; held against measurements in tests/benchmarks."""

from pathlib import Path

import pytest

from emergent_equivariance.study import Choice, parse_study
from emergent_equivariance.study.training_memory import device_memory, training_memory

SHAPE, OUTPUTS, ROWS = (28, 28, 1), 1, 128


def memory(variant: str, together: int, engine: str = "jax", rows: int = ROWS, **sections: object) -> int:
    content = {
        "study": "memory",
        "task": {"name": "ising", "lattice": 28, "train": 32, "test": 16},
        "network": {"name": "mlp", "width": 64},
        "training": {"learning_rate": 0.1, "steps": 1},
    }
    settings = parse_study({**content, **sections}, Path("memory.yaml")).arms[0].settings
    return device_memory(settings, Choice(engine, variant, together, 1), SHAPE, OUTPUTS, rows)


@pytest.mark.parametrize("network", ["mlp", "cnn", "gcnn"])
@pytest.mark.parametrize(("engine", "variant"), [("jax", "map"), ("jax", "vmap"), ("torch", "vmap")])
def test_memory_is_linear_in_members_at_once(engine: str, variant: str, network: str) -> None:
    one, two, nine = (memory(variant, k, engine, network={"name": network}, group="c4") for k in (1, 2, 9))
    assert nine - one == pytest.approx(8 * (two - one), abs=8)
    assert two > one


def test_what_memory_grows_with() -> None:
    parameters = 784 * 64 + 64 + 64
    assert memory("map", 3) - memory("map", 2) == pytest.approx(3 * 4 * parameters, abs=2)
    adam = {"optimizer": "adam", "learning_rate": 0.1, "epochs": 1, "batch_size": 32}
    assert memory("map", 3, training=adam) - memory("map", 2, training=adam) == pytest.approx(24 * parameters, abs=2)
    double = {"execution": {"precision": "float64"}}
    assert memory("vmap", 8, **double) == pytest.approx(2 * memory("vmap", 8), abs=2)
    cnn = {"network": {"name": "cnn", "width": 16}}
    assert memory("vmap", 8, **cnn) > 7 * memory("map", 8, **cnn)
    assert memory("map", 1, **cnn) > memory("map-conv", 1, **cnn) + 2 * 4 * ROWS * 784 * 9 * 16
    content = {"study": "m", "task": {"name": "ising", "train": 8, "test": 8}, "network": {"name": "mlp"}}
    settings = parse_study({**content, "training": {"learning_rate": 0.1, "steps": 1}}, Path("m.yaml")).arms[0].settings
    assert training_memory(settings, Choice("jax", "map", 1, 1), (8, 8, 1), 1, 8) > 300e6
