"""How an arm is to be trained: what is measured, what is chosen, and the file that keeps it."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from emergent_equivariance.errors import StoreError, StudyError
from emergent_equivariance.settings.engines import ENGINES, default_engine
from emergent_equivariance.study import Choice, Probe, parse_study, read_probe
from emergent_equivariance.study.work import (
    WORTHWHILE,
    core_seconds,
    gradient_steps,
    members_per_shard,
    step_flops,
    training_flops,
    training_seconds,
)
from emergent_equivariance.tasks import build_task
from emergent_equivariance.training import Record, build_problem, get_engine, train_shard
from emergent_equivariance.training.probe import BUDGET, LATENCY, LEAST, choose

CONTENT = {
    "study": "small",
    "task": {"name": "ising", "lattice": 3, "target": "local", "train": 6, "test": 4},
    "network": {"name": "mlp", "width": 8},
    "training": {"learning_rate": 0.5, "steps": 12, "record": [0, 12]},
    "ensemble": {"members": 64},
    "execution": {"shard_size": 10},
}
SGD = {"optimizer": "sgd", "learning_rate": 0.1, "epochs": 3, "batch_size": 5}


def arm_of(**sections):
    return parse_study({**CONTENT, **sections}, Path("small.yaml")).arms[0]


def problem_of(**sections):
    settings = arm_of(**sections).settings
    return build_problem(settings, build_task(settings), 1e-9)


class Clock:
    """Time that passes when a stub works."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Stub:
    """An engine whose steps take a known time per state: {variant: (members at once, seconds per step)}."""

    def __init__(self, name, clock, variants, compilation=1.0, device="cpu", fails=None):
        self.name, self.clock, self.variants, self.compilation = name, clock, variants, compilation
        self._device, self.fails, self.calls = device, fails or {}, []

    def device(self):
        return self._device

    def candidates(self, problem, members):
        return [Choice(self.name, variant, min(k, members), 1000) for variant, (k, _) in self.variants.items()]

    def trainer(self, problem, choice):
        return StubTrainer(self, choice)


class StubTrainer:
    shapes = ()

    def __init__(self, engine, choice):
        self.engine, self.choice, self.compiled, self.done = engine, choice, False, 0

    def start(self, members):
        assert len(members) == self.choice.members_at_once
        return "state"

    def advance(self, state, first, count):
        engine, variant = self.engine, self.choice.variant
        assert first == self.done and count <= self.choice.steps_per_call
        if variant in engine.fails:
            raise engine.fails[variant]
        engine.calls.append((variant, count))
        usual, seconds = engine.variants[variant]
        engine.clock.now += count * seconds * self.choice.members_at_once / usual
        engine.clock.now += 0 if self.compiled else engine.compilation
        self.compiled, self.done = True, self.done + count
        return state

    def record(self, state, weights):
        engine = self.engine
        if f"record {self.choice.variant}" in engine.fails:
            raise engine.fails[f"record {self.choice.variant}"]
        return Record(np.zeros(0), np.zeros(0), [])


def measured(problem, *engines, clock, said=None):
    said = [] if said is None else said
    return choose(problem, math.inf, engines=engines, clock=clock, say=said.append)


def test_the_fastest_per_member_and_step_is_chosen():
    clock = Clock()
    jax = Stub("jax", clock, {"map": (1, 3e-3), "vmap": (10, 25e-3)})
    torch = Stub("torch", clock, {"loop": (1, 2.6e-3)})
    found = measured(problem_of(), jax, torch, clock=clock)
    assert (found.choice.engine, found.choice.variant, found.choice.members_at_once) == ("jax", "vmap", 10)
    assert found.reason == "the fastest of 3 measured"
    assert found.device == "cpu"
    seconds = {c.variant: c.seconds for c in found.candidates}
    assert seconds == pytest.approx({"map": 3e-3, "vmap": 2.5e-3, "loop": 2.6e-3}), "compilation does not count"
    assert [c.first_seconds for c in found.candidates] == pytest.approx([1.003, 1.0026, 1.025])
    assert [c.variant for c in found.candidates] == ["map", "loop", "vmap"], "the best guess of each engine first"


def test_padding_of_the_last_group_counts():
    """Of 10 members, 8 at once leave 6 of 16 places unused."""
    clock = Clock()
    engine = Stub("jax", clock, {"one": (1, 1e-3), "eight": (8, 7e-3)})
    found = measured(problem_of(), engine, clock=clock)
    assert found.choice.variant == "one"
    assert found.candidates[1].seconds == pytest.approx(7e-3 * 2 / 10)
    assert measured(problem_of(execution={"shard_size": 8}), engine, clock=clock).choice.variant == "eight"


