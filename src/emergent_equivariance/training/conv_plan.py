"""A convolutional network as ``conv_program`` takes it: minimal filtering, padded arrays, parameters in its order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from ..groups import get_group
from ..networks.filters import Filters
from ..settings.networks import ConvolutionalNetwork, GcnnNetwork
from .conv_program import DENSE, LAYER, Program
from .vector_blocks import ROWS, half_register

__all__ = ["ConvPlan", "minimal_filtering"]

#: Nodes of minimal filtering, with infinity; with more of them round-off grows.
NODES = (0.0, 1.0, -1.0, 2.0, -2.0)

#: Numbers to which the arrays of the work space are aligned.
ALIGNMENT = 16


def minimal_filtering(m: int, q: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices of m outputs y_k = Σ_j x_{k+j} w_j of a filter of size q from m + q − 1 products (Winograd 1980).

    y = Aᵀ[(G w) ⊙ (B x)]: a polynomial product evaluated at the nodes, transposed. m = 1 is the plain sum.

    Returns:
      A (n, m), G (n, q), B (n, n) with n = m + q − 1. Raises ValueError if there are not enough nodes.
    """
    n = m + q - 1
    if m == 1:
        return np.ones((q, 1)), np.eye(q), np.eye(q)
    if n - 1 > len(NODES):
        raise ValueError(f"{n} nodes are needed, {len(NODES) + 1} known")
    nodes = np.array(NODES[: n - 1])
    scale = np.array([prod(node - other for other in nodes if other != node) for node in nodes])
    A, G = (np.vstack([nodes[:, None] ** np.arange(size), np.eye(size)[-1]]) for size in (m, q))
    G[:-1] /= scale[:, None]
    products = (A[:, :, None] * G[:, None, :]).reshape(n, m * q)
    shifts = np.add.outer(np.arange(m), np.arange(q)).reshape(-1)
    B = np.linalg.lstsq(products.T, np.eye(n)[shifts], rcond=None)[0]
    return A, G, np.asarray(np.round(B))


