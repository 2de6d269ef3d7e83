"""10,000 members in 100 shards, by the local executor and on a cluster: everything is made, in few files.

Slow: about six minutes each on two quiet cores.
"""

import numpy as np
import pytest

from emergent_equivariance import store

from ..slurm.cluster import Cluster, missing
from .simulation import Simulation, content


def check(simulation, account, members, shards, arms):
    """Everything is there, every process ended well, and files are few."""
    assert account.code == 0, account.output[-3000:]
    assert len(account.of("train")) == shards
    stores = [p for p in simulation.files() if p.relative_to(simulation.root).parts[0] == "members"]
    assert len(stores) == shards, "no checkpoint, lease or temporary file stays"
    joined = store.read_netcdf(simulation.root / "metrics.nc")
    assert joined.sizes["arm"] == arms
    assert int(joined["member_count"].max()) == members // arms
    assert (simulation.root / "report.html").is_file()
    files = simulation.files()
    of_shards = [p for p in files if "members" in p.relative_to(simulation.root).parts[:2]]
    assert len(of_shards) <= 2 * shards
    assert len(files) <= 600
    beside = np.median([p["memory"] for p in account.of("aggregate")])
    assert beside < 1e9


@pytest.mark.slow
def test_ten_thousand_members_on_this_machine(tmp_path):
    simulation = Simulation(tmp_path, content())
    check(simulation, simulation.local(), members=10_000, shards=100, arms=10)
    again = simulation.local("-n", "--quiet", "all")
    assert "Nothing to be done" in again.output or again.output.count("rule ") == 0


@pytest.mark.slow
def test_ten_thousand_members_on_a_cluster(tmp_path):
    if reason := missing():
        pytest.skip(reason)
    with Cluster(tmp_path / "slurm") as cluster:
        simulation = Simulation(tmp_path / "study", content(wandb="disabled"), cluster)
        account = simulation.slurm()
    check(simulation, account, members=10_000, shards=100, arms=10)
    assert len(account.of("job")) >= 100
