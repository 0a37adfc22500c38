"""Head signals from hidden rows and the head's weights; the logits of all rows never exist at once.

``N`` scored rows, ``V`` vocabulary, ``D`` width. A logit is ``f(h W' + b)``, where f is what the model does behind its
head: nothing, a positive factor, or a soft cap. Each layer gives what the plain form in ``model/head.py`` gives, and
its gradients, from products of some rows (for losses) or some columns (for the margin) at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .head import HEAD_SIGNALS, CrossEntropyTo, wide
from .kernels.choice import by_triton

COLUMNS = 32 * 2**20
"""Bytes of the logits that the margin looks at at once: 8,192 columns of 1,024 rows in float32."""
ROWS = 64 * 2**20
"""Bytes of the logits that a loss looks at at once."""
COPIES = 6
"""Tensors of the size of the logits that the plain form of a cross-entropy takes, forward and backward."""
KEPT = 512 * 2**20
"""Bytes of logits that a loss keeps from the forward to the backward pass; what is beyond is computed again."""


@dataclass(frozen=True)
class Projection:
    """A head applied to hidden rows, not yet computed: ``logits = f(sum h_i W_i' + b)``."""

    pairs: tuple[tuple[Tensor, Tensor], ...]
    """Hidden rows (N, D_i) and weights (V, D_i); an adapted head is a sum of two products."""
    bias: Tensor | None = None
    """(V,)"""
    scale: float = 1.0
    cap: float | None = None

    @property
    def rows(self) -> int:
        """Return N."""
        return len(self.pairs[0][0])

    @property
    def vocabulary(self) -> int:
        """Return V."""
        return len(self.pairs[0][1])

    @property
    def dtype(self) -> torch.dtype:
        """Return the precision that values are computed in."""
        return wide(self.pairs[0][0][:0]).dtype

    @property
    def needs_gradient(self) -> bool:
        """Return whether a gradient is wanted of anything that it is made of."""
        return torch.is_grad_enabled() and any(t.requires_grad for t in self.tensors)

    @property
    def tensors(self) -> list[Tensor]:
        """Return bias, if there is one, and hidden rows and weights in turn."""
        return [*([] if self.bias is None else [self.bias]), *(tensor for pair in self.pairs for tensor in pair)]

    def of(self, tensors: Sequence[Tensor]) -> "Projection":
        """Return the same head of other `tensors`, in their order."""
        bias, rest = (None, tensors) if self.bias is None else (tensors[0], tensors[1:])
        return Projection(tuple(zip(rest[::2], rest[1::2], strict=True)), bias, self.scale, self.cap)

    def take(self, index: Tensor | slice | None) -> "Projection":
        """Return the head on some of the rows; None: on all of them."""
        if index is None:
            return self
        pairs = tuple((hidden[index], weight) for hidden, weight in self.pairs)
        return Projection(pairs, self.bias, self.scale, self.cap)

    def linear(self, first: int = 0, last: int | None = None) -> Tensor:
        """Return h W' + b for some columns, (N, last - first), before f, in the model's precision."""
        (hidden, weight), *others = self.pairs
        bias = None if self.bias is None else self.bias[first:last]
        logits = torch.nn.functional.linear(hidden, weight[first:last], bias)
        for rows, factor in others:
            logits = logits + torch.nn.functional.linear(rows, factor[first:last])
        return logits

    def logits(self) -> Tensor:
        """Return all logits, (N, V)."""
        return self.shaped(self.linear())

    def shaped(self, values: Tensor) -> Tensor:
        """Return f of values that `linear` gave; in float32 where it does something."""
        if self.scale == 1.0 and self.cap is None:
            return values
        values = wide(values) * self.scale
        return values if self.cap is None else self.cap * torch.tanh(values / self.cap)

    def slope(self, shaped: Tensor) -> Tensor | float:
        """Return the derivative of f, from its values."""
        return self.scale if self.cap is None else self.scale * (1.0 - (shaped / self.cap).square())


def signal(need: str | CrossEntropyTo, head: Projection, targets: Tensor, known: int, reference: Any = None) -> Tensor:
    """Return one signal of all rows of `head`, with a graph; `reference` is the reference's projection of these rows.

    `known` is the number of vocabulary rows that the tokenizer knows.
    """
    if need == "margin":
        return margin(head, known)
    if need == "token_logp":
        return token_logp(head, targets)
    if isinstance(need, CrossEntropyTo):
        return by_rows(need.plain, head, targets, known, reference)
    with torch.set_grad_enabled(torch.is_grad_enabled() and need != "is_argmax"):  # which has no derivative
        return by_rows(HEAD_SIGNALS[need], head, targets, known)


def margin(head: Projection, known: int, columns: int = COLUMNS) -> Tensor:
    """Return max z - mean z over the first `known` columns, (N,): one product forward, none backward.

    The mean logit is the product with the mean row of the weights; the gradient is that row, and the one of the first
    maximum. Under a soft cap the mean is no such product: its columns are computed again in the backward pass.
    """
    return _Margin.apply(head, known, _width(head, columns), *head.tensors)  # type: ignore[no-untyped-call, no-any-return]


def token_logp(head: Projection, targets: Tensor, rows: int = ROWS, kept: int = KEPT) -> Tensor:
    """Return log p of each target, (N,): the logits are stored once, as far as `kept` bytes go, and never copied."""
    return _TokenLogp.apply(head, targets, _height(head, rows), kept, *head.tensors)  # type: ignore[no-untyped-call, no-any-return]


def by_rows(
    plain: Callable[..., Tensor],
    head: Projection,
    targets: Tensor,
    known: int,
    reference: Projection | None = None,
    rows: int = ROWS,
) -> Tensor:
    """Return what the function `plain` of (logits, targets, known[, reference's logits]) gives, some rows at a time.

    The logits are computed again in the backward pass, and differentiated by autograd; but where all that autograd
    stores of them, some COPIES, is within KEPT bytes, it differentiates the plain form.
    """
    if COPIES * head.rows * head.vocabulary * head.dtype.itemsize <= KEPT:
        return _RowWork(plain, known, reference, head.rows).of(head.logits(), targets, slice(0, head.rows))
    work = _RowWork(plain, known, reference, _height(head, rows))
    return _ByRows.apply(work, head, targets, *head.tensors)  # type: ignore[no-untyped-call, no-any-return]


@torch.no_grad()
def every_signal(head: Projection, targets: Tensor, known: int, rows: int = ROWS) -> dict[str, Tensor]:
    """Return all of HEAD_SIGNALS without a graph, from one product and one exponential a logit."""
    found = [_every_signal(head.take(part), targets[part], known) for part in _parts(head.rows, _height(head, rows))]
    if not found:
        none = torch.zeros(0, dtype=head.dtype, device=targets.device)
        return dict.fromkeys(HEAD_SIGNALS, none) | {"moments": none.view(0, 2)}
    return {name: torch.cat([values[name] for values in found]) for name in HEAD_SIGNALS}


def _every_signal(head: Projection, targets: Tensor, known: int) -> dict[str, Tensor]:
    logits = wide(head.logits())
    highest, place = logits.max(dim=-1)
    best = highest if known == logits.shape[-1] else logits[:, :known].max(dim=-1).values
    mean = logits[:, :known].mean(dim=-1)
    own = logits.gather(-1, targets[:, None]).squeeze(-1)
    lowest = torch.finfo(logits.dtype).min  # of a masked row of the vocabulary, in place of minus infinity
    shifted = logits.sub_(highest[:, None]).clamp_(min=lowest)
    powers = shifted.exp()
    total = powers.sum(dim=-1)
    first = torch.linalg.vecdot(powers, shifted) / total
    second = torch.linalg.vecdot(powers.mul_(shifted), shifted) / total
    log_total = total.log()
    return {
        "token_logp": own - highest - log_total,
        "margin": best - mean,
        "is_argmax": (place == targets).to(logits.dtype),
        "moments": torch.stack([first - log_total, second - 2 * log_total * first + log_total.square()], dim=-1),
    }


class _Margin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, head: Projection, known: int, width: int, *tensors: Tensor) -> Tensor:
        best, place, total = by_triton(head, known) or _search(head, known, width)
        means = _mean_rows(head, known)
        mean = _linear_mean(head, means, known) * head.scale if head.cap is None else total / known
        ctx.head, ctx.known, ctx.width = head, known, width
        ctx.save_for_backward(place, best, *means, *tensors)
        return head.shaped(best) - mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        place, best, *rest = ctx.saved_tensors
        count = len(ctx.head.pairs)
        means, head = rest[:count], ctx.head.of(rest[count:])
        sums = _Sums(head, ctx.needs_input_grad[3:], at_once=head.cap is None)
        if head.cap is None:
            sums.start_at_mean(gradient * -head.scale, means, ctx.known)
            sums.add_places(gradient * head.scale, place)
            return (None, None, None, *sums.found)
        for part in _parts(ctx.known, ctx.width):
            shaped = head.shaped(head.linear(part.start, part.stop))
            sums.add_columns(head.slope(shaped) * (gradient / -ctx.known)[:, None], part)
        sums.add_places(gradient * head.slope(head.shaped(best)), place)
        return (None, None, None, *sums.found)


