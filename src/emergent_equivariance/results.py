"""The results of a study from its folder alone, for reading: labelled datasets, opened lazily.

Every store says which arm it belongs to and with which settings it was made, so that neither the study file nor
Snakemake is needed. Nothing is computed or written, and neither jax nor torch is imported.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from .errors import StoreError, StudyError
from .settings import STUDY_FILES, AnySettings, Settings, Tracking
from .study import Arm, KernelArm, Study, header

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["Results", "open_study"]

#: Folders that hold a store or a folder for every arm, those that say most first.
_ARMS = ("ensemble", "measures", "members")

_AGAIN = "Run the study again: only what is missing is made."


def open_study(folder: str | os.PathLike[str], *, verify: bool = False) -> Results:
    """Open the results of a study.

    Args:
      folder: results/STUDY.
      verify: read every store as a whole before it is handed out, and hold it against its checksum. Without it what
        is read of a store is checked as it is read (CRC-32), and the rest is not read.

    Raises StoreError if there is no such folder, or no result of an arm in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise StoreError(f"{root}: is no folder.", remedy="Give the folder of a study, for instance results/ising.")
    found = dict(_arm_headers(root))
    if not found:
        inside = sorted(path.name for path in root.iterdir() if path.is_dir() and any(_arm_headers(path)))
        raise StoreError(
            f"{root}: holds no results of a study (neither of {', '.join(_ARMS)} has a store in it).",
            remedy=f"Give the folder of one study, for instance {root / inside[0]}." if inside else _AGAIN,
        )
    arms = [_arm(path, said) for path, said in found.items()]
    (kind,) = {_kind(arm.settings) for arm in arms}
    study = Study(root, root.name, kind, Tracking(), arms, root.parent)
    order = _order(study)
    arms.sort(key=lambda arm: order.index(arm.path) if arm.path in order else len(order))
    return Results(study, verify)


