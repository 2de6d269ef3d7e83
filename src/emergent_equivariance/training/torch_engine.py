"""The torch engine: members as ``torch.nn.Module``, one after the other or stacked by ``torch.func``.

Networks of the study are those of ``networks.modules``, on the same parameters as the JAX networks. Gradients are
taken of the outputs with the derivative of the loss as cotangent, updates are made in place: a step has no more
operations than forward pass, backward pass and update, and on a GPU nothing waits for the device within ``advance``.

On a GPU products and convolutions are exact in float32 unless the environment variable
TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 says otherwise (TF32: faster, with errors of 1e-3).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from ..augmentation import stream
from ..errors import StudyError
from ..networks import initial_arrays
from ..networks.factories import member_module
from ..networks.modules import build_module
from ..networks.stacking import Trial, same_buffers, stacked_forward, try_stacking, watch_buffers
from ..settings import TorchNetwork
from ..settings.engines import ENGINES
from .engine import Choice, Record
from .problem import Problem
from .torch_optimizers import build_optimizer

#: Rows evaluated at once by one member; bounds the memory of recording.
EVALUATION_BATCH = 256

#: Variants: members one after the other, each through all steps of a call, or all of them in every operation.
LOOP, VMAP = "loop", "vmap"

#: Members of the stacks that are tried, on a CPU (the smaller the network, the more pay) and on a GPU.
CPU_STACKS, GPU_STACKS = ENGINES["torch"].stacks, (512, 64)

#: Relative difference that round-off may make between members stacked and one by one.
TOLERANCE = {"float32": 1e-4, "float64": 1e-10, "tf32": 1e-2}

#: Copies of what is kept for the backward pass, and of parameters, at the peak of a stack (with Adam).
COPIES = 1.5, 6.0

#: Purpose of the Philox stream that torch's generator is seeded from before every step of a module from a factory.
STREAM_STEP = 4


class TorchEngine:
    """See Engine."""

    name = "torch"

    def device(self) -> str:
        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"

    def candidates(self, problem: Problem, members: int) -> list[Choice]:
        loop = Choice(self.name, LOOP, 1, 1000)
        gpu = torch.cuda.is_available()
        sizes = dict.fromkeys(min(members, size) for size in (GPU_STACKS if gpu else CPU_STACKS))
        if _from_factory(problem):
            sizes = _possible_stacks(problem, sizes)
        stacks = [Choice(self.name, VMAP, size, 1000) for size in sizes]
        return [*stacks, loop] if gpu else [loop, *stacks]

    def trainer(self, problem: Problem, choice: Choice) -> TorchTrainer:
        return TorchTrainer(problem, choice)


@dataclass(frozen=True, eq=False)
class _Unit:
    """Members that take their steps together: one member, or a stack of them.

    Attributes:
      members: their indices.
      module: of the member; of a stack the architecture alone.
      parameters: all of them, of a stack with a leading axis of members.
      moments: what the optimiser keeps, per kind one tensor for each leaf.
      forward: (batch, …) → (batch, output); of a stack also (member, batch, …), always → (member, batch, output).
    """

    members: tuple[int, ...]
    module: nn.Module
    parameters: list[Tensor]
    moments: list[list[Tensor]]
    forward: Callable[[Tensor], Tensor]

    @cached_property
    def leaves(self) -> list[Tensor]:
        """The parameters that are trained."""
        return _trained(self.parameters)

    @property
    def stacked(self) -> bool:
        return self.forward is not self.module

    def tensors(self) -> list[Tensor]:
        """Everything that later steps depend on; buffers are read anew, because modules may replace them."""
        return [*self.leaves, *chain(*self.moments), *([] if self.stacked else self.module.buffers())]


class TorchTrainer:
    """See Trainer. Sets torch's number of threads, for the whole process.

    A module from a factory is in training mode during steps and in evaluation mode while it is recorded; its buffers
    are its member's own, and constant where members are stacked. Before each step of a single member torch's generator
    is seeded from (training.seed, member, step), so that masks of dropout do not depend on shards, interruptions or
    members_at_once.
    """

    def __init__(self, problem: Problem, choice: Choice) -> None:
        self.problem, self.choice = problem, choice
        self._seeded = _from_factory(problem)
        _check_variant(problem, choice)
        torch.set_num_threads(problem.settings.execution.threads)
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32  # convolutions would have TF32 anyway
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = getattr(torch, problem.settings.execution.precision)
        self._template = self._architecture()
        self.shapes = tuple(tuple(parameter.shape) for parameter in self._template.parameters())
        self._optimizer = build_optimizer(problem.settings.training, problem.learning_rate)
        self._row_input, self._row_target = self._table(problem.row_input), self._table(problem.row_target)
        self._train_input, self._train_target = self._table(problem.train_input), self._table(problem.train_target)
        self._orbit_input = self._table(problem.orbit_input.reshape(-1, *problem.orbit_input.shape[2:]))
        if self._seeded:
            _check_batches(problem, self._template, self._row_input[:1])
        self._changed = watch_buffers(self._template)
        self._cross_entropy = problem.settings.training.loss == "cross_entropy"

    # ------------------------------------------------------------------------------------------ members

    def start(self, members: Sequence[int]) -> list[_Unit]:
        if self.choice.variant == LOOP:
            return [self._single(member) for member in members]
        return [self._stack(tuple(members))]

    def _architecture(self) -> nn.Module:
        """A module of the shapes of every member's."""
        if self._seeded:
            return self._module(0)
        settings = self.problem.settings
        module = build_module(settings.network, self.problem.orbit_input.shape[2:], self.problem.outputs)
        return module.to(self._device, self._dtype)

    def _module(self, member: int) -> nn.Module:
        """A new module of a member, with its initial weights, in training mode."""
        if self._seeded:
            return _drawn(self.problem, member).to(self._device)
        module = copy.deepcopy(self._template)
        with torch.no_grad():
            for parameter, array in zip(module.parameters(), self._initial(member), strict=True):
                parameter.copy_(torch.from_numpy(array))
        return module

    def _single(self, member: int) -> _Unit:
        module = self._module(member)
        parameters: list[Tensor] = list(module.parameters())
        return _Unit((member,), module, parameters, self._optimizer.moments(_trained(parameters)), module)

    def _stack(self, members: tuple[int, ...]) -> _Unit:
        module = self._template
        drawn = zip(*(self._initial(member) for member in members), strict=True)
        parameters = [
            self._table(np.stack(arrays)).requires_grad_(parameter.requires_grad)
            for arrays, parameter in zip(drawn, module.parameters(), strict=True)
        ]
        function = stacked_forward(module, self._row_input.ndim)
        moments = self._optimizer.moments(_trained(parameters))
        return _Unit(members, module, parameters, moments, lambda x: function(parameters, x))

    def _initial(self, member: int) -> list[np.ndarray]:
        """Initial values of all parameters of a member, on the CPU."""
        if not self._seeded:
            return initial_arrays(self.shapes, self.problem.settings.ensemble.seed, member)
        module = _drawn(self.problem, member)
        if not same_buffers(module, self._template):
            raise _impossible(self.problem, VMAP, f"the buffers of member {member} are not those of member 0")
        return [parameter.numpy(force=True) for parameter in module.parameters()]

    def _table(self, array: np.ndarray) -> Tensor:
        return torch.tensor(array, dtype=self._dtype, device=self._device)

    # ------------------------------------------------------------------------------------------ steps

    def advance(self, state: list[_Unit], first: int, count: int) -> list[_Unit]:
        for unit in state:
            self._advance(unit, first, count)
        if self._changed():
            raise _impossible(self.problem, VMAP, "its buffers change")
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return state

    def _advance(self, unit: _Unit, first: int, count: int) -> None:
        x, target = self._row_input, self._row_target
        schedule = self._schedule(unit, first, count) if self.problem.scheduled else None
        for k in range(count):
            if self._seeded and not unit.stacked:
                torch.manual_seed(self._step_seed(unit.members[0], first + k))
            if schedule is not None:
                x, target = (_taken(table, schedule[k]) for table in (self._row_input, self._row_target))
            output = unit.forward(x)
            gradients = torch.autograd.grad(
                output, unit.leaves, self._cotangent(output.detach(), target), materialize_grads=True
            )
            with torch.no_grad():
                self._optimizer.update(unit.leaves, gradients, unit.moments, first + k)

    def _schedule(self, unit: _Unit, first: int, count: int) -> list[Tensor]:
        """(batch,) rows of each step, of a stack (member, batch), on the device; shorter at the end of an epoch."""
        rows = np.stack([self.problem.schedule(member, first, count) for member in unit.members], axis=1)
        sizes = (rows[:, 0] >= 0).sum(axis=1)
        uploaded = torch.from_numpy(rows if unit.stacked else rows[:, 0]).to(self._device)
        return [step[..., :size] for step, size in zip(uploaded, sizes.tolist(), strict=True)]

    def _step_seed(self, member: int, step: int) -> int:
        return int(stream(self.problem.settings.training.seed, STREAM_STEP, member, step).integers(2**63))

    def _cotangent(self, output: Tensor, target: Tensor) -> Tensor:
        """∂loss/∂output of the mean over rows of ``_row_losses``, (…, row, output); a row of targets sums to 1 in
        cross-entropy."""
        rows, outputs = output.shape[-2:]
        if self._cross_entropy:
            return output.softmax(-1).sub_(target).div_(rows)
        return (output - target).div_(rows * outputs)

    def _row_losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Loss of each row, (…, row, output) → (…, row); the training loss is its mean."""
        if self._cross_entropy:
            return -(target * output.log_softmax(-1)).sum(-1)
        return 0.5 * (output - target).square().mean(-1)

    # ------------------------------------------------------------------------------------------ results

    def record(self, state: list[_Unit], weights: bool) -> Record:
        predictions, losses = [], []
        for unit in state:
            unit.module.eval()
            with torch.no_grad():
                output = _in_batches(unit.forward, self._orbit_input)
                loss = self._row_losses(_in_batches(unit.forward, self._train_input), self._train_target).mean(-1)
            unit.module.train()
            predictions.append(output.reshape(-1, *self.problem.orbit_input.shape[:2], output.shape[-1]))
            losses.append(loss.reshape(-1))
        return Record(
            torch.cat(predictions).float().numpy(force=True),
            torch.cat(losses).numpy(force=True),
            _gathered(state, lambda unit: unit.parameters) if weights else [],
        )

    def save(self, state: list[_Unit]) -> list[np.ndarray]:
        return _gathered(state, _Unit.tensors)

    def restore(self, members: Sequence[int], arrays: Sequence[np.ndarray]) -> list[_Unit]:
        state, first = self.start(members), 0
        with torch.no_grad():
            for unit in state:
                rows = slice(first, first + len(unit.members)) if unit.stacked else first
                for tensor, array in zip(unit.tensors(), arrays, strict=True):
                    tensor.copy_(torch.as_tensor(array[rows]))
                first += len(unit.members)
        return state


def _from_factory(problem: Problem) -> bool:
    """Whether the network is a module that the user's own function makes."""
    return isinstance(problem.settings.network, TorchNetwork)


