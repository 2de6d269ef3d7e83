"""The user's own networks: ``network: {name: torch, factory: "package.module:function"}``; see docs/custom_network.md.

The function is called as ``factory(input_shape, outputs, width=…, **options)``, ``width`` only where the study gives
one, and returns a new ``torch.nn.Module``, (batch, *input_shape) → (batch, output). Torch's generator is seeded for
each call from a counter-based stream, so that initial weights depend on (seed, member) alone: not on shards, processes
or devices. Before the first module of a network is handed out, its factory is checked.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Sequence
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..augmentation import stream
from ..errors import StudyError, UserError
from ..imports import named_function
from ..settings import TorchNetwork

__all__ = [
    "STREAM_MODULES",
    "check_factory",
    "member_module",
    "mode_dependent",
    "same_entries",
    "trained_parameters",
]

#: Purpose of the Philox stream that torch is seeded from for the members of an ensemble (see augmentation.stream).
STREAM_MODULES = 17

#: Inputs of the check, and the relative difference of outputs that round-off may make.
PROBES, ROUND_OFF = 3, 1e-4

_checked: set[str] = set()


def member_module(
    section: TorchNetwork,
    input_shape: tuple[int, ...],
    outputs: int,
    seed: int,
    member: int,
    *,
    purpose: int = STREAM_MODULES,
) -> nn.Module:
    """The module of one member with its initial weights, on the CPU, in the precision the factory gives it.

    Args:
      section: the network of the study.
      input_shape: shape of one input.
      outputs: number of outputs.
      seed: ensemble.seed.
      member: index of the member.
      purpose: stream that torch is seeded from.

    Raises StudyError where ``check_factory`` does.
    """
    known = json.dumps([section.model_dump(mode="json"), input_shape, outputs])
    if known not in _checked:
        check_factory(section, input_shape, outputs)
        _checked.add(known)
    return _drawn(section, tuple(input_shape), outputs, seed, member, purpose)


def trained_parameters(module: nn.Module) -> dict[str, Tensor]:
    """Name → parameter, of those that training changes."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def mode_dependent(module: nn.Module) -> list[str]:
    """Kinds of layers that are known to do something else in training than in evaluation, each once."""
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    return sorted({type(part).__name__ for part in module.modules() if isinstance(part, kinds)})


def check_factory(section: TorchNetwork, input_shape: tuple[int, ...], outputs: int) -> None:
    """Make a few modules and hold them against what docs/custom_network.md asks of a factory.

    Raises StudyError naming ``network.factory`` where it cannot be imported or called, returns no module, one without
    trainable parameters, with parameters that are lazy, not on the CPU, not floating-point or not finite; where
    weights, or buffers that training changes, are shared by two modules; where weights do not depend on torch's seed
    alone, or one of them does not depend on it; where outputs have another shape or type, no gradient, are not finite,
    or depend on other inputs of the batch. Other exceptions of the user's code pass through, with a note that names
    the key.
    """
    where = _where(section)
    first, again, other = (_drawn(section, tuple(input_shape), outputs, 0, k, STREAM_MODULES) for k in (0, 0, 1))
    _check_parameters(first, where)
    stored = [_storages(module.parameters()) for module in (first, again, other)]
    if stored[0] & stored[1] or stored[0] & stored[2] or stored[1] & stored[2]:
        raise StudyError(
            f"{where}: the modules of two calls share parameters, so that members would train each other.",
            remedy="Make new layers in every call; keep no module or parameter between calls.",
        )
    _check_seeds(first, again, other, where)
    elsewhere = _storages(again.buffers()) | _storages(other.buffers())
    shared = [name for name, buffer in first.named_buffers() if _storages([buffer]) & elsewhere]
    module = first.to(torch.float32)
    x = torch.randn(PROBES, *input_shape, generator=torch.Generator().manual_seed(0))
    with _Noted(where), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _check_outputs(module.eval(), x, outputs, where)
        _check_training(module.train(), x, outputs, shared, where)


def _where(section: TorchNetwork) -> str:
    return f"network.factory: {section.factory!r}"


