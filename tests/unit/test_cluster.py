"""The cluster file, what jobs ask for, and what SLURM says that it has."""

import logging
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from emergent_equivariance.errors import StudyError
from emergent_equivariance.settings.cluster import Cluster
from emergent_equivariance.slurm import ClusterError, Misfit, Offer, Partition, check, offered
from emergent_equivariance.study import load_study, parse_study, submission
from emergent_equivariance.study.cluster import ENVIRONMENT, find_cluster, read_cluster, request, resource_names
from emergent_equivariance.study.dependencies import Dependencies
from emergent_equivariance.study.resources import Demand, Demands
from emergent_equivariance.study.submission import Asked, check_jobs, to_submit
from emergent_equivariance.workflow import Jobs

ROOT = Path(__file__).parents[2]

GPU = {"partition": "gpu", "type": "a100"}


def cluster(**content):
    return Cluster.model_validate(content)


def read(tmp_path, text):
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    return read_cluster(file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("acount: lab", ["unknown key acount", "'lab'", "account", "max_minutes", "Remove or rename"]),
        ("gpu: {patition: gpu}", ["unknown key gpu.patition", "request, rules, type"]),
        ("gpu: {request: gpu}", ["gpu.request = 'gpu'", "'gres' or 'gpus'"]),
        ("gpu: {rules: [compute_theory]}", ["gpu.rules", "'compute_theory'", "'probe_engine' or 'train_shard'"]),
        ("gpu: {type: 'gpu:a100'}", ["gpu.type = 'gpu:a100'", "letters, digits"]),
        ("max_minutes: 0", ["max_minutes = 0", "greater than or equal to 1"]),
        ("max_minutes: true", ["max_minutes", "true"]),
        ("max_minutes: 1-00:00:00", ["max_minutes = '1-00:00:00'", "integer"]),
        ("max_memory: -1", ["max_memory = -1", "greater than 0"]),
        ("minutes_growth: 0.5", ["minutes_growth = 0.5", "greater than or equal to 1"]),
        ("partition: 'a b'", ["partition = 'a b'", "letters, digits"]),
        ("partition: [cpu]", ["partition = ['cpu']", "string"]),
        ("account: lab\naccount: other", ["'account' is given twice"]),
        ("- account", ["holds no mapping", "cluster.example.yaml"]),
        ("account: [", ["is not valid YAML"]),
    ],
)
def test_a_cluster_file_that_cannot_be_used_is_refused_by_name(tmp_path, text, said):
    with pytest.raises(StudyError) as error:
        read(tmp_path, text)
    for part in [str(tmp_path / "cluster.yaml"), *said]:
        assert part in str(error.value)


def test_a_missing_file_is_refused_and_none_says_nothing(tmp_path):
    with pytest.raises(StudyError, match=r"none\.yaml: cannot be read .*cluster\.example\.yaml"):
        read_cluster(tmp_path / "none.yaml")
    assert read_cluster(None) == Cluster()


def test_the_example_shows_every_key_at_its_default():
    """Commented out or not; account, partition, GPUs and limits are those of an imagined site."""
    text = (ROOT / "profiles/slurm/cluster.example.yaml").read_text()
    example = read_cluster(ROOT / "profiles/slurm/cluster.example.yaml")
    imagined = {"account", "partition", "gpu", "max_minutes", "max_memory"}
    assert example.model_copy(update={name: None for name in imagined}) == Cluster()
    for model in (Cluster, type(example.gpu)):
        assert all(f"{name}:" in text or f" {name}," in text for name in model.model_fields)


def test_which_file_is_read(tmp_path):
    assert find_cluster(tmp_path, {}) is None
    usual = tmp_path / "profiles" / "slurm" / "cluster.yaml"
    usual.parent.mkdir(parents=True)
    usual.write_text("account: lab")
    assert find_cluster(tmp_path, {}) == usual
    assert find_cluster(tmp_path, {ENVIRONMENT: "elsewhere.yaml"}) == Path("elsewhere.yaml")


# ------------------------------------------------------------------------------------------- what jobs ask for


