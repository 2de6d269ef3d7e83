"""Every task delivers what it promises, with its symmetry; missing and damaged data is refused by name."""

import functools
import gzip
import hashlib
import http.server
import importlib
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emergent_equivariance.augmentation import augmented_rows, random_elements
from emergent_equivariance.errors import DataError, StudyError
from emergent_equivariance.groups import get_group
from emergent_equivariance.settings import Augmentation, Settings
from emergent_equivariance.study import load_study
from emergent_equivariance.tasks import build_task, cosine, images, ising, sources

REPOSITORY = Path(__file__).parents[2]
FILES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


def settings(task: dict, group: str) -> Settings:
    return Settings.model_validate({"task": task, "group": group, "network": {"name": "mlp"}, "training": {"steps": 1}})


def build(group: str = "c4", **task):
    return build_task(settings(task, group))


CASES = [
    pytest.param({"name": "ising", "target": "local", "train": 7, "test": 5}, "d4", id="ising-local"),
    pytest.param({"name": "ising", "target": "total", "train": 7, "test": 5}, "c4", id="ising-total"),
    pytest.param({"name": "ising", "target": "local", "lattice": [5, 4], "train": 7, "test": 5}, "c2", id="ising-5x4"),
    pytest.param({"name": "digits", "train": 7, "test": 5}, "d4", id="digits"),
    pytest.param({"name": "cosine", "train": 7, "test": 5}, "c2", id="cosine"),
    pytest.param(
        {"name": "custom", "factory": "examples.parity_task:ground_state", "train": 7, "test": 5, "ood": ["deep"]},
        "c2",
        id="custom",
    ),
]


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


# ------------------------------------------------------------------------------------------- all tasks


@pytest.mark.parametrize(("task", "group"), CASES)
def test_shapes_and_splits(task, group):
    wanted = settings(task, group)
    data = build_task(wanted)
    names, counts = np.unique(data.split, return_counts=True)
    assert dict(zip(names, counts, strict=True)) == {name: 7 if name == "train" else 5 for name in wanted.splits()}
    assert list(dict.fromkeys(data.split)) == wanted.splits()
    assert data.input.dtype == data.target.dtype == np.float64
    assert data.input.shape == (len(data.split), *data.input_action.shape)
    assert data.target.shape == (len(data.split), *data.output_action.shape)
    assert {"source", "input_normalisation", "target_normalisation"} <= set(data.provenance)
    assert all(isinstance(value, (str, int, float)) for value in data.provenance.values())
    data.input_action.check()
    data.output_action.check()


@pytest.mark.parametrize(("task", "group"), CASES)
def test_seed_decides_the_data(task, group):
    first, again, other = (build(group, **{**task, "seed": seed}) for seed in (3, 3, 4))
    assert first.input.tobytes() == again.input.tobytes()
    assert first.target.tobytes() == again.target.tobytes()
    for split in {"train"} if task["name"] == "cosine" else set(first.split):
        here = first.split == split
        assert not (first.input[here] == other.input[here]).all()


@pytest.mark.parametrize(("task", "group"), CASES)
def test_splits_do_not_share_a_stream(task, group):
    data = build(group, **{**task, "train": 5})
    train, test = data.input[data.split == "train"], data.input[data.split == "test"]
    assert not any((a == b).all() for a in train for b in test)


@pytest.mark.parametrize(("task", "group"), [case for case in CASES if case.id != "digits"])
def test_raising_train_keeps_what_was_there(task, group):
    few, many = build(group, **task), build(group, **{**task, "train": 20})
    assert (few.input[:7] == many.input[:7]).all()
    assert (few.input[few.split != "train"] == many.input[many.split != "train"]).all()


@pytest.mark.parametrize(("task", "group"), CASES)
def test_readout_is_invariant(task, group):
    data = build(group, **task)
    outputs = np.random.default_rng(0).standard_normal((4, *data.output_action.shape))
    observable = data.output_action.orbit(outputs) @ data.readout.matrix.T
    np.testing.assert_allclose(observable, np.broadcast_to(observable[:, :1], observable.shape), atol=1e-14)


@pytest.mark.parametrize(("task", "group"), CASES)
def test_evaluated_takes_the_first_of_each_split(task, group):
    data = build(group, **task)
    chosen = data.evaluated(2)
    assert list(data.split[chosen]) == [name for name in dict.fromkeys(data.split) for _ in range(2)]
    assert (data.evaluated(1000) == np.arange(len(data.split))).all()


