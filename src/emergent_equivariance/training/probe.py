"""Which engine trains an arm fastest here, and how many members at once: a short measurement.

Every candidate of every engine trains a few members for a few steps. What is compared is the time per member and
gradient step of a whole shard, whose last group of members may be padded. Where the members of the study take less
time than this, the default is taken unmeasured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest

from ..errors import StudyError
from ..settings import Settings
from ..settings.engines import ENGINES, default_engine
from ..study.probes import Candidate, Choice
from ..study.work import WORTHWHILE, core_seconds, members_per_shard, step_flops
from . import get_engine
from .engine import Engine, Trainer
from .problem import Problem

#: Learning rate while measuring: speed does not depend on it, and weights stay finite.
LEARNING_RATE = 1e-9

#: Seconds after which no further candidate is tried.
BUDGET = 20.0

#: Shortest call in seconds that is timed, and how many such calls are: the fastest counts.
LEAST, REPETITIONS = 0.2, 3

#: A candidate that takes so many times as long as the best so far is timed once.
CLEARLY_SLOWER = 1.5

#: Seconds a call of ``advance`` may take: as long may a signal have to wait.
LATENCY = 1.0

#: Limits of steps_per_call: steps, and bytes of the schedule of one call.
MOST_STEPS, SCHEDULE_BYTES = 10_000, 2**24

#: What the messages of jax, torch and CUDA say then.
OUT_OF_MEMORY = ("resource_exhausted", "out of memory", "can't allocate memory", "alloc_failed")

Clock = Callable[[], float]


@dataclass(frozen=True)
class Decision:
    """What was found; attributes as of study.Probe."""

    choice: Choice
    reason: str
    device: str
    candidates: list[Candidate]


def choose(
    problem: Problem,
    seconds: float,
    *,
    engines: Iterable[Engine] | None = None,
    say: Callable[[str], None] = lambda text: None,
    clock: Clock | None = None,
) -> Decision:
    """Decide how to train an arm; execution.engine and members_at_once are kept where they are given.

    Args:
      problem: the arm; its learning rate does not matter (LEARNING_RATE).
      seconds: estimated time of all training that the decision is for (see study.work.training_seconds).
      engines: those to choose from, the default first; by default those that the settings allow.
      say: told every measurement.
      clock: seconds; by default processor time where one CPU thread computes, so that other jobs do not disturb the
        measurement, and the time of day elsewhere.

    Raises StudyError if no engine can train the network, or nothing fits in memory.
    """
    settings = problem.settings
    allowed = _engines(settings) if engines is None else engines
    found = _default(problem, seconds, allowed) if seconds < WORTHWHILE else _fastest(problem, allowed, say, clock)
    if found is None:
        raise StudyError(
            f"execution.engine: {settings.execution.engine} cannot train network {settings.network.name}.",
            remedy="Use auto.",
        )
    given = [name for name in ("engine", "members_at_once") if getattr(settings.execution, name) != "auto"]
    kept = f"; execution.{' and '.join(given)} as given" if given else ""
    return replace(found, reason=found.reason + kept)


def _default(problem: Problem, seconds: float, engines: Iterable[Engine]) -> Decision | None:
    """The most promising way of the first engine that has any; other engines are not imported."""
    option = next(((engine, choice) for engine in engines for choice in _choices(problem, engine)), None)
    if option is None:
        return None
    engine, choice = option
    choice = replace(choice, steps_per_call=_steps_per_call(problem, choice, _estimate(problem)))
    reason = f"the default: training takes about {seconds:.2g} s, less than a measurement is worth"
    return Decision(choice, reason, engine.device(), [])


def _fastest(
    problem: Problem, engines: Iterable[Engine], say: Callable[[str], None], clock: Clock | None
) -> Decision | None:
    """The fastest way of all, the most promising of every engine measured first. Raises StudyError if none fits."""
    lists = [[(engine, choice) for choice in _choices(problem, engine)] for engine in engines]
    options = [option for option in chain.from_iterable(zip_longest(*lists)) if option is not None]
    if not options:
        return None
    measured = _measure_all(problem, options, say, clock)
    timed = [(found.seconds, place) for place, found in enumerate(measured) if found.seconds is not None]
    if not timed:
        raise StudyError(
            f"network {problem.settings.network.name}: no way to train it fits in memory ({measured[0].note}).",
            remedy="Lower execution.members_at_once, training.batch_size or the width.",
        )
    best, place = min(timed)
    choice = replace(options[place][1], steps_per_call=_steps_per_call(problem, options[place][1], best))
    reason = f"the fastest of {len(timed)} measured" if len(timed) > 1 else "the only one measured"
    return Decision(choice, reason, measured[place].device, measured)


def _engines(settings: Settings) -> Iterator[Engine]:
    """Engines that the settings allow, the default first, each imported when it is asked for."""
    if settings.execution.engine != "auto":
        yield get_engine(settings.execution.engine)
        return
    network = settings.network.name
    default = default_engine(network)
    for name in sorted(ENGINES, key=lambda name: name != default):
        if network in ENGINES[name].networks:
            yield get_engine(name)


def _choices(problem: Problem, engine: Engine) -> list[Choice]:
    """What an engine offers, with as many members at once as are given."""
    members, given = members_per_shard(problem.settings), problem.settings.execution.members_at_once
    choices = engine.candidates(problem, members)
    if given != "auto":
        choices = [replace(choice, members_at_once=min(given, members)) for choice in choices]
    return list(dict.fromkeys(choices))


def _measure_all(
    problem: Problem, options: Sequence[tuple[Engine, Choice]], say: Callable[[str], None], clock: Clock | None
) -> list[Candidate]:
    wall = clock or time.perf_counter
    start, best, measured = wall(), math.inf, []
    for engine, choice in options:
        found = Candidate(choice.engine, choice.variant, choice.members_at_once, engine.device())
        if best < math.inf and wall() - start > BUDGET:
            found = replace(found, note=f"not measured: {BUDGET:g} s were over")
        else:
            found = _measure(problem, engine, choice, found, best, clock or _clock(problem, found.device))
            best = min(best, found.seconds or math.inf)
        measured.append(found)
        said = found.note if found.seconds is None else f"{found.seconds:.3g} s per member and step"
        say(f"{choice}: {said}")
    return measured


def _clock(problem: Problem, device: str) -> Clock:
    one_thread = device == "cpu" and problem.settings.execution.threads == 1
    return time.process_time if one_thread else time.perf_counter


def _measure(
    problem: Problem, engine: Engine, choice: Choice, found: Candidate, best: float, clock: Clock
) -> Candidate:
    try:
        trainer, start = engine.trainer(problem, choice), clock()
        state = trainer.advance(trainer.start(range(choice.members_at_once)), 0, 1)
        first = clock() - start
        if found.device != "cpu":
            trainer.record(state, weights=False)  # has to fit in memory as well
        members = members_per_shard(problem.settings)
        groups = -(-members // choice.members_at_once)
        seconds = _seconds_per_step(trainer, state, choice, best * members / groups, clock) * groups / members
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return replace(found, note=f"does not fit in memory: {reason[:200]}")
    return replace(found, seconds=seconds, first_seconds=first)


def _seconds_per_step(trainer: Trainer, state: object, choice: Choice, best: float, clock: Clock) -> float:
    """Seconds per gradient step of a state that has made one; ``best`` is what the best so far took."""
    times: list[float] = []
    at, count = 1, 1
    while len(times) < REPETITIONS:
        start = clock()
        state = trainer.advance(state, at, count)
        took = clock() - start
        at += count
        if took < LEAST and count < choice.steps_per_call:
            enough = math.ceil(1.2 * LEAST / took * count) if took > 0 else choice.steps_per_call
            count = min(choice.steps_per_call, max(2 * count, enough))
            continue
        times.append(took / count)
        if times[0] > CLEARLY_SLOWER * best:
            break
    return min(times)


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(said in text for said in OUT_OF_MEMORY)


def _estimate(problem: Problem) -> float | None:
    """Seconds per member and step before anything is measured."""
    rows = problem.batch
    flops = step_flops(problem.settings, problem.orbit_input.shape[2:], problem.outputs, rows)
    return None if flops is None else core_seconds(problem.settings, flops, 1) / problem.settings.execution.threads


def _steps_per_call(problem: Problem, choice: Choice, seconds: float | None) -> int:
    """Gradient steps of a call of at most LATENCY."""
    if seconds is None:
        return choice.steps_per_call
    together = choice.members_at_once
    most = MOST_STEPS
    if problem.scheduled:
        most = min(most, SCHEDULE_BYTES // (4 * together * problem.batch))
    return max(1, min(most, int(LATENCY / (seconds * together))))