def test_without_a_file_jobs_ask_for_time_and_memory_alone():
    assert request(Cluster(), "train_shard", Demand(10.0, 2000, True)) == {"mem_mb": 2000, "runtime": 20}
    assert request(Cluster(), "train_shard", Demand(None, 2000))["runtime"] == 240


def test_what_is_asked_for_grows_with_each_attempt_up_to_the_limits():
    site = cluster(max_minutes=40, max_memory=4, minutes_growth=1.5, memory_growth=2)
    asked = [request(site, "train_shard", Demand(10.1, 1500), attempt) for attempt in (1, 2, 3, 4)]
    assert [found["runtime"] for found in asked] == [21, 31, 40, 40], "10.1 min × 2 × 1.5^(n − 1), rounded up"
    assert [found["mem_mb"] for found in asked] == [1500, 3000, 4000, 4000]
    assert all(isinstance(value, int) for found in asked for value in found.values())


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        ({"partition": "g"}, {"gres": "gpu:1"}),
        ({"partition": "g", "type": "a100"}, {"gres": "gpu:a100:1"}),
        ({"partition": "g", "request": "gpus"}, {"gpu": 1}),
        ({"partition": "g", "request": "gpus", "type": "h100"}, {"gpu": 1, "gpu_model": "h100"}),
    ],
)
def test_only_jobs_that_can_use_a_gpu_ask_for_one(gpu, expected):
    site = cluster(account="lab", partition="cpu", qos="long", gpu={**gpu, "qos": "fast"})
    common = {"mem_mb": 1000, "runtime": 2, "slurm_account": "lab"}
    on_gpu = {**common, "slurm_partition": "g", "qos": "fast", **expected}
    on_cpu = {**common, "slurm_partition": "cpu", "qos": "long"}
    assert request(site, "train_shard", Demand(1.0, 1000, True)) == on_gpu
    assert request(site, "train_shard", Demand(1.0, 1000, False)) == on_cpu
    assert request(site, "compute_theory", Demand(1.0, 1000, True)) == on_cpu
    assert set(resource_names(site, "train_shard")) == set(on_gpu)
    assert set(resource_names(site, "compute_theory")) == set(on_cpu)


def test_gpus_can_be_kept_to_one_rule():
    site = cluster(gpu={"partition": "g", "rules": ["train_shard"]})
    assert "gres" not in request(site, "probe_engine", Demand(1.0, 1000, True))
    assert "gres" in request(site, "train_shard", Demand(1.0, 1000, True))


# ------------------------------------------------------------------------------------------- what SLURM has

SINFO = """cpu*|64000|8|(null)|avx512,amd|1-00:00:00
cpu*|128000+|16|(null)|avx512|1-00:00:00
gpu|256000|32|gpu:a100:4(S:0-1),shard:a100:8|(null)|infinite
gpu|256000|32|gpu:2|(null)|infinite
short|64000|8|gpu:1g.5gb:7,gpu:a100:1|(null)|2:30
"""
PARTITIONS = """PartitionName=cpu AllowAccounts=ALL MaxMemPerNode=100000 State=UP
PartitionName=gpu MaxMemPerNode=UNLIMITED
"""


def answering(**answers):
    """SLURM whose commands print this; those not given fail."""

    def ask(command):
        if command[0] not in answers:
            raise subprocess.CalledProcessError(1, command, stderr=f"{command[0]}: error: not permitted\nmore")
        return answers[command[0]]

    return ask


def test_what_slurm_says_is_understood():
    offer = offered(ask=answering(sinfo=SINFO, scontrol=PARTITIONS, sacctmgr="lab\nOther\nlab\n"))
    cpu, gpu, short = (offer.partitions[name] for name in ("cpu", "gpu", "short"))
    assert (cpu.memory, cpu.cpus, cpu.minutes, cpu.gpus, cpu.default) == (100000, 16, 1440, {}, True)
    assert (gpu.memory, gpu.minutes, gpu.gpus, gpu.default) == (256000, math.inf, {"a100": 4, "": 2}, False)
    assert (short.minutes, short.gpus) == (2.5, {"1g.5gb": 7, "a100": 1})
    assert offer.accounts == {"lab", "other"} and not offer.unknown


