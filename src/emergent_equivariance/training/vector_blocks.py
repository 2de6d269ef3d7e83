"""Matrix products of many strided layouts, kept in registers, for functions compiled by numba.

LLVM cannot be brought to a block of sums in registers by loops alone: ``_block`` writes it out. Arrays are
one-dimensional; places and strides count numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic

__all__ = ["OPTIONS", "ROWS", "half_register", "inner", "product", "separate", "transform"]

_WIDE = binding.get_host_cpu_features().get("avx512f", False)

#: Bytes of a vector, and rows of a block: ROWS × 2 vectors of sums, with their operands, fill the registers.
VECTOR, ROWS = (64, 14) if _WIDE else (32, 6)

#: How everything is compiled: sums keep their order.
OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"contract", "nsz"}, "error_model": "numpy"}

#: Compiles a function for the use of compiled ones.
inner: Any = numba.njit(**OPTIONS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True})


def half_register(dtype: Any) -> int:
    """Numbers in half a vector: columns of products are padded to a multiple of it."""
    return VECTOR // 2 // np.dtype(dtype).itemsize


_intrinsic: Any = intrinsic(prefer_literal=True)


class _Vectors:
    """Writes loads, stores and multiply-adds of vectors of ``lanes`` numbers of an array's type."""

    def __init__(self, context: Any, builder: Any, number: types.Type, lanes: int) -> None:
        self.builder, self.lanes = builder, lanes
        self.number = context.get_data_type(number)
        self.type = ir.VectorType(self.number, lanes)
        self.size = self.number.get_abi_size(context.target_data)
        self.zero = ir.Constant(self.type, [0.0] * lanes)

    def load(self, pointer: Any) -> Any:
        return self.builder.load(self.builder.bitcast(pointer, self.type.as_pointer()), align=self.size)

    def store(self, value: Any, pointer: Any) -> None:
        self.builder.store(value, self.builder.bitcast(pointer, self.type.as_pointer()), align=self.size)

    def spread(self, pointer: Any) -> Any:
        undefined = ir.Constant(self.type, ir.Undefined)
        first = self.builder.insert_element(undefined, self.builder.load(pointer), ir.Constant(ir.IntType(32), 0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, mask)

    def multiply_add(self, a: Any, b: Any, total: Any) -> Any:
        product = self.builder.fmul(a, b, flags=("contract",))
        return self.builder.fadd(total, product, flags=("contract",))


def _pointer(context: Any, builder: Any, array: types.Type, value: Any) -> Any:
    return context.make_array(array)(context, builder, value).data


@_intrinsic
def _block(typing, A, a0, ai, ar, ak, B, b0, br, bk, C, c0, ci, R, K, add, rows, halves):
    """C[c0 + i ci + j] (+)= Σ_{r<R, k<K} A[a0 + i ai + r ar + k ak] B[b0 + r br + k bk + j] for i < rows and the
    columns j of 4, 2 or 1 half vectors. ``rows`` and ``halves`` are constants."""
    number, count = types.intp, rows.literal_value
    vectors, lanes = {4: (2, 1), 2: (1, 1), 1: (1, 2)}[halves.literal_value]
    lanes = VECTOR // (A.dtype.bitwidth // 8) // lanes
    signature = types.void(A, *[number] * 4, B, *[number] * 3, C, *[number] * 4, types.boolean, rows, halves)

    def write(context, builder, _, arguments):
        a, a0, ai, ar, ak, b, b0, br, bk, c, c0, ci, big, small, add = arguments[:15]
        a, b, c = (_pointer(context, builder, t, v) for t, v in ((A, a), (B, b), (C, c)))
        vector, integer = _Vectors(context, builder, A.dtype, lanes), a0.type
        cells = [(i, j) for i in range(count) for j in range(vectors)]
        sums = {cell: cgutils.alloca_once(builder, vector.type) for cell in cells}

        def shifted(pointer, *terms):
            for factor, index in terms:
                pointer = builder.gep(pointer, [builder.mul(factor, index)], inbounds=True)
            return pointer

        one = integer(1)
        place = {(i, j): shifted(c, (c0, one), (ci, integer(i)), (one, integer(j * lanes))) for i, j in cells}
        with builder.if_else(add) as (then, otherwise):
            with then:
                for cell in cells:
                    builder.store(vector.load(place[cell]), sums[cell])
            with otherwise:
                for cell in cells:
                    builder.store(vector.zero, sums[cell])
        with cgutils.for_range(builder, big) as outer, cgutils.for_range(builder, small) as inner:
            left = shifted(a, (a0, one), (ar, outer.index), (ak, inner.index))
            right = shifted(b, (b0, one), (br, outer.index), (bk, inner.index))
            row = [vector.load(shifted(right, (one, integer(j * lanes)))) for j in range(vectors)]
            for i in range(count):
                factor = vector.spread(shifted(left, (ai, integer(i))))
                for j in range(vectors):
                    builder.store(vector.multiply_add(factor, row[j], builder.load(sums[i, j])), sums[i, j])
        for cell in cells:
            vector.store(builder.load(sums[cell]), place[cell])
        return context.get_dummy_value()

    return signature, write


@_intrinsic
def _combine(typing, matrix, X, x0, xs, Y, y0, ys, count, add, ins, outs, halves):
    """Y[y0 + i ys + c] (+)= Σ_{j<ins} matrix[i ins + j] X[x0 + j xs + c] for i < outs, c < count. ``count`` is a
    multiple of ``halves`` half vectors; this is a constant, 0 for single numbers."""
    number = types.intp
    lanes = max(1, halves.literal_value * VECTOR // 2 // (X.dtype.bitwidth // 8))
    signature = types.void(matrix, X, *[number] * 2, Y, *[number] * 3, types.boolean, *[number] * 2, halves)

    def write(context, builder, _, arguments):
        m, x, x0, xs, y, y0, ys, count, add, ins, outs = arguments[:11]
        m, x, y = (_pointer(context, builder, t, v) for t, v in ((matrix, m), (X, x), (Y, y)))
        vector, integer = _Vectors(context, builder, X.dtype, lanes), x0.type

        def at(pointer, start, step, index):
            return builder.gep(pointer, [builder.add(start, builder.mul(step, index))], inbounds=True)

        total = cgutils.alloca_once(builder, vector.type)
        columns = cgutils.for_range_slice(builder, integer(0), count, integer(lanes), inc=True)
        with columns as (c, _), cgutils.for_range(builder, outs) as row:
            target = at(y, builder.add(y0, c), ys, row.index)
            builder.store(builder.select(add, vector.load(target), vector.zero), total)
            with cgutils.for_range(builder, ins) as column:
                value = vector.load(at(x, builder.add(x0, c), xs, column.index))
                factor = vector.spread(at(m, column.index, ins, row.index))
                builder.store(vector.multiply_add(factor, value, builder.load(total)), total)
            vector.store(builder.load(total), target)
        return context.get_dummy_value()

    return signature, write


@_intrinsic
def separate(typing):
    """Keeps the function it stands in from being copied into others: it compiles once, not at every call."""

    def write(context, builder, _, arguments):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), write


def _panel(halves: int) -> Callable[..., Any]:
    """``product`` for as many columns as ``halves`` half vectors hold."""

    def panel(A, a0, ai, ar, ak, B, b0, br, bk, C, c0, ci, M, R, K, add):
        separate()
        i = 0
        while M - i >= ROWS:
            _block(A, a0 + i * ai, ai, ar, ak, B, b0, br, bk, C, c0 + i * ci, ci, R, K, add, ROWS, halves)
            i += ROWS
        while M - i >= 4:
            _block(A, a0 + i * ai, ai, ar, ak, B, b0, br, bk, C, c0 + i * ci, ci, R, K, add, 4, halves)
            i += 4
        while M - i >= 1:
            _block(A, a0 + i * ai, ai, ar, ak, B, b0, br, bk, C, c0 + i * ci, ci, R, K, add, 1, halves)
            i += 1

    return inner(panel)


_panel4, _panel2, _panel1 = _panel(4), _panel(2), _panel(1)


@inner
def product(A, a0, ai, ar, ak, B, b0, br, bk, C, c0, ci, M, N, R, K, add, half):
    """C[c0 + i ci + j] (+)= Σ_{r,k} A[a0 + i ai + r ar + k ak] B[b0 + r br + k bk + j], i < M, j < N (with padding)."""
    separate()
    j = 0
    while N - j >= 4 * half:
        _panel4(A, a0, ai, ar, ak, B, b0 + j, br, bk, C, c0 + j, ci, M, R, K, add)
        j += 4 * half
    if N - j >= 2 * half:
        _panel2(A, a0, ai, ar, ak, B, b0 + j, br, bk, C, c0 + j, ci, M, R, K, add)
        j += 2 * half
    if N - j >= half:
        _panel1(A, a0, ai, ar, ak, B, b0 + j, br, bk, C, c0 + j, ci, M, R, K, add)


@inner
def transform(matrix, x, x0, xs, y0, ys, count, add, ins, outs, half):
    """``_combine`` within one array, with the widest vectors that fit."""
    separate()
    if count % (2 * half) == 0:
        _combine(matrix, x, x0, xs, x, y0, ys, count, add, ins, outs, 2)
    elif count % half == 0:
        _combine(matrix, x, x0, xs, x, y0, ys, count, add, ins, outs, 1)
    else:
        _combine(matrix, x, x0, xs, x, y0, ys, count, add, ins, outs, 0)
