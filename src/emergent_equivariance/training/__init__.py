"""Engines: the members of a shard → their predictions on group orbits at the recorded times."""

from .problem import Engine, Problem, ShardResult, build_problem

__all__ = ["Engine", "Problem", "ShardResult", "build_problem", "get_engine"]


def get_engine(name: str) -> Engine:
    """The engine called ``name``; "auto" is the fastest one at hand, at present always "jax"."""
    from .jax_engine import JaxEngine

    return {"auto": JaxEngine, "jax": JaxEngine}[name]()
