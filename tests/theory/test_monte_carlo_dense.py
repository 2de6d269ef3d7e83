"""Monte-Carlo NNGP and NTK (theory.md §7, item 3) of dense layers behind pools, and of the group without pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from monte_carlo import CASES, CHANNELS, DENSE, MEMBERS, REST, WIDTH, check, in_words, run

from emergent_equivariance.groups import get_group, grid_action, line_action
from emergent_equivariance.networks.filters import Filters
from emergent_equivariance.networks.group_layers import activation, group_convolution, group_pool, pointwise, serial
from emergent_equivariance.networks.points import orbit_features

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("case", [case for case in CASES if case[0] in DENSE], ids=in_words)
def test_dense_layers(case: tuple[str, str, float, str]) -> None:
    run(*case, MEMBERS)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in REST if case[0] in DENSE], ids=in_words)
def test_dense_layers_elsewhere(case: tuple[str, str, float, str]) -> None:
    run(*case, 2 * MEMBERS)


@pytest.mark.parametrize(("name", "b_std", "sigma"), [("c2", 0.4, "relu"), ("d4", 0.0, "erf"), ("c4", 0.4, "relu")])
def test_group_alone(name: str, b_std: float, sigma: Any) -> None:
    """Lifting with full support and convolution over the group without pixels; c2 acts on the line by signs."""
    group = get_group(name)
    action = line_action(group) if name == "c2" else grid_action(group, 3, 3, 2)
    x = orbit_features(action, np.random.default_rng(1).standard_normal((4, *action.shape)))
    filters = Filters(group, 1, "VALID", elements=(0, 1, 3) if name == "c4" else None)
    hidden = [pointwise(WIDTH, 1.5, b_std), activation(sigma)]
    check(serial(*hidden, group_convolution(filters, CHANNELS, 1.5, b_std)), x, hidden=1, members=1000)
    pooled = [*hidden, group_convolution(filters, WIDTH, 1.5, b_std), activation(sigma), group_pool()]
    check(serial(*pooled, pointwise(CHANNELS, 1.5, b_std)), x, hidden=2, members=500)
