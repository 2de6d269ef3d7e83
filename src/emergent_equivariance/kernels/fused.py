"""Kernels of convolutional networks, displacement by displacement: compiled, float64, one pair of images at a time.

Convolution, nonlinearity and pooling never mix different displacements δ = t′ − t of the two pixels. For a fixed δ
the layers act on one small image K_δ(t) = K(t, t + δ) over the overlap of the image with its shifted copy, outside
of which it is zero (SAME), wrapped (CIRCULAR) or absent (VALID):

    convolution    K ← W_std²/q² Σ_s K(t + s) + b_std²               Θ ← K + W_std²/q² Σ_s Θ(t + s)
    relu           K ← √(v(t) v′(t+δ)) (sin θ + (π − θ) ρ)/2π        Θ ← Θ (π − θ)/2π          ρ = cos θ = K/√(v v′)
    erf            K ← 2/π arcsin ρ                                  Θ ← Θ 4/(π √((1+2v)(1+2v′)) √(1 − ρ²)),
                                                                     ρ = 2K/√((1 + 2v)(1 + 2v′))

with v, v′ the variances of either image at its own pixels, found once per image and layer. Global average pooling
sums over t and δ; flattening needs δ = 0 alone. A pair takes O(pixels) memory instead of O(pixels²). Recursions:
Novak et al. 2019, Arora et al. 2019; closed forms: Cho & Saul 2009 (relu), Williams 1997 (erf).

Layout: all displacements by (dy, d) and (dy, d − W) share one strip of H rows, in which the columns t < W − d and
t ≥ W − d of an image stand side by side with a gap of zeros between (none where the image wraps around). Rows of a
few consecutive d lie side by side, so that every inner loop runs over one contiguous array. Where a variance is 0,
which includes the gaps, both kernels become 0.
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi
from typing import Any, Literal, NamedTuple, TypeVar

import numba
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..networks.layers import PARALLEL_EPS
from ..networks.stack import ConvStack

__all__ = ["arccos", "arcsin", "evaluate_pairs", "make_plan", "planes"]

#: Minimax polynomial (Remez) of arccos(1 − w)/√(w(2 − w)) on 0 ≤ w ≤ 1, relative error 3e-17: terms of even and of
#: odd power, from the highest. Two short loops are unrolled, and so vectorised, where one of 21 terms is not.
ARCCOS_EVEN = (
    0.00012350041196124687,
    0.00422145001473901,
    0.018320249858265095,
    0.022401913897845134,
    0.00963957867653228,
    0.0017843382486444747,
    0.0012566229861803667,
    0.005329564150187403,
    0.02539683217958749,
    0.13333333333720937,
    1.0,
)
ARCCOS_ODD = (
    -0.0010487936515309296,
    -0.010559816643358966,
    -0.023273746110054068,
    -0.016566820408801298,
    -0.004194426801705446,
    0.00013964734845958507,
    0.0024728235192299124,
    0.011543885528358106,
    0.05714285691984117,
    0.3333333333333066,
)

#: Minimax polynomial (Remez) of arcsin(√z)/√z on 0 ≤ z ≤ 1/4, relative error 1.4e-17, from the highest power.
ARCSIN = (
    0.0320963099593686,
    -0.016511819567575463,
    0.01972594008603437,
    0.006449382579870263,
    0.012189197208987285,
    0.013881841800767982,
    0.017360094757696808,
    0.022371727961597223,
    0.030381960650749554,
    0.04464285678139813,
    0.07500000000417985,
    0.1666666666666477,
    1.0,
)

#: 1 − |ρ| up to here is 0; see networks.layers.
PARALLEL = PARALLEL_EPS * float(np.finfo(np.float64).eps)

#: Positions of the strips side by side: few enough for the first-level cache, enough for long loops.
STRIP_ENTRIES = 1024

Function = TypeVar("Function", bound=Callable[..., Any])


def _compiled(function: Function) -> Function:
    """``function`` compiled on its first call, kept beside the source or in the user's cache where either is writable.

    Contraction to fused multiply-adds is the only liberty taken with the arithmetic.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba's word for: no folder to keep it in
        return numba.njit(**options)(function)


