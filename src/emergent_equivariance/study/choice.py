"""Which arms stand for a study: the main arm, its control, and whose data and theory enter metrics.nc.

Where a study has several widths the widest stands for it; of any other swept key (a seed, say) the first value does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .arms import Arm
from .layout import Study

__all__ = ["SUBJECTS", "Choice", "Chosen", "choose", "joined_stores", "store_arms", "study_choices"]

#: Coordinates on arms that are drawn, not held fixed, and those that say the same in other words.
SUBJECTS = ("arm", "network_width", "augmentation_label", "width", "network.width", "augmentation", "group_order")


class Choice(NamedTuple):
    """One arm that a picture may draw.

    Attributes:
      key: folder name of the arm.
      width: width of its network; 0: not given.
      augmentation: "none", "full", "subset-K" or "random".
      rest: values of all other swept keys, as text.
    """

    key: str
    width: int
    augmentation: str
    rest: tuple[str, ...] = ()

    @property
    def size(self) -> str:
        """The width in words."""
        return f"width {self.width}" if self.width else "width not given"


@dataclass(frozen=True)
class Chosen:
    """The arms of a picture.

    Attributes:
      main: the widest arm with full augmentation; failing that with another one; failing that without.
      control: the arm without augmentation at the same width (else the widest), if it is not main.
      others: arms at the width of main with further kinds of augmentation.
      widths: all arms augmented like main, by width.
    """

    main: Choice
    control: Choice | None
    others: tuple[Choice, ...]
    widths: tuple[Choice, ...]

    @property
    def pair(self) -> list[Choice]:
        """Control (if there is one) and main arm."""
        return [self.control, self.main] if self.control else [self.main]

    @property
    def drawn(self) -> list[Choice]:
        """Control, others and main arm: in the order in which they are drawn."""
        return [*self.pair[:-1], *self.others, self.main]

    def rank(self, arm: Choice) -> int:
        """Place of an arm among the drawn ones that are augmented with subsets; 0 for another one."""
        subsets = [each.key for each in self.drawn if each.augmentation.startswith("subset")]
        return subsets.index(arm.key) if arm.key in subsets else 0


def choose(arms: Iterable[Choice]) -> Chosen:
    """Pick the arms that stand for a study: of every swept key but width and augmentation, those with its first value.

    Raises ValueError if there is no arm.
    """
    first: dict[tuple[int, str], Choice] = {}
    rest = None
    for arm in arms:
        rest = arm.rest if rest is None else rest
        if arm.rest == rest:
            first.setdefault((arm.width, arm.augmentation), arm)
    if not first:
        raise ValueError("there is no arm to draw")
    kinds = list(dict.fromkeys(kind for _, kind in first))
    kind = "full" if "full" in kinds else next((k for k in kinds if k != "none"), "none")
    widths = tuple(sorted((a for a in first.values() if a.augmentation == kind), key=lambda a: a.width))
    main = widths[-1]
    controls = sorted(
        (a for a in first.values() if a.augmentation == "none"), key=lambda a: (a.width == main.width, a.width)
    )
    control = controls[-1] if controls and kind != "none" else None
    others = tuple(a for a in first.values() if a.width == main.width and a.augmentation not in (kind, "none"))
    return Chosen(main, control, others, widths)


def study_choices(study: Study) -> list[Choice]:
    """All arms of a study, in its order."""
    return [
        Choice(
            arm.path,
            arm.settings.network.width or 0,
            arm.settings.augmentation.label,
            tuple(str(value) for name, value in sorted(arm.coords.items()) if name not in SUBJECTS),
        )
        for arm in study.arms
    ]


def store_arms(study: Study) -> list[Arm]:
    """The arms whose data and theory enter metrics.nc: control and main arm, and one for each other data or theory.

    None in studies of kernels, whose results of the arms hold all.
    """
    if study.kind != "ensemble":
        return []
    arms = [study.arm(choice.key) for choice in choose(study_choices(study)).pair]
    known = {(arm.data_key, arm.theory_key) for arm in arms}
    for arm in study.arms:
        if (arm.data_key, arm.theory_key) not in known:
            known.add((arm.data_key, arm.theory_key))
            arms.append(arm)
    return arms


def joined_stores(study: Study) -> list[Path]:
    """The data and theory stores that metrics.nc is made from, beside the results of all arms."""
    paths = []
    for arm in store_arms(study):
        paths.append(study.data_path(arm))
        if arm.settings.has_mean:
            paths.append(study.theory_path(arm))
    return list(dict.fromkeys(paths))
