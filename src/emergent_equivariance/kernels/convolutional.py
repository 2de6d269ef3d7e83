"""Kernels of convolutional networks by the compiled engine of ``fused``: pairs on threads, then the dense layers.

From the head on K and Θ of a pair are numbers. A hidden dense layer takes them to K ← W_std² K + b_std²,
Θ ← K + W_std² Θ, then σ as in ``fused`` with the variances K(x, x) of both images; the readout is linear. A network
that averages over a group at its head has the head's kernels averaged over x′ ↦ gx′, the variances likewise (Misof
et al. 2025; docs/theory.md), before anything nonlinear.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import ceil, pi
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..networks import ConvStack
from ..networks.layers import PARALLEL_EPS
from . import fused

__all__ = ["bytes_per_image", "cut", "pair_kernels"]

#: Evaluations of σ in one task of a thread: about 50 ms.
TASK = 2 * 10**7

#: Round-off of 1 − |cos θ|; see networks.layers.
PARALLEL = PARALLEL_EPS * float(np.finfo(np.float64).eps)

#: Positions of strips side by side, at most: enough for long loops, few enough for the second-level cache.
STRIP_ENTRIES = 4096


@np.errstate(all="ignore")
def pair_kernels(
    stack: ConvStack,
    x1: np.ndarray,
    x2: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    *,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """NNGP and NTK of the pairs (x1[first], x2[second]), whether or not they are finite.

    Args:
      stack: the network.
      x1: (image, height, width, channel) of any real dtype.
      x2: (image_, height, width, channel).
      first: (pair,) indices into x1.
      second: (pair,) indices into x2.
      threads: pairs evaluated at once; the result does not depend on it.
      progress: called with the number of pairs just finished.

    Returns:
      (nngp, ntk), each (pair,) float64, per output.
    """
    nngp, ntk = _after_head(stack, x1, x2, first, second, threads, progress)
    if stack.dense_layers:
        variance1, variance2 = (_variances(stack, x, threads) for x in (x1, x2))
        nngp, ntk = _dense_layers(stack, nngp, ntk, variance1[first], variance2[second])
    nngp, ntk = stack.readout_W_std**2 * nngp, stack.readout_W_std**2 * ntk
    nngp = nngp + stack.readout_b_std**2
    return nngp, ntk + nngp


def cut(stack: ConvStack) -> list[ConvStack]:
    """The network cut behind each convolution and hidden dense layer, a head in place of the rest; then whole."""
    bare = replace(stack, readout_W_std=1.0, readout_b_std=0.0)
    convolutions = [replace(bare, convolutions=n, dense_layers=0) for n in range(1, stack.convolutions + 1)]
    return [*convolutions, *(replace(bare, dense_layers=n) for n in range(1, stack.dense_layers + 1)), stack]


def bytes_per_image(stack: ConvStack, shape: tuple[int, ...]) -> int:
    """Memory of what is kept of one image (height, width, channel) while its pairs are evaluated."""
    height, width, channels = shape
    planes = channels + 2 * stack.convolutions
    return 8 * height * width * planes * (1 + _order(stack))


def _order(stack: ConvStack) -> int:
    return 1 if stack.average is None else stack.average.group.order


def _plan(stack: ConvStack, shape: tuple[int, ...]) -> fused.Plan:
    q, circular = stack.kernel_size, stack.padding == "CIRCULAR"
    before, after = _margins(stack)
    height, width, channels = shape
    gap = after if stack.padding == "SAME" else 0
    strip = width + (before + after if circular else 2 * gap)
    pooled = stack.head == "global_average_pool"
    fit = max(1, STRIP_ENTRIES // (height * strip)) if pooled else 1
    together = max(n for n in range(1, width + 1) if width % n == 0 and n <= fit)
    stride = together * strip
    return fused.Plan(
        height=height,
        width=width,
        channels=channels,
        layers=stack.convolutions,
        before=before,
        after=after,
        circular=circular,
        shrink=q - 1 if stack.padding == "VALID" else 0,
        pooled=pooled,
        gap=gap,
        together=together,
        strip=strip,
        stride=stride,
        erf=stack.activation == "erf",
        weight=stack.W_std**2 / q**2,
        bias=stack.b_std**2,
        unit=2 / pi if stack.activation == "erf" else 0.5 / pi,
        parallel=PARALLEL,
        average=_order(stack),
        row_taps=tuple(np.uint64(i) for i in range(q)),
        column_taps=tuple(np.uint64(i * stride) for i in range(q)),
    )


def _margins(stack: ConvStack) -> tuple[int, int]:
    """Pixels added before and after the image in both directions."""
    if stack.padding == "VALID":
        return 0, 0
    return (stack.kernel_size - 1) // 2, stack.kernel_size // 2


def _filtered(stack: ConvStack, images: np.ndarray) -> np.ndarray:
    """Sums over the filter's support: (image, row, column) → (image, row, column)."""
    margins = _margins(stack)
    mode: Literal["wrap", "constant"] = "wrap" if stack.padding == "CIRCULAR" else "constant"
    padded = np.pad(images, ((0, 0), margins, margins), mode=mode)
    windows = sliding_window_view(padded, (stack.kernel_size, stack.kernel_size), axis=(1, 2))
    return windows.sum(axis=-1).sum(axis=-1)


