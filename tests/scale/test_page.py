"""docs/scaling.md says what its constants and the program's estimates give."""

import pytest

from emergent_equivariance.study import load_study
from emergent_equivariance.study.resources import jobs

from . import constants, page

CONSTANT = constants.read()


@pytest.mark.slow
def test_the_tables_are_those_of_the_constants():
    text = page.PAGE.read_text()
    assert page.with_tables(text, CONSTANT) == text, "run: python -m tests.scale.page"


def test_overhead_is_counted_per_process():
    study = load_study(page.ROOT / "config" / "ising_full.yaml", "nowhere")
    nothing = dict.fromkeys(constants.names(), 0.0)
    total = sum(job.count for job in jobs(study))
    counted = {
        constants.PLAN_START: 1,
        constants.TRAIN: 300 + 6,
        constants.COMMAND: total - 306,
        constants.WANDB: 300 + 2 + 1,
    }
    for name, count in counted.items():
        assert page.overhead_seconds(study, {**nothing, name: 1.0}, slurm=False) == count, name
    assert page.overhead_seconds(study, {**nothing, constants.INNER: 1.0}, slurm=True) == total
    assert page.overhead_seconds(study, {**nothing, constants.LOCAL_JOB: 1e3}, slurm=False) == pytest.approx(total)


def test_start_up_is_a_small_part_of_the_full_size_study():
    """At most 5 % of the processor time of config/ising_full.yaml, which is the wall time where all cores are busy."""
    for where in ("local", "SLURM"):
        assert CONSTANT[f"scale: ising_full, {where}: workflow and start-up / processor time"] <= 0.05
