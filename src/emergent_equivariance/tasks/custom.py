"""The user's own task, by import path: ``task: {name: custom, factory: "package.module:function"}``.

The function is called as ``factory(settings.task, group)`` and returns a TaskData; see docs/custom_task.md.
Modules are found as ``python -m`` finds them: the working directory first, then what is installed.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..groups import Action, Group
from ..settings import CustomTask
from .base import TaskData

#: What importing a faulty module raises; anything else is a fault in a running program and keeps its traceback.
IMPORT_FAULTS = (ImportError, SyntaxError, NameError, AttributeError, TypeError, ValueError, LookupError, OSError)


def build(task: CustomTask, group: Group) -> TaskData:
    """Call the factory and hold its result against what every task promises.

    Raises DataError naming ``task.factory`` if it cannot be imported, is no function, returns no TaskData, or
    returns an action that is no representation of ``group``. Exceptions of the factory itself pass through.
    """
    where = f"task.factory: {task.factory!r}"
    with _working_directory_importable():
        data = _resolve(task.factory)(task, group)
    if not isinstance(data, TaskData):
        raise DataError(
            f"{where} returned {type(data).__name__}, not TaskData.",
            remedy="Return emergent_equivariance.tasks.TaskData.",
        )
    for name, action in (("input_action", data.input_action), ("output_action", data.output_action)):
        problem = fault(action, group)
        if problem:
            raise DataError(
                f"{where}: {name} {problem}.",
                remedy="Build it for the group passed in, with emergent_equivariance.groups, or as a signed "
                "permutation with ρ(g)ρ(h) = ρ(gh).",
            )
    return data


def fault(action: Action, group: Group) -> str:
    """What keeps ``action`` from being a representation of ``group`` by signed permutations; "" if nothing."""
    size = int(np.prod(action.shape))
    if action.group is not group:
        return f"is of the group {action.group.name}, the study has {group.name}"
    if action.source.shape != (group.order, size) or action.sign.shape != (group.order, size):
        return f"has tables of shape {action.source.shape} and {action.sign.shape}, expected {(group.order, size)}"
    if not (np.sort(action.source, axis=1) == np.arange(size)).all() or not (np.abs(action.sign) == 1).all():
        return "is no signed permutation"
    if not ((action.source[0] == np.arange(size)).all() and (action.sign[0] == 1).all()):
        return "does not send the first element, the identity, to the identity"
    for g in range(group.order):
        for h in range(group.order):
            gh = group.product[g, h]
            moved = action.source[h][action.source[g]]
            sign = action.sign[g] * action.sign[h][action.source[g]]
            if not ((moved == action.source[gh]).all() and (sign == action.sign[gh]).all()):
                return f"has ρ(g)ρ(h) ≠ ρ(gh) for g = {group.elements[g]}, h = {group.elements[h]}"
    return ""


def _resolve(factory: str) -> Callable[[CustomTask, Group], Any]:
    module_name, _, function_name = factory.partition(":")
    where = f"task.factory: {factory!r}"
    try:
        module = importlib.import_module(module_name)
    except IMPORT_FAULTS as error:
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise DataError(
                f"{where}: there is no module {error.name!r} in the working directory {Path.cwd()} or among the "
                "installed packages.",
                remedy="Correct the name, run from the directory that holds it, or install the package.",
            ) from None
        raise DataError(
            f"{where}: importing {module_name} failed with {type(error).__name__}: {error}.",
            remedy=f"Mend it until 'python -c \"import {module_name}\"' passes.",
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        found = "has no" if function is None else "has no function"
        raise DataError(
            f"{where}: the module {module_name} {found} {function_name!r}.",
            remedy="Name a function (settings, group) → TaskData of that module.",
        )
    return function


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)
