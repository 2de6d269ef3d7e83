"""The user's own task, by import path: ``task: {name: custom, factory: "package.module:function"}``.

The function is called as ``factory(settings.task, group)`` and returns a TaskData; see docs/custom_task.md.
"""

from __future__ import annotations

import numpy as np

from ..errors import DataError
from ..groups import Action, Group
from ..imports import named_function
from ..interpolation import InputAction, InterpolatedAction
from ..settings import CustomTask
from .base import TaskData


def build(task: CustomTask, group: Group) -> TaskData:
    """Call the factory and hold its result against what every task promises.

    Raises DataError naming ``task.factory`` if it cannot be imported, is no function, returns no TaskData, or
    returns an action that is no representation of ``group``. Exceptions of the factory itself pass through.
    """
    where = f"task.factory: {task.factory!r}"
    with named_function(task.factory, where, "(settings, group) → TaskData", DataError) as factory:
        data = factory(task, group)
    if not isinstance(data, TaskData):
        raise DataError(
            f"{where} returned {type(data).__name__}, not TaskData.",
            remedy="Return emergent_equivariance.tasks.TaskData.",
        )
    for name, problem in (
        ("input_action", _input_fault(data.input_action, group)),
        ("output_action", fault(data.output_action, group)),
    ):
        if problem:
            raise DataError(
                f"{where}: {name} {problem}.",
                remedy="Build it for the group passed in, with emergent_equivariance.groups (inputs that are images "
                "also with emergent_equivariance.interpolation), or as a signed permutation with ρ(g)ρ(h) = ρ(gh).",
            )
    return data


def _input_fault(action: InputAction, group: Group) -> str:
    """What keeps ``action`` from being an action by interpolation, or a representation; "" if nothing."""
    if not isinstance(action, InterpolatedAction):
        return fault(action, group)
    height, width, *_ = (*action.shape, 0, 0)
    if action.group is not group:
        return f"is of the group {action.group.name}, the study has {group.name}"
    tables = action.source.shape
    if len(tables) != 3 or tables[:2] != (group.order, height * width) or action.weight.shape != tables:
        expected = f"{(group.order, height * width)} and the taps behind"
        return f"has tables of shape {tables} and {action.weight.shape}, expected {expected}"
    if not ((action.source >= -1) & (action.source < height * width)).all():
        return f"takes values from pixels other than −1 to {height * width - 1}"
    if not np.allclose(action.weight.sum(axis=-1), 1):
        return "has weights that do not add up to 1"
    probe = np.random.default_rng(0).standard_normal((1, *action.shape))
    if not np.array_equal(action.orbit(probe)[:, 0], probe):
        return "does not send the first element, the identity, to the identity"
    return ""


def fault(action: Action, group: Group) -> str:
    """What keeps ``action`` from being a representation of ``group`` by signed permutations; "" if nothing."""
    if not isinstance(action, Action):
        return f"is {type(action).__name__}, no signed permutation"
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
