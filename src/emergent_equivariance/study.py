"""The study: a file becomes arms, arms become shards, both get paths. The only reader of study files.

A study is a set of arms, one per cell of the sweep; an arm is one ensemble. Everything downstream is
keyed by hashes of exactly those fields that its numbers depend on, so that adding an arm, raising the
number of members or renaming the study re-uses what is already on disk.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from .errors import StudyError
from .settings import STUDY_KEYS, CriticalFraction, Settings, StudyFile, Tracking, normalise_augmentation

#: Part of every hash: raised when stored numbers change their meaning.
FORMAT = 1


def fingerprint(content: Any) -> str:
    """16 hexadecimal digits that identify a JSON-serialisable value."""
    text = json.dumps([FORMAT, content], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Arm:
    """One cell of the sweep: one ensemble.

    Attributes:
      labels: last part of each swept key (the full dotted key where two would clash) → value as label.
      coords: the same keys → value as a coordinate (numbers stay numbers).
      settings: everything the arm depends on.
    """

    labels: dict[str, str]
    coords: dict[str, Any]
    settings: Settings = field(repr=False)

    @property
    def path(self) -> str:
        """Folder of the arm in Paramspace style, e.g. ``width~256/augmentation~full``."""
        return "/".join(f"{key}~{label}" for key, label in self.labels.items())

    @cached_property
    def data_fields(self) -> dict[str, Any]:
        """What the data store depends on."""
        task = self.settings.task
        return {"task": task.model_dump(mode="json", exclude=task.LOCATION), "group": self.settings.group}

    @cached_property
    def learning_rate_fields(self) -> dict[str, Any]:
        """What a learning rate given as a fraction of the critical one depends on: Θ(X, X), not the recorded steps."""
        s = self.settings
        return {
            **self.data_fields,
            "network": s.network.model_dump(mode="json", exclude=s.network.WIDTHS),
            "augmentation": self._augmentation(),
            "learning_rate": s.training.model_dump(mode="json", include={"learning_rate"}),
        }

    @cached_property
    def theory_fields(self) -> dict[str, Any]:
        """What the analytic store depends on: not the width, not the members."""
        s = self.settings
        return {
            **self.learning_rate_fields,
            "record": s.training.recorded,
            "samples": s.evaluate.samples,
            "mean": s.has_mean,
            "covariance": s.has_covariance,
        }

    @cached_property
    def member_fields(self) -> dict[str, Any]:
        """What the predictions of a member depend on: not the shard size, not the member count."""
        s = self.settings
        unused = {"record", "steps", "epochs"} | ({"seed"} if s.training.unit == "step" else set())
        training = s.training.model_dump(mode="json", exclude=unused)
        return {
            **self.data_fields,
            "network": s.network.model_dump(mode="json"),
            "augmentation": self._augmentation(),
            "training": {**training, "record": s.training.recorded, "batch_size": s.training.batch},
            "ensemble_seed": s.ensemble.seed,
            "samples": s.evaluate.samples,
            "precision": s.execution.precision,
        }

    def _augmentation(self) -> dict[str, Any]:
        augmentation = self.settings.augmentation
        seeded = augmentation.kind in ("subset", "random")
        return augmentation.model_dump(mode="json", exclude=set() if seeded else {"seed"})

    @cached_property
    def ensemble_fields(self) -> dict[str, Any]:
        """What the ensemble store depends on."""
        s = self.settings
        return {
            "members": s.ensemble.members,
            "config": self.config_hash,
            "theory": self.theory_key if s.has_mean else None,
            "evaluate": s.evaluate.model_dump(mode="json"),
        }

    @property
    def data_key(self) -> str:
        """Hash naming the data store."""
        return fingerprint(self.data_fields)

    @property
    def theory_key(self) -> str:
        """Hash naming the theory store."""
        return fingerprint(self.theory_fields)

    @property
    def learning_rate_key(self) -> str:
        """Hash naming the learning rate file."""
        return fingerprint(self.learning_rate_fields)

    @property
    def ensemble_hash(self) -> str:
        """Hash the ensemble store carries."""
        return fingerprint(self.ensemble_fields)

    @property
    def config_hash(self) -> str:
        """Hash every shard of this arm carries."""
        return fingerprint(self.member_fields)


@dataclass(frozen=True)
class Study:
    """A validated study and where its files lie.

    Attributes:
      file: path of the study file.
      name: name of the study.
      kind: kind of the study.
      tracking: Weights & Biases settings.
      arms: all cells of the sweep, in the order of the file.
      results: folder that holds results/STUDY.
    """

    file: Path
    name: str
    kind: str
    tracking: Tracking
    arms: list[Arm]
    results: Path = Path("results")

    @property
    def root(self) -> Path:
        """results/STUDY."""
        return self.results / self.name

    def arm(self, path: str) -> Arm:
        """The arm with this folder name; raises StudyError listing the arms."""
        for arm in self.arms:
            if arm.path == path:
                return arm
        raise StudyError(
            f"{self.file}: there is no arm {path!r}.",
            remedy=f"The arms are: {', '.join(a.path for a in self.arms)}.",
        )

    def warnings(self) -> list[str]:
        """What is allowed but probably not meant, one sentence each."""
        found = []
        for arm in self.arms:
            s, where = arm.settings, f"{self.file}: arm {arm.path}: "
            rate = s.training.learning_rate
            if isinstance(rate, CriticalFraction) and rate.critical_fraction >= 1:
                found.append(
                    f"{where}training.learning_rate.critical_fraction = {rate.critical_fraction} is above the critical "
                    "learning rate: gradient descent diverges. Choose a fraction below 1."
                )
        return list(dict.fromkeys(found))

    def data_path(self, arm: Arm) -> Path:
        """Data store of an arm."""
        return self.root / "data" / f"{arm.data_key}.zarr.zip"

    def theory_path(self, arm: Arm) -> Path:
        """Theory store of an arm."""
        return self.root / "theory" / f"{arm.theory_key}.zarr.zip"

    def learning_rate_path(self, arm: Arm) -> Path:
        """Learning rate resolved from the largest eigenvalue of the NTK; read by training and theory."""
        return self.root / "theory" / f"{arm.learning_rate_key}.learning-rate.json"

    def shard_path(self, arm: Arm, first: int, last: int) -> Path:
        """Shard with the members first…last, both included."""
        return self.root / "members" / arm.path / f"members-{first:06d}-{last:06d}.zarr.zip"

    def ensemble_path(self, arm: Arm) -> Path:
        """Ensemble store of an arm."""
        return self.root / "ensemble" / f"{arm.path}.zarr.zip"

    def shards(self, arm: Arm) -> list[tuple[int, int]]:
        """Member ranges (first, last) that cover the arm, re-using the shards already on disk."""
        existing = self.existing_shards(arm)
        return plan_shards(arm.settings.ensemble.members, arm.settings.execution.shard_size, existing)

    def existing_shards(self, arm: Arm) -> list[tuple[int, int]]:
        """Member ranges (first, last) of the shards on disk, ascending."""
        folder = self.root / "members" / arm.path
        names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        matches = [re.fullmatch(r"members-(\d{6})-(\d{6})\.zarr\.zip", name) for name in names]
        return sorted((int(m[1]), int(m[2])) for m in matches if m)

    def check_existing(self) -> None:
        """Raise StudyError if an arm's folder holds shards of another version of the study.

        Only headers are read; aggregation verifies every shard it uses.
        """
        for arm in self.arms:
            for first, last in self.existing_shards(arm):
                path = self.shard_path(arm, first, last)
                found = header(path).get("config_hash")
                if found not in (None, arm.config_hash):
                    raise StudyError(
                        f"{self.file}: {path.parent} holds members of another version of this study ({path.name} has "
                        f"config hash {found}, the study file now gives {arm.config_hash}). Nothing was changed.",
                        remedy="Take back the change, give the study another name, or delete that folder to train its "
                        "members again.",
                    )


def header(path: Path) -> dict[str, Any]:
    """Attributes of a store, read without opening it (cheap: the workflow does so when it starts).

    Empty if the file cannot be read: whoever opens the store says what is wrong with it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("zarr.json"))["attributes"]
    except (OSError, zipfile.BadZipFile, KeyError, ValueError):
        return {}