def _planes(stack: ConvStack, images: np.ndarray) -> np.ndarray:
    """(image, plane, row, column): channels, then what σ needs of the variances before each nonlinearity.

    These are √v and 1/√v for relu, √(2/(1 + 2v)) for erf; 0 where v = 0 and outside of VALID convolutions.
    """
    samples, height, width, channels = images.shape
    per_layer = 1 if stack.activation == "erf" else 2
    planes = np.zeros((samples, channels + per_layer * stack.convolutions, height, width))
    planes[:, :channels] = np.moveaxis(images, -1, 1)
    variance = (planes[:, :channels] ** 2).mean(axis=1)
    for layer in range(stack.convolutions):
        variance = stack.W_std**2 / stack.kernel_size**2 * _filtered(stack, variance) + stack.b_std**2
        rows, columns = variance.shape[1:]
        at = channels + per_layer * layer
        if stack.activation == "erf":
            planes[:, at, :rows, :columns] = np.sqrt(2 / (1 + 2 * variance))
            variance = 2 / pi * np.arctan2(variance, np.sqrt(variance + 0.25))
        else:
            deviation = np.sqrt(variance)
            planes[:, at, :rows, :columns] = deviation
            planes[:, at + 1, :rows, :columns] = np.where(deviation == 0, 0, 1 / deviation)
            variance = variance / 2
    return planes


def _after_head(
    stack: ConvStack,
    x1: np.ndarray,
    x2: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    threads: int,
    progress: Callable[[int], None] | None,
) -> tuple[np.ndarray, np.ndarray]:
    shape = x1.shape[1:]
    orbits = x2 if stack.average is None else stack.average.orbit(x2).reshape(-1, *shape)
    planes1, planes2 = _planes(stack, x1), _planes(stack, orbits)
    plan = _plan(stack, shape)
    result = np.empty((2, len(first)))

    def evaluate(part: slice) -> int:
        fused.evaluate_pairs(result[:, part], planes1, planes2, first[part], second[part], plan)
        return part.stop - part.start

    pixels = shape[0] * shape[1]
    work = pixels * (pixels if plan.pooled else 1) * stack.convolutions * _order(stack)
    pieces = 1 if threads == 1 else 4 * threads
    size = max(1, min(TASK // work, ceil(len(first) / pieces)))
    parts = [slice(start, min(start + size, len(first))) for start in range(0, len(first), size)]
    with ThreadPoolExecutor(threads) as pool:
        for done in pool.map(evaluate, parts) if threads > 1 else map(evaluate, parts):
            if progress is not None:
                progress(done)
    return result[0], result[1]


def _variances(stack: ConvStack, x: np.ndarray, threads: int) -> np.ndarray:
    """(image,) K(x, x) behind the head."""
    everything = np.arange(len(x))
    return _after_head(stack, x, x, everything, everything, threads, None)[0]


def _dense_layers(
    stack: ConvStack, nngp: np.ndarray, ntk: np.ndarray, variance1: np.ndarray, variance2: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    weight, bias = stack.W_std**2, stack.b_std**2
    for _ in range(stack.dense_layers):
        nngp = weight * nngp + bias
        ntk = nngp + weight * ntk
        variance1, variance2 = weight * variance1 + bias, weight * variance2 + bias
        if stack.activation == "relu":
            scale = np.sqrt(variance1) * np.sqrt(variance2)
            parallel = scale - np.abs(nngp) <= PARALLEL * scale
            area = np.sqrt(np.where(parallel, 0, (scale - nngp) * (scale + nngp)))
            derivative = (pi - np.arctan2(area, nngp)) / (2 * pi)
            nngp = area / (2 * pi) + derivative * nngp
            variance1, variance2 = variance1 / 2, variance2 / 2
        else:
            root = np.sqrt((1 + 2 * variance1) * (1 + 2 * variance2) - 4 * nngp**2)
            derivative = 4 / (pi * root)
            nngp = 2 / pi * np.arctan2(2 * nngp, root)
            variance1, variance2 = (2 / pi * np.arctan2(v, np.sqrt(v + 0.25)) for v in (variance1, variance2))
        ntk = ntk * derivative
    return nngp, ntk
