"""The JAX engine: the steps between two records of many members in one compiled program.

On a CPU the members of a call are mapped one after the other (``lax.map``), so that a member's working set stays in
cache; on a GPU many advance together (``vmap``). The loop over the steps has a dynamic length: it compiles once,
whatever the recorded times are, and gives the same bits wherever it is interrupted. Nothing goes to the device or back
within a call but the rows of its steps.

On a GPU products are exact in float32 unless the environment variable JAX_DEFAULT_MATMUL_PRECISION says otherwise
(``tensorfloat32``: faster, with errors of 1e-3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from ..errors import StudyError
from ..networks import Network, build_network, initial_parameters
from ..settings import ConvolutionalNetwork, Training
from ..settings.engines import ENGINES
from ..study.training_memory import device_memory
from .engine import Choice, Record
from .jax_optimizers import adam
from .problem import Problem

#: Rows evaluated at once by one member; bounds the memory of recording.
EVALUATION_BATCH = 256

#: Variants: members one after the other within a call, or all of them in every operation.
MAP, VMAP = "map", "vmap"

#: Ending of variants that convolve by ``lax.conv`` instead of a matrix product.
DIRECT = "-conv"

#: Members of a call that are mapped: so many that what a call costs in itself does not matter.
MAPPED = 16

#: Members that advance together, on a CPU, and on a GPU at first: fewer are tried, and taken if they do not fit.
(CPU_STACK,), GPU_STACK = ENGINES["jax"].stacks, 512

#: Part of a GPU's memory that members may be expected to need.
GPU_SHARE = 0.8


class JaxEngine:
    """See Engine."""

    name = "jax"

    def device(self) -> str:
        device = jax.devices()[0]
        return "cpu" if device.platform == "cpu" else device.device_kind

    def candidates(self, problem: Problem, members: int) -> list[Choice]:
        if problem.settings.network.name == "torch":
            return []
        convolves = isinstance(problem.settings.network, ConvolutionalNetwork)
        if jax.default_backend() == "cpu":
            sizes = [(VMAP, min(members, CPU_STACK))]
            sizes = [(MAP, 1), *sizes] if convolves else [(MAP, _even_groups(members, MAPPED)), (MAP, 1), *sizes]
        else:
            sizes = [(VMAP, number) for number in _stacks(problem, members)]
        endings = ("", DIRECT) if convolves else ("",)
        choices = [Choice(self.name, over + ending, number, 1000) for over, number in sizes for ending in endings]
        return list(dict.fromkeys(choices))

    def trainer(self, problem: Problem, choice: Choice) -> JaxTrainer:
        if choice.variant.removesuffix(DIRECT) not in (MAP, VMAP):
            raise StudyError(
                f"engine {self.name}: has no variant {choice.variant}.",
                remedy=f"Use one of {MAP}, {VMAP}, {MAP}{DIRECT}, {VMAP}{DIRECT}.",
            )
        return JaxTrainer(problem, choice)


def _even_groups(members: int, most: int) -> int:
    """Size of as few groups of at most ``most`` as there can be, with as little padding."""
    return -(-members // -(-members // most))


def _stacks(problem: Problem, members: int) -> list[int]:
    """Members to advance together on a GPU: as many as fit in its memory, and eighths of them."""
    limit = GPU_SHARE * (jax.devices()[0].memory_stats() or {}).get("bytes_limit", math.inf)
    found = []
    number = min(members, GPU_STACK)
    while number:
        shape = problem.orbit_input.shape[2:]
        choice = Choice(JaxEngine.name, VMAP, number, 1)
        need = device_memory(problem.settings, choice, shape, problem.outputs, len(problem.row_input))
        if number == 1 or need <= limit:
            found.append(number)
        number //= 8
    return found


class _State(NamedTuple):
    """Members in training; every leaf has a leading axis of members."""

    members: tuple[int, ...]
    parameters: Any
    optimizer: Any


class JaxTrainer:
    """See Trainer."""

    def __init__(self, problem: Problem, choice: Choice) -> None:
        self.problem, self.choice = problem, choice
        self.network = problem.network
        if choice.variant.endswith(DIRECT):
            shape = problem.orbit_input.shape[2:]
            self.network = build_network(problem.settings.network, shape, problem.outputs, "direct")
        self.shapes = self.network.shapes
        self._tables = _tables(problem)
        self._optimizer = _optimizer(problem.settings.training, problem.learning_rate)
        advance, record = _programs(problem, self.network, self._optimizer)
        together = _over_members(choice.variant.removesuffix(DIRECT))
        self._advance = jax.jit(together(advance, (None, 0, 0, None)), donate_argnums=1)
        self._record = jax.jit(together(record, (None, 0)))

    def start(self, members: Sequence[int]) -> _State:
        seed, precision = self.problem.settings.ensemble.seed, self.problem.settings.execution.precision
        initial = [
            jax.tree.map(lambda leaf: leaf.astype(precision), initial_parameters(self.network, seed, member))
            for member in members
        ]
        parameters = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *initial)
        del initial
        return _State(tuple(members), parameters, jax.vmap(self._optimizer.init)(parameters))

    def advance(self, state: _State, first: int, count: int) -> _State:
        carry = (state.parameters, state.optimizer)
        carry = self._advance(self._tables, carry, self._schedule(state.members, first, count), count)
        return _State(state.members, *jax.block_until_ready(carry))

    def _schedule(self, members: Sequence[int], first: int, count: int) -> jax.Array | None:
        """(member, steps_per_call, batch) rows, those beyond ``count`` never used."""
        if not self.problem.scheduled:
            return None
        rows = np.full((len(members), self.choice.steps_per_call, self.problem.batch), -1, np.int32)
        for place, member in enumerate(members):
            rows[place, :count] = self.problem.schedule(member, first, count)
        return jnp.asarray(rows)

    def record(self, state: _State, weights: bool) -> Record:
        prediction, loss = jax.device_get(self._record(self._tables, state.parameters))
        shape = (len(prediction), *self.problem.orbit_input.shape[:2], prediction.shape[-1])
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state.parameters)] if weights else []
        return Record(prediction.reshape(shape).astype(np.float32, copy=False), loss, leaves)

    def save(self, state: _State) -> list[np.ndarray]:
        return [np.array(leaf) for leaf in jax.tree.leaves((state.parameters, state.optimizer))]

    def restore(self, members: Sequence[int], arrays: Sequence[np.ndarray]) -> _State:
        template = jax.eval_shape(lambda: self.start(members)[1:])
        parameters, optimizer = jax.tree.unflatten(jax.tree.structure(template), [jnp.array(a) for a in arrays])
        return _State(tuple(members), parameters, optimizer)


def _over_members(variant: str) -> Callable[..., Callable[..., Any]]:
    """(function of one member, axes) → function of all members; axes as of vmap."""
    if variant == VMAP:
        return jax.vmap

    def mapped(function: Callable[..., Any], axes: tuple[int | None, ...]) -> Callable[..., Any]:
        def all_members(*arguments: Any) -> Any:
            per_member = tuple(a for a, axis in zip(arguments, axes, strict=True) if axis == 0)

            def one(member: Any) -> Any:
                given = iter(member)
                return function(*(next(given) if axis == 0 else a for a, axis in zip(arguments, axes, strict=True)))

            return lax.map(one, per_member)

        return all_members

    return mapped


class _Tables(NamedTuple):
    """What all members share, passed as arguments: as constants of the program they would be compiled into it."""

    row_input: jax.Array
    row_target: jax.Array
    train_input: jax.Array
    train_target: jax.Array
    orbit_input: jax.Array


def _tables(problem: Problem) -> _Tables:
    precision = problem.settings.execution.precision
    return _Tables(
        row_input=jnp.asarray(problem.row_input, precision),
        row_target=jnp.asarray(problem.row_target, precision),
        train_input=jnp.asarray(problem.train_input, precision),
        train_target=jnp.asarray(problem.train_target, precision),
        orbit_input=jnp.asarray(problem.orbit_input.reshape(-1, *problem.orbit_input.shape[2:]), precision),
    )


def _optimizer(training: Training, learning_rate: float) -> optax.GradientTransformation:
    if training.optimizer == "adam":
        return adam(learning_rate)
    return optax.sgd(learning_rate, momentum=training.momentum or None)


def _row_losses(training: Training) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Loss of each row, (row, output) × (row, output) → (row,); the training loss is its mean."""
    if training.loss == "mse":
        return lambda output, target: 0.5 * jnp.mean((output - target) ** 2, axis=-1)
    return lambda output, target: -jnp.sum(target * jax.nn.log_softmax(output), axis=-1)


