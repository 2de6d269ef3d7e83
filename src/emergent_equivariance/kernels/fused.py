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

from collections.abc import Callable, Collection
from functools import partial
from math import pi
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np

__all__ = ["Plan", "arccos", "arcsin", "evaluate_pairs"]

#: Minimax polynomial (Remez) of arccos(1 − w)/√(2w − w²) = 1 + w R(w) on 0 ≤ w ≤ 1, relative error 3e-17: terms of R
#: of even and of odd power, from the highest. Two short loops are unrolled, and so vectorised, where a long one is not.
ARCCOS_EVEN = (
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
ARCCOS_ODD = (
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
)

#: Minimax polynomial (Remez) of arcsin(√z)/√z = 1 + z R(z) on 0 ≤ z ≤ 1/4, relative error 1.4e-17: R, from the
#: highest power.
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
)

Function = TypeVar("Function", bound=Callable[..., Any])


def _compiled(function: Function, *, liberties: Collection[str] = ("contract",)) -> Function:
    """``function`` compiled on its first call, kept beside the source or in the user's cache where either is writable.

    The only liberties taken with the arithmetic are contraction to fused multiply-adds, and the order of plain sums.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": set(liberties), "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba's word for: no folder to keep it in
        return numba.njit(**options)(function)


_compiled_sum = partial(_compiled, liberties=("contract", "reassoc"))


@_compiled
def _polynomial(coefficients, x):
    value = coefficients[0]
    for i in range(1, len(coefficients)):
        value = value * x + coefficients[i]
    return value


@_compiled
def _acos_of_complement(w, sine):
    """arccos(1 − w) for 0 ≤ w ≤ 1, with sine = √(2w − w²)."""
    return sine * (w * (_polynomial(ARCCOS_EVEN, w * w) + w * _polynomial(ARCCOS_ODD, w * w))) + sine


@_compiled
def _asin(x, complement):
    """arcsin(x), with complement = 1 − |x|."""
    small = complement > 0.5
    z = x * x if small else 0.5 * complement
    root = abs(x) if small else np.sqrt(z)
    angle = root * (z * _polynomial(ARCSIN, z)) + root
    size = angle if small else 0.5 * pi - 2.0 * angle
    return -size if x < 0.0 else size


@_compiled
def arccos(x, out):
    """arccos of an array, to 2 units in the last place, as the relu kernel evaluates it."""
    for k in range(len(x)):
        w = 1.0 - abs(x[k])
        angle = _acos_of_complement(w, np.sqrt(2.0 * w - w * w))
        out[k] = pi - angle if x[k] < 0.0 else angle


@_compiled
def arcsin(x, out):
    """arcsin of an array, to 2 units in the last place, as the erf kernel evaluates it."""
    for k in range(len(x)):
        out[k] = _asin(x[k], 1.0 - abs(x[k]))


@_compiled
def _box(source, taps, k):
    """Σ source[k + tap]; unsigned indices, because a negative one would wrap around and hinder vectorisation."""
    total = source[np.uint64(k) + taps[0]]
    for i in range(1, len(taps)):
        total += source[np.uint64(k) + taps[i]]
    return total


@_compiled
def _box_rows(out, source, taps, count):
    for k in range(count):
        out[k] = _box(source, taps, k)


@_compiled
def _product(out, strips1, first, strips2, second, channels, count):
    """Covariance of the inputs, times the number of channels; three of them in one go."""
    a, b = strips1[0, first:], strips2[0, second:]
    if channels == 3:
        c, d, e, f = strips1[1, first:], strips2[1, second:], strips1[2, first:], strips2[2, second:]
        for k in range(count):
            out[k] = a[k] * b[k] + c[k] * d[k] + e[k] * f[k]
        return
    for k in range(count):
        out[k] = a[k] * b[k]
    for channel in range(1, channels):
        a, b = strips1[channel, first:], strips2[channel, second:]
        for k in range(count):
            out[k] += a[k] * b[k]


@_compiled
def _relu(nngp, ntk, sum_nngp, sum_ntk, taps, weight, bias, parallel, std1, inverse1, std2, inverse2, count):
    """The column sums of a convolution, then 2π times relu. ``sum_ntk`` is None for the first layer, where Θ = 0."""
    for k in range(count):
        covariance = weight * _box(sum_nngp, taps, k) + bias
        tangent = covariance
        if sum_ntk is not None:
            tangent += weight * _box(sum_ntk, taps, k)
        scale = std1[k] * std2[k]
        cosine = (covariance * inverse1[k]) * inverse2[k]
        w = 1.0 - abs(cosine)
        if w <= parallel:
            w = 0.0
        sine = np.sqrt(2.0 * w - w * w)
        angle = _acos_of_complement(w, sine)
        supplement = angle if cosine < 0.0 else pi - angle
        if scale == 0.0:
            supplement = 0.0
        nngp[k] = scale * (sine + supplement * cosine)
        ntk[k] = supplement * tangent


@_compiled
def _erf(nngp, ntk, sum_nngp, sum_ntk, taps, weight, bias, inverse1, inverse2, count):
    """The same with π/2 times erf; inverse = √(2/(1 + 2v))."""
    for k in range(count):
        covariance = weight * _box(sum_nngp, taps, k) + bias
        tangent = covariance
        if sum_ntk is not None:
            tangent += weight * _box(sum_ntk, taps, k)
        inverse = inverse1[k] * inverse2[k]
        sine = covariance * inverse
        w = 1.0 - abs(sine)
        nngp[k] = _asin(sine, w)
        ntk[k] = tangent * inverse / np.sqrt(2.0 * w - w * w)


@_compiled_sum
def _sum(values, count):
    total = 0.0
    for k in range(count):
        total += values[k]
    return total


class Plan(NamedTuple):
    """What the compiled functions need to know.

    Attributes:
      height, width, channels: of the input.
      layers: number of convolutions.
      before, after: rows and columns that a filter reaches beyond its pixel.
      circular: whether images wrap around.
      shrink: rows and columns a convolution takes away.
      pooled: whether all displacements are needed.
      gap: columns between the two parts of a strip, and after them.
      together: number of strips side by side, a divisor of the width.
      strip: columns of one strip.
      stride: columns of all.
      erf: whether σ is erf; relu otherwise.
      weight, bias: W_std²/q² and b_std².
      unit: in which kernels behind σ are kept.
      parallel: 1 − |ρ| up to here counts as 0 for relu.
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
    unit: float
    parallel: float
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
            for shift in range(d, d + plan.together):
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
def _displacement(work, strips1, strips2, dy, plan):
    """Sums over pixels of NNGP and NTK for vertical displacement dy and those horizontal ones the strips are for."""
    rows = plan.height if plan.circular else plan.height - abs(dy)
    first = 0 if plan.circular else max(0, -dy) * plan.stride
    second = dy * plan.stride if plan.circular else max(0, dy) * plan.stride
    nngp, ntk, sum_nngp, sum_ntk = work[0], work[1], work[2], work[3]
    out_nngp, out_ntk = nngp[plan.before :], ntk[plan.before :]
    inner = plan.before * plan.stride
    count = _rounded(rows * plan.stride)
    _product(out_nngp, strips1, first, strips2, second, plan.channels, count)
    weight, plane = plan.weight / plan.channels, plan.channels
    for layer in range(plan.layers):
        if plan.circular:
            _wrap_columns(nngp, rows, plan)
        _box_rows(sum_nngp[inner:], nngp, plan.row_taps, count)
        _border_rows(sum_nngp, rows, plan)
        if layer > 0:
            if plan.circular:
                _wrap_columns(ntk, rows, plan)
            _box_rows(sum_ntk[inner:], ntk, plan.row_taps, count)
            _border_rows(sum_ntk, rows, plan)
        rows -= plan.shrink
        count = _rounded(rows * plan.stride)
        a, b = strips1[plane, first:], strips2[plane, second:]
        taps, bias = plan.column_taps, plan.bias
        if plan.erf:
            if layer > 0:
                _erf(out_nngp, out_ntk, sum_nngp, sum_ntk, taps, weight, bias, a, b, count)
            else:
                _erf(out_nngp, out_ntk, sum_nngp, None, taps, weight, bias, a, b, count)
            plane += 1
        else:
            c, d = strips1[plane + 1, first:], strips2[plane + 1, second:]
            if layer > 0:
                _relu(out_nngp, out_ntk, sum_nngp, sum_ntk, taps, weight, bias, plan.parallel, a, c, b, d, count)
            else:
                _relu(out_nngp, out_ntk, sum_nngp, None, taps, weight, bias, plan.parallel, a, c, b, d, count)
            plane += 2
        weight = plan.weight * plan.unit
    return _sum(out_nngp, count), _sum(out_ntk, count)


