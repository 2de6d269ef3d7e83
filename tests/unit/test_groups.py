"""Every group is a group, every action an orthogonal representation of it."""

import dataclasses

import numpy as np
import pytest

from emergent_equivariance.errors import StudyError
from emergent_equivariance.groups import (
    GROUPS,
    Action,
    get_group,
    grid_action,
    invariant_action,
    line_action,
)


def contract_cases() -> list:
    cases = []
    for group in GROUPS.values():
        shapes = [(1, 1), (4, 4), (5, 5)] + ([(5, 4), (3, 6), (1, 7)] if group.acts_on_grid(1, 2) else [])
        for height, width in shapes:
            for channels in (None, 1, 3):
                label = f"{group.name}-grid-{height}x{width}-{channels}"
                cases.append(pytest.param(grid_action(group, height, width, channels), id=label))
        for shape in [(1,), (10,), (2, 3)]:
            cases.append(pytest.param(invariant_action(group, shape), id=f"{group.name}-invariant-{shape}"))
        if group.linear is not None:
            cases.append(pytest.param(line_action(group), id=f"{group.name}-line"))
    for name, height, width in [("c1", 3, 2), ("d1", 3, 4), ("t1", 2, 3), ("t2", 4, 2), ("t3", 3, 6), ("t4", 4, 4)]:
        cases.append(pytest.param(grid_action(get_group(name), height, width, 2), id=f"{name}-grid-{height}x{width}"))
    return cases


@pytest.mark.parametrize("name", GROUPS)
def test_group_axioms(name):
    group = get_group(name)
    group.check()
    assert group.elements[0] == "e"
    assert group.order == {"trivial": 1, "c2": 2, "c4": 4, "d2": 4, "d4": 8}[name]
    assert (group.product[np.arange(group.order), group.inverse] == 0).all()


@pytest.mark.parametrize(
    ("name", "dimensions", "conjugate"),
    [
        ("trivial", [1], [0]),
        ("c2", [1, 1], [0, 1]),
        ("c4", [1, 1, 1, 1], [0, 1, 3, 2]),
        ("d2", [1, 1, 1, 1], [0, 1, 2, 3]),
        ("d4", [1, 1, 1, 1, 2], [0, 1, 2, 3, 4]),
    ],
)
def test_irreps(name, dimensions, conjugate):
    group = get_group(name)
    assert [irrep.shape for irrep in group.irreps] == [(group.order, d, d) for d in dimensions]
    assert list(group.conjugate) == conjugate
    complex_ones = [np.iscomplexobj(irrep) for irrep in group.irreps]
    assert complex_ones == [i != partner for i, partner in enumerate(conjugate)]


FAMILIES = {
    "c1": 1,
    "c3": 3,
    "c8": 8,
    "c64": 64,
    "d1": 2,
    "d3": 6,
    "d5": 10,
    "d8": 16,
    "d32": 64,
    "t1": 1,
    "t3": 9,
    "t8": 64,
}


@pytest.mark.parametrize("name", FAMILIES)
def test_group_axioms_of_the_families(name):
    group = get_group(name)
    group.check()
    assert group.order == FAMILIES[name] and group.elements[0] == "e"
    assert len(set(group.elements)) == group.order
    assert get_group(name) is group
    for irrep, partner in zip(group.irreps, group.conjugate, strict=True):
        real = (irrep == irrep.conj()).all()
        assert real == (not np.iscomplexobj(irrep)) == (group.irreps[partner] is irrep)
    moved = np.einsum("gij,hjk->ghik", group.planar, group.planar)
    np.testing.assert_allclose(moved, group.planar[group.product], rtol=0, atol=1e-14)


