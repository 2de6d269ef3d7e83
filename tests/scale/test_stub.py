"""The stub engine: unknown to the program, deterministic, and otherwise like any engine."""

import subprocess
import sys

import numpy as np
import pytest

from emergent_equivariance import store
from emergent_equivariance.errors import StudyError
from emergent_equivariance.study import load_study

from .simulation import Simulation, content


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A study of two arms whose data, learning rates and choices of engines are made."""
    study = content(2, 6, 3, wandb="disabled")
    study["training"] |= {"learning_rate": 1e-3, "steps": 30}
    study["training"]["record"] = [0, 30]
    simulation = Simulation(tmp_path_factory.mktemp("stub"), study, STUB_STEP="1e-3")
    key = known_keys(simulation)
    for command in (["data", "--key", key["data"]], ["probe", "--key", key["probe"]]):
        assert simulation.emeq(command[0], str(simulation.file), *command[1:]).code == 0
    return simulation


def known_keys(simulation):
    """Keys of data and engine of the first arm, found by the program as it is: the engine is in no hash of data."""
    code = (
        "from emergent_equivariance.study import load_study\n"
        f"arm = load_study({str(simulation.file)!r}).arms[0]\n"
        "print(arm.data_key, arm.probe_key)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=simulation.environment, capture_output=True, text=True)
    data, probe = done.stdout.split()
    return {"data": data, "probe": probe}


def test_the_program_itself_does_not_know_the_stub(prepared):
    with pytest.raises(StudyError, match=r"execution.engine = 'stub': should be 'auto', 'numba', 'jax' or 'torch'"):
        load_study(prepared.file)


def train(simulation, first, last):
    arm = "width~256/augmentation~none"
    account = simulation.emeq("train", str(simulation.file), "--arm", arm, "--first", str(first), "--last", str(last))
    assert account.code == 0, account.output
    path = simulation.root / "members" / arm / f"members-{first:06d}-{last:06d}.zarr.zip"
    return account, store.read(path).load()


@pytest.mark.slow
def test_numbers_depend_on_the_member_alone_and_time_on_the_environment(prepared):
    account, shard = train(prepared, 0, 2)
    _, other = train(prepared, 1, 5)
    assert shard.attrs["engine"] == "stub"
    assert not shard["diverged"].any()
    np.testing.assert_array_equal(shard["prediction"].sel(member=[1, 2]), other["prediction"].sel(member=[1, 2]))
    assert float(abs(shard["prediction"].sel(member=0) - shard["prediction"].sel(member=1)).min()) > 0
    assert shard["prediction"].std() == pytest.approx(1, abs=0.05)
    assert shard.attrs["seconds"] > 30 * 1e-3  # steps × STUB_STEP
    (taken,) = account.of("train")
    assert 0 < taken["seconds"] < 60
    assert taken["memory"] > 5e7