@_compiled
def _polynomial(coefficients, x):
    value = coefficients[0]
    for i in range(1, len(coefficients)):
        value = value * x + coefficients[i]
    return value


@_compiled
def _acos_of_complement(w, sine):
    """arccos(1 − w) for 0 ≤ w ≤ 1, with sine = √(w(2 − w))."""
    return sine * (_polynomial(ARCCOS_EVEN, w * w) + w * _polynomial(ARCCOS_ODD, w * w))


@_compiled
def _asin(x, complement):
    """arcsin(x), with complement = 1 − |x|."""
    small = complement > 0.5
    z = x * x if small else 0.5 * complement
    angle = np.sqrt(z) * _polynomial(ARCSIN, z)
    size = angle if small else 0.5 * pi - 2.0 * angle
    return -size if x < 0.0 else size


@_compiled
def arccos(x, out):
    """arccos of an array, to 2 units in the last place, as the relu kernel evaluates it."""
    for k in range(len(x)):
        w = 1.0 - abs(x[k])
        angle = _acos_of_complement(w, np.sqrt(w * (2.0 - w)))
        out[k] = pi - angle if x[k] < 0.0 else angle


@_compiled
def arcsin(x, out):
    """arcsin of an array, to 2 units in the last place, as the erf kernel evaluates it."""
    for k in range(len(x)):
        out[k] = _asin(x[k], 1.0 - abs(x[k]))


@_compiled
def _box(source, taps, k):
    """Σ source[k + tap]; unsigned indices, because a negative one would wrap around and hinder vectorisation."""
    total = 0.0
    for tap in taps:
        total += source[np.uint64(k) + tap]
    return total


@_compiled
def _box_rows(out, source, taps, count):
    for k in range(count):
        out[k] = _box(source, taps, k)


@_compiled
def _product(out, x1, first, x2, second, channels, count):
    """Covariance of the inputs, times the number of channels."""
    a, b = x1[0, first:], x2[0, second:]
    for k in range(count):
        out[k] = a[k] * b[k]
    for channel in range(1, channels):
        a, b = x1[channel, first:], x2[channel, second:]
        for k in range(count):
            out[k] += a[k] * b[k]


@_compiled
def _relu(nngp, ntk, sum_nngp, sum_ntk, taps, weight, bias, std1, inverse1, std2, inverse2, count):
    """The column sums of a convolution, then relu. ``sum_ntk`` is None for the first layer, where Θ = 0."""
    for k in range(count):
        covariance = weight * _box(sum_nngp, taps, k) + bias
        tangent = covariance
        if sum_ntk is not None:
            tangent += weight * _box(sum_ntk, taps, k)
        scale = std1[k] * std2[k]
        cosine = (covariance * inverse1[k]) * inverse2[k]
        w = 1.0 - abs(cosine)
        w *= w > PARALLEL
        sine = np.sqrt(w * (2.0 - w))
        angle = _acos_of_complement(w, sine) * (0.5 / pi)
        derivative = (angle if cosine < 0.0 else 0.5 - angle) * (scale != 0.0)
        nngp[k] = scale * (sine * (0.5 / pi) + derivative * cosine)
        ntk[k] = derivative * tangent


@_compiled
def _erf(nngp, ntk, sum_nngp, sum_ntk, taps, weight, bias, inverse1, inverse2, count):
    """The same with erf; inverse = √(2/(1 + 2v))."""
    for k in range(count):
        covariance = weight * _box(sum_nngp, taps, k) + bias
        tangent = covariance
        if sum_ntk is not None:
            tangent += weight * _box(sum_ntk, taps, k)
        sine = (covariance * inverse1[k]) * inverse2[k]
        w = 1.0 - abs(sine)
        nngp[k] = (2.0 / pi) * _asin(sine, w)
        ntk[k] = tangent * ((2.0 / pi) * inverse1[k] * inverse2[k] / np.sqrt(w * (2.0 - w)))