def test_irreps_of_the_families():
    dimensions = {name: [irrep.shape[1] for irrep in get_group(name).irreps] for name in FAMILIES}
    assert dimensions["c8"] == [1] * 8 and dimensions["t3"] == [1] * 9
    assert dimensions["d1"] == [1, 1] and dimensions["d3"] == [1, 1, 2] and dimensions["d8"] == [1] * 4 + [2] * 3
    assert get_group("c8").conjugate == (0, 1, 3, 2, 5, 4, 7, 6)
    assert [np.iscomplexobj(irrep) for irrep in get_group("c8").irreps] == [False] * 2 + [True] * 6
    faithful = get_group("c5").irreps[1][:, 0, 0]
    np.testing.assert_allclose(faithful, np.exp(2j * np.pi * np.arange(5) / 5), rtol=0, atol=1e-15)


def test_members_of_a_family_that_are_one_another():
    """c4 and c8 turn alike, and quarter turns are exact integers in every family."""
    c4, c8, d12 = (get_group(name) for name in ("c4", "c8", "d12"))
    assert (c8.planar[::2] == c4.planar).all() and (d12.planar[:12:3] == c4.planar).all()
    assert (get_group("d2").planar[:2] == c4.planar[::2]).all()
    assert c4.planar.dtype == np.int64 and c8.planar.dtype == np.float64
    assert (np.abs(c8.planar[1]) == np.sqrt(0.5)).all()
    assert c8.elements == ("e", "r", "r2", "r3", "r4", "r5", "r6", "r7")
    assert get_group("d2").elements == ("e", "r2", "m", "r2m")
    assert get_group("t2").elements == ("e", "v", "u", "uv")


def test_shifts_are_periodic_rolls():
    image = np.random.default_rng(0).standard_normal((1, 6, 4))
    group = get_group("t2")
    orbit = dict(zip(group.elements, grid_action(group, 6, 4).orbit(image)[0], strict=True))
    np.testing.assert_array_equal(orbit["u"], np.roll(image[0], 3, axis=0))
    np.testing.assert_array_equal(orbit["v"], np.roll(image[0], 2, axis=1))
    np.testing.assert_array_equal(orbit["uv"], np.roll(image[0], (3, 2), axis=(0, 1)))
    assert group.acts_on_grid(6, 4) and not group.acts_on_grid(5, 4)
    with pytest.raises(StudyError, match=r"t8 shifts by 1/8 of a side, .* 8×12 .*Use one of t1, t2, t4\."):
        grid_action(get_group("t8"), 8, 12)


@pytest.mark.parametrize("name", ["c4", "d4", "c5", "c8", "d3", "t3"])
def test_irreps_decompose_a_function_on_the_group(name):
    """Convolution on the group becomes a product: what the solve by blocks rests on."""
    group = get_group(name)
    rng = np.random.default_rng(0)
    kernel, function = rng.standard_normal((2, group.order))
    difference = group.product[group.inverse]  # (g, h) → g⁻¹h
    convolved = kernel[difference] @ function
    for irrep in group.irreps:
        left = np.einsum("g,gab->ab", convolved, irrep.conj())
        right = np.einsum("h,hac->ac", function, irrep.conj()) @ np.einsum("u,ubc->bc", kernel, irrep).T
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-13)


@pytest.mark.parametrize("change", ["missing", "reducible", "not a homomorphism"])
def test_the_axioms_notice_wrong_irreps(change):
    d4 = get_group("d4")
    wrong = {
        "missing": d4.irreps[:-1],
        "reducible": (*d4.irreps[:-1], np.eye(2) * d4.irreps[1]),
        "not a homomorphism": (*d4.irreps[:-1], np.roll(d4.irreps[-1], 1, axis=0)),
    }[change]
    with pytest.raises(AssertionError):
        dataclasses.replace(d4, irreps=wrong).check()


@pytest.mark.parametrize("action", contract_cases())
def test_action_contract(action):
    action.check()
    size = int(np.prod(action.shape))
    assert action.character[0] == size
    batch = np.random.default_rng(0).standard_normal((3, *action.shape))
    orbit = action.orbit(batch)
    assert orbit.shape == (3, action.group.order, *action.shape)
    assert (orbit[:, 0] == batch).all()
    # orthogonal: norms and inner products survive
    flat = orbit.reshape(3, action.group.order, size)
    gram = np.einsum("agi,bgi->gab", flat, flat)
    np.testing.assert_allclose(gram, np.broadcast_to(gram[0], gram.shape), rtol=0, atol=1e-12)
    # an equivariant map's orbit is constant after pulling back
    assert (action.pull_back(flat) == batch.reshape(3, 1, size)).all()