def plan_shards(members: int, shard_size: int, existing: Iterable[tuple[int, int]] = ()) -> list[tuple[int, int]]:
    """Cover members 0…M−1 with ranges (first, last), keeping those that exist.

    Without existing shards the ranges are the aligned blocks of ``shard_size``. An existing shard is used
    where the cover reaches its first member (the longest one, if several start there), even when it reaches
    past M−1: aggregation then uses its first members. So raising or lowering M re-uses every shard.
    """
    if members < 1 or shard_size < 1:
        raise ValueError(f"members = {members} and shard_size = {shard_size} must be positive")
    longest: dict[int, int] = {}
    for first, last in existing:
        longest[first] = max(last, longest.get(first, last))
    starts = sorted(longest)
    shards, at = [], 0
    while at < members:
        if at in longest:
            last = longest[at]
        else:
            last = min((at // shard_size + 1) * shard_size, members, *(s for s in starts if s > at)) - 1
        shards.append((at, last))
        at = last + 1
    return shards


# ---------------------------------------------------------------------------------------------- reading


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML loader that refuses a key given twice (PyYAML would keep the last one silently)."""


def _construct_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode, deep: bool = False) -> dict:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", node.start_mark)
    return dict(zip(keys, (loader.construct_object(value, deep=True) for _, value in node.value), strict=True))


#: Dates stay text: no key of a study file is a date, but a name may look like one.
_UniqueKeyLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def read_yaml(file: Path) -> dict[str, Any]:
    """Parse a study file; raises StudyError if it is missing, not YAML or not a mapping."""
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except OSError as error:
        raise StudyError(
            f"{file}: cannot be read ({error.strerror}).", remedy="Give the path of a study file."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{file}: is not valid YAML: {error}", remedy="Mend that line.") from None
    if not isinstance(content, dict):
        raise StudyError(f"{file}: holds no mapping.", remedy="Start from one of the files in config/.")
    return content


def load_study(file: str | Path, results: str | Path = "results") -> Study:
    """Read and validate a study file. Raises StudyError naming file, key, value and remedy."""
    return parse_study(read_yaml(Path(file)), Path(file), Path(results))


def parse_study(content: dict[str, Any], file: Path, results: Path = Path("results")) -> Study:
    """Validate the parsed content of a study file; see load_study."""
    sweep = content.get("sweep", {})
    if "sweep" in content:
        _check_sweep(sweep, file)
    base = {key: value for key, value in content.items() if key != "sweep"}
    keys = list(sweep)
    short = {key: key.rsplit(".", 1)[-1] for key in keys}
    names = {key: key if list(short.values()).count(short[key]) > 1 else short[key] for key in keys}
    arms = []
    study = None
    for values in itertools.product(*sweep.values()):
        chosen = dict(zip(keys, values, strict=True))
        merged = json.loads(json.dumps(base))
        for key in sorted(keys, key=lambda k: k.count(".")):
            _assign(merged, key, chosen[key], file)
        where = ", ".join(f"{key} = {value}" for key, value in chosen.items())
        study = _validate(merged, file, where)
        settings = Settings.model_validate({k: getattr(study, k) for k in Settings.model_fields})
        _check_fit(settings, file, where)
        labels = {names[key]: _label(value) for key, value in chosen.items()} or {"arm": "single"}
        coords = {names[key]: _coordinate(value) for key, value in chosen.items()}
        arms.append(Arm(labels, coords, settings))
    assert study is not None
    return Study(file, study.study, study.kind, study.tracking, arms, results)


def _check_sweep(sweep: Any, file: Path) -> None:
    if not isinstance(sweep, dict):
        raise StudyError(f"{file}: sweep: {sweep!r} is not a mapping.", remedy="Write 'sweep: {dotted.key: [values]}'.")
    if not sweep:
        raise StudyError(f"{file}: sweep: is empty.", remedy="Give a dotted key with values, or drop the section.")
    for key, values in sweep.items():
        if not isinstance(values, list) or not values:
            raise StudyError(
                f"{file}: sweep.{key}: {values!r} is not a non-empty list.",
                remedy="Give at least one value, or drop the key.",
            )
        if not isinstance(key, str) or key.split(".")[0] in STUDY_KEYS:
            raise StudyError(
                f"{file}: sweep.{key}: this key belongs to the whole study.",
                remedy=f"Sweep keys of the sections {', '.join(Settings.model_fields)}.",
            )
        labels = [_label(value) for value in values]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise StudyError(f"{file}: sweep.{key}: {twice} is given more than once.", remedy="Give each value once.")


def _assign(content: dict[str, Any], key: str, value: Any, file: Path) -> None:
    *parents, last = key.split(".")
    node = content
    for parent in parents:
        if parent == "augmentation":
            node[parent] = normalise_augmentation(node.get(parent))
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise StudyError(
                f"{file}: sweep.{key}: {parent} is {node!r}, which has no keys.",
                remedy="Mend the dotted key.",
            )
    node[last] = json.loads(json.dumps(value))


def _validate(content: dict[str, Any], file: Path, where: str) -> StudyFile:
    try:
        return StudyFile.model_validate(content)
    except ValidationError as error:
        raise StudyError(_explain(error, file, where)) from None


def _explain(error: ValidationError, file: Path, where: str) -> str:
    """One sentence per problem, naming file, key, value and what is allowed."""
    tags = {"ising", "digits", "fashion_mnist", "cosine", "custom", "mlp", "cnn", "float", "CriticalFraction"}
    lines = []
    for problem in error.errors():
        parts = [str(part) for part in problem["loc"]]
        key = ".".join(p for i, p in enumerate(parts) if i == 0 or not (p in tags or "[" in p))
        value = problem.get("input")
        if problem["type"] == "extra_forbidden":
            allowed = ", ".join(_allowed_keys(problem["loc"]))
            text = f"unknown key {key} (value {value!r}). Allowed keys: {allowed}. Remove or rename it."
        elif problem["type"] == "missing":
            text = f"{key} is missing. Add it."
        elif problem["type"] == "value_error":
            text = f"{key + ': ' if key else ''}{problem['ctx']['error']}."
        else:
            said = problem["msg"][0].lower() + problem["msg"][1:]
            text = f"{key} = {value!r}: {said}. Give an allowed value."
        lines.append(text)
    lines = list(dict.fromkeys(lines))
    return f"{file}: " + " ".join(lines) + (f" (in the arm {where})" if where else "")


def _allowed_keys(location: tuple) -> list[str]:
    models: list[type[BaseModel]] = [StudyFile]
    for part in location[:-1]:
        found = [
            candidate
            for model in models
            for name, info in model.model_fields.items()
            if name == part
            for candidate in _models_in(info.annotation)
        ]
        tagged = [m for m in models if part in _tags(m)]
        models = found or tagged or models
    return sorted({key for model in models for key in model.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]


def _tags(model: type[BaseModel]) -> tuple:
    name = model.model_fields.get("name")
    return (*getattr(name.annotation, "__args__", ()), model.__name__) if name else (model.__name__,)


def _check_fit(settings: Settings, file: Path, where: str) -> None:
    try:
        settings.task.check_group(settings.group)
        shape = settings.task.input_shape()
        if shape is not None:
            settings.network.check_input(shape, settings.group)
    except StudyError as error:
        raise StudyError(f"{file}: {error}" + (f" (in the arm {where})" if where else "")) from None
    if settings.training.loss == "cross_entropy" and settings.task.outputs() == 1:
        raise StudyError(
            f"{file}: training.loss: cross_entropy needs a classification task, {settings.task.name} has one output.",
            remedy="Use loss mse.",
        )


def _label(value: Any) -> str:
    """Text of a swept value that is safe as a folder name, e.g. ``subset-2`` for {subset: 2}."""
    if isinstance(value, Mapping):
        text = "-".join(f"{key}-{_label(item)}" for key, item in value.items())
    elif isinstance(value, (list, tuple)):
        text = "-".join(_label(item) for item in value)
    elif value is None:
        text = "none"
    else:
        text = str(value).lower() if isinstance(value, bool) else str(value)
    text = re.sub(r"[^A-Za-z0-9._+-]", "-", text)
    return text if len(text) <= 60 else f"{text[:43]}-{fingerprint(text)}"


def _coordinate(value: Any) -> Any:
    return value if isinstance(value, (int, float, str)) and not isinstance(value, bool) else _label(value)
