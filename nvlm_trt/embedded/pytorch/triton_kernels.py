"""The operations of ``ops`` as kernels in the Triton language; ``triton_ops`` launches them.

Attention is one kernel for prompts and for generation. A program has a tile of queries of one sequence, all query heads
that share a key head, and a share of the sequence's positions. It reads keys and values in place, through the table of
blocks, and keeps a running softmax. With a prompt a tile is many rows and one program takes all positions. With
generation it is one row, and the positions are split over programs, because a batch of one would leave most of the
device idle. The second kernel joins the shares. Exponentials are of base 2, with the base folded into the scale.

Lengths and tables are read from memory, never passed by value, so a captured graph serves every step.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["add_norm_kernel", "attend_kernel", "gated_kernel", "join_kernel", "rotate_and_store_kernel"]


@triton.jit
def _e4m3(values):
    """The nearest e4m3 numbers, ties to even, saturating. Still float32: some devices know e4m3 in no other way.

    From 2^-6 up the three bits of mantissa are rounded as integers; below, where e4m3 is subnormal, adding and taking
    away 1.5 * 2^14 rounds to multiples of 2^-9. No product is added to anything, so nothing can be fused.
    """
    values = tl.clamp(values, -448.0, 448.0)
    bits = values.to(tl.int32, bitcast=True)
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000).to(tl.float32, bitcast=True)
    subnormal = (values + 24576.0) - 24576.0
    return tl.where(tl.abs(values) < 0.015625, subnormal, normal)


@triton.jit
def _put(place, values, mask, scale, QUANTISE: tl.constexpr):
    if QUANTISE:
        # Division as IEEE has it: the default's last bit would move values over a border between two e4m3 numbers.
        values = _e4m3(tl.div_rn(values, tl.load(scale)))
    tl.store(place, values.to(place.dtype.element_ty), mask=mask)


@triton.jit
def add_norm_kernel(
    hidden, branch, weight, scale, out, width, eps, ADD: tl.constexpr, QUANTISE: tl.constexpr, BLOCK: tl.constexpr
):
    """One row. ``hidden`` gets the sum."""
    column = tl.arange(0, BLOCK)
    mask = column < width
    place = tl.program_id(0).to(tl.int64) * width + column
    x = tl.load(hidden + place, mask=mask, other=0.0).to(tl.float32)
    if ADD:
        x += tl.load(branch + place, mask=mask, other=0.0).to(tl.float32)
        tl.store(hidden + place, x.to(hidden.dtype.element_ty), mask=mask)
        x = x.to(hidden.dtype.element_ty).to(tl.float32)
    deviation = tl.sqrt_rn(tl.sum(x * x) / width + eps)
    normed = x / deviation * tl.load(weight + column, mask=mask, other=0.0)
    _put(out + place, normed, mask, scale, QUANTISE)


@triton.jit
def rotate_and_store_kernel(
    qkv, bias, cos, sin, positions, tables, query, cache, table_stride, kind_stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """One head of one row: queries, then keys, then values."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    channel = tl.arange(0, HALF)
    mask = channel < DIM // 2
    source = row * (HEADS + 2 * KV_HEADS) * DIM + head * DIM + channel
    first = tl.load(qkv + source, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(qkv + source + DIM // 2, mask=mask, other=0.0).to(tl.float32)
    first += tl.load(bias + head * DIM + channel, mask=mask, other=0.0).to(tl.float32)
    second += tl.load(bias + head * DIM + DIM // 2 + channel, mask=mask, other=0.0).to(tl.float32)
    position = tl.load(positions + row)
    turned = mask & (head < HEADS + KV_HEADS)
    c = tl.load(cos + position * (DIM // 2) + channel, mask=turned, other=1.0)
    s = tl.load(sin + position * (DIM // 2) + channel, mask=turned, other=0.0)
    left, right = first * c - second * s, second * c + first * s
    if head < HEADS:
        place = query + (row * HEADS + head) * DIM + channel
    else:
        block = tl.load(tables + row * table_stride + position // BLOCK_SIZE).to(tl.int64)
        line = (block * KV_HEADS + (head - HEADS) % KV_HEADS) * BLOCK_SIZE + position % BLOCK_SIZE
        place = cache + (head - HEADS) // KV_HEADS * kind_stride + line * DIM + channel
    tl.store(place, left.to(place.dtype.element_ty), mask=mask)
    tl.store(place + DIM // 2, right.to(place.dtype.element_ty), mask=mask)


@triton.jit
def attend_kernel(
    query, cache, tables, positions, shares, weights, table_stride, kind_stride, num_rows, scale,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr, ROWS: tl.constexpr,
    SPLITS: tl.constexpr, M: tl.constexpr, N: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """``ROWS`` rows times a group of heads, in a tile of [M, D]; positions in tiles of N.

    ``shares`` float32 [rows, heads, SPLITS, head_dim] are each share's own mean, ``weights`` float32 [rows, heads,
    SPLITS] the logarithms of what they count.
    """
    GROUP: tl.constexpr = HEADS // KV_HEADS
    kv_head, split = tl.program_id(1), tl.program_id(2)
    first_row = tl.program_id(0) * ROWS
    m, n, d = tl.arange(0, M), tl.arange(0, N), tl.arange(0, D)
    row = first_row + m // GROUP
    used = (m < ROWS * GROUP) & (row < num_rows)
    line = row.to(tl.int64) * HEADS + kv_head * GROUP + m % GROUP
    q = tl.load(query + line[:, None] * DIM + d[None, :], mask=used[:, None] & (d < DIM)[None, :], other=0.0)
    position = tl.load(positions + row, mask=used, other=0)
    length = tl.max(position) + 1
    tiles = tl.cdiv(length, N)
    tiles_of_split = tl.cdiv(tiles, SPLITS)
    table = tables + first_row.to(tl.int64) * table_stride

    largest = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    mixed = tl.zeros([M, D], tl.float32)
    for tile in range(split * tiles_of_split, tl.minimum((split + 1) * tiles_of_split, tiles)):
        at = tile * N + n
        held = at < length
        block = tl.load(table + at // BLOCK_SIZE, mask=held, other=0).to(tl.int64)
        place = cache + ((block * KV_HEADS + kv_head) * BLOCK_SIZE + at % BLOCK_SIZE)[:, None] * DIM + d[None, :]
        # What lies beyond the length may be anything, NaN included: it is not read.
        mask = held[:, None] & (d < DIM)[None, :]
        keys = tl.load(place, mask=mask, other=0.0)
        values = tl.load(place + kind_stride, mask=mask, other=0.0)
        scores = tl.dot(q, tl.trans(keys), input_precision="ieee") * scale
        scores = tl.where(at[None, :] <= position[:, None], scores, float("-inf"))
        larger = tl.maximum(largest, tl.max(scores, 1))
        finite = tl.where(larger == float("-inf"), 0.0, larger)
        kept = tl.exp2(largest - finite)
        parts = tl.exp2(scores - finite[:, None])
        total = total * kept + tl.sum(parts, 1)
        mixed = mixed * kept[:, None] + tl.dot(parts.to(values.dtype), values, input_precision="ieee")
        largest = larger
    line = line * SPLITS + split
    some = total > 0  # a share may have no positions
    total = tl.where(some, total, 1.0)
    mixed /= total[:, None]
    tl.store(shares + line[:, None] * DIM + d[None, :], mixed, mask=used[:, None] & (d < DIM)[None, :])
    tl.store(weights + line, tl.where(some, largest + tl.log2(total), float("-inf")), mask=used)


@triton.jit
def join_kernel(
    shares, weights, scale, out, DIM: tl.constexpr, SPLITS: tl.constexpr, QUANTISE: tl.constexpr,
    S: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """The shares of one head of one row."""
    line = tl.program_id(0).to(tl.int64)
    s, d = tl.arange(0, S), tl.arange(0, D)
    mask = (s < SPLITS)[:, None] & (d < DIM)[None, :]
    weight = tl.load(weights + line * SPLITS + s, mask=s < SPLITS, other=float("-inf"))
    weight = tl.exp2(weight - tl.max(weight))
    share = tl.load(shares + (line * SPLITS + s)[:, None] * DIM + d[None, :], mask=mask, other=0.0)
    mixed = tl.sum(share * weight[:, None], 0) / tl.sum(weight)
    _put(out + line * DIM + d, mixed, d < DIM, scale, QUANTISE)


@triton.jit
def gated_kernel(fc_gate, scale, out, width, QUANTISE: tl.constexpr, BLOCK: tl.constexpr):
    """A piece of one row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < width
    fc = tl.load(fc_gate + row * 2 * width + column, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(fc_gate + row * 2 * width + width + column, mask=mask, other=0.0).to(tl.float32)
    _put(out + row * width + column, fc * tl.sigmoid(fc) * gate, mask, scale, QUANTISE)