def test_the_contract_notices_a_wrong_action():
    right = grid_action(get_group("c4"), 3, 3)
    swapped = Action(right.group, right.shape, right.source[[0, 2, 1, 3]], right.sign)
    with pytest.raises(AssertionError):
        swapped.check()
    with pytest.raises(AssertionError):
        Action(right.group, right.shape, right.source[::-1], right.sign).check()


def test_grid_action_is_the_known_rotation_and_flip():
    image = np.arange(9.0).reshape(1, 3, 3)
    orbit = grid_action(get_group("d4"), 3, 3).orbit(image)[0]
    elements = dict(zip(get_group("d4").elements, orbit, strict=True))
    np.testing.assert_array_equal(elements["r2"], image[0, ::-1, ::-1])
    np.testing.assert_array_equal(elements["m"], image[0, :, ::-1])
    assert any((elements["r"] == np.rot90(image[0], k)).all() for k in (1, 3))
    np.testing.assert_array_equal(elements["rm"], np.rot90(image[0, :, ::-1], k=_turns(elements["r"], image[0])))


def _turns(turned, image):
    return next(k for k in (1, 3) if (np.rot90(image, k) == turned).all())


def test_channels_stay_put():
    image = np.random.default_rng(0).standard_normal((2, 4, 4, 3))
    orbit = grid_action(get_group("c4"), 4, 4, 3).orbit(image)
    plain = grid_action(get_group("c4"), 4, 4)
    for channel in range(3):
        np.testing.assert_array_equal(orbit[..., channel], plain.orbit(image[..., channel]))


def test_line_action_is_the_mirror():
    np.testing.assert_array_equal(line_action(get_group("c2")).orbit(np.array([[2.5]])), [[[2.5], [-2.5]]])


def test_invariance_is_recognised():
    assert invariant_action(get_group("d4"), (4,)).is_invariant
    assert not grid_action(get_group("c2"), 2, 2).is_invariant
    assert not line_action(get_group("c2")).is_invariant


@pytest.mark.parametrize("name", ["c3", "c8", "d8"])
def test_other_rotations_refuse_every_grid(name):
    with pytest.raises(StudyError, match=r"between pixels.*act exactly on this one: trivial, c2, c4, d2, d4"):
        grid_action(get_group(name), 5, 5)


@pytest.mark.parametrize("name", ["c4", "d4"])
def test_quarter_turns_refuse_a_rectangle(name):
    with pytest.raises(StudyError, match="does not act on a 5×4 grid") as caught:
        grid_action(get_group(name), 5, 4)
    assert "act exactly on this one: trivial, c2, d2." in str(caught.value)


def test_axial_reflections_act_on_a_rectangle():
    image = np.arange(6.0).reshape(1, 2, 3)
    orbit = dict(zip(get_group("d2").elements, grid_action(get_group("d2"), 2, 3).orbit(image)[0], strict=True))
    np.testing.assert_array_equal(orbit["r2"], image[0, ::-1, ::-1])
    np.testing.assert_array_equal(orbit["m"], image[0, :, ::-1])
    np.testing.assert_array_equal(orbit["r2m"], image[0, ::-1])


@pytest.mark.parametrize("name", ["c4", "d2", "d4"])
def test_planar_groups_refuse_a_line(name):
    with pytest.raises(StudyError, match="does not act on one-dimensional inputs") as caught:
        line_action(get_group(name))
    assert "trivial, c2" in str(caught.value)


@pytest.mark.parametrize("name", ["so3", "c0", "c65", "d100", "t33", "c04", "c8\n", ""])
def test_unknown_group_names_the_families(name):
    with pytest.raises(StudyError, match=r"trivial; c1 to c64 .* d1 to d64 .* t1 to t32"):
        get_group(name)
