"""Write envs/requirements.lock from the environment that runs this: `make lock`.

It holds all that pyproject.toml asks for, extras included, and what that needs in turn, in the versions that are
installed; what else is installed is left out. Install or upgrade in .venv first. `--check` writes nothing and ends with
exit code 1 where the lock is another one.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "envs" / "requirements.lock"


def direct() -> list[Requirement]:
    """What pyproject.toml asks for, extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(line) for line in [*project["dependencies"], *(line for extra in extras for line in extra)]]


def closure(wanted: Iterable[Requirement]) -> dict[str, str]:
    """Name → ``name==version`` of the packages and of all that they need, as installed, without local version tags."""
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    open_ = list(wanted)
    while open_:
        requirement = open_.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            package = distribution(requirement.name)
        except PackageNotFoundError:
            sys.exit(f"{requirement} is not installed: run `.venv/bin/python -m pip install '{requirement}'` first.")
        version = package.version.partition("+")[0]
        if not requirement.specifier.contains(version, prereleases=True):
            sys.exit(f"{requirement} is asked for, {version} is installed: install another version first.")
        found[name] = f"{package.metadata['Name']}=={version}"
        needs = [Requirement(line) for line in package.requires or ()]
        chosen = extras or {""}
        open_ += [n for n in needs if n.marker is None or any(n.marker.evaluate({"extra": extra}) for extra in chosen)]
    return found


def content() -> str:
    """The lock that belongs to this environment."""
    head = [line for line in LOCK.read_text().splitlines() if line.startswith("#")]
    pins = closure(direct())
    return "\n".join([*head, *(pins[name] for name in sorted(pins))]) + "\n"


if __name__ == "__main__":
    new = content()
    if "--check" in sys.argv:
        sys.exit(f"{LOCK} is not that of this environment: make env, or make lock." if new != LOCK.read_text() else 0)
    LOCK.write_text(new)
