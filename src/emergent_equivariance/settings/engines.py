"""The training engines, as far as it concerns those who do not train: one table, without importing any of them."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ENGINES", "EngineFacts", "Footprint", "Speed", "default_engine"]


class Speed(NamedTuple):
    """How fast an engine trains on one CPU core, where nothing is measured.

    Attributes:
      rate: floating-point operations per second.
      overhead: seconds that a gradient step takes beside its operations.
    """

    rate: float
    overhead: float


class Footprint(NamedTuple):
    """Memory of an engine, measured at the peak (tests/benchmarks).

    Attributes:
      program: bytes of a process before anything large is there, libraries and compilation included.
      activations, patches, parameters: copies that are held at once (see study.training_memory).
    """

    program: int
    activations: float
    patches: float
    parameters: float


class EngineFacts(NamedTuple):
    """What is known of an engine.

    Attributes:
      module, cls: where it is, in the package ``training``.
      networks: names of the networks it trains.
      stacks: numbers of members at once that it tries on a CPU, beside one after the other.
      footprint: its memory.
      default: network → its speed, for networks that it trains where nothing is measured; None: not known.
      gpu: whether it can compute on a GPU.
    """

    module: str
    cls: str
    networks: tuple[str, ...]
    stacks: tuple[int, ...]
    footprint: Footprint
    default: dict[str, Speed | None]
    gpu: bool = True


#: Name → facts; the most promising first. Speeds are those of one AVX-512 core.
ENGINES = {
    "numba": EngineFacts(
        "numba_engine",
        "NumbaEngine",
        ("cnn", "gcnn"),
        (),
        Footprint(700_000_000, 0.0, 0.0, 3.5),
        {},
        gpu=False,
    ),
    "jax": EngineFacts(
        "jax_engine",
        "JaxEngine",
        ("mlp", "cnn", "gcnn"),
        (8,),
        Footprint(450_000_000, 2.3, 2.8, 3.0),
        {"mlp": Speed(60e9, 15e-6)},
    ),
    "torch": EngineFacts(
        "torch_engine",
        "TorchEngine",
        ("mlp", "cnn", "gcnn", "torch"),
        (32, 8),
        Footprint(570_000_000, 1.5, 0.0, 3.5),
        {"cnn": Speed(40e9, 900e-6), "gcnn": Speed(40e9, 1200e-6), "torch": None},
    ),
}


def default_engine(network: str) -> str:
    """Name of the engine that trains a network where nothing is measured."""
    return next(name for name, engine in ENGINES.items() if network in engine.default)
