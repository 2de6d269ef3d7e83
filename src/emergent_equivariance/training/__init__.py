"""Engines: the members of a shard → their predictions on group orbits at the recorded times."""

from .problem import Engine, Problem, ShardResult, build_problem, get_engine

__all__ = ["Engine", "Problem", "ShardResult", "build_problem", "get_engine"]
