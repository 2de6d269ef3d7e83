"""Groups acting on images by interpolation: what is exact, what is not, and by how much."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from emergent_equivariance import store
from emergent_equivariance.errors import DataError
from emergent_equivariance.groups import Action, get_group, grid_action, invariant_action
from emergent_equivariance.interpolation import (
    InterpolatedAction,
    composition_error,
    disc,
    image_action,
    interpolated_action,
)
from emergent_equivariance.settings import Settings
from emergent_equivariance.study import parse_study
from emergent_equivariance.tasks import build_task
from emergent_equivariance.tasks.custom import build as build_custom

RNG = np.random.default_rng(0)


def settings(group="c8", task=None, **sections) -> Settings:
    return Settings.model_validate(
        {
            "task": {"name": "digits", "train": 12, "test": 8, **(task or {})},
            "group": group,
            "network": {"name": "mlp"},
            "training": {"steps": 3},
            **sections,
        }
    )


# ------------------------------------------------------------------------------------------- one action


@pytest.mark.parametrize("name", ["c3", "c8", "c12", "d1", "d5", "d8"])
@pytest.mark.parametrize("shape", [(8, 8), (7, 5)])
@pytest.mark.parametrize(("interpolation", "order"), [("nearest", 0), ("bilinear", 1)])
def test_against_scipy(name, shape, interpolation, order):
    group, images = get_group(name), RNG.standard_normal((3, *shape))
    found = interpolated_action(group, shape, interpolation, fill=0.3).orbit(images)
    centre = (np.array(shape) - 1) / 2
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) - centre
    for g in range(group.order):
        at = grid @ np.linalg.inv(group.planar[g]).T + centre
        if order == 0:  # scipy and we may break ties between pixels differently
            at = np.where(np.abs(at % 1 - 0.5) < 1e-9, np.floor(at) + 0.5 + 1e-6, at)
        expected = [
            map_coordinates(x, at.transpose(2, 0, 1), order=order, mode="grid-constant", cval=0.3) for x in images
        ]
        np.testing.assert_allclose(found[:, g], expected, rtol=0, atol=1e-11)


def test_a_case_by_hand():
    """45° on 3×3 pixels: edge pixels come from 0.707 pixels along both axes, corners from 1.414 along one."""
    image = np.arange(1.0, 10.0).reshape(1, 3, 3)
    turned = interpolated_action(get_group("c8"), (3, 3), "bilinear", fill=-1.0).orbit(image)[0, 1]
    s = np.sqrt(0.5)
    assert turned[1, 1] == 5
    corner = (1 - s) ** 2 * 5 + s * (1 - s) * (2 + 6) + s * s * 3
    np.testing.assert_allclose(turned[0, 1], corner, rtol=1e-12)  # (0, 1) is where the corner (0, 2) was
    outside = 2 * s - 1
    np.testing.assert_allclose(turned[0, 0], (1 - outside) * 2 + outside * -1.0, rtol=1e-12)  # beyond the edge (0, 1)
    nearest = interpolated_action(get_group("c8"), (3, 3), "nearest").orbit(image)[0, 1]
    np.testing.assert_array_equal(nearest, [[2, 3, 6], [1, 5, 9], [4, 7, 8]])


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 5, 3)])
def test_quarter_turns_and_mirrors_are_exact_permutations(interpolation, shape):
    images = RNG.standard_normal((4, *shape))
    group, exact = get_group("d8"), grid_action(get_group("d4"), *shape)
    action = interpolated_action(group, shape, interpolation, fill=0.7)
    quarter = [0, 2, 4, 6, 8, 10, 12, 14]
    assert np.isin(action.weight[quarter], (0, 1)).all()
    np.testing.assert_array_equal(action.orbit(images)[:, quarter], exact.orbit(images))
    assert (action.orbit(images)[:, 0] == images).all()


def test_bilinear_elements_compose_with_quarter_turns_and_mirrors():
    group = get_group("d8")
    action = interpolated_action(group, (6, 6), "bilinear", fill=0.4)
    images = RNG.standard_normal((2, 6, 6))
    orbit = action.orbit(images)
    for h in range(0, 16, 2):
        np.testing.assert_allclose(action.orbit(orbit[:, h]), orbit[:, group.product[:, h]], rtol=0, atol=1e-10)
        for g in range(16):
            np.testing.assert_allclose(
                action.orbit(orbit[:, g])[:, h], orbit[:, group.product[h, g]], rtol=0, atol=1e-10
            )


def test_it_is_affine_and_linear_without_fill():
    x, y = RNG.standard_normal((2, 1, 7, 7, 2))
    for fill in (0.0, 1.3):
        action = interpolated_action(get_group("c5"), (7, 7, 2), "bilinear", fill)
        at_zero = action.orbit(np.zeros_like(x))
        linear = action.orbit(2 * x - 3 * y) - at_zero
        np.testing.assert_allclose(
            linear, 2 * (action.orbit(x) - at_zero) - 3 * (action.orbit(y) - at_zero), rtol=0, atol=1e-12
        )
        assert (at_zero == 0).all() == (fill == 0)
        # an image of the fill alone is left alone, whatever moves
        np.testing.assert_allclose(action.orbit(np.full_like(x, fill)), fill, rtol=0, atol=1e-14)


def test_single_precision_in_and_out():
    images = RNG.standard_normal((5, 8, 8, 1))
    action = interpolated_action(get_group("c8"), (8, 8, 1))
    single = action.orbit(images.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, action.orbit(images), rtol=0, atol=1e-6)


def test_blocks_do_not_change_a_bit(monkeypatch):
    images = RNG.standard_normal((7, 8, 8, 1))
    action = interpolated_action(get_group("c8"), (8, 8, 1))
    whole = action.orbit(images)
    monkeypatch.setattr("emergent_equivariance.interpolation.BLOCK_BYTES", 8 * 8 * 64 * 2)
    np.testing.assert_array_equal(action.orbit(images), whole)


@pytest.mark.parametrize(("name", "exact"), [("c1", True), ("d4", True), ("t4", True), ("c8", False), ("d3", False)])
def test_images_are_interpolated_only_where_that_is_needed(name, exact):
    action = image_action(get_group(name), 8, 8, 1, "bilinear", 0.0)
    assert action.is_exact == exact == isinstance(action, Action)


def test_disc():
    expected = ["01110", "11111", "11111", "11111", "01110"]
    assert ["".join("01"[int(x)] for x in row) for row in disc(5, 5)] == expected
    assert disc(4, 4).sum() == 12
    assert disc(4, 8)[:, :2].sum() == 0 and disc(4, 8)[1, 2]
    for side in (5, 8, 28):
        turned = grid_action(get_group("d4"), side, side).orbit(disc(side, side)[None].astype(float))[0]
        assert (turned == disc(side, side)).all()


# ---------------------------------------------------------------------------------- by how much it is not exact


def test_exact_actions_have_no_composition_error():
    for name in ("d4", "t2"):
        error = composition_error(grid_action(get_group(name), 4, 4), RNG.standard_normal((3, 4, 4)))
        assert (error.rms, error.largest, error.samples) == (0, 0, 3)


def test_composition_error_is_that_of_its_definition():
    group, images = get_group("c5"), RNG.standard_normal((2, 6, 6))
    action = interpolated_action(group, (6, 6))
    ratios = []
    for x in images:
        for g in range(5):
            for h in range(5):
                twice = action.orbit(action.orbit(x[None])[:, h])[0, g]
                once = action.orbit(x[None])[0, group.product[g, h]]
                ratios.append(np.linalg.norm(twice - once) / np.linalg.norm(once))
    error = composition_error(action, images)
    np.testing.assert_allclose(error[:2], [np.sqrt(np.mean(np.square(ratios))), max(ratios)], rtol=1e-12)
    assert composition_error(action, np.zeros((1, 6, 6))).rms == 0


def test_smoother_images_and_interpolation_have_a_smaller_composition_error():
    error = {
        (interpolation, mask): build_task(settings(action={"interpolation": interpolation, "mask": mask})).provenance[
            "composition_error"
        ]
        for interpolation in ("nearest", "bilinear")
        for mask in (True, False)
    }
    assert 0 < error["bilinear", True] < error["bilinear", False] < error["nearest", True] < error["nearest", False] < 1


# ---------------------------------------------------------------------------------------------- in the data


def test_digits_say_that_the_action_is_not_exact():
    data = build_task(settings())
    assert isinstance(data.input_action, InterpolatedAction)
    outside = ~disc(8, 8)
    assert (data.input[:, outside] == 0).all()
    assert "bilinear" in data.provenance["input_action"] and "not exact" in data.provenance["input_action"]
    assert 0 < data.provenance["composition_error"] < data.provenance["composition_error_largest"] < 1
    assert "disc" in data.provenance["input_mask"]
    plain = build_task(settings(action={"mask": False, "fill": -0.8}))
    assert "input_mask" not in plain.provenance and plain.input_action.fill == -0.8
    np.testing.assert_array_equal(plain.input[:, ~outside], data.input[:, ~outside])


@pytest.mark.parametrize("group", ["trivial", "c4", "d1", "d4", "t2"])
def test_exact_groups_are_left_alone(group):
    data = build_task(settings(group))
    assert isinstance(data.input_action, Action)
    assert not {"composition_error", "input_action", "input_mask"} & set(data.provenance)
    np.testing.assert_array_equal(data.input, build_task(settings("c2")).input)
    masked = build_task(settings(group, action={"mask": True, "fill": 2.0}))
    assert (masked.input[:, ~disc(8, 8)] == 2).all() and "input_mask" in masked.provenance


@pytest.mark.parametrize("group", ["c4", "c8", "t2"])
def test_data_stores_round_trip(tmp_path, group):
    data = build_task(settings(group, action={"fill": 0.25}))
    store.write(store.task_to_dataset(data), tmp_path / "data.zarr.zip", {"format": store.FORMAT})
    read = store.task_from_dataset(store.read(tmp_path / "data.zarr.zip"))
    assert type(read.input_action) is type(data.input_action)
    assert read.input_action.group is data.input_action.group
    images = RNG.standard_normal((2, 8, 8, 1))
    np.testing.assert_array_equal(read.input_action.orbit(images), data.input_action.orbit(images))
    assert read.provenance == data.provenance
    if group == "c8":
        assert (read.input_action.fill, read.input_action.interpolation) == (0.25, "bilinear")
        assert "composition_error" in json.loads(store.read(tmp_path / "data.zarr.zip").attrs["data_provenance"])


def test_only_what_the_data_depends_on_is_in_its_identity():
    same = [settings("c4"), settings("c4", action={"interpolation": "nearest", "fill": 1.0, "mask": False})]
    assert [s.action_identity for s in same] == [{}, {}]
    assert settings("c4", action={"mask": True}).action_identity == {"mask": True, "fill": 0.0}
    assert settings("c8").action_identity == {"interpolation": "bilinear", "fill": 0.0, "mask": True}
    assert settings("c8", action={"mask": False}).action_identity == {"interpolation": "bilinear", "fill": 0.0}


# ------------------------------------------------------------------------------------------- custom tasks


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        (
            {"group": "c4", "action": {"interpolation": "nearest"}},
            ["action.interpolation = nearest has no effect on group c4"],
        ),
        ({"group": "t2", "action": {"fill": 1.0}}, ["action.fill = 1.0 has no effect on group t2"]),
        ({"group": "c4", "action": {"fill": 1.0, "mask": True}}, []),
        ({"group": "c8", "action": {"fill": 1.0, "interpolation": "nearest"}}, []),
        ({"action": {"interpolation": "nearest"}, "sweep": {"group": ["c4", "c8"]}}, []),
        (
            {"group": "c4", "sweep": {"action.fill": [0.0, 1.0]}},
            ["fill = 1.0 .* arms that differ in it alone are the same"],
        ),
        ({"sweep": {"group": ["c4", "c8"], "action.fill": [0.0, 1.0]}}, ["fill = 1.0 .* on group c4"]),
    ],
)
def test_keys_of_the_action_that_change_nothing_are_named(sections, told):
    content = {
        "study": "small",
        "task": {"name": "digits", "train": 4, "test": 2},
        "network": {"name": "mlp"},
        "training": {"steps": 2},
        **sections,
    }
    warnings = parse_study(content, Path("small.yaml")).warnings()
    assert len(warnings) == len(told)
    for text, expected in zip(warnings, told, strict=True):
        assert re.match(f"small.yaml: .*{expected}.*Leave it out", text)


CUSTOM = """
import numpy as np
from dataclasses import replace
from emergent_equivariance.groups import invariant_action, Action
from emergent_equivariance.interpolation import interpolated_action
from emergent_equivariance.tasks import Readout, TaskData

