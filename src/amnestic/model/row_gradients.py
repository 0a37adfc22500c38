"""Squared norms of each row's gradients, from one backward pass over many rows that makes no gradient of a weight.

The gradient of a linear layer's weight is a sum over positions of outer products g_t a_t', of the gradient of what the
layer gives and of what it reads. Its squared norm is the sum over pairs of positions of (g_t . g_s)(a_t . a_s)
(Goodfellow, 2015, arXiv:1510.01799; Li et al., 2022, arXiv:2110.05679), so two products of size L x L stand for one of
the weight's size. An embedding is a linear layer that reads one-hot rows; a weight that serves as both (tied
embeddings) is a sum of two uses, and its norm has a product for each pair of uses. Norms and biases are small: their
gradients are made, row by row.

``R`` rows of up to ``L`` positions each, ``P`` positions of a pass, ``N`` scored ones, ``V`` vocabulary.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..data.batches import Batch
from .head import wide
from .signals import Form, scored_logits


class UnknownUseError(Exception):
    """A weight is used in a way that is not known here."""


@dataclass(frozen=True)
class Places:
    """Where rows stand among flat values: those of all positions, or of the scored ones."""

    count: int
    """P or N."""
    index: Tensor
    """(R, L) int64; 0 behind the end of a row."""
    is_real: Tensor
    """(R, L) bool."""

    @classmethod
    def of(cls, begins: Tensor, sizes: Tensor, count: int) -> "Places":
        """Return the places of rows that begin at `begins` (R,) and have `sizes` (R,) positions."""
        offsets = torch.arange(int(sizes.amax()) if len(sizes) else 0, device=begins.device)
        is_real = offsets < sizes[:, None]
        return cls(count, torch.where(is_real, begins[:, None] + offsets, 0), is_real)

    def rows(self, values: Tensor, is_slope: bool) -> Tensor:
        """Return values (count, ...) as (R, L, ...); behind the end of a row slopes are 0, and others any."""
        found = values[self.index]
        return found * self.is_real.view(*self.is_real.shape, *[1] * (found.ndim - 2)) if is_slope else found


@dataclass(frozen=True)
class Product:
    """A linear use of a weight: its gradient is the sum over positions of outer products of `slopes` and `inputs`."""

    inputs: Tensor
    """(R, L, D)"""
    slopes: Tensor
    """(R, L, V)"""


@dataclass(frozen=True)
class Lookup:
    """A use of a weight as an embedding: each position adds its slope to the row of its token."""

    tokens: Tensor
    """(R, L) int64."""
    slopes: Tensor
    """(R, L, D)"""


Use = Product | Lookup


class RowGradients:
    """Reads the gradients of single rows off a model; what it has seen of a module holds for later passes."""

    def __init__(self, model: Any, form: Form) -> None:
        """Read `model`, whose logits are read as `form` says."""
        self._model, self._form = model, form
        self._heads_first: dict[torch.nn.Module, bool] = {}

    def squares(self, batch: Batch, sizes: Sequence[int], factor: float = 1.0) -> dict[str, Tensor]:
        """Return for each trainable parameter the squared norm of each row's gradient, (R,) float64.

        That of the mean loss of its answer. `sizes` are the rows' tokens, in the order of the batch; `factor` is what
        losses are multiplied by on the way, so that small gradients of float16 do not vanish. No ``.grad`` is touched.
        Raises UnknownUseError for a weight that is used in a way that is not known; one that is used outside of its
        module is not seen.
        """
        watch = _Watch(self._model, _places(batch, sizes), self._heads_first)
        with watch.attached():
            logits = scored_logits(self._model, batch, self._form)
        if not watch.roots:
            raise UnknownUseError("it reads no embedding")
        slopes = loss_slopes(logits, batch, len(sizes), factor)
        found = watch.finish(torch.autograd.grad(logits, watch.roots, slopes, allow_unused=True))
        return {name: squares / factor**2 for name, squares in found.items()}


@torch.no_grad()
def loss_slopes(logits: Tensor, batch: Batch, rows: int, factor: float = 1.0) -> Tensor:
    """Return the gradient in the logits (N, V) of the sum over rows of the mean loss of each answer, times `factor`.

    Softmax minus one-hot, over the answer's length; but that of the target is minus the sum of all others, which keeps
    its digits where a model is sure: 1 - p in float32 has few left.
    """
    (share,) = batch.shares.values()
    counts = torch.bincount(share.row, minlength=rows).to(wide(logits[:0]).dtype)
    slopes, targets = torch.softmax(wide(logits), dim=-1), batch.targets[:, None]
    slopes.scatter_(1, targets, 0.0)
    slopes.scatter_(1, targets, -slopes.sum(dim=-1, keepdim=True))
    return (slopes * (factor / counts[share.row])[:, None]).to(logits.dtype)


def _places(batch: Batch, sizes: Sequence[int]) -> tuple[Places, Places]:
    """Return where rows stand among all positions, and among the scored ones."""
    (share,) = batch.shares.values()
    device, shape = batch.targets.device, batch.input_ids.shape
    lengths = torch.tensor(sizes, device=device, dtype=torch.int64)
    begins = lengths.cumsum(0) - lengths if batch.is_packed else torch.arange(len(sizes), device=device) * shape[1]
    scored = torch.bincount(share.row, minlength=len(sizes))
    return (
        Places.of(begins, lengths, shape.numel()),
        Places.of(scored.cumsum(0) - scored, scored, len(batch.targets)),
    )


class _Watch:
    """What the modules of a model read in a forward pass, and the squares that follow from it in a backward pass."""

    def __init__(self, model: Any, places: tuple[Places, Places], heads_first: dict[torch.nn.Module, bool]) -> None:
        self.places = places
        self._heads_first = heads_first
        self.roots: list[Tensor] = []
        """Outputs of embeddings, where the backward pass ends: it computes nothing for the sake of a weight."""
        self._lookups: list[tuple[torch.nn.Embedding, Tensor]] = []
        self._modules = [*model.modules()]
        self._names = _owned(model)
        self._calls: Counter[str] = Counter()
        self._uses: dict[str, list[Use]] = {}
        self._gradients: dict[str, Tensor] = {}
        self._squares: dict[str, Tensor] = {}
        self._is_computing = False
        self._unknown: UnknownUseError | None = None
        """Raised once the passes are over: a sharded model that was left in the midst of one is of no more use."""

    @contextmanager
    def attached(self) -> Iterator[None]:
        """See what is called for as long as the context lasts."""
        watched = [m for m in self._modules if m in self._names or isinstance(m, torch.nn.Embedding)]
        hooks = [module.register_forward_hook(self._see) for module in watched]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def finish(self, slopes: Sequence[Tensor | None]) -> dict[str, Tensor]:
        """Return the squares of each parameter, (R,) float64, once the backward pass has given the roots' `slopes`.

        Raises UnknownUseError.
        """
        if self._unknown is not None:
            raise self._unknown
        for (module, tokens), slope in zip(self._lookups, slopes, strict=True):
            if slope is not None and module in self._names and self._has_rows:
                own = _of_weight(module, tokens, slope)
                self._keep(self._names[module]["weight"], Lookup(self._by_rows(tokens), wide(self._by_rows(own, True))))
        for name, uses in self._uses.items():
            self._add(name, sum_of_uses(uses))
        for name, gradient in self._gradients.items():
            self._add(name, gradient.double().square().flatten(1).sum(dim=1))
        return self._squares

    def _see(self, module: torch.nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        if self._is_computing:
            return None
        try:
            return self._noted(module, arguments, output)
        except UnknownUseError as error:
            self._unknown = error
            return None

    def _noted(self, module: torch.nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        """Note what `module` read, and return what stands in for its output; None: nothing."""
        names = self._names.get(module, {})
        self._calls.update(names.values())
        if not isinstance(output, Tensor) or len(arguments) != 1 or not isinstance(arguments[0], Tensor):
            raise UnknownUseError(f"{type(module).__name__} takes or gives other than one tensor")
        if isinstance(module, torch.nn.Embedding):
            tokens, looked_up = self._each_row(arguments[0], output)
            self.roots.append(looked_up.detach().requires_grad_())
            self._lookups.append((module, tokens))
            return self.roots[-1].clone()  # some models change it in place
        read = _reader(module, names)
        output.register_hook(partial(self._measure, module, read, arguments[0].detach()))  # type: ignore[no-untyped-call]
        return None

    @property
    def _has_rows(self) -> bool:
        return len(self.places[0].index) > 0

    def _each_row(self, tokens: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """Return a lookup that all rows share, as that of their positions may be, as one of each."""
        rows, rest = divmod(self.places[0].count, max(1, tokens.numel()))
        if rest or rows < 2 or tokens.ndim != 2 or len(tokens) != 1:
            return tokens, output
        return tokens.expand(rows, -1), output.expand(rows, -1, -1)

    @torch.no_grad()
    def _measure(self, module: torch.nn.Module, read: "_Reader", inputs: Tensor, slope: Tensor) -> None:
        """Take what `module` read, and the gradient of what it gave."""
        if not self._has_rows or self._unknown is not None:
            return
        try:
            self._measured(module, read, inputs, slope)
        except torch.OutOfMemoryError:
            raise
        except UnknownUseError as error:
            self._unknown = error
        except Exception as error:  # whatever a module does that cannot be called on rows side by side
            self._unknown = UnknownUseError(f"{type(module).__name__} cannot be called row by row")
            self._unknown.__cause__ = error

    def _measured(self, module: torch.nn.Module, read: "_Reader", inputs: Tensor, slope: Tensor) -> None:
        names, rows = self._names[module], (self._rows(module, inputs), self._rows(module, slope, is_slope=True))
        self._is_computing = True
        try:
            for local, found in read(module, [*names], *rows).items():
                if isinstance(found, Tensor):
                    known = self._gradients.get(names[local])
                    self._gradients[names[local]] = found if known is None else known + found
                else:
                    self._keep(names[local], found)
        finally:
            self._is_computing = False

    def _keep(self, name: str, use: Use) -> None:
        """Add up a use at once, unless the same weight has others: then all are needed together."""
        if self._calls[name] > 1:
            self._uses.setdefault(name, []).append(use)
        else:
            self._add(name, sum_of_uses([use]))

    def _add(self, name: str, squares: Tensor) -> None:
        self._squares[name] = self._squares[name] + squares if name in self._squares else squares

    def _rows(self, module: torch.nn.Module, values: Tensor, is_slope: bool = False) -> Tensor:
        """Return what `module` reads or gives as (R, L, ...); heads may stand before or behind positions."""
        if values.ndim == 4:
            whole = self.places[0].count
            is_last, is_first = values.shape[:2].numel() == whole, len(values) * values.shape[2] == whole
            if is_last and is_first and module not in self._heads_first:
                raise UnknownUseError(f"{type(module).__name__} has as many heads as positions")
            if is_first and self._heads_first.setdefault(module, not is_last):
                values = values.transpose(1, 2)
        return self._by_rows(values, is_slope)

    def _by_rows(self, values: Tensor, is_slope: bool = False) -> Tensor:
        """Return values of all positions, or of the scored ones, as (R, L, ...)."""
        for places in self.places:
            for leading in (2, 1):
                if values.ndim >= leading and values.shape[:leading].numel() == places.count:
                    return places.rows(values.flatten(0, leading - 1), is_slope)
        raise UnknownUseError(f"values of shape {tuple(values.shape)} do not come by positions")


def _owned(model: Any) -> dict[torch.nn.Module, dict[str, str]]:
    """Return the modules that hold trainable parameters themselves: their own names for these -> the model's."""
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    owned = {}
    for module in model.modules():
        own = {local: p for local, p in module._parameters.items() if p is not None and p.requires_grad}
        if own:
            owned[module] = {local: known[id(p)] for local, p in own.items()}
    return owned


