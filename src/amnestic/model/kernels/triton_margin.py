"""The forward pass of the margin as one Triton kernel: logits live in registers, a tile of rows and words at a time.

Each program walks over one part of the vocabulary for one block of rows, and writes the largest logit of the part with
its word, and the sum of the part's logits where a cap needs it; the parts are joined in torch. ``N`` rows, ``D`` width.
"""

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..head import wide

if TYPE_CHECKING:
    from ..layers import Projection

ROWS, WORDS, WIDTH = 64, 128, 64
"""Of a tile."""
PARTS = 32
"""Of the vocabulary, each walked over by programs of its own, so that few rows fill a GPU too."""


def is_served(head: "Projection") -> bool:
    """Return whether the kernel reads these tensors: one pair, no float64."""
    hidden, weight = head.pairs[0]
    same = hidden.dtype == weight.dtype and hidden.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return len(head.pairs) == 1 and same and head.rows > 0


def search(head: "Projection", known: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the largest of the first `known` values of each row, its column, and the sum behind a cap, each (N,)."""
    hidden, weight = head.pairs[0][0].contiguous(), head.pairs[0][1]
    rows, width = hidden.shape
    size = triton.cdiv(triton.cdiv(known, PARTS), WORDS) * WORDS
    parts = triton.cdiv(known, size)
    found = wide(hidden[:0, 0]).new_empty(2, parts, rows)
    place = torch.empty(parts, rows, dtype=torch.int64, device=hidden.device)
    _search[(parts, triton.cdiv(rows, ROWS))](
        hidden,
        weight,
        hidden if head.bias is None else head.bias,
        found[0],
        place,
        found[1],
        rows,
        known,
        size,
        weight.stride(0),
        weight.stride(1),
        head.scale,
        head.cap or 1.0,
        D=width,
        HAS_BIAS=head.bias is not None,
        HAS_CAP=head.cap is not None,
        EXACT=hidden.dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32,
        ROWS=ROWS,
        WORDS=WORDS,
        WIDTH=WIDTH,
    )
    best = found[0].argmax(dim=0, keepdim=True)  # the first of equal parts, and so the first column
    return found[0].gather(0, best)[0], place.gather(0, best)[0], found[1].sum(dim=0)


@triton.jit
def _search(
    hidden,
    weight,
    bias,
    best_out,
    place_out,
    total_out,
    rows,
    known,
    size,
    word_stride,
    width_stride,
    scale,
    cap,
    D: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    EXACT: tl.constexpr,
    ROWS: tl.constexpr,
    WORDS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    part, block = tl.program_id(0), tl.program_id(1)
    row = block * ROWS + tl.arange(0, ROWS)
    is_row = row < rows
    best = tl.full((ROWS,), float("-inf"), tl.float32)
    place = tl.zeros((ROWS,), tl.int32)
    total = tl.zeros((ROWS,), tl.float32)
    for first in range(part * size, tl.minimum(part * size + size, known), WORDS):
        word = first + tl.arange(0, WORDS)
        is_word = word < known
        products = tl.zeros((ROWS, WORDS), tl.float32)
        for begin in range(0, D, WIDTH):
            at = begin + tl.arange(0, WIDTH)
            left = tl.load(
                hidden + row.to(tl.int64)[:, None] * D + at[None, :],
                mask=is_row[:, None] & (at < D)[None, :],
                other=0.0,
            )
            right = tl.load(
                weight + word.to(tl.int64)[None, :] * word_stride + at[:, None] * width_stride,
                mask=is_word[None, :] & (at < D)[:, None],
                other=0.0,
            )
            if EXACT:
                products = tl.dot(left, right, products, input_precision="ieee")
            else:
                products = tl.dot(left, right, products)
        if HAS_BIAS:
            products += tl.load(bias + word, mask=is_word, other=0.0).to(tl.float32)[None, :]
        if HAS_CAP:
            capped = cap * (2 * tl.sigmoid(2 * (products * scale / cap)) - 1)  # tanh
            total += tl.sum(tl.where(is_word[None, :], capped, 0.0), axis=1)
        products = tl.where(is_word[None, :], products, float("-inf"))
        value, index = tl.max(products, axis=1, return_indices=True)  # the first of equal ones
        is_better = value > best
        place = tl.where(is_better, first + index, place)
        best = tl.where(is_better, value, best)
    tl.store(best_out + part * rows + row, best, mask=is_row)
    tl.store(place_out + part * rows + row, place.to(tl.int64), mask=is_row)
    tl.store(total_out + part * rows + row, total, mask=is_row)