def make(task, group):
    action = interpolated_action(group, (6, 4, 1))
    change = task.options.get("change")
    if change == "weights":
        action = replace(action, weight=action.weight * 2)
    if change == "pixels":
        action = replace(action, source=action.source + 1)
    if change == "identity":
        action = replace(action, source=action.source[::-1], weight=action.weight[::-1])
    output = interpolated_action(group, (2, 1)) if change == "output" else invariant_action(group, (2,))
    n = task.train + task.test
    return TaskData(np.random.default_rng(0).standard_normal((n, 6, 4, 1)), np.zeros((n, 2)),
                    np.repeat(["train", "test"], [task.train, task.test]), action, output, "f", Readout("f", np.eye(2)))
"""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (None, ""),
        ("weights", "input_action has weights that do not add up to 1"),
        ("pixels", "input_action takes values from pixels"),
        ("identity", "input_action does not send the first element"),
        ("output", "output_action is InterpolatedAction, no signed permutation"),
    ],
)
def test_custom_tasks_may_interpolate_inputs(tmp_path, monkeypatch, change, says):
    (tmp_path / f"task_{change}.py").write_text(CUSTOM)
    monkeypatch.chdir(tmp_path)
    task = {"name": "custom", "factory": f"task_{change}:make", "train": 3, "test": 2, "options": {"change": change}}
    custom = Settings.model_validate(
        {"task": task, "group": "c8", "network": {"name": "mlp"}, "training": {"steps": 1}}
    )
    if not says:
        assert 0 < build_task(custom).provenance["composition_error"] < 2
        return
    with pytest.raises(DataError, match=says):
        build_custom(custom.task, get_group("c8"))


def test_invariant_outputs_belong_to_the_same_group():
    assert invariant_action(get_group("c8"), (3,)).group is interpolated_action(get_group("c8"), (4, 4)).group
