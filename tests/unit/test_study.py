"""The study file: arms, hashes, shards, and what is said about bad input."""

import itertools
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from emergent_equivariance.errors import StudyError
from emergent_equivariance.reference import reference_markdown
from emergent_equivariance.settings import STUDY_FILES, Settings, json_schema
from emergent_equivariance.study import load_study, parse_study, plan_shards, read_yaml

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "config").glob("*.yaml"))
BASE = read_yaml(ROOT / "config" / "ising.yaml")
FILE = Path("my_study.yaml")


def changed(**sections):
    """The Ising study with some sections replaced; None drops a section."""
    content = {**BASE, **sections}
    return {key: value for key, value in content.items() if value is not None}


def test_arms_are_the_product_of_the_sweep_in_file_order():
    study = parse_study(BASE, FILE)
    assert [arm.path for arm in study.arms] == [
        f"width~{width}/augmentation~{kind}" for width in (64, 128, 256) for kind in ("none", "full")
    ]
    assert study.arms[3].settings.network.width == 128
    assert study.arms[3].settings.augmentation.kind == "full"
    assert study.arms[3].coords == {"width": 128, "augmentation": "full"}


def test_without_sweep_there_is_one_arm():
    assert [arm.path for arm in parse_study(changed(sweep=None), FILE).arms] == ["arm~single"]


def test_clashing_last_parts_keep_the_full_key():
    study = parse_study(changed(sweep={"task.seed": [0, 1], "ensemble.seed": [0]}), FILE)
    assert study.arms[1].labels == {"task.seed": "1", "ensemble.seed": "0"}


def test_a_swept_subset_is_labelled_and_combines_with_its_seed():
    sweep = {"augmentation.seed": [0, 1], "augmentation": [{"subset": 2}, "full"]}
    study = parse_study(changed(sweep=sweep), FILE)
    assert [arm.labels["augmentation"] for arm in study.arms] == ["subset-2", "full"] * 2
    assert study.arms[2].settings.augmentation.model_dump() == {"kind": "subset", "subset": 2, "seed": 1}


def test_arms_that_differ_in_width_share_theory_and_data():
    arms = parse_study(BASE, FILE).arms
    assert len({arm.data_key for arm in arms}) == 1
    assert len({arm.theory_key for arm in arms}) == 2
    assert len({arm.config_hash for arm in arms}) == 6


@pytest.mark.parametrize(
    "swept", [{"training.loss": ["cross_entropy", "mse"]}, {"evaluate.ensemble_mean": ["softmax", "logits"]}]
)
def test_arms_without_a_mean_share_no_theory_with_those_that_have_one(swept):
    training = {**BASE["training"], "learning_rate": 0.1}
    content = changed(task={"name": "digits"}, training=training, theory={"covariance": False}, sweep=swept)
    without, having = parse_study(content, FILE).arms
    assert (without.settings.has_mean, having.settings.has_mean) == (False, True)
    assert without.theory_key != having.theory_key


@pytest.mark.parametrize(
    "change",
    [
        {"ensemble": {"members": 9999, "seed": 0}},
        {"execution": {"shard_size": 7, "threads": 2}},
        {"tracking": {"wandb": "disabled"}},
        {"study": "renamed"},
        {"evaluate": {"samples": 64, "member_counts": [1, 3]}},
        {"training": {**BASE["training"], "steps": 999}},
        {"training": {**BASE["training"], "seed": 1}},
        {"theory": {"covariance": False}},
    ],
)
def test_what_does_not_affect_members_does_not_change_their_hash(change):
    before, after = parse_study(BASE, FILE).arms, parse_study(changed(**change), FILE).arms
    assert [arm.config_hash for arm in before] == [arm.config_hash for arm in after]


@pytest.mark.parametrize(
    "change",
    [
        {"ensemble": {"members": 256, "seed": 1}},
        {"training": {**BASE["training"], "record": [0, 3, 10, 30, 100, 299]}},
        {"training": {**BASE["training"], "learning_rate": {"critical_fraction": 0.4}}},
        {"task": {**BASE["task"], "seed": 1}},
        {"group": "c2"},
        {"evaluate": {"samples": 63}},
        {"execution": {"precision": "float64"}},
        {"network": {**BASE["network"], "b_std": 0.2}},
    ],
)
def test_what_affects_members_changes_their_hash(change):
    before, after = parse_study(BASE, FILE).arms, parse_study(changed(**change), FILE).arms
    assert not {arm.config_hash for arm in before} & {arm.config_hash for arm in after}


KERNELS = {
    "study": "kernels",
    "kind": "kernel_regression",
    "task": {"name": "digits", "train": 100, "test": 50},
    "network": {"name": "mlp"},
    "regression": {"sizes": [10, 100]},
}


