"""What is wrong in a file that a model describes, in sentences that name key, value and what is allowed."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ValidationError

from ..settings.base import PATTERNS

__all__ = ["explain"]

#: Names that pydantic gives to the members of a union, and that are no keys.
_TYPES = {"float", "int", "bool", "str"}

#: Phrases of pydantic → ours.
_PHRASES = (
    (r"^Input should", "should"),
    (r"a valid dictionary or (instance of \w+|object to extract fields from)", "a mapping"),
    (r", unable to (parse|interpret).*$", ""),
)

_Key = tuple[str, ...]


def explain(model: type[BaseModel], error: ValidationError) -> str:
    """One sentence per problem, naming key, value and what is allowed.

    Of the problems with a value that may be of several types those of the deepest keys are named; those of one key are
    joined by "or".
    """
    tags = _TYPES | {"CriticalFraction"} | {tag for part in _all_models(model) for tag in _tags(part)}
    sentences: list[str] = []
    values: dict[_Key, Any] = {}
    wanted: dict[_Key, list[str]] = {}
    for problem in error.errors():
        parts = [str(part) for part in problem["loc"]]
        key = tuple(p for i, p in enumerate(parts) if i == 0 or not (p in tags or "[" in p))
        name, context = ".".join(key), problem.get("ctx", {})
        match problem["type"]:
            case "extra_forbidden":
                allowed = ", ".join(_allowed_keys(model, problem["loc"]))
                given = f"unknown key {name} (value {problem['input']!r})"
                sentences.append(f"{given}. Allowed keys: {allowed}. Remove or rename it.")
            case "missing":
                sentences.append(f"{name} is missing. Add it.")
            case "union_tag_not_found":
                sentences.append(f"{name}.name is missing: {name} = {problem['input']!r}. Add it.")
            case "union_tag_invalid":
                wanted[(*key, "name")] = [f"should be one of {context['expected_tags']}"]
                values[(*key, "name")] = context["tag"]
            case "value_error":
                sentences.append(f"{_located(model, problem['loc'], name, str(context['error']))}.")
            case _:
                values[key] = problem["input"]
                wanted.setdefault(key, []).append(_said(problem))
    for key, said in wanted.items():
        if not any(other[: len(key)] == key for other in wanted if other != key):
            first, *others = dict.fromkeys(said)
            text = " or ".join([first, *(re.sub("^should be ", "", other) for other in others)])
            sentences.append(f"{'.'.join(key)} = {values[key]!r}: {text}. Give an allowed value.")
    return " ".join(dict.fromkeys(sentences))


def _said(problem: Any) -> str:
    """What is allowed instead of a value."""
    if problem["type"] == "string_pattern_mismatch" and (words := PATTERNS.get(problem["ctx"]["pattern"])):
        return f"should be {words}"
    said = problem["msg"]
    for phrase, ours in _PHRASES:
        said = re.sub(phrase, ours, said)
    return said[0].lower() + said[1:]


def _located(model: type[BaseModel], location: tuple, name: str, said: str) -> str:
    """A fault that a section found in itself, its key written as the dotted key of the study."""
    first = re.match(r"(\w+): ", said)
    if name and first and first[1] in _allowed_keys(model, (*location, "")):
        return f"{name}.{said}"
    return f"{name}: {said}" if name else said


def _all_models(model: type[BaseModel]) -> list[type[BaseModel]]:
    return [part for info in model.model_fields.values() for part in _models_in(info.annotation)]


def _allowed_keys(model: type[BaseModel], location: tuple) -> list[str]:
    models: list[type[BaseModel]] = [model]
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
