"""Norm of the gradient of each example's loss, in all trainable parameters: what an example would move, alone.

Usually many rows share a backward pass that makes no gradient of a weight (`row_gradients`). Whether that is right for
a model is tried out on some rows; where it is not, each row has a backward pass of its own.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from .. import processes
from ..data.batches import assemble, nothing, pad, turns
from ..data.encode import Encoded, lengths
from ..errors import InputError, RunError
from .load import Loaded
from .row_gradients import RowGradients, UnknownUseError, loss_slopes
from .sharding import computing_device, device_of, free_gathered, is_sharded
from .signals import scored_logits

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}
"""Largest difference of two norms that are the same up to rounding, as a share of the norm."""
TOKENS = 1024
"""Of a pass: what is stored for its backward pass takes many times the memory of a forward pass."""
FACTORS = (2.0**12, 2.0**6, 1.0)
"""What losses of float16 are multiplied by, so that gradients do not vanish; the next where they overflow."""
BYTES = 2**30
"""Of gradients that exist at once where each row has a backward pass of its own."""


class NotFiniteError(RunError):
    """The gradients of some examples are no finite numbers."""

    def __init__(self, norms: np.ndarray) -> None:
        """Say of how many of all `norms` (B,) that is so."""
        super().__init__(
            f"the gradient of {int((~np.isfinite(norms)).sum())} of {len(norms)} examples is no finite number; measure "
            "in a wider precision, as with --dtype float32."
        )
        self.norms = norms


Advance = Callable[[int], None]
Squares = dict[str, Tensor]
"""Trainable parameter -> squared norm of each row's gradient, (R,) float64."""


def gradient_norms(loaded: Loaded, examples: Sequence[Encoded], advance: Advance = lambda rows: None) -> np.ndarray:
    """Return for each example the norm of the gradient of its mean answer loss (nats a token), (B,) float64.

    Of all trainable parameters together. Several processes share the examples, and all return the whole. `advance` is
    told how many are done. Neither weights nor gradients that a caller keeps are touched. Raises InputError where
    nothing is trainable, RunError where a gradient is no number.
    """
    if not any(parameter.requires_grad for parameter in loaded.model.parameters()):
        raise InputError("no parameter of the model is trainable, so no loss has a gradient; let some require one.")
    if not len(examples):
        return np.empty(0)
    shared = RowGradients(loaded.model, loaded.form)
    reason = _difference(loaded, shared, _sample(examples))
    if reason is None:
        norms = _together(loaded, shared, examples, advance)
    else:
        name = type(loaded.model).__name__.removeprefix("FSDP")
        note = f"{name}: each example's gradient takes a pass of its own, since {reason}."
        if note not in loaded.notes:
            loaded.notes.append(note)
        norms = _one_by_one(loaded, examples, advance)
    if not np.isfinite(norms).all():
        raise NotFiniteError(norms)
    return norms


