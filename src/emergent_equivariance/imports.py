"""The user's own functions, by import path: ``factory: "package.module:function"``.

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

from .errors import UserError

__all__ = ["named_function"]

#: What importing a faulty module raises; anything else is a fault in a running program and keeps its traceback.
IMPORT_FAULTS = (ImportError, SyntaxError, NameError, AttributeError, TypeError, ValueError, LookupError, OSError)


@contextmanager
def named_function(path: str, where: str, kind: str, fault: type[UserError]) -> Iterator[Callable[..., Any]]:
    """The function at ``path``, "package.module:function"; while it is used, the working directory is importable.

    Args:
      where: the key and its value, for messages.
      kind: what function is wanted, for messages, e.g. "(settings, group) → TaskData".
      fault: raised if the module cannot be imported or has no such function.
    """
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield _resolve(path, where, kind, fault)
    finally:
        if here in sys.path:
            sys.path.remove(here)


def _resolve(path: str, where: str, kind: str, fault: type[UserError]) -> Callable[..., Any]:
    module_name, _, function_name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except IMPORT_FAULTS as error:
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise fault(
                f"{where}: there is no module {error.name!r} in the working directory {Path.cwd()} or among the "
                "installed packages.",
                remedy="Correct the name, run from the directory that holds it, or install the package.",
            ) from None
        raise fault(
            f"{where}: importing {module_name} failed with {type(error).__name__}: {error}.",
            remedy=f"Mend it until 'python -c \"import {module_name}\"' passes.",
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        found = "has no" if function is None else "has no function"
        raise fault(
            f"{where}: the module {module_name} {found} {function_name!r}.",
            remedy=f"Name a function {kind} of that module.",
        )
    return function