def test_a_sweep_may_name_its_values():
    networks = {"one layer": {"name": "mlp"}, "CNN": {"name": "cnn", "conv_layers": 3}}
    arms = parse_study({**KERNELS, "sweep": {"network": networks}}, FILE).arms
    assert [arm.path for arm in arms] == ["network~one-layer", "network~CNN"]
    assert arms[1].settings.network.conv_layers == 3
    assert arms[1].coords == {"network": "CNN"}


def test_kinds_have_sections_of_their_own():
    (arm,) = parse_study(KERNELS, FILE).arms
    assert arm.settings.regression.times == ["inf"]
    with pytest.raises(StudyError, match="unknown key training"):
        parse_study({**KERNELS, "training": {}}, FILE)
    with pytest.raises(StudyError, match=r"regression\.sizes: 101 samples, but task\.train is 100"):
        parse_study({**KERNELS, "regression": {"sizes": [101]}}, FILE)


def test_kernels_are_shared_by_arms_that_differ_in_augmentation_and_width():
    assert len({arm.kernel_key for arm in parse_study(BASE, FILE).arms}) == 1
    network = {"network.b_std": [0.1, 0.2], "network.width": [1, 2]}
    assert len({arm.kernel_key for arm in parse_study({**KERNELS, "sweep": network}, FILE).arms}) == 2


TILED_DIGITS = {
    "study": "s",
    "task": {"name": "digits", "train": 30, "test": 10},
    "network": {"name": "mlp"},
    "training": {"learning_rate": 0.1, "steps": 3},
    "theory": {"covariance": False},
    "execution": {"tiles_above": 10, "tile_size": 8},
}


@pytest.mark.parametrize(
    ("swept", "cut_by"),
    [
        ({"theory.route": ["direct", "auto"]}, 1),
        ({"training.loss": ["cross_entropy", "mse"]}, 1),
        ({"execution.tiles_above": [1000, 10]}, 1),
        ({"execution.tile_size": [8, 16]}, 0),
        ({"theory.route": ["direct"]}, 0),
    ],
)
def test_shared_kernels_are_cut_as_the_first_arm_with_tiles_says(swept, cut_by):
    study = parse_study({**TILED_DIGITS, "sweep": swept}, FILE)
    (key,) = {arm.kernel_key for arm in study.arms}
    assert study.arm_with_tiles(key) is study.arms[cut_by]


def test_an_unknown_key_names_the_known_ones():
    study = parse_study(TILED_DIGITS, FILE)
    with pytest.raises(StudyError, match=f"no arm has the key 0123.*{study.arms[0].kernel_key}"):
        study.arm_with_tiles("0123")


def test_a_name_that_looks_like_a_date_is_a_name(tmp_path):
    file = tmp_path / "dated.yaml"
    file.write_text((ROOT / "config" / "ising.yaml").read_text().replace("study: ising", "study: 2026-11-21"))
    assert load_study(file).name == "2026-11-21"


def test_a_learning_rate_above_critical_is_warned_about():
    content = changed(training={**BASE["training"], "learning_rate": {"critical_fraction": 1.5}})
    warnings = parse_study(content, FILE).warnings()
    assert warnings
    assert all("1.5" in warning and "critical_fraction" in warning for warning in warnings)
    assert parse_study(BASE, FILE).warnings() == []


@pytest.mark.parametrize(
    ("dense_layers", "augmentation", "told"), [(1, "full", True), (0, "full", False), (1, "none", False)]
)
def test_means_that_cannot_agree_are_named(dense_layers, augmentation, told):
    networks = {name: {"name": name.lower(), "dense_layers": dense_layers} for name in ("CNN", "GCNN")}
    content = changed(sweep={"network": networks}, augmentation=augmentation, network=None)
    warnings = parse_study(content, FILE).warnings()
    assert bool(warnings) == told
    assert all(
        "network~CNN" in text and "dense_layers = 1" in text and "not expected to agree" in text for text in warnings
    )


#: Study → (data key, theory key, hash of the shards or of the measure) of its last arm, as version 0.1 computed them.
HASHES = {
    "cosine": ("f7933db1ac861406", "2ad1b7b72ecd792b", "b95be25cbebf53f3"),
    "digits": ("a8356ffdd7ff640d", "8793f66effde2404", "a19222c24173fed3"),
    "fashion_mnist": ("5572db8937222c63", "015ddc4d3f0832b6", "79ca1fb773b0f9b4"),
    "fashion_mnist_full": ("e0051f525fec84e2", "fe19ea1b68eeb160", "6e6b3423b830bca0"),
    "histology_ntk": ("0dce525ec1acfa6d", None, "d8c348e688177682"),
    "histology_ntk_full": ("5006d132fd9b8bf9", None, "f53436cd79cf9df7"),
    "ising": ("154d34df10286f40", "bede00e4fe898481", "7d1e8fea046b416e"),
    "ising_full": ("8c2c52caa7683334", "7b86649d7869c86d", "b60bd71123a3a7a1"),
    "kernel_convergence": ("dd2c20637da3ce07", None, "5fa89026f83ac0cb"),
    "kernel_convergence_full": ("076c825326bc2277", None, "f64fbc9682c69d89"),
}


