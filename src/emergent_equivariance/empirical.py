"""Empirical kernels of a finite network at given parameters: what the analytic kernels are the limits of.

    NTK     Θ̂(x, x′) = (1/n_out) Σ_o ∇_θ f_o(x) · ∇_θ f_o(x′)
    NNGP    K̂(x, x′) = (1/n_out) Σ_o f_o(x) f_o(x′)

per output, like the analytic ones: at initialisation E Θ̂ → Θ and E K̂ → K with the width (Jacot et al. 2018, Lee et al.
2019). Θ̂ is a contraction of two Jacobians, formed in blocks of inputs and outputs of bounded memory, by JAX one row
after the other, by torch a few inputs at a time; cost: one forward and n_out backward passes per input and block pair.
For networks of either library, at initial or trained parameters; a network must treat the inputs of a batch
independently.

The readout's weights are Gaussian and enter linearly, so that the mean of K̂ over them is known exactly: it is their own
part of Θ̂. ``member_kernels`` uses it, because K̂ itself has a relative noise of about √(2/n_out) at every width.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .errors import StoreError
from .networks import Network

if TYPE_CHECKING:
    import torch
    import xarray as xr

__all__ = [
    "MEMORY",
    "MemberKernels",
    "empirical_nngp",
    "empirical_ntk",
    "member_kernels",
    "stored_parameters",
    "torch_empirical_nngp",
    "torch_empirical_ntk",
]

#: Default budget in bytes for the Jacobians of one pair of blocks.
MEMORY = 512 * 2**20

#: Inputs whose gradients torch forms at once, all outputs of a block together.
TOGETHER = 16

#: (x1 (input, …), x2 (input_, …) or None for x1 itself, rows of the identity over outputs for each) →
#: (parameter array, input, input_) or (parameter array, input, input_, output, output_).
Contraction = Callable[[Any, Any, np.ndarray, np.ndarray], np.ndarray]


class MemberKernels(NamedTuple):
    """NNGP and NTK of one member, each (input, input_), per output."""

    nngp: np.ndarray
    ntk: np.ndarray


def empirical_nngp(apply: Callable[[Any, Any], Any], parameters: Any, x1: Any, x2: Any = None) -> np.ndarray:
    """K̂ of a JAX network, (input, input_); arguments as of empirical_ntk."""
    f1 = np.asarray(apply(parameters, x1))
    f2 = f1 if x2 is None else np.asarray(apply(parameters, x2))
    return f1 @ f2.T / f1.shape[1]


def empirical_ntk(
    apply: Callable[[Any, Any], Any],
    parameters: Any,
    x1: Any,
    x2: Any = None,
    *,
    full: bool = False,
    memory: int = MEMORY,
) -> np.ndarray:
    """Θ̂ of a JAX network.

    Args:
      apply: (parameters, x (input, …)) → (input, output), e.g. ``network.apply``.
      parameters: pytree of arrays.
      x1: (input, *input shape).
      x2: (input_, *input shape); None: x1.
      full: also between different outputs, not summed.
      memory: bytes the Jacobians of one pair of blocks may take; one row of each is always formed.

    Returns:
      (input, input_), the mean over outputs; with ``full`` (input, input_, output, output_).
    """
    parts = _jax_parts(apply, parameters, x1, x2, full, memory)
    return parts.sum(axis=0)


def member_kernels(network: Network, parameters: Any, x: np.ndarray, *, memory: int = MEMORY) -> MemberKernels:
    """NNGP, averaged exactly over the readout's weights, and NTK of one member between inputs (input, *input shape).

    The former is meant for initial parameters: with W, b ~ N(0, 1) in the readout, E f_o(x) f_o(x′) given the hidden
    layers is ∂f_o(x)·∂f_o(x′) over W and b alone. The readout is the last entry of the parameters of every network
    of this package.
    """
    parts = _jax_parts(network.apply, parameters, x, None, False, memory)
    return MemberKernels(parts[-len(jax.tree.leaves(parameters[-1])) :].sum(axis=0), parts.sum(axis=0))


def stored_parameters(shard: xr.Dataset, network: Network, member: int, step: int) -> Any:
    """Parameters of one trained member as its shard keeps them (``training.store_weights``).

    Args:
      shard: a store members/ARM/members-FIRST-LAST.zarr.zip, see ``store.read``.
      network: the arm's, from ``build_network``.
      member: index of the member.
      step: a stored step.

    Raises StoreError if the shard does not hold them, or those of another network.
    """
    number = sum(re.fullmatch(r"weight_\d+", str(name)) is not None for name in shard.data_vars)
    where = str(shard.encoding.get("file", "the shard"))
    if not number:
        raise StoreError(f"{where}: holds no weights.", remedy="List the steps wanted in training.store_weights.")
    for name, wanted in (("member", member), ("stored_step", step)):
        if wanted not in shard[name].values:
            held = ", ".join(str(value) for value in shard[name].values)
            raise StoreError(f"{where}: holds no weights at {name} {wanted}.", remedy=f"Use one of {held}.")
    arrays = [shard[f"weight_{k}"].sel(member=member, stored_step=step).values for k in range(number)]
    shapes = tuple(array.shape for array in arrays)
    if shapes != network.shapes:
        raise StoreError(
            f"{where}: its weights have shapes {shapes}, those of {network.description} are {network.shapes}.",
            remedy="Build the network from the settings of the shard's arm.",
        )
    return jax.tree.unflatten(network.structure, arrays)


def torch_empirical_nngp(
    module: torch.nn.Module, x1: Any, x2: Any = None, *, parameters: dict[str, torch.Tensor] | None = None
) -> np.ndarray:
    """K̂ of a torch network, (input, input_); arguments as of torch_empirical_ntk."""
    from torch.func import functional_call

    chosen = _detached(module, parameters)
    f1 = functional_call(module, chosen, (x1,)).detach().numpy(force=True)
    f2 = f1 if x2 is None else functional_call(module, chosen, (x2,)).detach().numpy(force=True)
    return f1 @ f2.T / f1.shape[1]


def torch_empirical_ntk(
    module: torch.nn.Module,
    x1: Any,
    x2: Any = None,
    *,
    parameters: dict[str, torch.Tensor] | None = None,
    full: bool = False,
    memory: int = MEMORY,
) -> np.ndarray:
    """Θ̂ of a torch network whose forward pass is (input, …) → (input, output).

    Args:
      module: the architecture.
      x1: (input, *input shape) tensor; x2: (input_, *input shape), None: x1.
      parameters: name → tensor; None: the module's own. Others of the module are constants.
      full, memory, result: as of empirical_ntk.
    """
    import torch
    from torch.func import functional_call, jacrev, vmap

    chosen = _detached(module, parameters)

    def rows(parameters: dict[str, torch.Tensor], one: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
        return basis @ functional_call(module, parameters, (one[None],))[0]

    each = vmap(jacrev(rows), in_dims=(None, 0, None), chunk_size=TOGETHER)

    def jacobian(x: torch.Tensor, basis: np.ndarray) -> list[torch.Tensor]:
        matrix = torch.as_tensor(basis, dtype=x.dtype, device=x.device)
        return [leaf.flatten(2) for leaf in each(chosen, x, matrix).values()]

    def contract(a: torch.Tensor, b: torch.Tensor | None, basis1: np.ndarray, basis2: np.ndarray) -> np.ndarray:
        left = jacobian(a, basis1)
        right = left if b is None else jacobian(b, basis2)
        parts = [torch.einsum(_indices(full), *pair) for pair in zip(left, right, strict=True)]
        return torch.stack(parts).numpy(force=True)

    with torch.no_grad():
        outputs = functional_call(module, chosen, (x1[:1],)).shape[1]
        row = sum(tensor.nbytes for tensor in chosen.values())
        return _in_blocks(contract, x1, x2, outputs, row, full, memory).sum(axis=0)


def _detached(module: torch.nn.Module, parameters: dict[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
    chosen = dict(module.named_parameters()) if parameters is None else parameters
    return {name: tensor.detach() for name, tensor in chosen.items()}


def _jax_parts(
    apply: Callable[[Any, Any], Any], parameters: Any, x1: Any, x2: Any, full: bool, memory: int
) -> np.ndarray:
    """Contribution of every parameter array to Θ̂, stacked along a leading axis."""
    compiled = _compiled(apply, full)
    on_device = jax.tree.map(jnp.asarray, parameters)
    found = jax.eval_shape(apply, on_device, jnp.asarray(x1[:1]))
    row = sum(prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(on_device))

    def contract(*block: Any) -> np.ndarray:
        return np.asarray(compiled(on_device, *block))

    return _in_blocks(contract, x1, x2, found.shape[1], row, full, memory)


@lru_cache(maxsize=8)
def _compiled(apply: Callable[[Any, Any], Any], full: bool) -> Callable[..., jax.Array]:
    """The contraction of two blocks with the parameters as first argument."""

    def jacobian(parameters: Any, x: jax.Array, basis: jax.Array) -> list[jax.Array]:
        def of_input(one: jax.Array) -> Any:
            f, pull = jax.vjp(lambda p: apply(p, one[None])[0], parameters)
            return jax.lax.map(lambda row: pull(row.astype(f.dtype))[0], basis)

        return [leaf.reshape(*leaf.shape[:2], -1) for leaf in jax.tree.leaves(jax.lax.map(of_input, x))]

    def contract(parameters: Any, x1: Any, x2: Any, basis1: jax.Array, basis2: jax.Array) -> jax.Array:
        left = jacobian(parameters, x1, basis1)
        right = left if x2 is None else jacobian(parameters, x2, basis2)
        return jnp.stack([jnp.einsum(_indices(full), *pair) for pair in zip(left, right, strict=True)])

    return jax.jit(contract)


def _indices(full: bool) -> str:
    return "iop,jqp->ijoq" if full else "iop,jop->ij"


def _in_blocks(contract: Contraction, x1: Any, x2: Any, outputs: int, row: int, full: bool, memory: int) -> np.ndarray:
    """All of Θ̂ from contractions of blocks; of a batch with itself only the upper triangle is formed.

    Args:
      row: bytes of one row of a Jacobian: the gradient of one output at one input.
    """
    budget = max(1, memory // 2 // row)
    chunks = _slices(outputs, min(outputs, budget))
    size = max(1, budget // (chunks[0].stop - chunks[0].start))
    rows, columns = _slices(len(x1), size), _slices(len(x1 if x2 is None else x2), size)
    basis = np.eye(outputs)
    result = np.zeros(0)
    for i, first in enumerate(rows):
        for second in columns if x2 is not None else columns[i:]:
            for p in chunks:
                for q in chunks if full else [p]:
                    alike = x2 is None and first == second and p == q
                    other = None if alike else (x1 if x2 is None else x2)[second]
                    part = contract(x1[first], other, basis[p], basis[q])
                    if not result.size:
                        shape = (len(x1), columns[-1].stop, *([outputs] * 2 if full else []))
                        result = np.zeros((len(part), *shape), dtype=part.dtype)
                    if full:
                        result[:, first, second, p, q] = part
                    else:
                        result[:, first, second] += part / outputs
            if x2 is None and first != second:
                block = result[:, first, second]
                result[:, second, first] = block.transpose(0, 2, 1, *((4, 3) if full else ()))
    return result


def _slices(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]
