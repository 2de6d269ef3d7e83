"""Trained ensembles under actions that are not exact, and behind canonical inputs."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from emergent_equivariance.ensemble import aggregate, reference
from emergent_equivariance.settings import Settings
from emergent_equivariance.study import parse_study
from emergent_equivariance.tasks import build_task
from emergent_equivariance.theory import solve
from emergent_equivariance.training import build_problem, train_members

MEMBERS = 64


def settings_of(group: str, network: dict[str, Any], **sections: Any) -> Settings:
    content = {
        "study": "actions",
        "task": {"name": "digits", "train": 16, "test": 8, "ood": "none"},
        "group": group,
        "network": network,
        "augmentation": "full",
        "training": {"learning_rate": {"critical_fraction": 0.5}, "steps": 30, "record": [0, 30]},
        "ensemble": {"members": MEMBERS},
        "evaluate": {"samples": 8},
        **sections,
    }
    return parse_study(content, Path("actions.yaml")).arms[0].settings


def test_the_orbit_variance_ends_at_the_predicted_plateau() -> None:
    settings = settings_of("c8", {"name": "mlp", "width": 512})
    data = build_task(settings)
    with jax.enable_x64(True):
        theory = solve(settings, data).load()
    problem = build_problem(settings, data, theory.attrs["learning_rate"])
    shard = train_members(problem, range(MEMBERS)).to_dataset(problem, range(MEMBERS))
    ensemble = aggregate([shard], reference(settings, data, theory), settings, MEMBERS)
    last = ensemble.isel(step=-1)
    full, predicted = last.isel(subset=-1), last.sel(ensemble_size=MEMBERS)
    assert int(ensemble["member_count"][-1]) == MEMBERS
    plateau = theory["mean"].isel(step=-1).var("element").mean("output").groupby("split").mean()
    for split in ("train", "test"):
        # Members are nearly independent samples of a field over the orbit: the relative spread of the orbit variance of
        # a mean of 64 is below that of a χ² with the 9 independent outputs, √(2/9) = 0.47, averaged over inputs.
        ratio = float(full["orbit_variance"].sel(split=split) / predicted["predicted_orbit_variance"].sel(split=split))
        assert 0.5 < ratio < 1.5, ratio
        floor, unbiased = float(plateau.sel(split=split)), full["orbit_variance_unbiased"].sel(split=split)
        spread = float(predicted["predicted_orbit_variance"].sel(split=split)) - floor
        assert abs(float(unbiased) - floor) < spread, "the noise of 64 members has been taken off"
        assert floor > 0.1 * spread, "there is a plateau to see"


@pytest.mark.parametrize(
    ("network", "augmentation"),
    [
        ({"name": "mlp", "width": 16}, "none"),
        ({"name": "mlp", "width": 16}, "random"),
        ({"name": "cnn", "width": 3}, "full"),
    ],
    ids=["mlp-none", "mlp-random", "cnn-full"],
)
def test_members_behind_canonical_inputs_are_invariant(network: dict[str, Any], augmentation: str) -> None:
    training = {"learning_rate": 0.1, "steps": 2}
    settings, plain = (
        settings_of("d4", {**network, "canonicalisation": rule}, augmentation=augmentation, training=training)
        for rule in ("orbit_maximum", "none")
    )
    shards = []
    for arm in (settings, plain):
        problem = build_problem(arm, build_task(arm), 0.1)
        shards.append(train_members(problem, range(2)).prediction)
    canonical, usual = shards
    assert (canonical == canonical[:, :, :, :1]).all()
    assert np.abs(usual - usual[:, :, :, :1]).max() > 1e-3


def test_training_rows_and_orbits_are_those_of_the_theory() -> None:
    """Float32 rows of an interpolated action are rounded after it, as the evaluated orbits are."""
    for canonicalisation in ("none", "orbit_maximum"):
        settings = settings_of("c8", {"name": "mlp", "canonicalisation": canonicalisation})
        problem = build_problem(settings, build_task(settings), 0.1)
        assert problem.row_input.dtype == np.float32
        rows = problem.row_input.reshape(16, 8, 8, 8, 1)
        np.testing.assert_array_equal(rows[:8], problem.orbit_input[:8].astype(np.float32))
        np.testing.assert_array_equal(problem.train_input[:8], problem.orbit_input[:8, 0])