def _sample(examples: Sequence[Encoded]) -> list[Encoded]:
    """Return two short rows of unlike lengths, or what there is."""
    order = np.argsort(lengths(examples), kind="stable")
    return [examples[i] for i in sorted({int(order[0]), int(order[len(order) // 2])})]


def _difference(loaded: Loaded, shared: RowGradients, rows: Sequence[Encoded]) -> str | None:
    """Return why rows may not share a backward pass, or None where they may; the same on all processes."""
    try:
        found = _shared_pass(loaded, shared, rows)
    except UnknownUseError as error:
        reason: str | None = str(error)
    else:
        reason = None
        expected = [_own_pass(loaded, row) for row in rows]
        for i, squares in enumerate(expected):
            norm = sum(squares.values()) ** 0.5
            for name in squares | found:
                own, other = squares.get(name, 0.0) ** 0.5, float(found[name][i]) ** 0.5 if name in found else 0.0
                if not abs(own - other) <= TOLERANCE[loaded.model.dtype] * norm:
                    reason = f"that of {name} is another one where rows share a pass"
    return next((other for other in processes.gathered(reason) if other is not None), None)


def _together(loaded: Loaded, shared: RowGradients, examples: Sequence[Encoded], advance: Advance) -> np.ndarray:
    """Return the norms from backward passes that rows share; each process takes batches of its own."""
    own: list[tuple[list[int], np.ndarray]] = []
    count = max(1, TOKENS // int(lengths(examples).max()))
    for together, chosen, _ in turns("", examples, count, loaded.form.packs):
        if chosen is not None or is_sharded(loaded.model):
            squares = _shared_pass(loaded, shared, [examples[i] for i in chosen or []])
            own.append((chosen or [], _total(squares, len(chosen or [])).sqrt().numpy()))
        advance(len(together))
    norms = np.full(len(examples), np.nan)
    for chosen, values in (batch for share in processes.gathered(own) for batch in share):
        norms[chosen] = values
    return norms


def _one_by_one(loaded: Loaded, examples: Sequence[Encoded], advance: Advance) -> np.ndarray:
    """Return the norms from a backward pass for each example.

    Processes that each hold the model take examples in turn. Those of a sharded model take each example together, since
    its backward pass sums over processes.
    """
    norms = np.zeros(len(examples))
    together = is_sharded(loaded.model)
    for i, example in enumerate(examples):
        if together or i % processes.count() == processes.rank():
            norms[i] = sum(_own_pass(loaded, example).values()) ** 0.5
        advance(1)
    if not together:
        norms = np.sum(processes.gathered(norms), axis=0)
    return norms


def _shared_pass(loaded: Loaded, shared: RowGradients, rows: Sequence[Encoded]) -> Squares:
    """Return the squares of `rows`, from one backward pass; without rows, of nothing, to keep step with others."""
    model, form = loaded.model, loaded.form
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].input_ids))  # as packs have them
    chosen = [rows[i] for i in order]
    batch = (assemble("", chosen, form.packs) if chosen else nothing([""])).to(device_of(model))
    sizes = [len(row.input_ids) for row in chosen]
    back = torch.tensor(order, dtype=torch.int64).argsort()

    def read(factor: float) -> Squares:
        return shared.squares(batch, sizes, factor)

    found = _scaled(model, read)
    return {name: squares[back.to(squares.device)] for name, squares in found.items()}


def _own_pass(loaded: Loaded, row: Encoded) -> dict[str, float]:
    """Return the squares of `row` by parameter, from a backward pass that makes every gradient."""
    model, form = loaded.model, loaded.form
    batch = pad("", [row]).to(device_of(model))
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    squared = _squares_of_shards if is_sharded(model) else _squares_of_gradients

    def read(factor: float) -> Squares:
        logits = scored_logits(model, batch, form)
        slopes = loss_slopes(logits, batch, 1, factor)
        values = torch.stack(squared([parameter for _, parameter in named], logits, slopes)) / factor**2
        return {name: value[None] for (name, _), value in zip(named, values, strict=True)}

    return {name: float(value) for name, value in _scaled(model, read).items()}


def _squares_of_gradients(parameters: Sequence[Tensor], logits: Tensor, slopes: Tensor) -> list[Tensor]:
    """Return the squared norm of the gradient in each parameter, () float64; only so many gradients exist at once."""
    squares = []
    groups = [*_groups(parameters)]
    for group in groups:
        keeps = group is not groups[-1]
        gradients = torch.autograd.grad(logits, group, slopes, retain_graph=keeps, allow_unused=True)
        squares += [_square(parameter, gradient) for parameter, gradient in zip(group, gradients, strict=True)]
    return squares


def _squares_of_shards(parameters: Sequence[Tensor], logits: Tensor, slopes: Tensor) -> list[Tensor]:
    """Return the same where gradients are spread over processes, and summed over them: all computed the same."""
    with _own_gradients(parameters):
        logits.backward(slopes)  # type: ignore[no-untyped-call]
        gradients = [p.grad.to_local() if isinstance(p.grad, DTensor) else None for p in parameters]
        squares = torch.stack([_square(p, g) for p, g in zip(parameters, gradients, strict=True)])
    return [*(processes.summed(squares) / processes.count() ** 2)]


def _square(parameter: Tensor, gradient: Tensor | None) -> Tensor:
    if gradient is None:
        return torch.zeros((), dtype=torch.float64, device=computing_device(parameter))
    return gradient.double().square().sum()


def _groups(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield parameters in runs of at most BYTES, or one."""
    group: list[Tensor] = []
    for parameter in parameters:
        if group and sum(p.nbytes for p in group) + parameter.nbytes > BYTES:
            yield group
            group = []
        group.append(parameter)
    yield group


@contextmanager
def _own_gradients(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Let parameters have no gradient, and nobody collect any, for as long as the context lasts; then as before."""
    kept = [(parameter, parameter.grad, {**(_collectors(parameter) or {})}) for parameter in parameters]
    for parameter, _, hooks in kept:
        parameter.grad = None
        if hooks:
            _collectors(parameter).clear()
    try:
        yield
    finally:
        for parameter, gradient, hooks in kept:
            parameter.grad = gradient
            if hooks:
                _collectors(parameter).update(hooks)


def _collectors(parameter: Tensor) -> Any:
    """Return what an optimiser has registered to be told of each gradient, in place; None or empty: nothing."""
    return parameter._post_accumulate_grad_hooks


def _scaled(model: Any, read: Callable[[float], Squares]) -> Squares:
    """Return what `read` gives with the largest factor of the loss that overflows nowhere, on any process."""
    factors = FACTORS if model.dtype == torch.float16 else (1.0,)
    found: Squares = {}
    for factor in factors:
        try:
            with torch.inference_mode(False), torch.enable_grad():
                found = read(factor)
        finally:
            free_gathered(model)
        is_finite = all(bool(squares.isfinite().all()) for squares in found.values())
        if len(factors) == 1 or all(processes.gathered(is_finite) if is_sharded(model) else [is_finite]):
            break
    return found


def _total(squares: Squares, rows: int) -> Tensor:
    """Return the sum over parameters, (R,), in the host's memory."""
    return sum((values.cpu() for values in squares.values()), torch.zeros(rows, dtype=torch.float64))