class _Plan(NamedTuple):
    """What the compiled functions need to know.

    Attributes:
      height, width, channels: of the input.
      layers: number of convolutions.
      before, after: rows and columns that a filter reaches beyond its pixel.
      circular: whether images wrap around.
      shrink: rows and columns a convolution takes away.
      pooled: whether all displacements are needed.
      gap: columns between the two parts of a strip, and after them.
      together: number of strips side by side.
      strip: columns of one strip.
      stride: columns of all.
      erf: whether σ is erf; relu otherwise.
      weight, bias: W_std²/q² and b_std².
      average: consecutive second images whose kernels are averaged.
      row_taps, column_taps: offsets of a filter's columns, and of its rows.
    """

    height: int
    width: int
    channels: int
    layers: int
    before: int
    after: int
    circular: bool
    shrink: int
    pooled: bool
    gap: int
    together: int
    strip: int
    stride: int
    erf: bool
    weight: float
    bias: float
    average: int
    row_taps: tuple[np.uint64, ...]
    column_taps: tuple[np.uint64, ...]


@_compiled
def _fill(strips, image, d, second, plan):
    """Planes of an image (plane, row, column) as strips (plane, position), for ``plan.together`` displacements from d.

    The second image is shifted: its pixel t + δ stands where the first one has t. Where images wrap around its
    rows are there twice.
    """
    strips[:] = 0.0
    lead = plan.before if plan.circular else 0
    for plane in range(len(image)):
        for row in range(plan.height):
            for shift in range(d, min(d + plan.together, plan.width)):
                start = row * plan.stride + (shift - d) * plan.strip + lead
                first, last = (shift, shift - plan.width) if second else (0, 0)
                for t in range(plan.width - shift):
                    strips[plane, start + t] = image[plane, row, t + first]
                for t in range(plan.width - shift, plan.width):
                    strips[plane, start + plan.gap + t] = image[plane, row, t + last]
        if second and plan.circular:
            size = plan.height * plan.stride
            strips[plane, size : 2 * size] = strips[plane, :size]


@_compiled
def _wrap_columns(values, rows, plan):
    """Copies of the columns on the other side of the image."""
    for row in range(rows):
        for shift in range(plan.together):
            start = plan.before + row * plan.stride + shift * plan.strip
            for t in range(plan.before):
                values[start + t] = values[start + plan.width + t]
            for t in range(plan.after):
                values[start + plan.before + plan.width + t] = values[start + plan.before + t]


@_compiled
def _border_rows(sums, rows, plan):
    """Rows above and below the image: copies where it wraps around, zeros otherwise."""
    top, size = plan.before * plan.stride, rows * plan.stride
    below = plan.after * plan.stride
    if plan.circular:
        sums[:top] = sums[size : size + top]
        sums[top + size : top + size + below] = sums[top : top + below]
    else:
        sums[:top] = 0.0
        sums[top + size : top + size + below] = 0.0