@_compiled
def _rounded(count):
    """Up to whole vector registers: what is computed beyond the last row is zero."""
    return (count + 31) // 32 * 32


@_compiled
def evaluate_pairs(result, planes1, planes2, first, second, plan):
    """Kernels behind the head of pairs of images.

    Args:
      result: (2, pair), takes NNGP and NTK.
      planes1: (image, plane, row, column), see ``convolutional``.
      planes2: (image_ · average, plane, row, column).
      first: (pair,) index of an image.
      second: (pair,) index of an image_: kernels are averaged over the ``plan.average`` planes2 that belong to it.
      plan: the network and the layout.
    """
    spare = 64
    size = plan.height * plan.stride + spare
    strips1 = np.zeros((planes1.shape[1], size))
    strips2 = np.zeros((planes2.shape[1], size + plan.height * plan.stride if plan.circular else size))
    work = np.zeros((4, (plan.height + plan.before + plan.after) * plan.stride + plan.before + plan.after + spare))
    width = plan.width - plan.layers * plan.shrink
    height = plan.height - plan.layers * plan.shrink
    highest, lowest = (height - 1, 0 if plan.circular else 1 - height) if plan.pooled else (0, 0)
    unit = plan.unit / (plan.average * (width * height) ** (2 if plan.pooled else 1))
    for pair in range(len(first)):
        nngp, ntk = 0.0, 0.0
        for g in range(plan.average):
            image1, image2 = planes1[first[pair]], planes2[second[pair] * plan.average + g]
            for d in range(0, plan.width if plan.pooled else 1, plan.together):
                if d >= width and d + plan.together - 1 <= plan.width - width:
                    continue
                _fill(strips1, image1, d, False, plan)
                _fill(strips2, image2, d, True, plan)
                for dy in range(lowest, highest + 1):
                    more_nngp, more_ntk = _displacement(work, strips1, strips2, dy, plan)
                    nngp += more_nngp
                    ntk += more_ntk
        result[0, pair], result[1, pair] = unit * nngp, unit * ntk
        if not np.isfinite(nngp + ntk):
            work[:] = 0.0  # what lies beyond the last row is read before it is masked, and 0 · NaN is not 0