class _Noted:
    """Exceptions of the user's code keep their traceback, with a line that names the key."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None and not isinstance(error, UserError):
            error.add_note(self._where)


def _drawn(
    section: TorchNetwork, input_shape: tuple[int, ...], outputs: int, seed: int, member: int, purpose: int
) -> nn.Module:
    """The module the factory makes after torch is seeded from (seed, purpose, member)."""
    where, kind = _where(section), "(input_shape, outputs, …) → torch.nn.Module"
    given = ({} if section.width is None else {"width": section.width}) | section.options
    with named_function(section.factory, where, kind, StudyError) as factory, torch.random.fork_rng(devices=[]):
        try:
            inspect.signature(factory).bind(input_shape, outputs, **given)
        except TypeError as error:
            names = ", ".join(["input_shape", "outputs", *(f"{name}={value!r}" for name, value in given.items())])
            raise StudyError(
                f"{where}: it cannot be called as ({names}): {error}.",
                remedy="Let it take these arguments, or change network.width and network.options.",
            ) from None
        torch.manual_seed(int(stream(seed, purpose, member).integers(2**63)))
        try:
            with _Noted(where):
                module = factory(input_shape, outputs, **given)
        except ImportError as error:
            raise StudyError(
                f"{where}: calling it failed with {type(error).__name__}: {error}.",
                remedy="Install what it imports, or correct the name.",
            ) from error
        except UserError as error:  # of a layer of this package
            if error.message.startswith("network."):
                raise
            raise StudyError(f"{where}: {error.message}", remedy=error.remedy) from None
    if not isinstance(module, nn.Module):
        raise StudyError(f"{where} returned {type(module).__name__}, no Module.", remedy="Return a torch.nn.Module.")
    return module


def _check_parameters(module: nn.Module, where: str) -> None:
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    lazy = [name for name, tensor in tensors.items() if is_lazy(tensor)]
    if lazy:
        raise StudyError(
            f"{where}: the parameter {lazy[0]} has no shape before the first forward pass.",
            remedy="Use layers that are not lazy: the factory knows input_shape.",
        )
    elsewhere = [name for name, tensor in tensors.items() if tensor.device.type != "cpu"]
    if elsewhere:
        raise StudyError(
            f"{where}: {elsewhere[0]} is on {tensors[elsewhere[0]].device}.",
            remedy="Make the module on the CPU; it is moved to where it is trained.",
        )
    parameters = dict(module.named_parameters())
    wrong = [name for name, parameter in parameters.items() if not parameter.dtype.is_floating_point]
    if wrong:
        raise StudyError(
            f"{where}: the parameter {wrong[0]} is {parameters[wrong[0]].dtype}, not real floating-point.",
            remedy="Use float32 parameters (two real ones for a complex one), and buffers for what is not trained.",
        )
    if not trained_parameters(module):
        raise StudyError(
            f"{where}: the module has no trainable parameters.",
            remedy="Register layers as attributes or in torch.nn.ModuleList, with requires_grad.",
        )

    for name, parameter in trained_parameters(module).items():
        if not parameter.isfinite().all():
            raise StudyError(
                f"{where}: the initial weights {name} are not all finite.",
                remedy="Draw all of them (torch.empty leaves what was in memory), and check their scale.",
            )


def _check_seeds(first: nn.Module, again: nn.Module, other: nn.Module, where: str) -> None:
    """Raise StudyError where weights are not drawn from torch's generator, as it was seeded.

    Args:
      first, again: modules of the same seed.
      other: a module of another one.
    """
    if not _alike(first, again):
        raise StudyError(
            f"{where}: two calls with the same seed give different weights: they are drawn from another generator than "
            "torch's, or left over from memory.",
            remedy="Draw them with torch's default generator (torch.nn.init, torch.randn), not with numpy or random.",
        )
    unseeded = "Draw them with torch's default generator, and seed none (no torch.manual_seed, no Generator)."
    if _alike(first, other):
        raise StudyError(
            f"{where}: two calls with different seeds give the same weights: all members would be one.", remedy=unseeded
        )
    others = trained_parameters(other)
    for name, parameter in trained_parameters(first).items():
        drawn = bool((parameter != parameter.flatten()[:1]).any())
        if drawn and name in others and same_entries(parameter, others[name]):
            raise StudyError(
                f"{where}: two calls with different seeds give the same weights {name}: that layer ignores the seed.",
                remedy=f"{unseeded} A start that all members are meant to share is a buffer, to which the layer adds a "
                "parameter of zeros.",
            )


def _alike(first: nn.Module, second: nn.Module) -> bool:
    """Whether two modules have the same weights and buffers bit by bit."""
    pairs = [dict([*module.named_parameters(), *module.named_buffers()]) for module in (first, second)]
    return pairs[0].keys() == pairs[1].keys() and all(same_entries(pairs[0][name], pairs[1][name]) for name in pairs[0])


def same_entries(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have the same entries, NaN in the same places."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return bool(((first == second) | ((first != first) & (second != second))).all())


def _storages(tensors: Iterable[Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


def _outputs(module: nn.Module, x: Tensor, outputs: int, where: str) -> Tensor:
    """module(x). Raises StudyError where that fails, or has another shape or type than (input, output) of float32."""
    said = f"inputs (batch, {', '.join(map(str, x.shape[1:]))})"
    mode = "training" if module.training else "evaluation"
    try:
        found = module(x)
    except (RuntimeError, TypeError, ValueError, LookupError) as error:
        raise StudyError(
            f"{where}: in {mode} mode the module fails on {said} of float32: {type(error).__name__}: "
            f"{str(error).strip()}.",
            remedy="Let forward take such a batch; images have their channels last.",
        ) from error
    if not isinstance(found, Tensor) or found.shape != (len(x), outputs) or found.dtype != torch.float32:
        got = f"{tuple(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        raise StudyError(
            f"{where}: in {mode} mode, of {said} with batch = {len(x)}, the module gives {got}, expected "
            f"({len(x)}, {outputs}) of torch.float32.",
            remedy="Return one row of outputs per input, in the precision of the weights.",
        )
    return found


def _check_outputs(module: nn.Module, x: Tensor, outputs: int, where: str) -> None:
    """Raise StudyError where outputs are wrong in evaluation mode."""
    with torch.no_grad():
        found, alone = _outputs(module, x, outputs, where), _outputs(module, x[:1], outputs, where)
    if not found.isfinite().all():
        raise StudyError(
            f"{where}: outputs of standard normal inputs are not all finite.",
            remedy="Check the scale of the weights, and divisions, roots and logarithms in forward.",
        )
    if not torch.allclose(found[:1], alone, rtol=ROUND_OFF, atol=ROUND_OFF * float(found.abs().max())):
        raise StudyError(
            f"{where}: in evaluation mode the output of an input depends on the rest of the batch, or on chance.",
            remedy="Treat every input by itself in evaluation mode, and let dropout follow the mode.",
        )


def _check_training(module: nn.Module, x: Tensor, outputs: int, shared: Sequence[str], where: str) -> None:
    """Raise StudyError where a gradient step is impossible, or changes one of the ``shared`` buffers in place."""
    trained = list(trained_parameters(module).values())
    buffers = dict(module.named_buffers())
    before = {name: buffers[name].clone() for name in shared}
    found = _outputs(module, x, outputs, where)
    if not found.requires_grad:
        raise StudyError(
            f"{where}: its outputs have no gradient.",
            remedy="Compute them from the parameters with torch, without no_grad, inference_mode, detach or numpy.",
        )
    try:
        torch.autograd.grad(found.sum(), trained, allow_unused=True)
    except RuntimeError as error:
        raise StudyError(
            f"{where}: the gradient of its outputs cannot be taken: {str(error).strip()}.",
            remedy="Change no tensor in place that the gradient needs; give functions of your own a backward.",
        ) from error
    for name, kept in before.items():
        if not same_entries(buffers[name], kept):
            raise StudyError(
                f"{where}: the modules of two calls share the buffer {name}, which a step in training mode changes.",
                remedy="Make new layers in every call; share only what stays as it is.",
            )