def test_what_a_site_forbids_to_ask_is_said_and_not_checked():
    offer = offered(ask=answering(sinfo=SINFO))
    assert offer.accounts is None and offer.partitions["cpu"].memory == 128000
    assert [line.split(":")[1].strip() for line in offer.unknown] == ["scontrol", "sacctmgr"]
    assert all("not permitted" in line and "not checked" in line and "more" not in line for line in offer.unknown)
    offer = offered(accounts=False, ask=answering())
    assert offer == Offer(None, None, offer.unknown) and len(offer.unknown) == 1
    assert check(offer, {"slurm_account": "x", "slurm_partition": "y", "mem_mb": 10**9}, 99) is None
    assert offered(ask=answering(sinfo=SINFO, scontrol="", sacctmgr="")).accounts is None, "accounts are not enforced"


OFFER = offered(ask=answering(sinfo=SINFO, scontrol=PARTITIONS, sacctmgr="lab\n"))


@pytest.mark.parametrize(
    ("resources", "key", "said"),
    [
        ({"slurm_account": "nope"}, "account", "lab"),
        ({"slurm_account": "LAB"}, None, ""),
        ({"slurm_partition": "huge"}, "partition", "cpu, gpu, short"),
        ({"slurm_partition": "cpu,huge"}, "partition", "cpu, gpu, short"),
        ({"runtime": 1440}, None, ""),
        ({"runtime": 1441}, "minutes", "partition cpu allows 1440"),
        ({"slurm_partition": "short", "runtime": 3}, "minutes", "allows 2.5"),
        ({"slurm_partition": "short,cpu", "runtime": 3}, None, ""),
        ({"mem_mb": 100001}, "memory", "100000 MB"),
        ({"slurm_partition": "gpu", "mem_mb": 200000}, None, ""),
        ({"gres": "gpu:1"}, "gpu.partition", "no node of it has GPUs"),
        ({"slurm_partition": "gpu", "gres": "gpu:a100:1"}, None, ""),
        ({"slurm_partition": "gpu", "gres": "gpu:h100:1"}, "gpu.type", "it has a100"),
        ({"slurm_partition": "gpu", "gpu": 7}, "gpu", "more than 6"),
        ({"slurm_partition": "gpu", "gpu": 5, "gpu_model": "a100"}, "gpu", "more than 4"),
        ({"slurm_partition": "short", "gres": "gpu:1g.5gb:1"}, None, ""),
        ({"constraint": "avx512"}, None, ""),
        ({"constraint": "avx512&amd*2"}, None, ""),
        ({"constraint": "[avx512*1&arm*2]"}, "constraint", "feature arm; they have amd, avx512"),
        ({"constraint": "arm|(amd&sve)"}, None, ""),
        ({"constraint": "arm|sve"}, "constraint", "feature arm or sve; they have amd, avx512"),
        ({"slurm_partition": "gpu", "constraint": "avx512"}, "constraint", "they have none"),
        ({"slurm_partition": "gpu,cpu", "constraint": "avx512"}, None, ""),
    ],
)
def test_what_the_cluster_does_not_have_is_named(resources, key, said):
    found = check(OFFER, resources, 1)
    assert (found and found.key) == key
    assert said in (found.said if found else "") and (found is None or found.remedy)


def test_more_threads_than_a_node_has():
    assert check(OFFER, {}, 16) is None
    assert check(OFFER, {}, 17) == Misfit(
        "CPUs", "17", "no node of partition cpu has more than 16", "Lower execution.threads or kernel_threads."
    )


# ------------------------------------------------------------------------------------------- before submission


@pytest.fixture
def study(tmp_path):
    content = {
        "study": "s",
        "task": {"name": "ising", "lattice": 4, "train": 64, "test": 16},
        "network": {"name": "mlp", "width": 512},
        "training": {"learning_rate": 0.1, "steps": 30_000, "record": [0, 30_000]},
        "sweep": {"augmentation": ["none", "full"]},
        "ensemble": {"members": 400},
        "execution": {"shard_size": 200, "engine": "jax"},
    }
    return parse_study(content, Path("study.yaml"), tmp_path)