def _tile(widths: Sequence[int], q: int) -> int:
    """Outputs per tile for which rows of these widths take the fewest products."""
    allowed = [1] + [m for m in range(2, len(NODES) + 3 - q) if q > 1]
    return min(allowed, key=lambda m: sum((m + q - 1) * -(-width // m) for width in widths))


class _Offsets:
    """Hands out places one after another."""

    def __init__(self) -> None:
        self.total = 0

    def __call__(self, *shape: int) -> int:
        start = self.total
        self.total += -(-prod(shape) // ALIGNMENT) * ALIGNMENT
        return start


def _zeros(size: int, dtype: Any) -> np.ndarray:
    """(size,) aligned to a cache line."""
    raw = np.zeros(size + 64, dtype)
    skip = -raw.ctypes.data % 64 // raw.itemsize
    return raw[skip : skip + size]


@dataclass(frozen=True, eq=False)
class _Part:
    """Parameters of one layer and where they stand.

    Attributes:
      pack: (W, b or None) → written to the packed parameters.
      unpack: gradients, as the program leaves them → (dW, db or None).
      biased: whether there is a b.
    """

    pack: Callable[[np.ndarray, np.ndarray | None], None]
    unpack: Callable[[], tuple[np.ndarray, np.ndarray]]
    biased: bool


class ConvPlan:
    """Work space, packed parameters and geometry of one network.

    Args:
      section: of the study file.
      input_shape: (height, width, channel).
      outputs: number of outputs.
      cross_entropy: whether that is the loss.
      dtype: of all arrays.
      filtering: whether to convolve by minimal filtering, which is faster; otherwise by plain sums: gradients that
        vanish term by term are then exactly 0, and not round-off.
    """

    def __init__(
        self,
        section: ConvolutionalNetwork,
        input_shape: tuple[int, ...],
        outputs: int,
        cross_entropy: bool,
        dtype: str,
        filtering: bool = True,
    ) -> None:
        self.section, self.dtype, self.half = section, np.dtype(dtype), half_register(dtype)
        self.order = get_group(section.group).order if isinstance(section, GcnnNetwork) and section.group else 1
        pooled = getattr(section, "head", "global_average_pool") == "global_average_pool"
        size = section.kernel_size
        before = 0 if section.padding == "VALID" else (size - 1) // 2
        after = 0 if section.padding == "VALID" else size - 1 - before
        shrink = size - 1 - before - after
        extents = [(input_shape[0] - k * shrink, input_shape[1] - k * shrink) for k in range(section.conv_layers + 1)]
        m = _tile([width for _, width in extents[1:]], size) if filtering else 1
        self.A, self.G, self.B = (matrix.astype(self.dtype) for matrix in minimal_filtering(m, size))
        self.matrices = tuple(
            np.ascontiguousarray(matrix).reshape(-1) for matrix in (self.B, self.A.T, self.A, self.B.T)
        )
        together = 1 if pooled else ROWS
        packed, gradient, work = _Offsets(), _Offsets(), _Offsets()
        self.layers = self._convolutions(extents, input_shape[2], m, together, (packed, gradient, work))
        last = self.layers[-1]
        pixels, stride = int(last["height"] * last["width"]), int(last["filters_stride"])
        image = work(pixels * stride)
        self.dense = self._dense(1 if pooled else pixels, stride, outputs, together, (packed, gradient, work), image)
        largest = self.layers
        self.program = Program(
            nodes=len(self.A),
            tile=m,
            size=size,
            before=before,
            after=after,
            circular=section.padding == "CIRCULAR",
            pooled=pooled,
            erf=section.activation == "erf",
            cross_entropy=cross_entropy,
            outputs=outputs,
            together=together,
            image=image if pooled else int(self.dense[0]["h"]),
            o=work(len(self.A) * int((largest["height"] * largest["tiles"] * largest["filters_stride"]).max())),
            dv=work(len(self.A) * int((largest["rows"] * largest["tiles"] * largest["stride"]).max())),
            dx=work(max(int((largest["rows"] * largest["columns"] * largest["stride"]).max()), pixels * stride)),
            row=work(int((largest["tiles"] * m * largest["filters_stride"]).max())),
            half=self.half,
        )
        self.work, self.packed, self.gradient = (_zeros(o.total, self.dtype) for o in (work, packed, gradient))

    def _padded(self, channels: int) -> int:
        return -(-channels // self.half) * self.half

    def _convolutions(
        self, extents: list[tuple[int, int]], channels: int, m: int, together: int, offsets: tuple[_Offsets, ...]
    ) -> np.ndarray:
        packed, gradient, work = offsets
        n, size = len(self.A), self.section.kernel_size
        layers = np.zeros(self.section.conv_layers, LAYER)
        stride = channels
        for layer, (height, width) in zip(layers, extents[1:], strict=True):
            filters = self.section.width * self.order
            wide, tiles, rows = self._padded(filters), -(-width // m), height + size - 1
            columns = tiles * m + size - 1
            layer["rows"], layer["columns"], layer["channels"], layer["stride"] = rows, columns, channels, stride
            layer["tiles"], layer["height"], layer["width"] = tiles, height, width
            layer["filters"], layer["filters_stride"] = filters, wide
            layer["u"], layer["ut"] = packed(n, size, channels, wide), packed(n, size, filters, stride)
            layer["bias"], layer["db"] = packed(width, wide), gradient(width, wide)
            layer["du"] = gradient(n, size, channels, wide)
            layer["x"], layer["v"] = work(together, rows, columns, stride), work(together, n, rows, tiles, stride)
            layer["slope"] = work(together, height, width, wide)
            layer["d"] = work(n, height + 2 * (size - 1), tiles, wide)
            channels, stride = filters, wide
        return layers

    def _dense(
        self, pixels: int, stride: int, outputs: int, together: int, offsets: tuple[_Offsets, ...], image: int
    ) -> np.ndarray:
        packed, gradient, work = offsets
        widths = [self.section.width] * self.section.dense_layers + [outputs]
        strides = [pixels * stride, *map(self._padded, widths)]
        values, slopes = work(together, sum(strides)), work(together, sum(strides))
        changes = work(together, sum(strides))
        dense = np.zeros(len(widths), DENSE)
        numbers = [pixels * stride, *widths]
        for k, layer in enumerate(dense):
            layer["inputs"], layer["inputs_stride"] = numbers[k], strides[k]
            layer["outputs"], layer["outputs_stride"] = numbers[k + 1], strides[k + 1]
            layer["w"], layer["wt"] = packed(numbers[k], strides[k + 1]), packed(numbers[k + 1], strides[k])
            layer["bias"], layer["db"] = packed(strides[k + 1]), gradient(strides[k + 1])
            layer["dw"] = gradient(numbers[k], strides[k + 1])
            before = together * sum(strides[:k])
            layer["h"], layer["dh"], layer["slope"] = values + before, changes + before, slopes + before
        return dense

    @cached_property
    def parts(self) -> list[_Part]:
        """The layers with parameters, in the order of the parameter tree."""
        return [self._convolution_part(k) for k in range(len(self.layers))] + [
            self._dense_part(k) for k in range(len(self.dense))
        ]

    def _convolution_part(self, k: int) -> _Part:
        layer, section, n, size = self.layers[k], self.section, len(self.A), self.section.kernel_size
        names = ("channels", "stride", "filters", "filters_stride", "width")
        channels, stride, filters, wide, width = (int(layer[name]) for name in names)
        u = _view(self.packed, layer["u"], n, size, channels, wide)[..., :filters]
        ut = _view(self.packed, layer["ut"], n, size, filters, stride)[..., :channels]
        bias = _view(self.packed, layer["bias"], width, wide)[:, :filters]
        du = _view(self.gradient, layer["du"], n, size, channels, wide)[..., :filters]
        db = _view(self.gradient, layer["db"], width, wide)[:, :filters]
        full, reduced = self._expansion(k, channels // (self.order if k else 1))
        fan_in = size * size * channels
        norm = self.dtype.type(section.W_std / fan_in**0.5)
        b_std = self.dtype.type(section.b_std)

        def pack(W: np.ndarray, b: np.ndarray | None) -> None:
            filtered = np.einsum("fj,ijck->fick", norm * self.G, full(W), optimize=True)
            u[:], ut[:] = filtered, filtered.swapaxes(2, 3)
            if b is not None:
                bias[:] = np.tile(b_std * b.reshape(-1), self.order)

        def unpack() -> tuple[np.ndarray, np.ndarray]:
            change = np.einsum("fj,fick->ijck", norm * self.G, du, optimize=True)
            return reduced(change), b_std * db.sum(axis=0).reshape(self.order, -1).sum(axis=0)

        return _Part(pack, unpack, section.b_std > 0)

    def _expansion(self, k: int, fan_in: int) -> tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]:
        """W as it is stored → W (row, column, channel in, channel out), and the transpose of this linear map."""
        section, size, order = self.section, self.section.kernel_size, self.order
        if not isinstance(section, GcnnNetwork):
            return lambda W: W, lambda W: W
        assert section.group is not None
        filters = Filters(get_group(section.group), size, section.padding, lifts=k == 0)
        table = filters.expansion().astype(self.dtype)
        points, weights, inner = len(table), table.shape[2], (fan_in, section.width)

        def full(W: np.ndarray) -> np.ndarray:
            expanded = table.reshape(-1, weights) @ W.reshape(weights, -1)
            expanded = expanded.reshape(points, order, *inner).swapaxes(1, 2)
            return expanded.reshape(size, size, -1, order * section.width)

        def reduced(change: np.ndarray) -> np.ndarray:
            moved = change.reshape(points, fan_in, order, section.width).swapaxes(1, 2)
            return table.reshape(-1, weights).T @ moved.reshape(points * order, -1)

        return full, reduced

    def _dense_part(self, k: int) -> _Part:
        layer, section = self.dense[k], self.section
        inputs, stride, outputs, wide = (int(layer[name]) for name in DENSE.names[:4])  # type: ignore[index]
        last = k + 1 == len(self.dense)
        std, b_std = (section.readout_W_std, section.readout_b_std) if last else (section.W_std, section.b_std)
        channels, padded = (int(self.layers[-1][name]) for name in ("filters", "filters_stride"))
        rows, copies, terms = np.arange(inputs), 1, 1
        if k == 0:
            rows, copies = rows.reshape(-1, padded)[:, :channels].reshape(-1), self.order
            terms = copies * int(self.layers[-1]["height"] * self.layers[-1]["width"]) if self.program.pooled else 1
        norm = self.dtype.type(std / (len(rows) // copies) ** 0.5 / terms)
        w = _view(self.packed, layer["w"], inputs, wide)[:, :outputs]
        wt = _view(self.packed, layer["wt"], outputs, stride)
        bias = _view(self.packed, layer["bias"], wide)[:outputs]
        dw = _view(self.gradient, layer["dw"], inputs, wide)[:, :outputs]
        db = _view(self.gradient, layer["db"], wide)[:outputs]

        def pack(W: np.ndarray, b: np.ndarray | None) -> None:
            w[rows] = np.tile(norm * W.reshape(-1, outputs), (copies, 1))
            wt[:, rows] = w[rows].T
            if b is not None:
                bias[:] = self.dtype.type(b_std) * b.reshape(-1)

        def unpack() -> tuple[np.ndarray, np.ndarray]:
            change = norm * dw[rows].reshape(copies, -1, outputs).sum(axis=0)
            return change, self.dtype.type(b_std) * db

        return _Part(pack, unpack, b_std > 0)

    def pack(self, leaves: Sequence[np.ndarray]) -> None:
        """Take parameters: arrays in the order of the parameter tree."""
        given = iter(leaves)
        for part in self.parts:
            W = next(given)
            part.pack(W, next(given) if part.biased else None)

    def unpack(self, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        """The gradients, likewise, of these shapes."""
        changes = [change for part in self.parts for change in part.unpack()[: 1 + part.biased]]
        return [change.reshape(shape) for change, shape in zip(changes, shapes, strict=True)]


def _view(array: np.ndarray, start: int, *shape: int) -> np.ndarray:
    return array[int(start) : int(start) + prod(shape)].reshape(shape)