def _trained(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [parameter for parameter in parameters if parameter.requires_grad]


def _drawn(problem: Problem, member: int) -> nn.Module:
    """The module that a factory makes for a member, on the CPU, in training mode and the precision of training."""
    settings = problem.settings
    assert isinstance(settings.network, TorchNetwork)
    shape, seed = problem.orbit_input.shape[2:], settings.ensemble.seed
    module = member_module(settings.network, shape, problem.outputs, seed, member)
    return module.to(getattr(torch, settings.execution.precision)).train()


def _try_stacking(problem: Problem) -> Trial:
    """Whether members of a factory can be stacked, tried where they are trained."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    first, second = (_drawn(problem, member).to(device) for member in (0, 1))
    rough = device == "cuda" and torch.backends.cuda.matmul.allow_tf32
    tolerance = "tf32" if rough else problem.settings.execution.precision
    return try_stacking(first, second, problem.orbit_input.shape[2:], TOLERANCE[tolerance])


def stacking_fault(problem: Problem) -> str:
    """Why members of a factory cannot be stacked; "" if they can, and for networks of the study."""
    return _try_stacking(problem).fault if _from_factory(problem) else ""


def _possible_stacks(problem: Problem, sizes: Iterable[int]) -> dict[int, None]:
    """Sizes of stacks of members of a factory, on a CPU those that execution.memory is expected to hold."""
    trial, settings = _try_stacking(problem), problem.settings
    if trial.fault:
        return {}
    if torch.cuda.is_available():
        return dict.fromkeys(sizes)
    weights = sum(parameter.nbytes for parameter in _drawn(problem, 0).parameters())
    rows = max(problem.batch, min(EVALUATION_BATCH, len(problem.row_input)))
    each = COPIES[0] * (rows * trial.row_bytes + trial.fixed_bytes) + COPIES[1] * weights
    return dict.fromkeys(size for size in sizes if size * each < settings.execution.memory * 1e9)


def _check_variant(problem: Problem, choice: Choice) -> None:
    """Raise StudyError where the torch engine cannot train members so."""
    if choice.variant not in (LOOP, VMAP):
        raise _impossible(problem, choice.variant, "there is no such variant")
    if choice.variant == VMAP and (fault := stacking_fault(problem)):
        raise _impossible(problem, VMAP, fault)


def _impossible(problem: Problem, variant: str, fault: str) -> StudyError:
    return StudyError(
        f"engine torch: cannot train network {problem.settings.network.name} by variant {variant}: {fault}.",
        remedy=f"Use variant {LOOP}; delete results/STUDY/engine to have it chosen anew.",
    )


def _check_batches(problem: Problem, module: nn.Module, row: Tensor) -> None:
    """Raise StudyError where a minibatch is too small for statistics over it.

    Args:
      module: of a factory; its buffers may change.
      row: (1, …) an input.
    """
    if problem.units % problem.batch != 1 % problem.batch:
        return
    try:
        module(row)
    except ValueError as error:
        raise StudyError(
            f"training.batch_size: with {problem.units} rows an epoch has a minibatch of {problem.batch} of a single "
            f"row, with which the module cannot be trained: {error}.",
            remedy="Use another training.batch_size.",
        ) from error


def _taken(table: Tensor, rows: Tensor) -> Tensor:
    """table[rows] for rows of any shape; quicker than that."""
    return table.index_select(0, rows.flatten()).unflatten(0, rows.shape)


def _in_batches(forward: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """(row, …) → (…, row, output)."""
    return torch.cat([forward(batch) for batch in rows.split(EVALUATION_BATCH)], dim=-2)


def _gathered(state: list[_Unit], tensors: Callable[[_Unit], list[Tensor]]) -> list[np.ndarray]:
    """``tensors`` of every unit together, as copies, (member, …) each."""
    found = ([t.numpy(force=True)[() if unit.stacked else None] for t in tensors(unit)] for unit in state)
    return [np.concatenate(arrays) for arrays in zip(*found, strict=True)]