# ------------------------------------------------------------------------------------------ each task


@pytest.mark.parametrize("lattice", [3, 5, (5, 4)])
@pytest.mark.parametrize("target", ["local", "total"])
def test_ising_targets_are_equivariant(lattice, target):
    data = build(
        "c4" if isinstance(lattice, int) else "c2", name="ising", lattice=lattice, target=target, train=6, test=6
    )
    energy = ising.site_energies if target == "local" else ising.total_energy
    orbit = data.input_action.orbit(data.input)
    order = data.input_action.group.order
    recomputed = energy(orbit.reshape(-1, *data.input.shape[1:])).reshape(len(data.input), order, -1)
    np.testing.assert_allclose(recomputed, data.output_action.orbit(data.target), rtol=0, atol=1e-13)
    spins = data.split != "ood-gaussian"
    if target == "local":  # sums of four ±1: exact
        assert (recomputed[spins] == data.output_action.orbit(data.target)[spins]).all()
    assert set(np.unique(data.input[spins])) == {-1.0, 1.0}
    assert np.isfinite(data.target).all()


def test_ising_energies_of_known_states():
    up = np.ones((1, 4, 4, 1))
    assert (ising.site_energies(up) == 4).all() and ising.total_energy(up) == -4
    checkerboard = (-1.0) ** np.add.outer(np.arange(4), np.arange(4))[None, :, :, None]
    assert (ising.site_energies(checkerboard) == -4).all()


def test_ising_local_readout_is_the_total_energy():
    local = build(name="ising", target="local", train=9, test=3)
    total = build(name="ising", target="total", train=9, test=3)
    assert (local.input == total.input).all()
    np.testing.assert_allclose(local.target @ local.readout.matrix.T, total.target, atol=1e-14)


def test_ising_spins_are_fair_and_gaussians_unit():
    data = build(name="ising", train=400, test=400)
    for split in ("train", "test", "ood-gaussian"):
        part = data.input[data.split == split]
        assert abs(part.mean()) < 4 / np.sqrt(part.size)
        assert abs((part**2).mean() - 1) < 4 * np.sqrt(2 / part.size)


def test_group_that_does_not_act_is_refused():
    with pytest.raises(StudyError, match="does not act on a 5×4 grid"):
        build("c4", name="ising", lattice=[5, 4])


def test_digits_are_normalised_by_their_training_pixels():
    data = build("d4", name="digits", train=300, test=200)
    train = data.input[data.split == "train"]
    assert abs(train.mean()) < 1e-12 and abs(train.std() - 1) < 1e-12
    pixels = data.input[data.split != "ood-smooth"] * data.provenance["input_std"] + data.provenance["input_mean"]
    np.testing.assert_allclose(pixels * 16, np.round(pixels * 16), atol=1e-12)
    seen = data.split != "ood-smooth"
    assert (data.label[~seen] == -1).all() and np.isnan(data.target[~seen]).all()
    assert (data.target[seen].argmax(axis=1) == data.label[seen]).all()
    np.testing.assert_allclose(data.target[seen].sum(axis=1), 0, atol=1e-14)
    assert set(data.label[seen]) == set(range(10))


def test_digits_use_every_image_once():
    data = build("d4", name="digits", train=1000, test=797, ood="none")
    pixels = np.round((data.input * data.provenance["input_std"] + data.provenance["input_mean"]) * 16)
    from sklearn.datasets import load_digits

    assert sorted(map(bytes, pixels.astype(np.uint8))) == sorted(map(bytes, load_digits().images.astype(np.uint8)))


