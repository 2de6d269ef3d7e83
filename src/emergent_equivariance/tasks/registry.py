"""From the settings of an arm to its data: one module per task, one promise kept by all."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

from ..errors import DataError
from ..groups import Group, get_group
from ..interpolation import composition_error
from ..settings import Common, CosineTask, CustomTask, DigitsTask, FashionMnistTask, IsingTask, PathMnistTask
from . import cosine, custom, digits, fashion_mnist, ising, path_mnist
from .base import TaskData

#: Samples of each split that the composition error of an action is measured on.
MEASURED_SAMPLES = 16


def build_task(settings: Common) -> TaskData:
    """The data of an arm, checked.

    Only ``settings.task``, ``settings.group`` and ``settings.action`` enter: arms that share them share their data.
    Where the action is not exact, the provenance says so, with its composition error.

    Raises:
      DataError: a set is missing or damaged, or the task is not what the settings promise (splits, numbers of
        samples and outputs, invariant observable).
      StudyError: the group does not act on the inputs.
    """
    data = _build(settings, get_group(settings.group))
    task = settings.task
    where = f"task.factory: {task.factory!r}" if isinstance(task, CustomTask) else f"task.name: {task.name}"
    data.check(where)
    _check_promises(settings, data, where)
    return data if data.input_action.is_exact else _with_error(data)


def _with_error(data: TaskData) -> TaskData:
    error = composition_error(data.input_action, data.input[data.evaluated(MEASURED_SAMPLES)])
    said = {
        "composition_error": error.rms,
        "composition_error_largest": error.largest,
        "composition_error_of": f"|ρ(g)ρ(h)x − ρ(gh)x|/|ρ(gh)x|, root mean square and maximum over all pairs of "
        f"elements and {error.samples} samples",
    }
    return replace(data, provenance={**data.provenance, **said})


def _build(settings: Common, group: Group) -> TaskData:
    action = settings.action
    match settings.task:
        case IsingTask() as task:
            return ising.build(task, group)
        case DigitsTask() as task:
            return digits.build(task, group, action)
        case FashionMnistTask() as task:
            return fashion_mnist.build(task, group, action)
        case PathMnistTask() as task:
            return path_mnist.build(task, group, action)
        case CosineTask() as task:
            return cosine.build(task, group)
        case CustomTask() as task:
            return custom.build(task, group)


def _check_promises(settings: Common, data: TaskData, where: str) -> None:
    """Raise DataError where the data are not what the settings say; ``where`` as of TaskData.check."""
    task = settings.task
    runs = [(str(name), len(list(run))) for name, run in groupby(data.split)]
    splits = [name for name, _ in runs]
    if splits != settings.splits():
        raise DataError(
            f"{where}: delivered the splits {splits}, expected {settings.splits()}, "
            "each in one piece and in this order.",
            remedy="Order the samples so, and list the out-of-distribution sets (without 'ood-') in task.ood.",
        )
    for name, promised in (("train", task.train), ("test", task.test)):
        delivered = dict(runs)[name]
        if delivered != promised:
            raise DataError(
                f"{where}: delivered {delivered} samples in the split {name}, task.{name} is {promised}.",
                remedy=f"Set task.{name} to the number delivered, or deliver that many.",
            )
    for what, expected, got in (
        ("inputs of shape", task.input_shape(), data.input.shape[1:]),
        ("outputs", task.outputs(), data.target.shape[1]),
    ):
        if expected is not None and expected != got:
            raise DataError(
                f"{where}: delivered {what} {got}, expected {expected}.",
                remedy="Make the task give what the section task of the study file says, or change that.",
            )