def _search(head: Projection, known: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the largest of the first `known` values of each row, its column, and the sum behind a cap, each (N,)."""
    best = torch.full((head.rows,), -torch.inf, dtype=head.dtype, device=head.pairs[0][0].device)
    place = torch.zeros(head.rows, dtype=torch.int64, device=best.device)
    total = torch.zeros_like(best)
    for part in _parts(known, width):
        values = head.linear(part.start, part.stop)
        highest, where = values.max(dim=-1)
        is_better = highest > best
        best = torch.where(is_better, highest.to(best.dtype), best)
        place = torch.where(is_better, where + part.start, place)
        if head.cap is not None:
            total += head.shaped(values).sum(dim=-1)
    return best, place, total


class _TokenLogp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, head: Projection, targets: Tensor, height: int, kept: int, *tensors: Tensor) -> Tensor:
        many = min(head.rows, kept // (head.vocabulary * tensors[-1].element_size()))
        if not any(ctx.needs_input_grad):
            many = 0
        totals, values, stored = [], [], None
        for part in _uneven(head.rows, many, height):
            logits = head.take(part).logits()
            totals += [torch.logsumexp(wide(logits[rows]), dim=-1) for rows in _parts(len(logits), height)]
            values.append(wide(logits.gather(-1, targets[part, None])).squeeze(-1))
            stored = logits if part.stop == many else stored
        none = torch.zeros(0, dtype=head.dtype, device=targets.device)
        total = torch.cat([none, *totals])
        ctx.head, ctx.height, ctx.many, ctx.stored = head, height, many, stored
        ctx.save_for_backward(targets, total, *tensors)
        return torch.cat([none, *values]) - total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        targets, totals, *tensors = ctx.saved_tensors
        head, stored, ctx.stored = ctx.head.of(tensors), ctx.stored, None
        sums = _Sums(head, ctx.needs_input_grad[4:])
        for part in _uneven(head.rows, ctx.many, ctx.height):
            logits = head.take(part).logits() if stored is None else stored  # a second pass computes all of them again
            stored = None
            for rows in _parts(len(logits), ctx.height):
                at = slice(part.start + rows.start, part.start + rows.stop)
                _write_change(head, logits[rows], targets[at], totals[at], gradient[at])
            sums.add_rows(logits, part)
        return (None, None, None, None, *sums.found)


def _write_change(head: Projection, logits: Tensor, targets: Tensor, totals: Tensor, gradient: Tensor) -> None:
    """Write over `logits` (rows, V) the gradient of what `linear` gave, by that of log p of each target."""
    values, own = wide(logits), gradient[:, None]
    slope = head.slope(values) if head.cap is not None else head.scale
    change = values.sub_(totals[:, None]).exp_().mul_(-own)
    change.scatter_add_(-1, targets[:, None], own)
    logits.copy_(change if head.cap is None and head.scale == 1.0 else change * slope)


def _uneven(size: int, first: int, step: int) -> Iterator[slice]:
    """Yield the first so many rows, where there are any, and the others in parts."""
    if first:
        yield slice(0, first)
    yield from (slice(first + part.start, first + part.stop) for part in _parts(size - first, step))


@dataclass(frozen=True)
class _RowWork:
    """What is computed of some rows at a time."""

    plain: Callable[..., Tensor]
    known: int
    reference: Projection | None
    height: int

    def of(self, logits: Tensor, targets: Tensor, part: slice) -> Tensor:
        """Return the values of the rows `part`, from their logits."""
        if self.reference is None:
            return self.plain(logits, targets[part], self.known)
        with torch.no_grad():
            reference = self.reference.take(part).logits()
        return self.plain(logits, targets[part], self.known, reference)


class _ByRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, work: _RowWork, head: Projection, targets: Tensor, *tensors: Tensor) -> Tensor:
        ctx.work, ctx.head = work, head
        ctx.save_for_backward(targets, *tensors)
        parts = [*_parts(head.rows, work.height)] or [slice(0, 0)]
        return torch.cat([work.of(head.take(part).logits(), targets, part) for part in parts])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        targets, *tensors = ctx.saved_tensors
        work, head = ctx.work, ctx.head.of(tensors)
        sums = _Sums(head, ctx.needs_input_grad[3:])
        for part in _parts(head.rows, work.height):
            values = head.take(part).linear().requires_grad_()
            with torch.enable_grad():
                found = work.of(head.shaped(values), targets, part)
            (change,) = torch.autograd.grad(found, values, gradient[part])
            sums.add_rows(change, part)
        return (None, None, None, *sums.found)


class _Sums:
    """The gradients of a head's tensors, added up part by part; only those that are needed exist.

    Those of tensors in less than float32 are added up in float32; but of weights in their own precision where they come
    `at_once`, since a second tensor of their size would be as large as what is spared.
    """

    def __init__(self, head: Projection, needed: Sequence[bool], at_once: bool = False) -> None:
        self.head = head
        weights = {id(weight) for _, weight in head.pairs} if at_once else set()
        self._found: list[Tensor | None] = [
            torch.zeros_like(tensor, dtype=tensor.dtype if id(tensor) in weights else wide(tensor[:0]).dtype)
            if wanted
            else None
            for tensor, wanted in zip(head.tensors, needed, strict=True)
        ]
        self._means: list[Tensor | float] = [0.0] * len(head.pairs)
        self._bias, rest = (None, self._found) if head.bias is None else (self._found[0], self._found[1:])
        self._pairs = [*zip(head.pairs, rest[::2], rest[1::2], strict=True)]

    @property
    def found(self) -> list[Tensor | None]:
        """Return the gradients in the order and the precision of the head's tensors."""
        pairs = zip(self._found, self.head.tensors, strict=True)
        return [None if total is None else total.to(tensor.dtype) for total, tensor in pairs]

    def add_rows(self, change: Tensor, part: slice) -> None:
        """Add what the gradient `change` (rows, V) of all columns of some rows brings."""
        if self._bias is not None:
            self._bias += change.sum(dim=0)
        for (hidden, weight), to_hidden, to_weight in self._pairs:
            narrow = change.to(weight.dtype)
            if to_hidden is not None:
                to_hidden[part] = narrow @ weight
            if to_weight is not None:
                _add_product(to_weight, narrow.T, hidden[part])

    def add_columns(self, change: Tensor, part: slice) -> None:
        """Add what the gradient `change` (N, columns) of some columns of all rows brings."""
        if self._bias is not None:
            self._bias[part] += change.sum(dim=0)
        for (hidden, weight), to_hidden, to_weight in self._pairs:
            narrow = change.to(weight.dtype)
            if to_hidden is not None:
                _add_product(to_hidden, narrow, weight[part])
            if to_weight is not None:
                _add_product(to_weight[part], narrow.T, hidden)

    def start_at_mean(self, change: Tensor, means: Sequence[Tensor], known: int) -> None:
        """Set out from the gradient `change` (N,) of the mean logit over the first `known` columns."""
        if self._bias is not None:
            self._bias[:known] = change.sum() / known
        for number, (((hidden, _), to_hidden, to_weight), mean) in enumerate(zip(self._pairs, means, strict=True)):
            if to_hidden is not None:
                torch.outer(change, mean, out=to_hidden)
            if to_weight is not None:
                self._means[number] = row = (change @ wide(hidden)) / known
                to_weight[:known] = row

    def add_places(self, change: Tensor, place: Tensor) -> None:
        """Add the gradient `change` (N,) of one logit a row, in the column `place` (N,)."""
        if self._bias is not None:
            self._bias.index_add_(0, place, change)
        for ((hidden, weight), to_hidden, to_weight), mean in zip(self._pairs, self._means, strict=True):
            if to_hidden is not None:
                to_hidden.addcmul_(wide(weight[place]), change[:, None])
            if to_weight is None:
                continue
            rows = wide(hidden) * change[:, None]
            if to_weight.dtype == rows.dtype:
                to_weight.index_add_(0, place, rows)
            else:
                to_weight.index_copy_(0, place, (_sum_alike(rows, place) + mean).to(to_weight.dtype))


def _sum_alike(rows: Tensor, place: Tensor, step: int = 1024) -> Tensor:
    """Return for each of `rows` (N, D) the sum of all that have its place: rows of one place become equal."""
    alike = ((place[part, None] == place).to(rows.dtype) for part in _parts(len(rows), step))
    return torch.cat([rows[:0], *(one @ rows for one in alike)])


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add the product of two matrices to `total`, in whose precision it may be wider than they are."""
    if total.dtype == left.dtype:
        torch.addmm(total, left, right, out=total)
    else:
        total += left @ right


def _mean_rows(head: Projection, known: int) -> list[Tensor]:
    """Return the mean of the first `known` rows of each weight matrix, (D_i,); none where it is of no use."""
    if head.cap is not None:
        return [torch.zeros(0, device=hidden.device) for hidden, _ in head.pairs]
    return [weight[:known].mean(dim=0, dtype=head.dtype) for _, weight in head.pairs]


def _linear_mean(head: Projection, means: Sequence[Tensor], known: int) -> Tensor:
    """Return the mean of h W' + b over the first `known` columns, (N,)."""
    total = sum(wide(hidden) @ mean for (hidden, _), mean in zip(head.pairs, means, strict=True))
    return total if head.bias is None else total + wide(head.bias[:known]).mean()  # type: ignore[return-value]


def _parts(size: int, step: int) -> Iterator[slice]:
    return (slice(first, min(first + step, size)) for first in range(0, size, step))


def _width(head: Projection, limit: int) -> int:
    """Return how many columns of all rows take `limit` bytes."""
    return max(1, min(head.vocabulary, limit // max(1, head.rows * head.dtype.itemsize)))


def _height(head: Projection, limit: int) -> int:
    """Return how many rows of all columns take `limit` bytes."""
    return max(1, min(head.rows, limit // (head.vocabulary * head.dtype.itemsize)))