@dataclass(frozen=True, eq=False)
class Results:
    """The results of a study; see open_study.

    Methods that give the dataset of one arm take its folder name (``study.ensemble("width~64/augmentation~full")``) or
    values of columns of ``arms`` that single it out (``study.ensemble(width=64, augmentation="full")``). They raise
    StudyError where that fits no arm or several, and StoreError where a store is missing, damaged, or was made by other
    settings than the rest. Numbers are read from disk when they are used.

    Attributes:
      study: settings and paths, as for the commands; ``study.file`` is the folder.
      verify: see open_study.
    """

    study: Study
    verify: bool = False

    def __repr__(self) -> str:
        return (
            f"<results of {self.name!r} in {self.root} ({self.study.kind}, {len(self.study.arms)} arms)>\n{self.arms}"
        )

    @property
    def name(self) -> str:
        """Name of the study: of its folder."""
        return self.study.name

    @property
    def root(self) -> Path:
        """Its folder."""
        return self.study.root

    @cached_property
    def arms(self) -> pd.DataFrame:
        """One row per arm, labelled by its folder: the swept keys, network_width, augmentation and group.

        ``augmentation`` is none, full, random or subset-K; ``network_width`` is missing where a network has none.
        """
        import pandas as pd

        rows = [{**arm.coords, **_described(arm)} for arm in self.study.arms]
        return pd.DataFrame(rows, index=pd.Index([arm.path for arm in self.study.arms], name="arm"))

    def settings(self, arm: str | None = None, **selection: Any) -> AnySettings:
        """All settings of an arm, defaults included, as attributes: ``.training.steps`` and the like."""
        return self._arm(arm, selection).settings

    # -------------------------------------------------------------------------------------------- all arms

    @cached_property
    def metrics(self) -> xr.Dataset:
        """metrics.nc, in memory: METRIC and METRIC_se (arm, step, split, member_count), and more: docs/layout.md.

        Swept keys are coordinates of ``arm``. Raises StoreError where it is missing: the study is not finished.
        """
        from . import store

        if not self.study.metrics_path.is_file():
            raise StoreError(
                f"{self.study.metrics_path}: does not exist: the study is not finished. Ensembles of single arms are "
                f"those in {self.root / 'ensemble'}.",
                remedy=_AGAIN,
            )
        return store.read_netcdf(self.study.metrics_path)

    def table(self, name: str = "key_numbers") -> pd.DataFrame:
        """A table of the report, as in tables/NAME.csv.

        Args:
          name: of a study of ensembles: ``key_numbers`` (one row per arm and split at the last step: orbit deviation of
            one member, of the ensemble and as predicted, slope, ratio; each with _se), ``metrics``, ``members`` or
            ``scaling``; of others those that the report shows.

        Raises StudyError for another name.
        """
        from .products import tables

        found = tables(self.study, self.metrics)
        if name not in found:
            raise StudyError(f"{self.root}: there is no table {name!r}.", remedy=f"Use one of {', '.join(found)}.")
        return found[name]

    # --------------------------------------------------------------------------------------------- one arm

    def ensemble(self, arm: str | None = None, **selection: Any) -> xr.Dataset:
        """Ensembles of an arm: mean(step, sample, element, output), METRIC(subset, step, split) and more.

        ``member_count(subset)`` is the number of members of each disjoint subset; see ``ensemble.aggregate``.
        """
        chosen = self._arm(arm, selection)
        self._check_kind(ensemble=True)
        return self._open(self.study.ensemble_path(chosen))

    def members(self, arm: str | None = None, *, allow_missing: bool = False, **selection: Any) -> xr.Dataset:
        """Members of an arm as dask arrays, one chunk or more per shard.

        Args:
          arm: folder name.
          allow_missing: take what is there where members are missing; the coordinate ``member`` says which.
          selection: instead of it.

        Returns:
          prediction(member, step, sample, element, output), loss(member, step), done(member), diverged(member);
          ``split`` of the samples and the like are those of ``data``.
        """
        import xarray as xr

        chosen = self._arm(arm, selection)
        self._check_kind(ensemble=True)
        wanted, shards = chosen.settings.ensemble.members, self.study.existing_shards(chosen)
        used = [shard for shard in self.study.shards(chosen) if shard in shards]
        missing = sorted(set(range(wanted)) - {m for first, last in used for m in range(first, last + 1)})
        if not used or (missing and not (allow_missing or chosen.settings.execution.allow_missing)):
            folder = self.study.place("members", chosen.path)
            raise StoreError(
                f"{folder}: {len(missing)} of {wanted} members are not there, the first is {missing[0]}.",
                remedy=_AGAIN + (" Or give allow_missing=True for those that are there." if used else ""),
            )
        parts = []
        for shard in used:
            part = self._open(self.study.shard_path(chosen, *shard), config_hash=chosen.config_hash)
            parts.append(part.chunk(_chunks(part)))
        whole = xr.concat(
            parts, "member", data_vars="minimal", coords="minimal", compat="override", combine_attrs="drop_conflicts"
        )
        whole = whole.assign_coords({name: labels.compute() for name, labels in whole.coords.items()})
        return whole.isel(member=whole["member"] < wanted)

    def data(self, arm: str | None = None, **selection: Any) -> xr.Dataset:
        """Data of an arm: input(sample, …), target(sample, output), split(sample), tables of the group."""
        chosen = self._arm(arm, selection)
        return self._open(self.study.data_path(chosen))

    def theory(self, arm: str | None = None, **selection: Any) -> xr.Dataset:
        """Analytic solution of an arm: mean μ_t(step, sample, element, output), orbit_covariance Σ_t(step, sample,
        element, element_) per output, eigenvalue(mode) of the NTK.

        Raises StudyError where the arm has no analytic mean.
        """
        chosen = self._arm(arm, selection)
        self._check_kind(ensemble=True)
        if not chosen.settings.has_mean:
            raise StudyError(
                f"{self.root}: the arm {chosen.path} has no analytic mean.",
                remedy="Choose an arm that is trained with loss mse and optimizer gd, and with theory.mean: true.",
            )
        return self._open(self.study.theory_path(chosen))

    def measure(self, arm: str | None = None, **selection: Any) -> xr.Dataset:
        """What was measured on an arm of a study of kernels."""
        chosen = self._arm(arm, selection)
        self._check_kind(ensemble=False)
        return self._open(self.study.measure_path(chosen))

    # ------------------------------------------------------------------------------------------- selecting

    def _arm(self, path: str | None, selection: dict[str, Any]) -> Arm:
        table = self.arms
        if path is not None:
            if selection:
                raise StudyError(
                    f"{self.root}: both the arm {path!r} and {_words(selection)} are given.", remedy="Give one of them."
                )
            return self.study.arm(path)
        fits = table
        for key, value in selection.items():
            if key not in table:
                raise StudyError(
                    f"{self.root}: arms are not labelled by {key!r}.", remedy=f"Use some of {', '.join(table)}."
                )
            fits = fits[[found == value for found in fits[key]]]
            if fits.empty:
                known = ", ".join(map(repr, dict.fromkeys(table[key].tolist())))
                raise StudyError(
                    f"{self.root}: no arm has {_words(selection)}.",
                    remedy=f"Values of {key} are {known}: use one of them.",
                )
        if len(fits) > 1:
            differ = [key for key in self.study.arms[0].coords if fits[key].nunique() > 1]
            chosen = (
                f"{len(fits)} arms have {_words(selection)}" if selection else f"which of {len(fits)} arms is not said"
            )
            raise StudyError(
                f"{self.root}: {chosen}.",
                remedy=f"Give {' and '.join(differ)}, or the name of an arm: {', '.join(map(str, fits.index))}.",
            )
        return self.study.arm(str(fits.index[0]))

    def _check_kind(self, *, ensemble: bool) -> None:
        if (self.study.kind == "ensemble") != ensemble:
            use = "measure and data" if ensemble else "ensemble, members, theory and data"
            raise StudyError(f"{self.root}: is of kind {self.study.kind}.", remedy=f"Use {use}.")

    def _open(self, path: Path, config_hash: str | None = None) -> xr.Dataset:
        from . import store

        return store.read(path, config_hash=config_hash, whole=self.verify)