def problem(study, site, *, offer=OFFER, runs=4, only="train_shard", **resources):
    asked = [job for job in to_submit(study, site) if job.rule == only]
    asked = [replace(job, resources={**job.resources, **resources}) for job in asked]
    try:
        check_jobs(site, Path("site.yaml"), asked, offer, runs)
    except ClusterError as error:
        return str(error)
    return None


def test_jobs_that_fit_are_submitted(study):
    site = cluster(account="lab", partition="cpu", gpu=GPU)
    check_jobs(site, None, to_submit(study, site), OFFER, 4)
    rules = {job.rule for job in to_submit(study, site)}
    assert {"train_shard", "probe_engine", "compute_theory", "aggregate_arm", "join_metrics"} <= rules
    assert "make_data" not in rules, "it is not submitted"


def test_a_shard_that_is_too_long_is_split_over_runs_or_refused_with_a_size_that_fits(study):
    need = Demands(study).of("train_shard", study.arms[1])
    assert 10 < need.minutes < 500
    limit = math.ceil(need.minutes / 2)
    assert problem(study, cluster(max_minutes=limit)) is None, "two runs suffice"
    said = problem(study, cluster(max_minutes=limit), runs=1)
    assert f"site.yaml: max_minutes = {limit}: train_shard of arm augmentation~full takes" in said
    assert "Nothing was submitted." in said
    fits = int(said.partition("execution.shard_size to ")[2].split()[0])
    content = {"execution": {"shard_size": fits, "engine": "jax"}}
    smaller = replace(
        study.arms[1],
        settings=study.arms[1].settings.model_copy(
            update={"execution": study.arms[1].settings.execution.model_copy(update=content["execution"])}
        ),
    )
    shorter = Demands(replace(study, arms=[smaller])).of("train_shard", smaller)
    assert 0.8 * limit < shorter.minutes * 2.0 <= limit + 1, "with the factor it fits one run, and uses most of it"


def test_memory_below_the_need_is_refused(study):
    jobs = [job for job in to_submit(study, cluster(max_memory=2)) if job.rule == "train_shard"]
    demand = jobs[0].demand._replace(memory=5000)
    large = [replace(job, demand=demand, resources={**job.resources, "mem_mb": 2000}) for job in jobs]
    with pytest.raises(ClusterError, match=r"max_memory = 2 GB: train_shard of arm .*members_at_once"):
        check_jobs(cluster(max_memory=2), None, large, OFFER, 4)
    said = problem(study, cluster(max_memory=0.5))
    assert "max_memory = 0.5 GB: train_shard of arm" in said
    assert "The same holds for 1 other job." in said
    said = problem(study, cluster(), mem_mb=500)
    assert "mem_mb = 500: train_shard" in said and "--set-resources" in said
    assert problem(study, cluster(), mem_mb=5000) is None


def test_where_a_limit_is_below_what_every_job_needs_the_advice_can_be_followed(study):
    said = problem(study, cluster(max_memory=0.5), only="join_metrics")
    assert "That is the least a job asks for: set it to 1.3 or more." in said and "task.train" not in said
    assert problem(study, cluster(max_memory=1.3), only="join_metrics") is None
    said = problem(study, cluster(partition="short"), only="join_metrics")
    assert "allows 2.5" in said and "Name another partition: 3 minutes" in said and "Set max_minutes" not in said
    said = problem(study, cluster(max_minutes=3), only="join_metrics", offer=None)
    assert "max_minutes = 3: join_metrics takes about 4 minutes, 3 of them the allowance for starting" in said
    assert problem(study, cluster(max_minutes=4), only="join_metrics", offer=None) is None


def test_what_the_site_does_not_have_is_refused_by_the_key_of_the_file(study):
    assert "site.yaml: account = nope: not one of your accounts" in problem(study, cluster(account="nope"))
    assert "partition = huge: there is no such partition" in problem(study, cluster(partition="huge"))
    assert "gpu.partition = huge: there is no" in problem(study, cluster(gpu={"partition": "huge"}))
    assert "gpu.type = h100: no node" in problem(study, cluster(gpu={"partition": "gpu", "type": "h100"}))
    assert "minutes = " in problem(study, cluster(partition="short"))
    assert problem(study, cluster(partition="huge"), offer=None) is None