@pytest.mark.parametrize("side", [8, 28])
def test_smooth_images(side):
    few, many = images.smooth_images(1, 3, side), images.smooth_images(1, 30, side)
    assert (few == many[:3]).all() and many.shape == (30, side, side, 1)
    np.testing.assert_allclose(many.mean(axis=(1, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(many.std(axis=(1, 2, 3)), 1, atol=1e-12)
    power = np.abs(np.fft.rfft2(many[..., 0]))
    assert (power[:, 5 : side - 4, :] < 1e-9).all() and (power[:, :, 5:] < 1e-9).all()


@pytest.mark.parametrize("test", [2, 5, 8])
def test_cosine_points(test):
    data = build("c2", name="cosine", train=50, test=test, domain=2.0)
    x = {split: data.input[data.split == split, 0] for split in data.split}
    assert (np.abs(x["train"]) <= 2).all() and x["train"].std() > 0.5
    np.testing.assert_allclose(np.diff(x["test"]), 4 / (test - 1))
    outside = x["ood-outside"]
    assert (np.diff(outside) > 0).all() and (np.abs(outside) > 2).all() and np.abs(outside).max() == 3
    gaps = np.diff(outside[outside > 0])
    np.testing.assert_allclose(gaps, 1 / ((test + 1) // 2))
    np.testing.assert_array_equal(data.target, np.cos(data.input))
    orbit = data.input_action.orbit(data.input)
    np.testing.assert_array_equal(np.cos(orbit), data.output_action.orbit(data.target))


def test_cosine_refuses_d4():
    with pytest.raises(StudyError, match="one-dimensional"):
        cosine.build(settings({"name": "cosine"}, "c2").task, get_group("d4"))


# ------------------------------------------------------------------------------------- FashionMNIST


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.astype(np.uint8).tobytes()


@pytest.fixture
def fabricated(tmp_path, monkeypatch):
    """A small data directory with FashionMNIST and MNIST in it, its checksums believed to be the official ones."""
    generator = np.random.default_rng(0)
    monkeypatch.delenv(sources.DATA_DIR, raising=False)
    monkeypatch.setattr(sources, "SYSTEM", tmp_path / "no-system-data")
    # a closed port: the real client fails at once, without a network
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    contents = {}
    for name, folder in (("fashion_mnist", "fashion-mnist"), ("mnist", "mnist")):
        (tmp_path / "data" / folder).mkdir(parents=True)
        md5 = {}
        for file in FILES:
            count = 40 if file.startswith("train") else 20
            shape = (count, 28, 28) if "images" in file else (count,)
            array = generator.integers(256 if "images" in file else 10, size=shape, dtype=np.uint8)
            contents[name, file] = array
            (tmp_path / "data" / folder / f"{file}.gz").write_bytes(gzip.compress(idx(array)))
            md5[file] = ("0" * 32, hashlib.md5(idx(array)).hexdigest())
        wanted = replace(sources.SETS[name], md5=md5, url="http://127.0.0.1:9/")
        monkeypatch.setitem(sources.SETS, name, wanted)
    return tmp_path / "data", contents


def fashion(data_dir, **task):
    return build("c4", name="fashion_mnist", train=15, test=12, data_dir=data_dir and str(data_dir), **task)


def test_fashion_mnist_from_a_data_directory(fabricated):
    folder, contents = fabricated
    data = fashion(folder)
    assert data.input.shape == (15 + 3 * 12, 28, 28, 1)
    assert list(dict.fromkeys(data.split)) == ["train", "test", "ood-mnist", "ood-smooth"]
    mean, std = data.provenance["input_mean"], data.provenance["input_std"]
    pixels = contents["fashion_mnist", FILES[0]] / 255
    assert np.isclose(mean, pixels.mean(), rtol=1e-12) and np.isclose(std, pixels.std(), rtol=1e-12)
    back = np.round((data.input[..., 0] * std + mean) * 255).astype(np.uint8)
    for split, name, file in (
        ("train", "fashion_mnist", FILES[0]),
        ("test", "fashion_mnist", FILES[2]),
        ("ood-mnist", "mnist", FILES[2]),
    ):
        known = {image.tobytes(): i for i, image in enumerate(contents[name, file])}
        index = [known[image.tobytes()] for image in back[data.split == split]]
        assert len(set(index)) == len(index)
        if split == "train":
            assert (data.label[data.split == split] == contents[name, FILES[1]][index]).all()
    assert (data.label[30:] == -1).all()
    assert data.provenance["source"] == "FashionMNIST, data directory"
    assert data.provenance["ood_mnist_source"] == "MNIST, data directory"
    assert str(folder) not in str(data.provenance)
    assert (fashion(folder, seed=1).input[:15] != data.input[:15]).any()


def test_environment_variable_serves_too(fabricated, monkeypatch):
    folder, _ = fabricated
    monkeypatch.setenv(sources.DATA_DIR, str(folder))
    assert fashion(None, ood=[]).provenance["source"] == "FashionMNIST, $EMEQ_DATA_DIR"


def test_system_package_serves_what_the_directory_lacks(fabricated, monkeypatch, tmp_path):
    folder, _ = fabricated
    (tmp_path / "system").mkdir()
    (folder / "fashion-mnist").rename(tmp_path / "system" / "fashion-mnist")
    monkeypatch.setattr(sources, "SYSTEM", tmp_path / "system")
    provenance = fashion(folder).provenance
    assert provenance["source"] == "FashionMNIST, system package"
    assert provenance["ood_mnist_source"] == "MNIST, data directory"


def test_uncompressed_files_serve_too(fabricated):
    folder, contents = fabricated
    for file in FILES:
        (folder / "fashion-mnist" / f"{file}.gz").unlink()
        (folder / "fashion-mnist" / file).write_bytes(idx(contents["fashion_mnist", file]))
    assert fashion(folder, ood=[]).provenance["source"] == "FashionMNIST, data directory"


def test_missing_set_names_the_three_ways(fabricated, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="FashionMNIST was not found") as caught:
        fashion(tmp_path / "empty")
    message = str(caught.value)
    for part in ("task.data_dir", "$EMEQ_DATA_DIR", "apt-get install dataset-fashion-mnist", "network connection"):
        assert part in message
    assert "\n" not in message


def test_missing_ood_set_is_named(fabricated):
    folder, _ = fabricated
    for file in (folder / "mnist").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="MNIST was not found"):
        fashion(folder)
    assert len(fashion(folder, ood="smooth").input) == 15 + 2 * 12


@pytest.fixture
def served(fabricated, monkeypatch):
    """The fabricated FashionMNIST, to be had by download only; returns the folder the server serves."""
    folder, _ = fabricated
    handler = functools.partial(_QuietHandler, directory=str(folder / "fashion-mnist"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        original = sources.SETS["fashion_mnist"]
        packed = {
            file: hashlib.md5((folder / "fashion-mnist" / f"{file}.gz").read_bytes()).hexdigest() for file in FILES
        }
        wanted = replace(
            original,
            url=f"http://127.0.0.1:{server.server_port}/",
            md5={file: (packed[file], original.md5[file][1]) for file in FILES},
        )
        monkeypatch.setitem(sources.SETS, "fashion_mnist", wanted)
        yield folder / "fashion-mnist"
        server.shutdown()
        thread.join()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def test_download_is_cached(served):
    first = fashion(None, ood="smooth")
    assert first.provenance["source"] == "FashionMNIST, download"
    for file in served.iterdir():
        file.unlink()
    assert (fashion(None, ood="smooth").input == first.input).all()


def test_download_of_a_wrong_file_is_refused(served):
    (served / f"{FILES[3]}.gz").write_bytes(b"<html>moved</html>")
    with pytest.raises(DataError, match="delivered a wrong file") as caught:
        fashion(None)
    assert sources.SETS["fashion_mnist"].md5[FILES[3]][0] in str(caught.value)


def test_half_a_set_names_the_missing_file(fabricated):
    folder, _ = fabricated
    (folder / "fashion-mnist" / f"{FILES[1]}.gz").unlink()
    with pytest.raises(DataError, match=f"lacks {FILES[1]}.gz"):
        fashion(folder)


def test_no_such_directory(fabricated, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"task\.data_dir: .*nowhere"):
        fashion(tmp_path / "nowhere")
    monkeypatch.setenv(sources.DATA_DIR, str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match=r"\$EMEQ_DATA_DIR: .*elsewhere"):
        fashion(None)


def _truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _alter(content: bytes) -> bytes:
    return gzip.compress(gzip.decompress(content)[:-1] + b"\x07\x00")


def _garble(content: bytes) -> bytes:
    return content[:40] + b"\xff" * 40 + content[80:]


@pytest.mark.parametrize("damage", [_truncate, _alter, _garble, lambda content: b""])
def test_damaged_file_is_named_with_its_checksum(fabricated, damage):
    folder, _ = fabricated
    file = folder / "fashion-mnist" / f"{FILES[0]}.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match="truncated or altered") as caught:
        fashion(folder)
    assert str(file) in str(caught.value)
    assert sources.SETS["fashion_mnist"].md5[FILES[0]][1] in str(caught.value)


@pytest.mark.parametrize("shape", [(3,), (2, 4, 5), (1, 2, 3, 4)])
def test_idx_round_trip(shape):
    array = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    np.testing.assert_array_equal(sources.parse_idx(idx(array), "file"), array)


@pytest.mark.parametrize(
    "content", [b"", b"\x00\x00\x08", b"\x00\x00\x0d\x01\x00\x00\x00\x01x", b"\x00\x00\x08\x03\x00\x00\x00\x01x"]
)
def test_idx_refuses_other_formats(content):
    with pytest.raises(DataError, match="file: is no IDX file"):
        sources.parse_idx(content, "file")


def test_idx_refuses_a_wrong_length():
    with pytest.raises(DataError, match="holds 2 values, its header promises 3"):
        sources.parse_idx(b"\x00\x00\x08\x01\x00\x00\x00\x03ab", "file")


def _real_folder(name: str) -> str | None:
    """Parent folder of a real set on this machine, looked for without a download."""
    for root in (os.environ.get(sources.DATA_DIR), str(sources.SYSTEM)):
        for folder in sources.SETS[name].folders[:-1] if root else ():
            if (Path(root or "") / folder / f"{FILES[2]}.gz").is_file():
                return root
    return None


@pytest.mark.skipif(
    _real_folder("fashion_mnist") is None,
    reason="FashionMNIST is not on this machine (apt-get install dataset-fashion-mnist, or set EMEQ_DATA_DIR)",
)
def test_real_fashion_mnist():
    data = build("d4", name="fashion_mnist", train=100, test=50, ood="smooth", data_dir=_real_folder("fashion_mnist"))
    assert data.input.shape == (200, 28, 28, 1)
    # the numbers everybody uses
    assert round(data.provenance["input_mean"], 4) == 0.2860 and round(data.provenance["input_std"], 4) == 0.3530
    assert set(data.label[:150]) == set(range(10))


@pytest.mark.skipif(
    _real_folder("mnist") is None, reason="MNIST is not on this machine (set EMEQ_DATA_DIR to a folder with mnist/)"
)
def test_real_mnist():
    arrays, provenance = sources.load_idx("mnist", FILES[2:], _real_folder("mnist"))
    assert arrays[FILES[2]].shape == (10000, 28, 28) and list(arrays[FILES[3]][:5]) == [7, 2, 1, 0, 4]
    assert provenance["source"].startswith("MNIST, ")


# ------------------------------------------------------------------------------------- custom tasks


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module into a fresh working directory; returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> str:
        name = "own_" + hashlib.md5(text.encode()).hexdigest()[:8]
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return name

    return write


def custom(factory: str, group: str = "c2", **task):
    return build(group, name="custom", factory=factory, **{"train": 3, "test": 2, **task})


GOOD = """
import numpy as np
from dataclasses import replace
from emergent_equivariance.groups import Action, get_group, invariant_action, line_action
from emergent_equivariance.tasks import Readout, TaskData

def make(task, group):
    x = np.linspace(-1, 1, 7)[:, None]
    split = np.array(["train"] * 3 + ["test"] * 2 + ["ood-far"] * 2)
    return TaskData(x, x**2, split, line_action(group), invariant_action(group, (1,)), "y", Readout("y", np.eye(1)))
"""


def test_custom_task_from_the_working_directory(module):
    data = custom(f"{module(GOOD)}:make", ood=["far"])
    assert data.input.shape == (7, 1) and data.output_name == "y"


def test_example_study_builds():
    study = load_study(REPOSITORY / "examples" / "parity.yaml")
    data = build_task(study.arms[0].settings)
    from examples import parity_task

    x = parity_task.L * (2 * np.arange(1, 17) / 17 - 1)
    orbit = data.input_action.orbit(data.input)
    np.testing.assert_array_equal(orbit[:, 1, 0], data.input[:, 0, ::-1])
    recomputed = parity_task.energies(x, orbit[:, 1, 0])
    np.testing.assert_allclose(recomputed, data.target, atol=1e-12)
    # an empty box: E = π²/(8 L²), up to the grid
    assert abs(parity_task.energies(x, np.zeros((1, 16)))[0, 0] * 8 * parity_task.L**2 / np.pi**2 - 1) < 0.01


@pytest.mark.parametrize(
    ("text", "function", "says"),
    [
        ("x = 1", "make", "has no 'make'"),
        ("make = 1", "make", "has no function 'make'"),
        ("def make(task, group): return 5", "make", "returned int, not TaskData"),
        ("import surely_not_there", "make", "ModuleNotFoundError: No module named 'surely_not_there'"),
        ("from numpy import surely_not_there", "make", "ImportError"),
        ("def make(:", "make", "SyntaxError"),
        ("undefined + 1", "make", "NameError: name 'undefined' is not defined"),
        (GOOD, "make", r"delivered the splits \['train', 'test', 'ood-far'\], expected \['train', 'test'\]"),
        (GOOD + "\ndef f(t, g): return replace(make(t, g), split=make(t, g).split[::-1])", "f", "in this order"),
        (GOOD + "\ndef f(t, g): return make(t, get_group('trivial'))", "f", "is of the group trivial"),
        (
            GOOD + "\ndef f(t, g): return replace(make(t, g), input_action=Action(g, (1,), np.zeros((2, 1), int),"
            " np.array([[-1], [1]])))",
            "f",
            "identity",
        ),
        (GOOD + "\ndef f(t, g): return replace(make(t, g), output_action=line_action(g))", "f", "not invariant"),
        (GOOD + "\ndef f(t, g): return replace(make(t, g), input=make(t, g).input.astype('f4'))", "f", "float64"),
        (GOOD + "\ndef f(t, g): return replace(make(t, g), readout=Readout('y', np.eye(3)))", "f", "observable"),
    ],
)
def test_custom_task_that_does_not_fit(module, text, function, says):
    name = module(text)
    with pytest.raises(DataError, match=says) as caught:
        custom(f"{name}:{function}")
    assert str(caught.value).startswith(f"task.factory: '{name}:{function}'")
    assert caught.value.remedy


def test_custom_task_with_too_few_samples(module):
    with pytest.raises(DataError, match=r"3 samples in the split train, task\.train is 4"):
        custom(f"{module(GOOD)}:make", train=4, ood=["far"])


@pytest.mark.parametrize("factory", ["surely_not_there:make", "examples.surely_not_there:make"])
def test_custom_module_that_does_not_exist(factory):
    with pytest.raises(DataError, match=r"task\.factory: .*there is no module .*working directory"):
        custom(factory)


def test_a_representation_must_multiply_right(module):
    text = GOOD + (
        "\ndef f(t, g):\n"
        "    cycle = Action(g, (3,), np.array([[0, 1, 2], [1, 2, 0]]), np.ones((2, 3), int))\n"
        "    return replace(make(t, g), input=np.ones((7, 3)), input_action=cycle)\n"
    )
    with pytest.raises(DataError, match=r"has ρ\(g\)ρ\(h\) ≠ ρ\(gh\) for g = r2, h = r2"):
        custom(f"{module(text)}:f", ood=["far"])


# ------------------------------------------------------------------------------------- augmentation


@pytest.mark.parametrize("name", ["trivial", "c2", "c4", "d4"])
@pytest.mark.parametrize("kind", ["none", "full", "random"])
def test_augmented_rows(name, kind):
    order = get_group(name).order
    rows = augmented_rows(Augmentation(kind=kind), 5, order)
    elements = [0] if kind == "none" else range(order)
    assert rows.tolist() == [[sample, g] for sample in range(5) for g in elements]


@pytest.mark.parametrize("subset", [1, 2, 3, 7, 8])
def test_subset_rows(subset):
    def rows(samples, seed=0):
        augmentation = Augmentation(kind="subset", subset=subset, seed=seed)
        return augmented_rows(augmentation, samples, 8).reshape(samples, subset, 2)

    chosen = rows(200)
    assert (chosen[..., 0] == np.arange(200)[:, None]).all()
    assert (chosen[:, 0, 1] == 0).all(), "the identity comes first"
    assert (np.diff(chosen[..., 1], axis=1) > 0).all(), "distinct, ascending"
    assert (chosen == rows(200)).all() and (chosen[:50] == rows(50)).all()
    if 1 < subset < 8:
        assert (chosen != rows(200, seed=1)).any()
        share = np.bincount(chosen[..., 1].ravel(), minlength=8)[1:] / 200
        expected = (subset - 1) / 7
        assert (np.abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / 200)).all()


def test_random_elements_are_separate_for_each_member_and_block():
    augmentation = Augmentation(kind="random", seed=2)
    first, again, other, later = (
        random_elements(augmentation, *which, 4000, 4) for which in ((0, 0), (0, 0), (1, 0), (0, 1))
    )
    assert (first == again).all() and (first[:2000] != other[:2000]).any() and (first[:2000] != later[:2000]).any()
    assert (first[:7] == random_elements(augmentation, 0, 0, 7, 4)).all()
    counts = np.bincount(first, minlength=4)
    assert (np.abs(counts - 1000) < 4 * np.sqrt(4000 * 3 / 16)).all()
