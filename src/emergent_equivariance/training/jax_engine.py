"""The JAX engine: the whole training of many members in one compiled program.

On a CPU members are mapped one after the other (``lax.map``), so that a member's working set stays in
cache; on a GPU many advance together (``vmap``). One scan over the records with a dynamic loop over the
steps between them compiles once, whatever the recorded times are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from ..networks import initial_parameters
from ..settings import Training
from .problem import Problem, Progress, ShardResult

#: Rows evaluated at once by one member; bounds the memory of recording.
EVALUATION_BATCH = 256

#: Groups of members between two reports of progress.
GROUPS_PER_CALL = 16


class JaxEngine:
    """See Engine."""

    name = "jax"

    def train(
        self, problem: Problem, members: Sequence[int], members_at_once: int | None, progress: Progress
    ) -> ShardResult:
        together = min(members_at_once or _default_members_at_once(len(members)), len(members))
        groups = -(-len(members) // together)
        call = together * max(g for g in range(1, min(groups, GROUPS_PER_CALL) + 1) if groups % g == 0)
        program, tables = jax.jit(_program(problem, together)), _tables(problem)
        parts: list[Any] = []
        for start in range(0, len(members), call):
            chosen = list(members[start : start + call])
            padded = chosen + [chosen[-1]] * (call - len(chosen))
            result = jax.device_get(program(tables, *_inputs(problem, padded)))
            parts.append(jax.tree.map(lambda leaf: leaf[: len(chosen)], result))  # noqa: B023
            progress(start + len(chosen), len(members))
        prediction, loss, weights = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        shape = (*prediction.shape[:2], *problem.orbit_input.shape[:2], prediction.shape[-1])
        recorded = problem.settings.training.recorded
        stored = [recorded.index(step) for step in sorted(problem.settings.training.store_weights)]
        return ShardResult(
            prediction.reshape(shape).astype(np.float32, copy=False),
            loss,
            [leaf[:, stored] for leaf in jax.tree.leaves(weights)],
        )


def _default_members_at_once(members: int) -> int:
    return 1 if jax.default_backend() == "cpu" else members


def _inputs(problem: Problem, members: Sequence[int]) -> tuple[Any, Any]:
    precision = problem.settings.execution.precision
    initial = [initial_parameters(problem.network, problem.settings.ensemble.seed, member) for member in members]
    parameters = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves), precision), *initial)
    schedule = (
        np.stack([problem.schedule(member) for member in members])
        if problem.scheduled and problem.total_steps
        else None
    )
    return parameters, schedule


class _Tables(NamedTuple):
    """What all members share, passed as arguments: as constants of the program they would be compiled into it."""

    row_input: jax.Array
    row_target: jax.Array
    train_input: jax.Array
    train_target: jax.Array
    orbit_input: jax.Array
    segments: jax.Array


def _tables(problem: Problem) -> _Tables:
    precision = problem.settings.execution.precision
    return _Tables(
        row_input=jnp.asarray(problem.row_input, precision),
        row_target=jnp.asarray(problem.row_target, precision),
        train_input=jnp.asarray(problem.train_input, precision),
        train_target=jnp.asarray(problem.train_target, precision),
        orbit_input=jnp.asarray(problem.orbit_input.reshape(-1, *problem.orbit_input.shape[2:]), precision),
        segments=jnp.asarray(problem.segments),
    )


def _optimizer(training: Training, learning_rate: float) -> optax.GradientTransformation:
    if training.optimizer == "adam":
        return optax.adam(learning_rate)
    return optax.sgd(learning_rate, momentum=training.momentum or None)


def _row_losses(training: Training) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Loss of each row, (row, output) × (row, output) → (row,); the training loss is its mean."""
    if training.loss == "mse":
        return lambda output, target: 0.5 * jnp.mean((output - target) ** 2, axis=-1)
    return lambda output, target: -jnp.sum(target * jax.nn.log_softmax(output), axis=-1)


def _program(problem: Problem, together: int) -> Callable[..., Any]:
    """(tables, parameters of all members, schedules or None) → (predictions, losses, weights or None)."""
    training, precision = problem.settings.training, problem.settings.execution.precision
    apply, row_losses = problem.network.apply, _row_losses(training)
    optimizer = _optimizer(training, problem.learning_rate)

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

    def train_member(tables: _Tables, parameters: Any, schedule: jax.Array | None) -> Any:
        def step(time: jax.Array, carry: Any) -> Any:
            parameters, state = carry
            gradient = jax.grad(batch_loss)(parameters, tables, None if schedule is None else schedule[time])
            update, state = optimizer.update(gradient, state, parameters)
            return optax.apply_updates(parameters, update), state

        def segment(carry: Any, length: jax.Array) -> Any:
            (parameters, state), time = carry
            parameters, state = lax.fori_loop(time, time + length, step, (parameters, state))
            loss = jnp.mean(row_losses(in_batches(parameters, tables.train_input), tables.train_target))
            weights = parameters if training.store_weights else None
            return ((parameters, state), time + length), (in_batches(parameters, tables.orbit_input), loss, weights)

        start = ((parameters, optimizer.init(parameters)), jnp.zeros_like(tables.segments[0]))
        return lax.scan(segment, start, tables.segments)[1]

    def train_all(tables: _Tables, parameters: Any, schedule: jax.Array | None) -> Any:
        one = partial(train_member, tables)
        members = (parameters, schedule)
        if together == 1:
            return lax.map(lambda member: one(*member), members)
        grouped = jax.tree.map(lambda leaf: leaf.reshape(-1, together, *leaf.shape[1:]), members)
        result = lax.map(lambda group: jax.vmap(one)(*group), grouped)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), result)

    return train_all