def _programs(
    problem: Problem, network: Network, optimizer: optax.GradientTransformation
) -> tuple[Callable[..., Any], ...]:
    """Of one member: (tables, (parameters, optimiser's state), schedule, count) → the carry advanced, and
    (tables, parameters) → (predictions (row, output), loss)."""
    precision, row_losses = problem.settings.execution.precision, _row_losses(problem.settings.training)
    chosen = getattr(jax.config, "jax_default_matmul_precision", None)  # by the environment
    exact = None if jax.default_backend() == "cpu" else chosen or "highest"

    def apply(parameters: Any, rows: jax.Array) -> jax.Array:
        with jax.default_matmul_precision(exact):
            return network.apply(parameters, rows)

    def in_batches(parameters: Any, rows: jax.Array) -> jax.Array:
        number, rest = divmod(len(rows), EVALUATION_BATCH)
        batches = rows[: len(rows) - rest].reshape(number, EVALUATION_BATCH, *rows.shape[1:])
        outputs = lax.map(lambda batch: apply(parameters, batch), batches).reshape(len(rows) - rest, problem.outputs)
        return jnp.concatenate([outputs, apply(parameters, rows[len(rows) - rest :])]) if rest else outputs

    def batch_loss(parameters: Any, tables: _Tables, indices: jax.Array | None) -> jax.Array:
        if indices is None:
            return jnp.mean(row_losses(apply(parameters, tables.row_input), tables.row_target))
        present = (indices >= 0).astype(precision)
        losses = row_losses(apply(parameters, tables.row_input[indices]), tables.row_target[indices])
        return jnp.sum(losses * present) / jnp.sum(present)

    def advance(tables: _Tables, carry: Any, schedule: jax.Array | None, count: jax.Array) -> Any:
        def step(time: jax.Array, carry: Any) -> Any:
            parameters, state = carry
            gradient = jax.grad(batch_loss)(parameters, tables, None if schedule is None else schedule[time])
            update, state = optimizer.update(gradient, state, parameters)
            return optax.apply_updates(parameters, update), state

        return lax.fori_loop(0, count, step, carry)

    def record(tables: _Tables, parameters: Any) -> Any:
        loss = jnp.mean(row_losses(in_batches(parameters, tables.train_input), tables.train_target))
        return in_batches(parameters, tables.orbit_input), loss

    return advance, record
