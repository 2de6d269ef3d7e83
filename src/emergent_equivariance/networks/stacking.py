"""Members of a torch network stacked by ``torch.func``: one function of the parameters of many, and when it exists.

Not every module of the user's own can be stacked. What decides is a trial on two members and a few inputs: layers must
do the same in training and evaluation, buffers must be the same in all members and stay as they are, all operations
must work under ``torch.vmap``, and outputs and gradients must be those of the members one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .factories import PROBES, mode_dependent, same_entries

__all__ = ["Trial", "same_buffers", "stacked_forward", "try_stacking", "watch_buffers"]

#: What torch.vmap raises where an operation, a branch on values or a random number is not possible, and the user's
#: code where a tensor is not what it takes it for.
UNSUPPORTED = (RuntimeError, TypeError, ValueError, LookupError)

#: Relative and absolute size of the random change that parts equal parameters for the trial.
CHANGE = (0.1, 0.01)


class Trial(NamedTuple):
    """What was found.

    Attributes:
      fault: why members cannot be stacked; "" if they can.
      row_bytes: memory that a member keeps for the backward pass, per row of the batch.
      fixed_bytes: the same, for a batch of any size.
    """

    fault: str
    row_bytes: float = 0.0
    fixed_bytes: float = 0.0


def stacked_forward(module: nn.Module, axes: int) -> Callable[[Sequence[Tensor], Tensor], Tensor]:
    """Function of (parameters (member, …) in the order of ``module.parameters()``, inputs) → (member, batch, output).

    Args:
      module: the architecture, in training or evaluation mode; its buffers are those of all members.
      axes: of a batch (batch, …); inputs with one more are (member, batch, …).
    """
    names = [name for name, _ in module.named_parameters()]

    def one(parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        return functional_call(module, dict(zip(names, parameters, strict=True)), (x,))

    each, alike = torch.vmap(one), torch.vmap(one, in_dims=(0, None))
    return lambda parameters, x: (each if x.ndim > axes else alike)(list(parameters), x)


def same_buffers(first: nn.Module, second: nn.Module) -> bool:
    """Whether two modules, perhaps on two devices, have the same buffers."""
    found, others = dict(first.named_buffers()), dict(second.named_buffers())
    return found.keys() == others.keys() and all(
        same_entries(buffer, others[name].to(buffer.device)) for name, buffer in found.items()
    )


def watch_buffers(module: nn.Module) -> Callable[[], bool]:
    """Function that says whether a buffer was replaced or written to since now."""
    before = [(buffer, buffer._version) for buffer in module.buffers()]

    def changed() -> bool:
        return any(
            now is not buffer or now._version != version
            for now, (buffer, version) in zip(module.buffers(), before, strict=True)
        )

    return changed


def try_stacking(first: nn.Module, second: nn.Module, input_shape: tuple[int, ...], tolerance: float) -> Trial:
    """Whether members of a network can be stacked, tried on two of them, which are used up.

    Args:
      first, second: members, on the same device and in the same precision.
      input_shape: of one input.
      tolerance: for outputs and gradients, relative to the largest.
    """
    if kinds := mode_dependent(first):
        return Trial(f"{', '.join(kinds)}: not the same in training as in evaluation mode")
    if not same_buffers(first, second):
        return Trial("its buffers are not the same in all members")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _tried(first, second, input_shape, tolerance)
    except UNSUPPORTED as error:
        reason = (str(error).splitlines() or [""])[0]
        return Trial(f"under torch.vmap it fails with {type(error).__name__}: {reason[:200]}")


def _tried(first: nn.Module, second: nn.Module, input_shape: tuple[int, ...], tolerance: float) -> Trial:
    members, changed = (first, second), watch_buffers(first)
    generator, like = torch.Generator().manual_seed(0), next(first.parameters())

    def draw(shape: Sequence[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=generator).to(like)

    with torch.no_grad():
        for parameter in chain(first.parameters(), second.parameters()):
            if parameter.requires_grad:
                change = draw(parameter.shape)
                parameter.mul_(1 + CHANGE[0] * change).add_(CHANGE[1] * change)
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    stack = [torch.stack(pair).detach().requires_grad_(pair[0].requires_grad) for pair in pairs]
    forward, own = stacked_forward(first, 1 + len(input_shape)), draw((2, PROBES, *input_shape))
    for x in (own, own[0]):
        for training in (True, False):
            for module in members:
                module.train(training)
            with torch.set_grad_enabled(training):
                together = forward(stack, x)  # first, on a module that has seen no input, as in training
                alone = torch.stack([module(x[k] if x is own else x) for k, module in enumerate(members)])
            if changed():
                return Trial("its buffers change")
            alike = _close([together], [alone], tolerance)
            if training and alike:
                cotangent = draw(alone.shape)
                weights = [[p for p in module.parameters() if p.requires_grad] for module in members]
                expected = [_gradients(alone, leaves, cotangent) for leaves in weights]
                found = _gradients(together, [leaf for leaf in stack if leaf.requires_grad], cotangent)
                alike = _close(found, [torch.stack(pair) for pair in zip(*expected, strict=True)], tolerance)
            if not alike:
                return Trial("stacked, its outputs or gradients are not those of members one by one")
    few, many = (_saved_bytes(second.train(), draw((rows, *input_shape))) for rows in (PROBES, 2 * PROBES))
    return Trial("", (many - few) / PROBES, max(0, 2 * few - many))


def _gradients(output: Tensor, leaves: Sequence[Tensor], cotangent: Tensor) -> Sequence[Tensor]:
    return torch.autograd.grad(output, leaves, cotangent, retain_graph=True, materialize_grads=True)


def _close(found: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> bool:
    """Whether tensors differ by at most the tolerance times the largest entry of all."""
    a, b = (torch.cat([tensor.flatten() for tensor in tensors]) for tensors in (found, expected))
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * b.abs().max())


def _saved_bytes(module: nn.Module, x: Tensor) -> int:
    """Bytes that a forward pass keeps for the backward pass, without the parameters and the inputs."""
    given = {tensor.untyped_storage().data_ptr() for tensor in (x, *module.parameters(), *module.buffers())}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in given:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(x)
    return sum(sizes.values())