_Reader = Callable[[torch.nn.Module, list[str], Tensor, Tensor], dict[str, Use | Tensor]]
"""Module, names of its trainable parameters, inputs and slopes (R, L, ...) -> the use, or the gradients, of each."""


def _reader(module: torch.nn.Module, names: dict[str, str]) -> _Reader:
    """Return how a module's gradients are read off what it reads and the gradient of what it gives."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, torch.nn.Linear):
        return _linear
    if isinstance(module, Conv1D):
        return _transposed
    is_small = all(p.ndim <= 1 for p in module._parameters.values() if p is not None)
    if is_small and next(module.children(), None) is None:
        return _small
    raise UnknownUseError(f"{type(module).__name__} holds {', '.join(names)}")


def _linear(_: torch.nn.Module, names: list[str], inputs: Tensor, slopes: Tensor) -> dict[str, Use | Tensor]:
    found: dict[str, Use | Tensor] = {"weight": Product(wide(inputs), wide(slopes)), "bias": wide(slopes).sum(dim=1)}
    return {name: found[name] for name in names}


def _transposed(_: torch.nn.Module, names: list[str], inputs: Tensor, slopes: Tensor) -> dict[str, Use | Tensor]:
    found: dict[str, Use | Tensor] = {"weight": Product(wide(slopes), wide(inputs)), "bias": wide(slopes).sum(dim=1)}
    return {name: found[name] for name in names}


def _small(module: torch.nn.Module, names: list[str], inputs: Tensor, slopes: Tensor) -> dict[str, Use | Tensor]:
    """Return the gradients of a module that is called again on each row."""
    own = {name: parameter.detach() for name in names if (parameter := module._parameters[name]) is not None}

    def pull(row: Tensor, slope: Tensor) -> dict[str, Tensor]:
        def call(parameters: dict[str, Tensor]) -> Tensor:
            output: Tensor = torch.func.functional_call(module, parameters, (row.unsqueeze(0),))
            return output

        with torch.enable_grad():
            pulled = torch.func.vjp(call, own)
            gradients: dict[str, Tensor] = pulled[1](slope.unsqueeze(0))[0]
        return gradients

    found: dict[str, Use | Tensor] = {**torch.func.vmap(pull)(inputs, slopes)}
    return found


def _of_weight(module: torch.nn.Embedding, tokens: Tensor, slope: Tensor) -> Tensor:
    """Return the gradient of what an embedding looks up, position by position, from that of what it gives.

    Some models' embeddings give a multiple: the module is called on the rows of the weight that it looked up.
    """
    if module.max_norm is not None or module.scale_grad_by_freq:
        raise UnknownUseError(f"{type(module).__name__} changes what it looks up")
    own, padding = slope, module.padding_idx
    if type(module).forward is not torch.nn.Embedding.forward:
        looked_up, places = module.weight.detach()[tokens.flatten()], torch.arange(tokens.numel(), device=tokens.device)
        module.padding_idx = None
        try:
            with torch.enable_grad():
                looked_up.requires_grad_()
                given = torch.func.functional_call(module, {"weight": looked_up}, (places,))
                (own,) = torch.autograd.grad(given, looked_up, slope.flatten(0, -2))
        except (IndexError, RuntimeError) as error:
            raise UnknownUseError(f"{type(module).__name__} does more than look up") from error
        finally:
            module.padding_idx = padding
        own = own.view_as(slope)
    return own if padding is None else own * (tokens != padding)[..., None]


def sum_of_uses(uses: Sequence[Use]) -> Tensor:
    """Return the squared norm of the sum of all `uses` of one weight, of each row, (R,) float64."""
    if len(uses) == 1 and isinstance(uses[0], Product) and _is_long(uses[0]):
        gradient = uses[0].slopes.mT @ uses[0].inputs
        return gradient.double().square().sum(dim=(1, 2))
    total = torch.zeros((), dtype=torch.float64)
    for i, one in enumerate(uses):
        for k, other in enumerate(uses[: i + 1]):
            total = total.to(one.slopes.device) + _common(one, other) * (1 if k == i else 2)
    return total


def _is_long(use: Product) -> bool:
    """Return whether the gradient of the weight takes fewer products than those of all pairs of positions."""
    length, width, height = use.inputs.shape[1], use.inputs.shape[2], use.slopes.shape[2]
    return width * height < length * (width + height)


def _common(one: Use, other: Use) -> Tensor:
    """Return the inner product of the gradients of two uses of one weight (V, D), of each row, (R,) float64."""
    if isinstance(one, Lookup) and isinstance(other, Lookup):
        pairs, weights = one.slopes @ other.slopes.mT, one.tokens[:, :, None] == other.tokens[:, None, :]
    elif isinstance(one, Product) and isinstance(other, Product):
        pairs, weights = one.inputs @ other.inputs.mT, one.slopes @ other.slopes.mT
    else:
        looked, product = (one, other) if isinstance(one, Lookup) else (other, one)
        assert isinstance(looked, Lookup)
        assert isinstance(product, Product)
        length = product.slopes.shape[1]
        pairs = product.inputs @ looked.slopes.mT
        weights = product.slopes.gather(2, looked.tokens[:, None, :].expand(-1, length, -1))
    return (pairs * weights).double().sum(dim=(1, 2))