def _words(selection: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {value!r}" for key, value in selection.items())


def _described(arm: Arm) -> dict[str, Any]:
    s = arm.settings
    said = {"network_width": s.network.width, "group": s.group}
    return said | ({"augmentation": s.augmentation.label} if isinstance(s, Settings) else {})


def _chunks(dataset: xr.Dataset) -> dict[Any, Any]:
    """Chunks as they are stored; of what is stored otherwise the whole array."""
    found: dict[Any, int] = {}
    for variable in dataset.variables.values():
        for dim, size in variable.encoding.get("preferred_chunks", {}).items():
            found[dim] = min(size, found.get(dim, size))
    return found


# ------------------------------------------------------------------------------------------- from the headers


def _arm_headers(root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Folder name of every arm, and the attributes of a store of it."""
    known = set()
    for folder in _ARMS:
        for path in sorted((root / folder).rglob("*.zarr.zip")):
            inside = path.relative_to(root / folder)
            name = (inside.parent if folder == "members" else inside).as_posix().removesuffix(".zarr.zip")
            if path.name.startswith(".") or name in known:
                continue
            said = header(path)
            if said.get("arm") == name and isinstance(said.get("settings"), str):
                known.add(name)
                yield name, {**said, "file": path}


def _arm(path: str, said: dict[str, Any]) -> Arm:
    """The arm that a store was made for. Raises StoreError if its settings are none of this version."""
    try:
        content = json.loads(said["settings"])
        (model,) = [model for _, model in STUDY_FILES.values() if set(content) <= set(model.model_fields)]
        settings = model.model_validate(content)
    except (ValueError, TypeError, ValidationError) as error:
        first = str(error).splitlines()[0]
        raise StoreError(
            f"{said['file']}: its settings are not those of this version of the program ({first}).",
            remedy="Open it with the version that made it, or run the study again.",
        ) from None
    labels = dict(part.split("~", 1) for part in path.split("/"))
    coords = {} if labels == {"arm": "single"} else {key: _value(label) for key, label in labels.items()}
    if isinstance(settings, Settings):
        return Arm(labels, coords, settings)
    return KernelArm(labels, coords, settings)


def _value(label: str) -> Any:
    """The value of a coordinate from its label."""
    for number in (int, float):
        try:
            return number(label)
        except ValueError:
            continue
    return label


def _kind(settings: AnySettings) -> str:
    return next(kind for kind, (_, model) in STUDY_FILES.items() if type(settings) is model)


def _order(study: Study) -> list[str]:
    """Arms in the order of the study file, where metrics.nc can say it; else by their values, numbers by size."""
    import h5py

    try:
        with h5py.File(study.metrics_path) as file:
            return [arm.decode() for arm in file["arm"]]
    except (OSError, LookupError):  # not there, or damaged: so says whoever asks for the metrics
        pass
    ranked = sorted(study.arms, key=lambda arm: [(isinstance(v, str), v) for v in arm.coords.values()])
    return [arm.path for arm in ranked]