@_compiled
def _displacement(total, work, strips1, strips2, dy, plan):
    """Adds the kernels for vertical displacement dy to ``total`` (nngp and ntk, position)."""
    first = 0 if plan.circular else max(0, -dy)
    second = dy if plan.circular else max(0, dy)
    rows = plan.height if plan.circular else plan.height - abs(dy)
    nngp, ntk, sum_nngp, sum_ntk = work[0], work[1], work[2], work[3]
    first, second = first * plan.stride, second * plan.stride
    out_nngp, out_ntk = nngp[plan.before :], ntk[plan.before :]
    weight = plan.weight / plan.channels
    plane = plan.channels
    _product(out_nngp, strips1, first, strips2, second, plan.channels, _rounded(rows * plan.stride))
    for layer in range(plan.layers):
        count = _rounded(rows * plan.stride)
        if plan.circular:
            _wrap_columns(nngp, rows, plan)
        _box_rows(sum_nngp[plan.before * plan.stride :], nngp, plan.row_taps, count)
        _border_rows(sum_nngp, rows, plan)
        if layer > 0:
            if plan.circular:
                _wrap_columns(ntk, rows, plan)
            _box_rows(sum_ntk[plan.before * plan.stride :], ntk, plan.row_taps, count)
            _border_rows(sum_ntk, rows, plan)
        rows -= plan.shrink
        count = _rounded(rows * plan.stride)
        a, b = strips1[plane, first:], strips2[plane, second:]
        if plan.erf:
            plane += 1
            if layer > 0:
                _erf(out_nngp, out_ntk, sum_nngp, sum_ntk, plan.column_taps, weight, plan.bias, a, b, count)
            else:
                _erf(out_nngp, out_ntk, sum_nngp, None, plan.column_taps, weight, plan.bias, a, b, count)
        else:
            c, d = strips1[plane + 1, first:], strips2[plane + 1, second:]
            plane += 2
            if layer > 0:
                _relu(out_nngp, out_ntk, sum_nngp, sum_ntk, plan.column_taps, weight, plan.bias, a, c, b, d, count)
            else:
                _relu(out_nngp, out_ntk, sum_nngp, None, plan.column_taps, weight, plan.bias, a, c, b, d, count)
        weight = plan.weight
    for k in range(count):
        total[0, k] += out_nngp[k]
        total[1, k] += out_ntk[k]


@_compiled
def _rounded(count):
    """Up to whole vector registers: what is computed beyond the last row is zero."""
    return (count + 31) // 32 * 32


@_compiled
def evaluate_pairs(result, planes1, planes2, first, second, plan):
    """Kernels (nngp and ntk, pair) after the head of the pairs (first[p], second[p]) of images."""
    spare = 64
    size = plan.height * plan.stride + spare
    strips1 = np.zeros((planes1.shape[1], size))
    strips2 = np.zeros((planes2.shape[1], size + plan.height * plan.stride if plan.circular else size))
    work = np.zeros((4, (plan.height + plan.before + plan.after) * plan.stride + plan.before + plan.after + spare))
    total = np.empty((2, size))
    width = plan.width - plan.layers * plan.shrink
    height = plan.height - plan.layers * plan.shrink
    for pair in range(len(first)):
        total[:] = 0.0
        for g in range(plan.average):
            image1, image2 = planes1[first[pair]], planes2[second[pair] * plan.average + g]
            if not plan.pooled:
                _fill(strips1, image1, 0, False, plan)
                _fill(strips2, image2, 0, True, plan)
                _displacement(total, work, strips1, strips2, 0, plan)
                continue
            for d in range(0, plan.width, plan.together):
                if d >= width and d + plan.together - 1 <= plan.width - width:
                    continue
                _fill(strips1, image1, d, False, plan)
                _fill(strips2, image2, d, True, plan)
                for dy in range(0 if plan.circular else 1 - height, height):
                    _displacement(total, work, strips1, strips2, dy, plan)
        norm = plan.average * (width * height) ** (2 if plan.pooled else 1)
        for kind in range(2):
            result[kind, pair] = total[kind].sum() / norm


def make_plan(stack: ConvStack, shape: tuple[int, ...]) -> _Plan:
    q, circular = stack.kernel_size, stack.padding == "CIRCULAR"
    before, after = _margins(stack)
    height, width, channels = shape
    gap = after if stack.padding == "SAME" else 0
    strip = width + (before + after if circular else 2 * gap)
    pooled = stack.head == "global_average_pool"
    together = max(1, min(width, STRIP_ENTRIES // (height * strip))) if pooled else 1
    stride = together * strip
    return _Plan(
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
        average=1 if stack.average is None else stack.average.group.order,
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


def planes(stack: ConvStack, images: np.ndarray) -> np.ndarray:
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
            with np.errstate(divide="ignore"):
                planes[:, at + 1, :rows, :columns] = np.where(deviation == 0, 0, 1 / deviation)
            variance = variance / 2
    return planes
