"""The C_k-equivariant CNN: invariant up to round-off where the group maps the grid to itself, nearly so elsewhere."""

import numpy as np
import pytest
import torch

from emergent_equivariance.errors import StudyError
from emergent_equivariance.groups import get_group, grid_action
from emergent_equivariance.networks.factories import check_factory
from emergent_equivariance.networks.steerable import cyclic_cnn
from emergent_equivariance.settings import TorchNetwork

FACTORY = "emergent_equivariance.networks.steerable:cyclic_cnn"


def outputs(module, images):
    """(sample, element, output) of images (sample, element, height, width, channel)."""
    flat = torch.as_tensor(images.reshape(-1, *images.shape[2:]), dtype=torch.float32)
    with torch.no_grad():
        return module(flat).numpy().reshape(*images.shape[:2], -1)


def deviation(values):
    """Root mean square over orbits, relative to that over inputs."""
    spread = values - values.mean(axis=1, keepdims=True)
    return np.sqrt((spread**2).mean() / ((values - values.mean(axis=(0, 1))) ** 2).mean())


def rotated_blobs(group, side, sigma=1.5, samples=4):
    """(sample, element, side, side, 1) sums of Gaussians about rotated centres: images without interpolation."""
    rng, planar = np.random.default_rng(0), get_group(group).planar
    grid = np.stack(np.meshgrid(*[np.arange(side) - (side - 1) / 2] * 2, indexing="ij"), axis=-1)
    centre, height = rng.uniform(-side / 5, side / 5, (samples, 6, 2)), rng.standard_normal((samples, 6))
    moved = np.einsum("gab,snb->sgna", planar, centre)
    distance = ((grid - moved[:, :, :, None, None]) ** 2).sum(axis=-1)
    image = np.einsum("sn,sgnxy->sgxy", height, np.exp(-distance / (2 * sigma**2)))
    return image[..., None] / image.std()


@pytest.mark.parametrize("group", ["c1", "c2", "c4", "d2", "d4"])
@pytest.mark.parametrize("side", [8, 9])
def test_members_are_invariant_where_the_group_maps_the_grid_to_itself(group, side):
    torch.manual_seed(0)
    module = cyclic_cnn((side, side, 2), 3, 4, group=group)
    images = np.random.default_rng(1).standard_normal((5, side, side, 2))
    orbits = grid_action(get_group(group), side, side, 2).orbit(images)
    assert deviation(outputs(module, orbits)) < 1e-5


def test_a_group_that_is_too_small_does_not_make_members_invariant():
    torch.manual_seed(0)
    module = cyclic_cnn((8, 8, 1), 3, 4, group="c2")
    images = np.random.default_rng(1).standard_normal((5, 8, 8, 1))
    assert deviation(outputs(module, grid_action(get_group("c4"), 8, 8, 1).orbit(images))) > 0.1


def test_other_rotations_leave_members_nearly_invariant():
    images, found = rotated_blobs("c8", 20), {}
    for group in ("c1", "c4", "c8"):
        squares = []
        for seed in range(6):
            torch.manual_seed(seed)
            squares.append(deviation(outputs(cyclic_cnn((20, 20, 1), 4, 6, group=group), images)) ** 2)
        found[group] = np.sqrt(np.mean(squares))
    assert found["c8"] < 0.02 < found["c1"] / 4, found
    assert found["c8"] < found["c4"] / 2, found


def test_weights_are_in_ntk_parametrisation():
    """Outputs at initialisation have a variance that does not depend on the width."""
    images = rotated_blobs("c1", 12, samples=2)
    variance = []
    for width in (4, 32):
        values = []
        for seed in range(60):
            torch.manual_seed(seed)
            values.append(outputs(cyclic_cnn((12, 12, 1), 4, width, group="c4"), images))
        variance.append(np.var(values))
    assert 0.5 < variance[0] / variance[1] < 2


def test_it_keeps_the_contract_of_factories():
    check_factory(TorchNetwork(name="torch", factory=FACTORY, width=4, options={"group": "c8"}), (8, 8, 1), 10)


@pytest.mark.parametrize(
    ("shape", "options", "says"),
    [
        ((5,), {}, "needs images"),
        ((8, 8, 1), {"group": "t2"}, "group ck or dk"),
        ((8, 8, 1), {"group": "c65"}, "group"),
        ((8, 8, 1), {"kernel_size": 4}, "odd kernel_size"),
        ((8, 8, 1), {"activation": "tanh"}, "relu or erf"),
    ],
)
def test_what_it_does_not_exist_for(shape, options, says):
    with pytest.raises(StudyError, match=says):
        cyclic_cnn(shape, 3, **options)