def test_every_kind_of_problem_is_told_once(study):
    said = problem(study, cluster(account="nope", max_memory=0.5))
    assert said.count("max_memory") == said.count("account = nope") == 1


def test_a_default_partition_is_looked_at_where_none_is_named():
    parts = {"a": Partition("a", memory=10, cpus=1), "b": Partition("b", memory=1000, cpus=1, default=True)}
    assert check(Offer(parts, None), {"mem_mb": 500}, 1) is None
    assert check(Offer(parts, None), {"mem_mb": 1001}, 1).key == "memory"


def test_where_there_is_no_default_partition_one_must_be_named(study, monkeypatch):
    sinfo = SINFO.replace("*", "")
    monkeypatch.delenv("SBATCH_PARTITION", raising=False)
    offer = offered(ask=answering(sinfo=sinfo))
    said = problem(study, cluster(), offer=offer)
    assert "site.yaml: partition = null: none is named, and the cluster has no default; it has cpu, gpu, short" in said
    assert "Name one of these." in said and "Nothing was submitted." in said
    assert problem(study, cluster(partition="cpu"), offer=offer) is None
    assert "partition = null" in problem(study, cluster(gpu={"type": "a100"}), offer=offer)
    monkeypatch.setenv("SBATCH_PARTITION", "short,nonesuch")
    offer = offered(ask=answering(sinfo=sinfo))
    assert "partition short allows 2.5" in problem(study, cluster(), offer=offer), (
        "sbatch takes that of its environment"
    )
    assert offered(ask=answering(sinfo=SINFO)).partitions["short"].default is False, "the executor names the default"


def test_the_executor_names_no_account_where_none_is_given(monkeypatch):
    """It means to take that of the latest job, but gives sacct a pipe for arguments, which sacct refuses. Where this
    test fails, an account is taken unasked: docs/cluster.md and the cluster file have to say so."""
    from snakemake_executor_plugin_slurm import accounts

    def sacct(command, **_):
        if "-1" in command:
            raise subprocess.CalledProcessError(1, command, stderr="sacct: invalid option -- '1'")
        return "lab\n"

    monkeypatch.setattr(accounts.subprocess, "check_output", sacct)
    assert accounts.get_account(logging.getLogger("none")) is None


def test_gpus_that_the_environment_cannot_use_are_told_before_submission(study, monkeypatch):
    """In the run as in `emeq cluster`; where no job asks for one, nothing is told."""
    site = cluster(partition="cpu", gpu=GPU)
    for able, where, told in [(False, site, 1), (True, site, 0), (False, cluster(partition="cpu"), 0)]:
        monkeypatch.setattr(submission, "has_cuda", lambda able=able: able)
        said = submission.unused_gpus(to_submit(study, where))
        assert len(said) == told
        assert all(
            word in line for line in said for word in ["probe_engine, train_shard: ", sys.prefix, "make env-gpu"]
        )


def test_a_run_warns_of_gpus_that_it_cannot_use(tmp_path, monkeypatch):
    """Of what a run on another executor than SLURM's is told; there nothing is asked of a cluster."""
    file = tmp_path / "site.yaml"
    file.write_text(yaml.safe_dump({"gpu": GPU}))
    study = tmp_path / "study.yaml"
    study.write_text(
        "{study: s, task: {name: cosine}, group: c2, network: {name: mlp}, training: {learning_rate: 0.1, steps: 3}}"
    )
    jobs = Jobs(Dependencies(load_study(study, tmp_path), bool, list), {"train_shard": "train_shard"}, file)
    (arm,) = jobs.needs.study.arms
    shard = SimpleNamespace(
        is_local=False,
        rule=SimpleNamespace(name="train_shard"),
        wildcards={"arm": arm.path, "first": "000000", "last": "000063"},
        resources={"mem_mb": 9000, "runtime": 99, "gres": "gpu:1"},
        threads=1,
    )
    workflow = SimpleNamespace(
        executor_plugin=SimpleNamespace(name="generic"), execution_settings=SimpleNamespace(retries=3)
    )
    monkeypatch.setattr(submission, "has_cuda", lambda: False)
    (warning,) = jobs._check_cluster(workflow, [shard])
    assert warning.startswith("warning: train_shard: jobs ask for a GPU")
    monkeypatch.setattr(submission, "has_cuda", lambda: True)
    assert jobs._check_cluster(workflow, [shard]) == []


