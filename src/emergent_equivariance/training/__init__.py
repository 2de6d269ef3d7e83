"""Engines: the members of a shard → their predictions on group orbits at the recorded times."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from .engine import Choice, Engine, Record, Trainer
from .loop import Pause, Position, train_shard
from .problem import Problem, ShardResult, build_problem

__all__ = [
    "ENGINES",
    "Choice",
    "Engine",
    "Pause",
    "Position",
    "Problem",
    "Record",
    "ShardResult",
    "Trainer",
    "build_problem",
    "get_engine",
    "train_members",
    "train_shard",
]

#: Name of an engine → its module and class, imported when it is asked for; the most promising first.
ENGINES = {
    "numba": ("numba_engine", "NumbaEngine"),
    "jax": ("jax_engine", "JaxEngine"),
    "torch": ("torch_engine", "TorchEngine"),
}


def get_engine(name: str) -> Engine:
    """The engine called ``name``, a key of ENGINES."""
    module, cls = ENGINES[name]
    made: Any = getattr(import_module(f".{module}", __name__), cls)
    return made()


def train_members(problem: Problem, members: Sequence[int], choice: Choice | None = None) -> ShardResult:
    """Train some members of an arm without interruption; by default as the JAX engine would without measuring."""
    choice = choice or get_engine("jax").candidates(problem, len(members))[0]
    return train_shard(problem, get_engine(choice.engine).trainer(problem, choice), choice, members)