def test_a_call_takes_no_longer_than_a_signal_may_wait():
    clock = Clock()
    for seconds, steps in ((3e-3, int(LATENCY / 3e-3)), (5.0, 1), (1e-6, 10_000)):
        found = measured(problem_of(), Stub("jax", clock, {"map": (1, seconds)}), clock=clock)
        assert found.choice.steps_per_call == steps
    scheduled = problem_of(training=SGD, task={**CONTENT["task"], "train": 4000}, network={"name": "mlp", "width": 1})
    found = measured(scheduled, Stub("jax", clock, {"vmap": (10, 1e-6)}), clock=clock)
    assert found.choice.steps_per_call == 10_000
    large = arm_of(training={**SGD, "batch_size": 4000}, task={**CONTENT["task"], "train": 4000}).settings
    problem = build_problem(large, build_task(large), 1e-9)
    found = measured(problem, Stub("jax", clock, {"vmap": (10, 1e-6)}), clock=clock)
    assert found.choice.steps_per_call == 2**24 // (4 * 10 * 4000), "the schedule of a call stays small"


def test_what_is_clearly_slower_is_timed_once():
    clock = Clock()
    engine = Stub("jax", clock, {"fast": (1, 0.3), "slow": (1, 0.6), "close": (1, 0.4)})
    measured(problem_of(), engine, clock=clock)
    assert [engine.calls.count((variant, 1)) for variant in ("fast", "slow", "close")] == [4, 2, 4]


def test_short_calls_are_lengthened_until_they_can_be_timed():
    clock = Clock()
    engine = Stub("jax", clock, {"map": (1, 1e-3)})
    measured(problem_of(), engine, clock=clock)
    counts = [count for _, count in engine.calls]
    assert counts[:2] == [1, 1]
    assert counts[-1] * 1e-3 >= LEAST and counts[-3:] == [counts[-1]] * 3


def test_nothing_new_is_begun_when_the_time_is_over():
    clock = Clock()
    engine = Stub("jax", clock, {"first": (1, 1e-3), "second": (1, 1e-4)}, compilation=BUDGET + 1)
    found = measured(problem_of(), engine, clock=clock)
    assert found.choice.variant == "first"
    assert "were over" in found.candidates[1].note and found.candidates[1].seconds is None


