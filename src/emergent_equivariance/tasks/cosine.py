"""The mirror toy: learn cos(x) under x ↦ −x (experiments A5, after the toy of Gerken & Kessel 2024).

Inputs are the raw x, neither shifted nor scaled, so that pictures over x need no inverse transform. The network
sees the scale of x through its biases alone: for a ReLU network scaling x by 1/c is the same as scaling b_std
by c, up to an overall factor that cancels from a learning rate given as a fraction of the critical one. So
choose ``network.b_std`` of the order of ``task.domain`` times W_std: with small biases all kinks of a
one-hidden-layer network crowd around x = 0.
"""

from __future__ import annotations

import numpy as np

from ..groups import Group, invariant_action, line_action
from ..settings import CosineTask
from .base import Readout, TaskData
from .splits import TRAIN, join, stream


def build(task: CosineTask, group: Group) -> TaskData:
    """Points x (sample, 1) with targets cos(x) (sample, 1) in every split.

    train: iid uniform on [−domain, domain]; test: evenly spaced there; ``ood-outside``: evenly spaced on
    domain < |x| ≤ 1.5 domain, half on each side, ascending. Raises StudyError if the group does not act on a line.
    """
    half = task.domain
    parts = {
        "train": stream(task.seed, TRAIN).uniform(-half, half, task.train),
        "test": np.linspace(-half, half, task.test),
    }
    if "outside" in task.ood:
        parts["ood-outside"] = _outside(half, task.test)
    x, split = join({name: part[:, None] for name, part in parts.items()})
    return TaskData(
        input=x,
        target=np.cos(x),
        split=split,
        input_action=line_action(group),
        output_action=invariant_action(group, (1,)),
        output_name="f(x)",
        readout=Readout("f(x)", np.eye(1)),
        provenance={
            "source": f"generated: cos(x), training x uniform on [−{half}, {half}]",
            "input_normalisation": "none (raw x)",
            "target_normalisation": "none",
        },
    )


def _outside(half: float, samples: int) -> np.ndarray:
    """Evenly spaced on both sides, ascending; an odd number has its extra point on the right."""
    right = half + 0.5 * half * np.arange(1, (samples + 1) // 2 + 1) / ((samples + 1) // 2)
    return np.concatenate([-right[: samples // 2][::-1], right])
