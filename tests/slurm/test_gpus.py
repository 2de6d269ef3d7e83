"""Jobs on GPU nodes: what each of them is given."""

import pytest

from emergent_equivariance.study import read_probe

from .workplace import SITE, SMALL, ClusterRun, assert_same_shards

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("style", "kind"), [("gres", None), ("gpus", "fake")])
def test_a_job_sees_the_gpu_it_was_given_and_others_see_none(cluster, small_here, tmp_path, style, kind, tell):
    site = {**SITE, "gpu": {"partition": "gpu", "request": style, **({"type": kind} if kind else {})}}
    run = ClusterRun(tmp_path / "run", SMALL, cluster, site)
    run.spy(EMEQ_SPY_DEVICE="fake GPU")
    (arm,) = run.study.arms
    chosen = read_probe(small_here.root / "engine" / run.study.probe_path(arm).name, arm.probe_key)
    run.choose_gpu(chosen.choice)
    run.complete("all_members", "all_theory")
    assert_same_shards(run, small_here)
    seen = run.seen()
    training = [call for call in seen if call["rule"] == "train"]
    assert len(training) == 2
    first, second = sorted(training, key=lambda call: call["time"])
    assert {call["SLURM_JOB_PARTITION"] for call in training} == {"gpu"}
    assert all(call["CUDA_VISIBLE_DEVICES"] in ("0", "1") for call in training), training
    assert second["time"] < first["end"], "the jobs did not meet"
    assert (first["host"], first["CUDA_VISIBLE_DEVICES"]) != (second["host"], second["CUDA_VISIBLE_DEVICES"])
    others = [call for call in seen if call["rule"] not in ("train", "data")]
    assert {call["rule"] for call in others} == {"theory"}
    assert {(call["SLURM_JOB_PARTITION"], call["host"]) for call in others} == {("cpu", "c1")}
    assert not any(call["CUDA_VISIBLE_DEVICES"] for call in others)
    given = sorted(f"{call['host']}:{call['CUDA_VISIBLE_DEVICES']}" for call in training)
    tell(f"{style}, type {kind}: two jobs at once saw {' and '.join(given)}; {len(others)} others none, on c1")
