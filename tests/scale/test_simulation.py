"""10,000 members in 100 shards, by the local executor and on a cluster: everything is made, as docs/scaling.md says.

Slow: about six minutes each on two quiet cores.
"""

import numpy as np
import pytest

from emergent_equivariance import store

from ..slurm.cluster import Cluster, missing
from . import constants, page
from .simulation import Simulation, content

#: Times the page's processor time that a controller may take: it was measured on another machine.
GENEROUS = 3


def check_page(simulation, account):
    """Jobs and files are those of the formulas of docs/scaling.md, the controller's processor time is not far above."""
    constant, study, taken = constants.read(), simulation.real(), simulation.taken(account)
    assert taken[constants.JOBS] == sum(page.job_counts(study).values())
    assert taken[constants.FILES] == page.files_at_most(study, constant)
    expected = page.controller_seconds(study, constant, slurm=simulation.cluster is not None)
    assert taken[constants.SECONDS] <= GENEROUS * expected
    memory = constant[constants.PLAN_MEMORY] + 1e-3 * constant[constants.PLAN_MEMORY_JOB] * taken[constants.JOBS]
    assert taken[constants.MEMORY] <= 1.5 * memory


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
    beside = np.median([p["memory"] for p in account.of("aggregate")])
    assert beside < 1e9
    check_page(simulation, account)


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