@pytest.mark.parametrize("name", HASHES)
def test_new_settings_leave_the_hashes_of_earlier_versions(name):
    arm = load_study(ROOT / "config" / f"{name}.yaml").arms[-1]
    theory = arm.theory_key if isinstance(arm.settings, Settings) else None
    assert (arm.data_key, theory, arm.config_hash) == HASHES[name], "what is on disk would be made again"


@pytest.mark.parametrize(
    ("change", "data", "members"),
    [
        ({"action": {"mask": False, "fill": 3.0, "interpolation": "nearest"}}, True, True),
        ({"action": {"mask": True}}, False, False),
        ({"network": {"name": "mlp", "canonicalisation": "none"}}, True, True),
        ({"network": {"name": "mlp", "canonicalisation": "orbit_maximum"}}, True, False),
    ],
)
def test_action_and_canonicalisation_enter_hashes_where_they_matter(change, data, members):
    content = changed(task={"name": "digits"}, network={"name": "mlp"}, sweep=None)
    (before,), (after,) = (parse_study(c, FILE).arms for c in (content, {**content, **change}))
    assert (before.data_key == after.data_key) == data
    assert (before.config_hash == after.config_hash) == members
    assert (before.theory_key == after.theory_key) == members
    inexact = [{**content, "group": "c8", "action": a} for a in ({}, {"fill": 1.0}, {"mask": False})]
    keys = {parse_study(c, FILE).arms[0].data_key for c in inexact}
    assert len(keys) == 3


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_studies_are_valid_and_fit_the_schema(file):
    import jsonschema

    study = load_study(file)
    assert study.name == file.stem
    assert file.read_text().startswith("# yaml-language-server: $schema=../workflow/schemas/study.schema.json\n")
    jsonschema.validate(yaml.safe_load(file.read_text()), json_schema())


def test_the_schema_on_disk_is_that_of_the_models():
    stored = json.loads((ROOT / "workflow" / "schemas" / "study.schema.json").read_text())
    assert stored == json_schema(), "run `make docs` to write it again"


def test_the_reference_page_on_disk_is_that_of_the_models():
    page = (ROOT / "config" / "reference.md").read_text(encoding="utf-8")
    assert page == reference_markdown(), "run `make docs` to write it again"


def test_the_reference_page_has_every_key():
    page = reference_markdown()
    for definition in json_schema()["$defs"].values():
        for key, field in definition["properties"].items():
            assert "const" in field or f".{key}` |" in page or f"| `{key}` |" in page, key
    for model, _ in STUDY_FILES.values():
        for key in model.model_fields:
            assert f"| `{key}` |" in page, key


def test_every_field_has_a_description():
    def fields(schema):
        for name, definition in schema["$defs"].items():
            for key, field in definition.get("properties", {}).items():
                yield f"{name}.{key}", field

    described = {"study", "kind", "sweep", "group"}
    sections = {f"{model.__name__}.{key}" for model, _ in STUDY_FILES.values() for key in model.model_fields}
    sections = {key for key in sections if key.split(".")[1] not in described}
    missing = [
        key
        for key, field in fields(json_schema())
        if "description" not in field and key not in sections and not key.endswith(".name")
    ]
    assert missing == []


@given(
    members=st.integers(1, 500),
    size=st.integers(1, 100),
    existing=st.lists(
        st.tuples(st.integers(0, 500), st.integers(0, 90)).map(lambda p: (p[0], p[0] + p[1])), max_size=8
    ),
)
def test_shards_cover_the_members_once(members, size, existing):
    shards = plan_shards(members, size, existing)
    assert shards[0][0] == 0
    assert all(b[0] == a[1] + 1 for a, b in itertools.pairwise(shards))
    assert shards[-1][0] < members <= shards[-1][1] + 1
    assert all(last - first < size for first, last in shards if (first, last) not in existing)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 64), st.integers(1, 64))
def test_changing_the_member_count_reuses_every_shard(before, more, size, other_size):
    old = plan_shards(before, size)
    new = plan_shards(before + more, other_size, old)
    assert new[: len(old)] == old
    assert plan_shards(before, size, new)[: len(old)] == old