def test_a_job_is_described_by_rule_and_arm(study):
    job = Asked("join_metrics", None, Demand(1.0, 1000), {"mem_mb": 10, "runtime": 10}, 1)
    with pytest.raises(ClusterError, match=r"^there is no cluster file .*: mem_mb = 10: join_metrics needs about 1000"):
        check_jobs(Cluster(), None, [job], None, 1)


def test_emeq_cluster_checks_by_hand_what_a_run_checks(tmp_path, monkeypatch, capsys):
    from emergent_equivariance import slurm
    from emergent_equivariance.cli.cluster import cluster as check_by_hand

    asked = []
    monkeypatch.setattr(slurm, "offered", lambda accounts: asked.append(accounts) or OFFER)
    file, site = tmp_path / "study.yaml", tmp_path / "site.yaml"
    file.write_text(
        "study: s\ntask: {name: cosine}\ngroup: c2\nnetwork: {name: mlp}\ntraining: {learning_rate: 0.1, steps: 3}\n"
    )
    site.write_text("{account: lab, partition: cpu}")
    check_by_hand(file, site, 4, tmp_path)
    assert "fit what this cluster has" in capsys.readouterr().out
    site.write_text("partition: huge")
    with pytest.raises(ClusterError, match="partition = huge"):
        check_by_hand(file, site, 4, tmp_path)
    assert asked == [True, False], "accounts are asked for where one is named"
    monkeypatch.setattr(slurm, "offered", lambda accounts: Offer(None, None, ["partitions are not checked: no sinfo"]))
    check_by_hand(file, site, 4, tmp_path)
    said = capsys.readouterr()
    assert "not checked against a cluster" in said.out and "fit what" not in said.out
    assert "warning: partitions are not checked" in said.err


def test_the_profile_is_yaml_with_known_options():
    import argparse

    from snakemake.cli import get_argument_parser
    from snakemake.settings.types import MaxJobsPerTimespan

    profile = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    actions = get_argument_parser()._actions
    known = {option.lstrip("-"): action.help or "" for action in actions for option in action.option_strings}
    assert set(profile) <= set(known), set(profile) - set(known)
    assert not [name for name in profile if known[name] == argparse.SUPPRESS or "eprecated" in known[name]]
    limit = MaxJobsPerTimespan.parse_choice(profile["max-jobs-per-timespan"])
    assert (limit.max_jobs, limit.timespan) == (10, 1), "it waits for the whole span at its end"
    assert profile["slurm-no-requeue"] is True and profile["retries"] >= 1, "one owner of re-runs"
    assert "slurm-array-jobs" not in profile
    default = yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text())
    for key in ("rerun-triggers", "scheduler", "keep-going", "ignore-incomplete"):
        assert profile[key] == default[key]


def test_emeq_plan_finds_the_cluster_file_as_emeq_cluster_does(tmp_path, monkeypatch, capsys):
    from emergent_equivariance.cli.looking import plan

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(ENVIRONMENT, "")
    study = ROOT / "config" / "cosine.yaml"
    plan(study, tmp_path)
    assert "to submit" not in capsys.readouterr().out
    (tmp_path / "site.yaml").write_text("account: lab")
    monkeypatch.setenv(ENVIRONMENT, "site.yaml")
    plan(study, tmp_path)
    assert "to submit" in capsys.readouterr().out


def test_every_command_is_in_a_panel_of_the_help():
    from emergent_equivariance.cli import app
    from emergent_equivariance.cli.common import BEFORE, RESULTS, RUN, WANDB, WORKFLOW

    panels = [command.rich_help_panel for command in app.registered_commands]
    assert list(dict.fromkeys(panels)) == [BEFORE, RUN, RESULTS, WANDB, WORKFLOW]
