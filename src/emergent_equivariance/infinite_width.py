"""The one door to neural-tangents: import ``stax`` and ``nt`` from here, nowhere else.

neural-tangents (Novak et al., ICLR 2020; last release 0.6.5, 2024) imports names that newer versions of jax
have moved or dropped. While it is imported, this module lends them: ``jax.core`` gets Jaxpr, JaxprEqn,
Literal, Var and Primitive from ``jax.extend.core``, ``jax.util`` gets safe_map and safe_zip, and
``jax.interpreters.ad`` gets zeros_like_p. All are taken away again, so that no other package sees them.
``neural_tangents.experimental``, which needs tensorflow, is replaced by an empty module.

Analytic kernels, ``stax`` and ``nt.predict`` (outside jit) work; the *empirical* kernels of neural-tangents
do not, nor are they needed here. Importing this module never switches on 64-bit precision.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.core
import jax.extend.core
import jax.interpreters.ad

from .errors import UserError

__all__ = ["nt", "stax"]

MOVED_TO_EXTEND = ("Jaxpr", "JaxprEqn", "Literal", "Var", "Primitive")


def _safe_zip(*sequences: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Zip of sequences of one length; raises ValueError otherwise."""
    return list(zip(*sequences, strict=True))


def _safe_map(function: Callable[..., Any], *sequences: Iterable[Any]) -> list[Any]:
    """Map over sequences of one length; raises ValueError otherwise."""
    return [function(*values) for values in zip(*sequences, strict=True)]


@contextmanager
def _names_of_older_jax() -> Iterator[None]:
    util = types.ModuleType("jax.util")
    util.safe_map, util.safe_zip = _safe_map, _safe_zip  # type: ignore[attr-defined]
    wanted = [(jax.core, name, getattr(jax.extend.core, name)) for name in MOVED_TO_EXTEND]
    wanted += [
        (jax, "util", util),
        (jax.interpreters.ad, "zeros_like_p", jax.extend.core.Primitive("zeros_like")),
    ]
    lent = [(module, name, value) for module, name, value in wanted if name not in vars(module)]
    lend_util = any(module is jax for module, _, _ in lent) and "jax.util" not in sys.modules
    for module, name, value in lent:
        setattr(module, name, value)
    if lend_util:
        sys.modules["jax.util"] = util
    try:
        yield
    finally:
        for module, name, _ in lent:
            delattr(module, name)
        if lend_util:
            del sys.modules["jax.util"]


def _open() -> tuple[types.ModuleType, types.ModuleType]:
    experimental = "neural_tangents.experimental"
    sys.modules.setdefault(experimental, types.ModuleType(experimental, "Left out: it needs tensorflow."))
    try:
        with _names_of_older_jax():
            return importlib.import_module("neural_tangents"), importlib.import_module("neural_tangents.stax")
    except ModuleNotFoundError as error:
        raise UserError(
            f"neural-tangents cannot be imported: there is no module {error.name!r}.",
            remedy="Install it with: pip install --no-deps neural-tangents==0.6.5 && pip install frozendict "
            "(--no-deps, because it asks for tensorflow and needs none).",
        ) from error


nt, stax = _open()
