"""PathMNIST: the full set and its substitute, found, verified, cut down, and refused by name."""

import functools
import hashlib
import http.server
import io
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emergent_equivariance.errors import DataError
from emergent_equivariance.settings import Settings
from emergent_equivariance.tasks import build_task, images, path_mnist, sources

OFFICIAL, SUBSTITUTE = "pathmnist.npz", "pathmnist_test718.npz"


def build(group: str = "d4", **task):
    task = {"name": "path_mnist", "train": 12, "test": 8, **task}
    content = {"task": task, "group": group, "network": {"name": "mlp"}, "training": {"steps": 1}}
    return build_task(Settings.model_validate(content))


def packed(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


@pytest.fixture
def fabricated(tmp_path, monkeypatch):
    """Contents of a small full set and of a small substitute, believed to be the official ones; nothing on disk."""
    generator = np.random.default_rng(0)

    def draw(count):
        return generator.integers(256, size=(count, 28, 28, 3), dtype=np.uint8)

    def classes(*shape):
        return generator.integers(9, size=shape, dtype=np.uint8)

    full = {"train_images": draw(40), "train_labels": classes(40, 1)}
    full |= {"val_images": draw(5), "val_labels": classes(5, 1), "test_images": draw(20), "test_labels": classes(20, 1)}
    part = {"images": draw(25), "labels": classes(25), "label_names": np.array([f"tissue {k}" for k in range(9)])}
    content = {OFFICIAL: packed(**full), SUBSTITUTE: packed(**part)}
    md5 = {name: hashlib.md5(value).hexdigest() for name, value in content.items()}
    monkeypatch.delenv(sources.DATA_DIR, raising=False)
    monkeypatch.setattr(sources, "SYSTEM", tmp_path / "system")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    original = sources.SETS["path_mnist"]
    assert set(original.md5) == {OFFICIAL} and set(original.substitute.md5) == {SUBSTITUTE}
    known = replace(
        original,
        md5={OFFICIAL: (md5[OFFICIAL],) * 2},
        url="http://127.0.0.1:9/",  # a closed port: the real client fails at once, without a network
        substitute=replace(original.substitute, md5={SUBSTITUTE: md5[SUBSTITUTE]}),
    )
    monkeypatch.setitem(sources.SETS, "path_mnist", known)
    return content, full, part


def put(folder: Path, name: str, content: dict[str, bytes]) -> Path:
    """Write one of the two files where the loader looks for it below ``folder``; returns the folder."""
    place = folder / ("pathmnist" if name == OFFICIAL else "pathmnist_samples")
    place.mkdir(parents=True)
    (place / name).write_bytes(content[name])
    return folder


def test_the_full_set(fabricated, tmp_path):
    content, full, _ = fabricated
    data = build(data_dir=str(put(tmp_path / "data", OFFICIAL, content)))
    assert data.input.shape == (20, 28, 28, 3) and data.target.shape == (20, 9)
    assert data.provenance["source"] == "PathMNIST, data directory" and "substitute" not in data.provenance
    mean, std = data.provenance["input_mean"], data.provenance["input_std"]
    train = data.input[data.split == "train"]
    assert abs(train.mean()) < 1e-12 and abs(train.std() - 1) < 1e-12
    back = np.round((data.input * std + mean) * 255).astype(np.uint8)
    for split in ("train", "test"):
        known = {image.tobytes(): i for i, image in enumerate(full[f"{split}_images"])}
        index = [known[image.tobytes()] for image in back[data.split == split]]
        assert len(set(index)) == len(index)
        assert (data.label[data.split == split] == full[f"{split}_labels"][index, 0]).all()
    np.testing.assert_allclose(data.target, np.eye(9)[data.label] - 1 / 9, atol=1e-15)


def test_the_substitute_serves_disjoint_images_and_says_so(fabricated, tmp_path):
    content, _, part = fabricated
    folder = put(tmp_path / "data", SUBSTITUTE, content)
    data = build(data_dir=str(folder), train=15, test=10)
    assert "718 of the 7,180 test images" in data.provenance["substitute"]
    assert data.provenance[f"source_md5_{SUBSTITUTE}"] == hashlib.md5(content[SUBSTITUTE]).hexdigest()
    back = np.round((data.input * data.provenance["input_std"] + data.provenance["input_mean"]) * 255).astype(np.uint8)
    known = {image.tobytes(): i for i, image in enumerate(part["images"])}
    index = [known[image.tobytes()] for image in back]
    assert sorted(index) == list(range(25)), "every image once"
    assert (data.label == part["labels"][index]).all()


def test_the_order_of_sources(fabricated, tmp_path, monkeypatch):
    content, _, _ = fabricated
    partial, complete = put(tmp_path / "a", SUBSTITUTE, content), put(tmp_path / "b", OFFICIAL, content)
    monkeypatch.setenv(sources.DATA_DIR, str(partial))
    assert build().provenance["source"] == "PathMNIST, $EMEQ_DATA_DIR" and "substitute" in build().provenance
    assert build(data_dir=str(complete)).provenance["source"] == "PathMNIST, data directory"
    put(partial, OFFICIAL, content)
    assert "substitute" not in build().provenance, "in one place the full set goes before its substitute"
    monkeypatch.delenv(sources.DATA_DIR)
    put(tmp_path / "system", OFFICIAL, content)
    assert build().provenance["source"] == "PathMNIST, system package"


def test_a_substitute_that_is_too_small_names_the_ways_to_the_full_set(fabricated, tmp_path):
    content, _, _ = fabricated
    folder = put(tmp_path / "data", SUBSTITUTE, content)
    with pytest.raises(DataError, match=r"train \+ test = 16 \+ 10 images, but only a substitute .* with 25") as caught:
        build(data_dir=str(folder), train=16, test=10)
    for words in ("task.data_dir", "$EMEQ_DATA_DIR", str(tmp_path / "system"), "network connection", OFFICIAL):
        assert words in str(caught.value)


def test_a_missing_set_names_the_three_ways(fabricated):
    with pytest.raises(DataError, match="PathMNIST was not found") as caught:
        build()
    for words in ("task.data_dir", "$EMEQ_DATA_DIR", "network connection", OFFICIAL):
        assert words in str(caught.value)


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def test_a_download_is_verified_and_kept(fabricated, tmp_path, monkeypatch):
    content, _, _ = fabricated
    served = put(tmp_path / "served", OFFICIAL, content) / "pathmnist"
    handler = functools.partial(_QuietHandler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        known = replace(sources.SETS["path_mnist"], url=f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setitem(sources.SETS, "path_mnist", known)
        first = build()
        server.shutdown()
        thread.join()
    assert first.provenance["source"] == "PathMNIST, download"
    assert (build().input == first.input).all(), "from the cache, the server is gone"


@pytest.mark.parametrize("name", [OFFICIAL, SUBSTITUTE])
@pytest.mark.parametrize("damage", [lambda c: c[:-100], lambda c: c[:-1] + b"x", lambda c: b""])
def test_a_damaged_file_is_named_with_its_checksum(fabricated, tmp_path, name, damage):
    content, _, _ = fabricated
    md5 = hashlib.md5(content[name]).hexdigest()
    folder = put(tmp_path / "data", name, {name: damage(content[name])})
    with pytest.raises(DataError, match="truncated or altered") as caught:
        build(data_dir=str(folder))
    assert name in str(caught.value) and md5 in str(caught.value)


@pytest.mark.parametrize("side", [28, 14, 7])
def test_block_averages_commute_with_the_group_exactly(fabricated, tmp_path, side):
    content, full, _ = fabricated
    pixels = full["train_images"][:3]
    small = path_mnist.block_averages(pixels, side)
    block = 28 // side
    expected = [[pixels[1, block * i : block * (i + 1), block * j : block * (j + 1)].mean(axis=(0, 1)) / 255
                 for j in range(side)] for i in range(side)]  # fmt: skip
    np.testing.assert_allclose(small[1], expected, rtol=1e-14)
    for turn in range(4):
        for flip in (1, -1):
            moved = np.rot90(pixels, turn, axes=(1, 2))[:, :, ::flip]
            assert (path_mnist.block_averages(moved, side) == np.rot90(small, turn, axes=(1, 2))[:, :, ::flip]).all()
    data = build(side=side, data_dir=str(put(tmp_path / "data", OFFICIAL, content)))
    assert data.input.shape == (20, side, side, 3)
    assert ("blocks" in data.provenance["input_normalisation"]) == (side < 28)


def test_the_group_moves_pixels_and_keeps_colours_together(fabricated, tmp_path):
    content, _, _ = fabricated
    data = build("c4", side=7, data_dir=str(put(tmp_path / "data", OFFICIAL, content)))
    orbit = data.input_action.orbit(data.input)
    turned = {np.rot90(data.input[0], k).tobytes() for k in range(4)}
    assert {image.tobytes() for image in orbit[0]} == turned
    assert (data.output_action.orbit(data.target) == data.target[:, None]).all()


def test_seed_and_size(fabricated, tmp_path):
    content, _, _ = fabricated
    folder = str(put(tmp_path / "data", OFFICIAL, content))
    first, again, other = (build(data_dir=folder, seed=seed) for seed in (3, 3, 4))
    assert first.input.tobytes() == again.input.tobytes() and first.label.tobytes() != other.label.tobytes()
    more = build(data_dir=folder, seed=3, train=30)
    assert (more.label[:12] == first.label[:12]).all() and (more.label[30:] == first.label[12:]).all()


def test_smooth_images_in_colour(fabricated, tmp_path):
    content, _, _ = fabricated
    data = build(ood="smooth", data_dir=str(put(tmp_path / "data", OFFICIAL, content)))
    smooth = data.input[data.split == "ood-smooth"]
    assert smooth.shape == (8, 28, 28, 3) and (data.label[data.split == "ood-smooth"] == -1).all()
    np.testing.assert_allclose(smooth.mean(axis=(1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(smooth.std(axis=(1, 2)), 1, atol=1e-12)
    assert not np.allclose(smooth[..., 0], smooth[..., 1])
    assert images.smooth_images(0, 2, 28, 3).shape == (2, 28, 28, 3)


@pytest.mark.parametrize(("key", "value"), [("side", 16), ("train", 89997), ("test", 7181), ("ood", "mnist")])
def test_settings_out_of_range_are_refused(key, value):
    with pytest.raises(ValueError, match=key):
        build(**{key: value})


def _real_substitute() -> str | None:
    root = os.environ.get(sources.DATA_DIR, "")
    return root if (Path(root) / "pathmnist_samples" / SUBSTITUTE).is_file() else None


@pytest.mark.skipif(
    _real_substitute() is None, reason=f"{SUBSTITUTE} is not on this machine (set EMEQ_DATA_DIR to its parent folder)"
)
def test_the_real_substitute():
    data = build(train=500, test=218, side=14)
    assert data.provenance["source"] == "PathMNIST, $EMEQ_DATA_DIR"
    counts = np.bincount(data.label)
    assert len(counts) == 9 and counts.min() > 20, "every tissue is there"
    # stained tissue is bright: the mean over all PathMNIST training pixels is about 0.66
    assert 0.5 < data.provenance["input_mean"] < 0.8