def test_what_does_not_fit_in_memory_is_left_out_with_the_reason():
    clock, said = Clock(), []
    fails = {"vmap": RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore"), "huge": MemoryError()}
    variants = {"vmap": (10, 1e-3), "huge": (10, 1e-3), "loop": (1, 1e-3)}
    found = measured(problem_of(), Stub("jax", clock, variants, fails=fails, device="H"), clock=clock, said=said)
    assert (found.choice.variant, found.device) == ("loop", "H")
    assert found.candidates[0].note == "does not fit in memory: RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."
    assert found.candidates[1].note == "does not fit in memory: MemoryError"
    assert found.reason == "the only one measured"
    assert any("jax vmap, 10 at once: does not fit" in line for line in said)


def test_recording_has_to_fit_on_a_gpu_too():
    clock, error = Clock(), RuntimeError("CUDA out of memory")
    variants = {"vmap": (10, 1e-3), "loop": (1, 1e-3)}
    engine = Stub("torch", clock, variants, device="H", fails={"record vmap": error})
    assert measured(problem_of(), engine, clock=clock).choice.variant == "loop"


@pytest.mark.parametrize("text", ["shapes differ", "CUDA error: an illegal memory access was encountered"])
def test_other_errors_are_not_taken_for_a_lack_of_memory(text):
    clock = Clock()
    engine = Stub("jax", clock, {"map": (1, 1e-3)}, fails={"map": RuntimeError(text)})
    with pytest.raises(RuntimeError, match=text):
        measured(problem_of(), engine, clock=clock)


def test_nothing_fits_or_nothing_can_train_is_an_error_with_a_remedy():
    clock = Clock()
    engine = Stub("jax", clock, {"map": (1, 1e-3)}, fails={"map": MemoryError()})
    with pytest.raises(StudyError, match=r"no way to train it fits in memory.*Lower execution\.members_at_once"):
        measured(problem_of(), engine, clock=clock)
    with pytest.raises(StudyError, match=r"execution\.engine: auto cannot train network mlp"):
        measured(problem_of(), Stub("jax", clock, {}), clock=clock)


def test_members_at_once_is_kept_where_it_is_given():
    clock = Clock()
    variants = {"one": (1, 1e-3), "four": (4, 8e-3)}
    problem = problem_of(execution={"shard_size": 10, "members_at_once": 5})
    found = measured(problem, Stub("jax", clock, variants), clock=clock)
    assert {c.members_at_once for c in found.candidates} == {5}
    assert found.choice.variant == "one"
    assert found.reason == "the fastest of 2 measured; execution.members_at_once as given"
    problem = problem_of(execution={"shard_size": 3, "members_at_once": 5})
    assert measured(problem, Stub("jax", clock, variants), clock=clock).choice.members_at_once == 3


@pytest.mark.parametrize("name", ["jax", "torch"])
def test_the_engine_is_kept_where_it_is_given(name):
    found = choose(problem_of(execution={"engine": name}), 0.0)
    assert found.choice.engine == name
    assert found.reason.endswith("execution.engine as given")


@pytest.mark.parametrize(("network", "engine", "variant"), [("mlp", "jax", "map"), ("cnn", "torch", "loop")])
def test_short_training_is_not_measured(network, engine, variant):
    section = {"name": network, "width": 8}
    problem = problem_of(network=section)
    found = choose(problem, WORTHWHILE * 0.99)
    assert (found.choice.engine, found.choice.variant) == (engine, variant)
    assert "less than a measurement is worth" in found.reason
    assert found.candidates == []


def test_engines_that_are_not_needed_are_not_imported():
    clock = Clock()
    wanted = Stub("jax", clock, {"map": (1, 1e-3)})

    def engines():
        yield Stub("other", clock, {})
        yield wanted
        raise AssertionError("the default is known by now")

    assert choose(problem_of(), 1.0, engines=engines()).choice.engine == "jax"
    assert not wanted.calls


def test_work_grows_with_members_and_steps_and_falls_with_threads():
    def of(**sections):
        return training_seconds(arm_of(**sections).settings)

    one = of()
    assert of(ensemble={"members": 128}) == pytest.approx(2 * one)
    assert of(execution={"threads": 2}) == pytest.approx(one / 2)
    longer = of(training={"learning_rate": 0.5, "steps": 1200, "record": [0, 1200]})
    assert 50 * one < longer < 100 * one, "recording is counted too"
    settings = arm_of().settings
    assert core_seconds(settings, 0, 1000) > 1e-3, "a step takes time beside its operations"


@pytest.mark.parametrize(
    "sections",
    [
        {"network": {"name": "torch", "factory": "tests.networks_for_tests:mlp"}},
        {"task": {"name": "custom", "factory": "a.b:c", "train": 6, "test": 4}, "group": "c1"},
    ],
)
def test_work_that_the_settings_do_not_tell_is_worth_measuring(sections):
    assert training_seconds(arm_of(**sections).settings) == math.inf


def test_operations_are_those_of_the_problem():
    for sections in ({}, {"training": SGD}, {"training": SGD, "augmentation": "full"}, {"augmentation": "random"}):
        problem = problem_of(**sections)
        settings, shape = problem.settings, problem.orbit_input.shape[2:]
        assert gradient_steps(settings) == int(problem.segments.sum())
        evaluated = np.prod(problem.orbit_input.shape[:2]) * len(settings.training.recorded)
        rows = problem.units * settings.training.recorded[-1] + evaluated / 3
        expected = members_per_shard(settings) * 6.4 * step_flops(settings, shape, problem.outputs, 1) * rows
        assert training_flops(settings, shape, problem.outputs) == pytest.approx(expected)


@pytest.mark.parametrize("network", ["mlp", "cnn", "gcnn", "torch"])
def test_the_table_of_engines_says_what_they_do(network):
    section = {"factory": "tests.networks_for_tests:mlp"} if network == "torch" else {"width": 2}
    problem = problem_of(network={"name": network, **section})
    for name, facts in ENGINES.items():
        choices = get_engine(name).candidates(problem, 50)
        assert bool(choices) == (network in facts.networks)
        stacks = {choice.members_at_once for choice in choices if choice.variant.startswith("vmap")}
        assert stacks <= set(facts.stacks)
    assert network in ENGINES[default_engine(network)].networks


def test_real_engines_can_be_measured_and_trained_as_chosen():
    problem = problem_of(execution={"shard_size": 3})
    found = choose(problem, math.inf)
    assert {c.engine for c in found.candidates} == {"jax", "torch"}
    assert all(c.seconds is not None and c.seconds > 0 for c in found.candidates), found.candidates
    trainer = get_engine(found.choice.engine).trainer(problem, found.choice)
    result = train_shard(problem, trainer, found.choice, range(3))
    assert np.isfinite(result.prediction).all()


# ------------------------------------------------------------------------------------------------- the key


def test_arms_that_differ_in_what_speed_does_not_depend_on_share_a_probe():
    key = arm_of().probe_key
    task = CONTENT["task"]
    assert arm_of(task={**task, "seed": 3}).probe_key == key
    assert arm_of(ensemble={"members": 640, "seed": 1}).probe_key == key
    for change in ({"learning_rate": 0.1}, {"steps": 100}, {"record": [0, 1]}, {"seed": 5}):
        assert arm_of(training={**CONTENT["training"], **change}).probe_key == key
    subset = {"kind": "subset", "subset": 2}
    assert arm_of(augmentation=subset).probe_key == arm_of(augmentation={**subset, "seed": 4}).probe_key != key


def test_what_is_raised_until_it_is_worth_measuring_is_measured():
    """An unmeasured default that a short trial has left is not kept for long training."""
    few = arm_of()
    for sections in (
        {"ensemble": {"members": 10**6}},
        {"training": {**CONTENT["training"], "steps": 10**8, "record": [0, 10**8]}},
    ):
        many = arm_of(**sections)
        assert training_seconds(few.settings) < WORTHWHILE < training_seconds(many.settings)
        assert many.probe_key != few.probe_key
        assert (many.data_key, many.theory_key == few.theory_key) == (few.data_key, "ensemble" in sections)


@pytest.mark.parametrize(
    "sections",
    [
        {"task": {**CONTENT["task"], "train": 7}},
        {"network": {"name": "mlp", "width": 9}},
        {"augmentation": "full"},
        {"training": SGD},
        {"evaluate": {"samples": 5}},
        {"ensemble": {"members": 9}},
        {"execution": {"shard_size": 9}},
        {"execution": {"shard_size": 10, "threads": 2}},
        {"execution": {"shard_size": 10, "engine": "jax"}},
        {"execution": {"shard_size": 10, "members_at_once": 2}},
        {"execution": {"shard_size": 10, "precision": "float64"}},
    ],
)
def test_arms_that_differ_in_what_speed_depends_on_do_not(sections):
    assert arm_of(**sections).probe_key != arm_of().probe_key


# ------------------------------------------------------------------------------------------------ the file


def example(key="k"):
    clock = Clock()
    decision = measured(problem_of(), Stub("jax", clock, {"map": (1, 1e-3), "vmap": (10, 1.0)}), clock=clock)
    return Probe(probe_key=key, machine="m", threads=1, versions={"jax": "1"}, **vars(decision))


def test_the_file_holds_all_there_is(tmp_path):
    probe, path = example(), tmp_path / "k.json"
    path.write_text(probe.to_json())
    assert read_probe(path, "k") == probe
    assert probe.seconds == pytest.approx(1e-3)
    assert read_probe(tmp_path / "other.json", "k") is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda text: text[: len(text) // 2], "is damaged"),
        (lambda text: "", "is damaged"),
        (lambda text: "[]", "is damaged"),
        (lambda text: text.replace('"steps_per_call": 1', '"steps_per_call": -1'), "choice.steps_per_call"),
        (lambda text: text.replace('"engine"', '"machine"'), "choice.engine"),
        (lambda text: text.replace('"engine": "jax"', '"engine": "abacus"'), "those known are numba, jax, torch"),
        (lambda text: json.dumps({**json.loads(text), "probe_key": "x"}), "was written for other arms"),
    ],
)
def test_a_torn_or_foreign_file_is_refused_by_name(tmp_path, change, text):
    path = tmp_path / "k.json"
    path.write_text(change(example().to_json()))
    with pytest.raises(StoreError, match="Delete it and run the study again") as error:
        read_probe(path, "k")
    assert str(path) in str(error.value) and text in str(error.value)


def test_an_unreadable_file_is_refused(tmp_path):
    with pytest.raises(StoreError, match="cannot be read"):
        read_probe(tmp_path, "k")
