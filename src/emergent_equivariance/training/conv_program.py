"""Outputs and gradients of a convolutional network, compiled: every image goes through all layers and back in cache.

A convolution of a row is computed by minimal filtering (Winograd 1980, Lavin & Gray 2016, here along rows only): a tile
of m outputs is y = Aᵀ[(G w) ⊙ (B x)] of m + q − 1 inputs, see ``minimal_filtering``. Summed over channels in and rows
of the filter, ⊙ becomes one matrix product per node f, with images as (row, tile, channel):

    V_f[y, t, c] = Σ_j B_fj x[y, mt + j, c]                           inputs of a layer
    O_f[y, t, k] = Σ_{i,c} V_f[y + i, t, c] U_f[i, c, k]              U_f = Σ_j G_fj w[:, j]
    z[y, mt + j, k] = Σ_f A_fj O_f[y, t, k] + bias_k                  a = σ(z)

No patches are built: rows of the products are addressed by strides. The backward pass is the transpose of each line. A
product keeps its sums in registers, see ``vector_blocks``. Sums are taken in one fixed order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np

from . import vector_blocks
from .vector_blocks import OPTIONS, inner, product, separate, transform

__all__ = ["DENSE", "LAYER", "Program", "run"]


#: 2/√π exp(−8).
EXP_SCALE = 2.0 / math.sqrt(math.pi) * math.exp(-8.0)


def _record(*names: str) -> np.dtype:
    return np.dtype([(name, np.int64) for name in names])


#: Geometry of a convolution, and where its arrays start. Rows, columns and channels of the padded input (``stride``:
#: channels with padding), tiles per row, the same of the output; then offsets in the packed parameters (``u``,
#: transposed ``ut``, ``bias`` of a whole row of pixels), in their gradients (``du``, ``db``), and in the work space.
LAYER = _record(
    *("rows", "columns", "channels", "stride", "tiles", "height", "width", "filters", "filters_stride"),
    *("u", "ut", "bias", "du", "db", "x", "v", "slope", "d"),
)

#: Likewise of a dense layer: numbers in and out, with padding; W, its transpose, their gradients; values, gradients.
DENSE = _record(
    *("inputs", "inputs_stride", "outputs", "outputs_stride"),
    *("w", "wt", "bias", "dw", "db", "h", "dh", "slope"),
)


class Program(NamedTuple):
    """What is common to all layers.

    Attributes:
      nodes, tile: n and m.
      size: q, rows and columns of the filters.
      before, after: rows and columns around an image; 0 for VALID.
      circular: whether these are periodic, zeros otherwise.
      pooled: whether the head is a mean over pixels.
      erf: whether σ is erf; relu otherwise.
      cross_entropy: whether that is the loss; squared error otherwise.
      outputs: numbers of outputs.
      together: images of a block; the dense layers are products of so many rows.
      image: offset of the values behind the last convolution, (image, row, column, channel).
      o, dv, dx, row: offsets of work space.
      half: numbers in half a vector.
    """

    nodes: int
    tile: int
    size: int
    before: int
    after: int
    circular: bool
    pooled: bool
    erf: bool
    cross_entropy: bool
    outputs: int
    together: int
    image: int
    o: int
    dv: int
    dx: int
    row: int
    half: int


@inner
def _single_erf(z):
    """erf(z), the quotient of polynomials of Eigen, and 2/√π exp(−z²), both to 1e-7, without calls and branches."""
    z = min(max(z, -4.0), 4.0)
    t = z * z
    p = -2.72614225801306e-10 * t + 2.77068142495902e-08
    p = ((p * t - 2.10102402082508e-06) * t - 5.69250639462346e-05) * t - 7.34990630326855e-04
    p = (p * t - 2.95459980854025e-03) * t - 1.60960333262415e-02
    q = (-1.45660718464996e-05 * t - 2.13374055278905e-04) * t - 1.68282697438203e-03
    q = (q * t - 7.37332916720468e-03) * t - 1.42647390514189e-02
    d = 0.5 - t * (1 / 16)  # exp(−z²) = (e^(−1/2) exp(d))¹⁶
    e = 1.0 + d * (1 / 7) * (1.0 + d * (1 / 8) * (1.0 + d * (1 / 9)))
    e = 1.0 + d * (1 / 4) * (1.0 + d * (1 / 5) * (1.0 + d * (1 / 6) * e))
    e = 1.0 + d * (1.0 + d * (1 / 2) * (1.0 + d * (1 / 3) * e))
    e = e * e
    e = e * e
    e = e * e
    e = e * e
    return z * p / q, EXP_SCALE * e


@inner
def _activate(values, result, slopes, bias, erf):
    """z → σ(z + bias) and σ′; σ of NaN is NaN, so that a member that is lost shows."""
    if erf and values.itemsize == 4:
        for c in range(len(values)):
            result[c], slopes[c] = _single_erf(np.float64(values[c] + bias[c]))
    elif erf:
        for c in range(len(values)):
            z = values[c] + bias[c]
            result[c] = math.erf(z)
            slopes[c] = 2.0 / math.sqrt(math.pi) * math.exp(-z * z)
    else:
        zero, one = values.dtype.type(0.0), values.dtype.type(1.0)
        for c in range(len(values)):
            z = values[c] + bias[c]
            off = z <= zero
            result[c] = zero if off else z
            slopes[c] = zero if off else one


@inner
def _multiply(values, slopes, result, total):
    for k in range(len(values)):
        result[k] = values[k] * slopes[k]
        total[k] += result[k]


@inner
def _accumulate(values, total):
    for k in range(len(values)):
        total[k] += values[k]


@inner
def _add(x, target, source, count):
    """x[target …] += x[source …]."""
    total, more = x[target : target + count], x[source : source + count]
    for k in range(count):
        total[k] += more[k]


@inner
def _move(x, target, source, count):
    """x[target …] = x[source …]."""
    to, values = x[target : target + count], x[source : source + count]
    for k in range(count):
        to[k] = values[k]


@inner
def _clear(x, start, count):
    for k in range(start, start + count):
        x[k] = 0.0


@inner
def _wrap(x, x0, height, width, columns, stride, program):
    """Fill the margins of a periodic image."""
    line = columns * stride
    for y in range(program.before, program.before + height):
        left = x0 + y * line
        inside = left + program.before * stride
        _move(x, left, left + width * stride, program.before * stride)
        _move(x, inside + width * stride, inside, program.after * stride)
    inside = x0 + program.before * line
    _move(x, x0, x0 + height * line, program.before * line)
    _move(x, inside + height * line, inside, program.after * line)


@inner
def _fold(x, x0, height, width, columns, stride, program):
    """Transpose of ``_wrap``: what stands in the margins is added to the pixels they are copies of."""
    line = columns * stride
    inside = x0 + program.before * line
    _add(x, x0 + height * line, x0, program.before * line)
    _add(x, inside, inside + height * line, program.after * line)
    for y in range(program.before, program.before + height):
        left = x0 + y * line
        inside = left + program.before * stride
        _add(x, left + width * stride, left, program.before * stride)
        _add(x, inside, inside + width * stride, program.after * stride)


@inner
def _fill(inputs, index, x, layer, x0, program):
    """Copy an image into its place between the margins."""
    _, height, width, channels = inputs.shape
    for y in range(height):
        for column in range(width):
            start = x0 + ((y + program.before) * layer.columns + column + program.before) * layer.stride
            for c in range(channels):
                x[start + c] = inputs[index, y, column, c]
    if program.circular:
        _wrap(x, x0, height, width, layer.columns, layer.stride, program)


@inner
def _convolve(work, packed, layer, number, target, columns, margin, matrices, program):
    """Image ``number`` of a block through one convolution and σ, to pixels from ``target`` on, ``columns`` per row."""
    separate()
    n, m, stride, filters = program.nodes, program.tile, layer.stride, layer.filters_stride
    plane = layer.rows * layer.tiles * stride
    x = layer.x + number * layer.rows * layer.columns * stride
    v = layer.v + number * n * plane
    for y in range(layer.rows):
        for t in range(layer.tiles):
            a, b = x + (y * layer.columns + t * m) * stride, v + (y * layer.tiles + t) * stride
            transform(matrices[0], work, a, stride, b, plane, stride, False, n, n, program.half)
    cells = layer.height * layer.tiles
    line, step = layer.tiles * stride, layer.channels * filters
    for f in range(n):
        a, u, o = v + f * plane, layer.u + f * program.size * step, program.o + f * cells * filters
        product(
            *(work, a, stride, line, 1, packed, u, step, filters, work, o, filters),
            *(cells, filters, program.size, layer.channels, False, program.half),
        )
    slope = layer.slope + number * layer.height * layer.width * filters
    row = layer.width * filters
    values, bias = work[program.row : program.row + row], packed[layer.bias : layer.bias + row]
    for y in range(layer.height):
        for t in range(layer.tiles):
            a = program.o + (y * layer.tiles + t) * filters
            b = program.row + t * m * filters
            transform(matrices[1], work, a, cells * filters, b, filters, filters, False, n, m, program.half)
        a, b = slope + y * row, target + ((y + margin) * columns + margin) * filters
        _activate(values, work[b : b + row], work[a : a + row], bias, program.erf)


@inner
def _transpose(work, packed, gradient, layer, number, source, columns, margin, first, matrices, program):
    """Gradients of one convolution from those of its values, at pixels from ``source`` on; of its input into dx."""
    separate()
    n, m, stride, filters = program.nodes, program.tile, layer.stride, layer.filters_stride
    size, half, tiles = program.size, program.half, layer.tiles
    slope = layer.slope + number * layer.height * layer.width * filters
    high = (layer.height + 2 * (size - 1)) * tiles * filters
    row = layer.width * filters
    bias, below = gradient[layer.db : layer.db + row], work[program.row : program.row + row]
    _clear(work, program.row + row, (tiles * m - layer.width) * filters)
    for y in range(layer.height):
        a, b = source + ((y + margin) * columns + margin) * filters, slope + y * row
        _multiply(work[a : a + row], work[b : b + row], below, bias)
        for t in range(tiles):
            b = layer.d + ((y + size - 1) * tiles + t) * filters
            a = program.row + t * m * filters
            transform(matrices[2], work, a, filters, b, high, filters, False, m, n, half)
    plane, cells, step = layer.rows * tiles * stride, layer.height * tiles, layer.channels * filters
    for f in range(n):
        d = layer.d + f * high
        for i in range(size):
            v = layer.v + (number * n + f) * plane + i * tiles * stride
            product(
                *(work, v, 1, 0, stride, work, d + (size - 1) * tiles * filters, 0, filters),
                *(gradient, layer.du + (f * size + i) * step, filters, layer.channels, filters, 1, cells, True, half),
            )
    if first:
        return
    padded = program.before > 0 or program.after > 0
    top = program.before if padded and not program.circular else 0
    rows = layer.rows - (size - 1) if padded and not program.circular else layer.rows
    for f in range(n):
        d = layer.d + f * high + (top + size - 1) * tiles * filters
        ut = layer.ut + f * size * layer.filters * stride
        product(
            *(work, d, filters, -tiles * filters, 1, packed, ut, layer.filters * stride, stride),
            *(work, program.dv + f * plane + top * tiles * stride, stride),
            *(rows * tiles, stride, size, layer.filters, False, half),
        )
    _clear(work, program.dx, layer.rows * layer.columns * stride)
    for y in range(top, top + rows):
        for t in range(tiles):
            a = program.dv + (y * tiles + t) * stride
            b = program.dx + (y * layer.columns + t * m) * stride
            transform(matrices[3], work, a, plane, b, stride, stride, True, n, n, half)
    if program.circular:
        height, width = layer.rows - (size - 1), layer.width
        _fold(work, program.dx, height, width, layer.columns, stride, program)


@inner
def _forward(work, packed, layers, dense, chosen, inputs, matrices, program):
    """The images ``chosen`` up to the outputs, in the values behind the last dense layer."""
    separate()
    last = layers[-1]
    pixels, filters = last.height * last.width, last.filters_stride
    for number in range(len(chosen)):
        layer = layers[0]
        _fill(
            inputs, chosen[number], work, layer, layer.x + number * layer.rows * layer.columns * layer.stride, program
        )
        for index in range(len(layers)):
            layer = layers[index]
            if index + 1 < len(layers):
                behind = layers[index + 1]
                target, columns = behind.x + number * behind.rows * behind.columns * behind.stride, behind.columns
                _convolve(work, packed, layer, number, target, columns, program.before, matrices, program)
                if program.circular:
                    _wrap(work, target, layer.height, layer.width, columns, behind.stride, program)
            else:
                target = program.image + number * pixels * filters
                _convolve(work, packed, layer, number, target, layer.width, 0, matrices, program)
        if program.pooled:
            h = dense[0].h + number * filters
            _clear(work, h, filters)
            for pixel in range(pixels):
                _add(work, h, program.image + (number * pixels + pixel) * filters, filters)
    for index in range(len(dense)):
        layer = dense[index]
        width, h = layer.outputs_stride, layer.h + program.together * layer.inputs_stride
        product(
            *(work, layer.h, layer.inputs_stride, 0, 1, packed, layer.w, 0, width, work, h, width),
            *(len(chosen), width, 1, layer.inputs, False, program.half),
        )
        bias = packed[layer.bias : layer.bias + width]
        for number in range(len(chosen)):
            a, b = h + number * width, layer.slope + number * width
            values = work[a : a + width]
            if index + 1 < len(dense):
                _activate(values, values, work[b : b + width], bias, program.erf)
            else:
                _accumulate(bias, values)


@inner
def _loss_gradient(work, at, targets, row, weight, program):
    """Values of one image behind the last layer → gradient of the loss, in place; ``weight`` is 1 over the rows."""
    value, target = work[at : at + program.outputs], targets[row]
    if program.cross_entropy:
        largest, total, mass = value[0], value[0] - value[0], target[0] - target[0]
        for k in range(program.outputs):
            largest = max(largest, value[k])
        for k in range(program.outputs):
            value[k] = math.exp(value[k] - largest)
            total += value[k]
            mass += target[k]
        for k in range(program.outputs):
            value[k] = (value[k] * (mass / total) - target[k]) * weight
    else:
        for k in range(program.outputs):
            value[k] = (value[k] - target[k]) * (weight / program.outputs)


@inner
def _backward(work, packed, gradient, layers, dense, count, matrices, program):
    """From the gradient of the outputs of ``count`` images to those of all parameters, which are added up."""
    separate()
    for index in range(len(dense) - 1, -1, -1):
        layer = dense[index]
        width, stride = layer.outputs_stride, layer.inputs_stride
        dh = layer.dh + program.together * stride
        bias = gradient[layer.db : layer.db + width]
        for number in range(count):
            a, b = dh + number * width, layer.slope + number * width
            if index + 1 < len(dense):
                _multiply(work[a : a + width], work[b : b + width], work[a : a + width], bias)
            else:
                _accumulate(work[a : a + width], bias)
        product(
            *(work, layer.h, 1, 0, stride, work, dh, 0, width, gradient, layer.dw, width),
            *(layer.inputs, width, 1, count, True, program.half),
        )
        product(
            *(work, dh, width, 0, 1, packed, layer.wt, 0, stride, work, layer.dh, stride),
            *(count, stride, 1, layer.outputs, False, program.half),
        )
    last = layers[-1]
    pixels, filters = last.height * last.width, last.filters_stride
    for number in range(count):
        source = dense[0].dh + number * dense[0].inputs_stride
        if program.pooled:
            for pixel in range(pixels):
                _move(work, program.dx + pixel * filters, source, filters)
            source = program.dx
        columns, margin = last.width, 0
        for index in range(len(layers) - 1, -1, -1):
            layer, first = layers[index], index == 0
            _transpose(
                *(work, packed, gradient, layer, number, source, columns, margin, first),
                *(matrices, program),
            )
            source, columns, margin = program.dx, layer.columns, program.before


def _entry(source: str) -> Callable[..., None]:
    """``run``, compiled on its first call, kept beside the source or in the user's cache, whichever is writable.

    numba keeps machine code as long as the file of a function, and what it refers to from around it, do not change:
    ``source`` stands for the other file that enters.
    """

    def run(work, packed, gradient, result, layers, dense, chosen, inputs, targets, matrices, program, learn):
        """Outputs of some rows, or the gradient of their mean loss: one program, so that it compiles only once.

        Args:
          work: work space, zeros or as an earlier call for the same network left it.
          packed: parameters, see LAYER and DENSE.
          gradient: takes their gradients, if ``learn``.
          result: (row of ``chosen``, output) takes the outputs otherwise.
          layers: (convolution,) LAYER.
          dense: (dense layer,) DENSE.
          chosen: indices of rows.
          inputs: (row, height, width, channel).
          targets: (row, output).
          matrices: B (n, n), Aᵀ (m, n), A (n, m), Bᵀ (n, n) of ``minimal_filtering``, each flat.
          program: see Program.
          learn: what is asked for.
        """
        _ = source
        end = dense[-1]
        value, slope = end.h + program.together * end.inputs_stride, end.dh + program.together * end.inputs_stride
        weight = inputs.dtype.type(1.0 / len(chosen))
        if learn:
            _clear(gradient, 0, len(gradient))
        for first in range(0, len(chosen), program.together):
            block = chosen[first : first + program.together]
            _forward(work, packed, layers, dense, block, inputs, matrices, program)
            for number in range(len(block)):
                shift = number * end.outputs_stride
                if learn:
                    _clear(work, slope + shift, end.outputs_stride)
                    _move(work, slope + shift, value + shift, program.outputs)
                    _loss_gradient(work, slope + shift, targets, block[number], weight, program)
                else:
                    for k in range(program.outputs):
                        result[first + number, k] = work[value + shift + k]
            if learn:
                _backward(work, packed, gradient, layers, dense, len(block), matrices, program)

    try:
        return numba.njit(cache=True, **OPTIONS)(run)
    except RuntimeError:  # numba's word for: no folder to keep it in
        return numba.njit(**OPTIONS)(run)


#: See ``run`` in _entry.
run = _entry(Path(vector_blocks.__file__).read_text())
