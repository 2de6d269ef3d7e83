"""From a study file to a study: the only reader of YAML."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from ..errors import StoreError, StudyError
from ..settings import STUDY_FILES, STUDY_KEYS, AnySettings, Settings, StudyFile, normalise_augmentation
from .arms import Arm, KernelArm, fingerprint
from .budget import check_memory
from .layout import Study
from .problems import explain


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


def read_yaml(file: Path, example: str = "one of the files in config/") -> dict[str, Any]:
    """Parse a study file, or another like it; raises StudyError if it is missing, not YAML or not a mapping."""
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except OSError as error:
        raise StudyError(
            f"{file}: cannot be read ({error.strerror}).", remedy=f"Give the path of a file like {example}."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{file}: is not valid YAML: {_place(error)}.", remedy="Mend that line.") from None
    if not isinstance(content, dict):
        raise StudyError(f"{file}: holds no mapping.", remedy=f"Start from {example}.")
    return content


def _place(error: Exception) -> str:
    """What is wrong in a YAML file, and where, in a line."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:
        return str(error).splitlines()[0]
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"


def load_study(file: str | Path, results: str | Path = "results") -> Study:
    """Read and validate a study file.

    Raises StudyError naming file, key, value and remedy, and StoreError where ``results`` is no folder.
    """
    if Path(results).exists() and not Path(results).is_dir():
        raise StoreError(f"{results}: is a file, not the folder of results.", remedy="Name a folder with --results.")
    return parse_study(read_yaml(Path(file)), Path(file), Path(results))


def parse_study(content: dict[str, Any], file: Path, results: Path = Path("results")) -> Study:
    """Validate the parsed content of a study file; see load_study."""
    sweep = content.get("sweep", {})
    if "sweep" in content:
        _check_sweep(sweep, _kind(content, file), file)
    base = {key: value for key, value in content.items() if key != "sweep"}
    keys = list(sweep)
    short = {key: key.rsplit(".", 1)[-1] for key in keys}
    names = {key: key if list(short.values()).count(short[key]) > 1 else short[key] for key in keys}
    kind = _kind(content, file)
    model, settings_model = STUDY_FILES[kind]
    arms: list[Arm] = []
    study = None
    for cell in itertools.product(*(_named(values) for values in sweep.values())):
        chosen = dict(zip(keys, cell, strict=True))
        merged = json.loads(json.dumps(base))
        for key in sorted(keys, key=lambda k: k.count(".")):
            _assign(merged, key, chosen[key].value, file)
        where = ", ".join(f"{key} = {item.name}" for key, item in chosen.items())
        study = _validate(model, merged, base, file, where)
        settings = settings_model.model_validate({k: getattr(study, k) for k in settings_model.model_fields})
        _check_fit(settings, file, where)
        labels = {names[key]: _label(item.name) for key, item in chosen.items()} or {"arm": "single"}
        coords = {names[key]: _coordinate(item.name) for key, item in chosen.items()}
        arms.append(
            Arm(labels, coords, settings) if isinstance(settings, Settings) else KernelArm(labels, coords, settings)
        )
    assert study is not None
    _check_distinct(arms, file)
    return Study(file, study.study, study.kind, study.tracking, arms, results)


class _Item(NamedTuple):
    """One swept value: ``name`` is the value itself unless the sweep names its values."""

    name: Any
    value: Any


def _named(values: list | dict) -> list[_Item]:
    pairs = values.items() if isinstance(values, dict) else zip(values, values, strict=True)
    return [_Item(name, value) for name, value in pairs]


def _kind(content: dict[str, Any], file: Path) -> str:
    kind = content.get("kind", "ensemble")
    if kind not in STUDY_FILES:
        raise StudyError(f"{file}: kind = {kind!r}: no such kind of study.", remedy=f"Use one of {_list(STUDY_FILES)}.")
    return kind


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


def _check_sweep(sweep: Any, kind: str, file: Path) -> None:
    if not isinstance(sweep, dict):
        raise StudyError(f"{file}: sweep: {sweep!r} is not a mapping.", remedy="Write 'sweep: {dotted.key: [values]}'.")
    if not sweep:
        raise StudyError(f"{file}: sweep: is empty.", remedy="Give a dotted key with values, or drop the section.")
    for key, values in sweep.items():
        if not isinstance(values, (list, dict)) or not values:
            raise StudyError(
                f"{file}: sweep.{key}: {values!r} is not a non-empty list.",
                remedy="Give at least one value (a list, or a mapping from names to values), or drop the key.",
            )
        if not isinstance(key, str):
            raise StudyError(
                f"{file}: sweep.{key}: {key!r} is no key of the study file.",
                remedy="Write a dotted key, for instance network.width.",
            )
        if key.split(".")[0] in STUDY_KEYS:
            raise StudyError(
                f"{file}: sweep.{key}: this key belongs to the whole study.",
                remedy=f"Sweep keys of the sections {_list(STUDY_FILES[kind][1].model_fields)}.",
            )
        labels = [_label(item.name) for item in _named(values)]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise StudyError(f"{file}: sweep.{key}: {twice} is given more than once.", remedy="Give each value once.")


def _check_distinct(arms: list[Arm], file: Path) -> None:
    """Raise StudyError if two arms have the same settings: they would be trained twice, and look independent."""
    known: dict[str, Arm] = {}
    for arm in arms:
        first = known.setdefault(arm.settings.model_dump_json(), arm)
        if first is not arm:
            raise StudyError(
                f"{file}: sweep: the arms {first.path} and {arm.path} have the same settings.",
                remedy="Give each value once.",
            )


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


def _validate(
    model: type[StudyFile], content: dict[str, Any], base: dict[str, Any], file: Path, where: str
) -> StudyFile:
    """The study file of one cell; the arm is named where the fault is not in what all of them have in common."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        said = explain(model, error)
    try:
        model.model_validate(base)
    except ValidationError as error:
        if explain(model, error) == said:
            where = ""
    raise StudyError(f"{file}: {said}" + (f" (in the arm {where})" if where else ""))


def _check_fit(settings: AnySettings, file: Path, where: str) -> None:
    try:
        settings.task.check_group(settings.group)
        shape = settings.task.input_shape()
        if shape is not None:
            settings.network.check_input(shape, settings.group)
        check_memory(settings)
    except StudyError as error:
        raise StudyError(f"{file}: {error}" + (f" (in the arm {where})" if where else "")) from None
    if isinstance(settings, Settings) and settings.training.loss == "cross_entropy" and settings.task.outputs() == 1:
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
