"""The JAX engine: the steps between two records of many members in one compiled program.

On a CPU members are mapped one after the other (``lax.map``), so that a member's working set stays in cache; on a GPU
many advance together (``vmap``). The loop over the steps has a dynamic length: it compiles once, whatever the recorded
times are, and gives the same bits wherever it is interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from ..networks import initial_parameters
from ..settings import Training
from .engine import Choice, Record
from .jax_optimizers import adam
from .problem import Problem

#: Rows evaluated at once by one member; bounds the memory of recording.
EVALUATION_BATCH = 256

#: Variants: members one after the other within a call, or all of them in every operation.
MAP, VMAP = "map", "vmap"


class JaxEngine:
    """See Engine."""

    name = "jax"

    def device(self) -> str:
        device = jax.devices()[0]
        return "cpu" if device.platform == "cpu" else device.device_kind

    def candidates(self, problem: Problem, members: int) -> list[Choice]:
        if jax.default_backend() == "cpu":
            return [Choice(self.name, MAP, 1, 1000)]
        return [Choice(self.name, VMAP, members, 1000)]

    def trainer(self, problem: Problem, choice: Choice) -> JaxTrainer:
        return JaxTrainer(problem, choice)


class _State(NamedTuple):
    """Members in training; every leaf has a leading axis of members."""

    members: tuple[int, ...]
    parameters: Any
    optimizer: Any


class JaxTrainer:
    """See Trainer."""

    def __init__(self, problem: Problem, choice: Choice) -> None:
        self.problem, self.choice = problem, choice
        self.shapes = problem.network.shapes
        self._tables = _tables(problem)
        self._optimizer = _optimizer(problem.settings.training, problem.learning_rate)
        advance, record = _programs(problem, self._optimizer)
        together = _over_members(choice.variant)
        self._advance = jax.jit(together(advance, (None, 0, 0, None)), donate_argnums=1)
        self._record = jax.jit(together(record, (None, 0)))

    def start(self, members: Sequence[int]) -> _State:
        seed, precision = self.problem.settings.ensemble.seed, self.problem.settings.execution.precision
        initial = [initial_parameters(self.problem.network, seed, member) for member in members]
        parameters = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves), precision), *initial)
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


def _programs(problem: Problem, optimizer: optax.GradientTransformation) -> tuple[Callable[..., Any], ...]:
    """Of one member: (tables, (parameters, optimiser's state), schedule, count) → the carry advanced, and
    (tables, parameters) → (predictions (row, output), loss)."""
    precision, row_losses = problem.settings.execution.precision, _row_losses(problem.settings.training)
    apply = problem.network.apply

    def in_batches(parameters: Any, rows: jax.Array) -> jax.Array:
        if len(rows) <= EVALUATION_BATCH or rows.ndim <= 2:
            return apply(parameters, rows)
        return lax.map(lambda row: apply(parameters, row[None])[0], rows, batch_size=EVALUATION_BATCH)

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
