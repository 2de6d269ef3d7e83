"""Engines: the members of a shard → their predictions on group orbits at the recorded times."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from ..settings.engines import ENGINES
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


def get_engine(name: str) -> Engine:
    """The engine called ``name``, a key of ENGINES, imported when it is asked for."""
    facts = ENGINES[name]
    made: Any = getattr(import_module(f".{facts.module}", __name__), facts.cls)
    return made()


def train_members(problem: Problem, members: Sequence[int], choice: Choice | None = None) -> ShardResult:
    """Train some members of an arm without interruption or files, for notebooks and tests; → their predictions.

    ``train_members(build_problem(settings, build_task(settings), learning_rate), range(8)).prediction``. By default
    they are trained as they would be without measuring, in JAX where it can.
    """
    choice = choice or get_engine("jax").candidates(problem, len(members))[0]
    return train_shard(problem, get_engine(choice.engine).trainer(problem, choice), choice, members)
