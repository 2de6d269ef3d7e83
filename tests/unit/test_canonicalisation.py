"""Canonical inputs: one member of every orbit, the same for all members of the orbit."""

import numpy as np
import pytest

from emergent_equivariance import canonicalisation
from emergent_equivariance.canonicalisation import canonical, score_weights, seen_inputs, seen_orbits
from emergent_equivariance.errors import StudyError
from emergent_equivariance.groups import get_group, grid_action, line_action
from emergent_equivariance.interpolation import interpolated_action
from emergent_equivariance.settings import MlpNetwork, Settings
from emergent_equivariance.tasks import build_task

CANONICAL = MlpNetwork(name="mlp", canonicalisation="orbit_maximum")
PLAIN = MlpNetwork(name="mlp")


def digits(group: str, **action):
    return build_task(
        Settings.model_validate(
            {
                "task": {"name": "digits", "train": 60, "test": 20},
                "group": group,
                "action": action,
                "network": {"name": "mlp"},
                "training": {"steps": 1},
            }
        )
    )


@pytest.mark.parametrize("group", ["c2", "c4", "d1", "d4", "t4", "t8"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_exactly_invariant_under_exact_actions(group, dtype):
    data = digits(group)
    inputs = data.input.astype(dtype)
    orbit = data.input_action.orbit(inputs)
    once = canonical(data.input_action, inputs)
    assert once.dtype == dtype
    of_transforms = canonical(data.input_action, orbit.reshape(-1, 8, 8, 1)).reshape(orbit.shape)
    np.testing.assert_array_equal(of_transforms, np.broadcast_to(once[:, None], orbit.shape))
    np.testing.assert_array_equal(canonical(data.input_action, once), once)
    assert (orbit == once[:, None]).all(axis=(2, 3, 4)).any(axis=1).all()  # a member of the orbit
    assert not (orbit == inputs[:, None]).all()


def test_ties_are_broken_by_the_arrays_themselves():
    """Symmetric images, and scores that are all equal: c still depends on the orbit alone."""
    action = grid_action(get_group("d4"), 4, 4)
    symmetric = np.add.outer([1.0, 2, 2, 1], [1.0, 2, 2, 1])[None]
    np.testing.assert_array_equal(canonical(action, symmetric), symmetric)
    spins = np.random.default_rng(0).choice([-1.0, 1.0], (200, 4, 4))
    for weights in (None, lambda shape: np.zeros(shape)):
        with pytest.MonkeyPatch.context() as patch:
            if weights is not None:
                patch.setattr(canonicalisation, "score_weights", weights)
            of_transforms = canonical(action, action.orbit(spins).reshape(-1, 4, 4)).reshape(200, 8, 4, 4)
            assert (of_transforms == of_transforms[:, :1]).all()


def test_the_score_is_largest_and_has_no_symmetry():
    action = grid_action(get_group("d4"), 8, 8, 3)
    weights = score_weights((8, 8, 3))
    images = np.random.default_rng(0).standard_normal((50, 8, 8, 3))
    scores = (action.orbit(images) * weights).sum(axis=(2, 3, 4))
    np.testing.assert_allclose((canonical(action, images) * weights).sum(axis=(1, 2, 3)), scores.max(axis=1))
    moved = action.orbit(weights[None])[0].reshape(8, -1)
    assert (np.abs(moved[1:] - moved[0]).max(axis=1) > 0.5).all()
    np.testing.assert_allclose(weights[0, -1, 1], np.sin(1 - 1 + 2))


def test_the_canonical_number_is_the_positive_one():
    np.testing.assert_array_equal(canonical(line_action(get_group("c2")), np.array([[-2.0], [3.0]])), [[2.0], [3.0]])


def test_blocks_do_not_change_a_bit(monkeypatch):
    data = digits("c8")
    whole = canonical(data.input_action, data.input)
    monkeypatch.setattr(canonicalisation, "BLOCK_BYTES", 8 * 8 * 64 * 3)
    np.testing.assert_array_equal(canonical(data.input_action, data.input), whole)


def test_what_the_network_sees():
    data, samples = digits("c4"), np.array([3, 0, 65])
    np.testing.assert_array_equal(seen_inputs(PLAIN, data, samples), data.input[samples])
    np.testing.assert_array_equal(seen_orbits(PLAIN, data, samples), data.input_action.orbit(data.input[samples]))
    single = seen_orbits(PLAIN, data, samples, "float32")
    np.testing.assert_array_equal(single, data.input_action.orbit(data.input[samples]).astype(np.float32))
    seen = seen_orbits(CANONICAL, data, samples)
    expected = canonical(data.input_action, data.input_action.orbit(data.input[samples]).reshape(-1, 8, 8, 1))
    np.testing.assert_array_equal(seen.reshape(-1, 8, 8, 1), expected)
    np.testing.assert_array_equal(seen[:, 0], seen_inputs(CANONICAL, data, samples))


def test_under_interpolation_it_is_approximate_and_better_than_nothing():
    data, samples = digits("c8"), np.arange(60)
    deviation = {}
    for network in (PLAIN, CANONICAL):
        orbits = seen_orbits(network, data, samples)
        np.testing.assert_array_equal(orbits[:, 0], seen_inputs(network, data, samples))
        deviation[network.canonicalisation] = np.sqrt(orbits.var(axis=1).mean())
    assert 0.05 < deviation["orbit_maximum"] < 0.6 * deviation["none"]
    # quarter turns map the eight rotated images to each other up to round-off
    np.testing.assert_allclose(orbits[:, 0], orbits[:, 2], rtol=0, atol=1e-9)


def test_it_needs_invariant_outputs():
    content = {"task": {"name": "ising", "train": 4, "test": 4, "target": "local"}, "group": "c4"}
    content |= {"network": {"name": "mlp", "canonicalisation": "orbit_maximum"}, "training": {"steps": 1}}
    with pytest.raises(ValueError, match=r"network.canonicalisation.*site energies"):
        Settings.model_validate(content)
    plain = Settings.model_validate({**content, "network": {"name": "mlp"}})
    data = build_task(plain)
    for seen in (seen_inputs, seen_orbits):
        with pytest.raises(StudyError, match=r"site energies .* transform under c4.* canonicalisation none"):
            seen(CANONICAL, data, np.array([0]))


def test_images_of_any_shape():
    action = interpolated_action(get_group("c3"), (5, 7, 2))
    images = np.random.default_rng(0).standard_normal((3, 5, 7, 2))
    assert canonical(action, images).shape == images.shape
