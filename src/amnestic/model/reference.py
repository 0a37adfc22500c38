"""The reference: what a run reads of the model as it was before the first step.

It is read once and remembered, number by number, where that takes little memory; else the model that it was stays
beside the one that learns. ``N`` scored tokens, ``D`` width, ``V`` vocabulary.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from .. import processes
from ..data.batches import Batch, Share, moved, pad, turns
from ..data.encode import Encoded, fact
from ..errors import InputError
from .adapter import exchange_merged, is_merged
from .layers import Projection
from .memory import free_memory
from .sharding import device_of, forward_only, is_sharded
from .signals import Distribution, Form, Needs, Signals, read_reference

FINAL = "final"
"""Name of the hidden rows that the head reads, among what is remembered."""
SHARE_OF_MEMORY = 0.25
"""Part of the host's free memory that hidden rows may take."""


@dataclass(frozen=True)
class Demand:
    """What is read of the reference on one split."""

    needs: Needs = field(default_factory=Needs)
    projects: bool = False
    """Its distribution over the vocabulary is read."""

    def __or__(self, other: "Demand") -> "Demand":
        """Return what serves both readers."""
        return Demand(self.needs | other.needs, self.projects or other.projects)

    def __bool__(self) -> bool:
        """Return whether anything is read."""
        return bool(self.needs) or self.projects

    @property
    def rows(self) -> int:
        """Return how many hidden rows are remembered for a scored token."""
        return len(self.needs.hidden) + self.projects


class Seen(NamedTuple):
    """What the reference gives for one batch, by split."""

    signals: Mapping[str, Signals]
    distributions: Mapping[str, Distribution]


class Reference(Protocol):
    """The model before the first step."""

    def of(self, batch: Batch) -> Seen:
        """Return what was declared for the splits of `batch`; without a graph."""
        ...


@dataclass(frozen=True)
class Table:
    """What is remembered of one split."""

    starts: Mapping[str, int]
    """Id of an example -> its first scored token's place in `values`."""
    sizes: Mapping[str, int]
    """Id of an example -> its scored tokens."""
    values: Mapping[str, Tensor]
    """Signal -> (all scored tokens of the split, ...), in the host's memory."""

    @classmethod
    def places(cls, examples: Sequence[Encoded]) -> tuple[dict[str, int], dict[str, int]]:
        """Return the first place and the size of each of `examples`, one behind the other in their order."""
        sizes = fact(examples, "scored").astype(np.int64)
        starts = np.cumsum(sizes) - sizes
        ids = [example.id for example in examples]
        return dict(zip(ids, starts.tolist(), strict=True)), dict(zip(ids, sizes.tolist(), strict=True))

    def of(self, share: Share, device: torch.device) -> dict[str, Tensor]:
        """Return what is remembered for the scored tokens of `share`, (n, ...), on `device`."""
        at = [np.arange(self.starts[id], self.starts[id] + self.sizes[id]) for id in share.ids]
        index = torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *at]))
        return {name: moved(value[index], device) for name, value in self.values.items()}


@dataclass(frozen=True)
class Cached:
    """A reference that was read once: no second model, and no second pass."""

    tables: Mapping[str, Table]
    head: Projection | None
    """The head as it was, on no rows; None where nobody reads a distribution."""
    device: torch.device

    def of(self, batch: Batch) -> Seen:
        """Return what was remembered for the examples of `batch`."""
        signals, distributions = {}, {}
        for split, share in batch.shares.items():
            values = self.tables[split].of(share, self.device) if split in self.tables else {}
            final = values.pop(FINAL, None)
            if final is not None and self.head is not None:
                (_, weight), *_ = self.head.pairs
                distributions[split] = Projection(((final, weight),), self.head.bias, self.head.scale, self.head.cap)
            signals[split] = Signals(values, share.row, len(share.ids))
        return Seen(signals, distributions)

    @property
    def state(self) -> dict[str, Tensor]:
        """Return all that was remembered, as `remembered` takes it."""
        return {
            f"{split}/{name}": value for split, table in self.tables.items() for name, value in table.values.items()
        }


@dataclass(frozen=True)
class Live:
    """A reference that is asked at each step: a copy of the model, or the model itself without its adapter."""

    model: Any
    form: Form | None
    vocabulary: int
    demands: Mapping[str, Demand]

    def of(self, batch: Batch) -> Seen:
        """Return what a pass over `batch` gives."""
        declared = {split: demand.needs for split, demand in self.demands.items()}
        projected = [split for split, demand in self.demands.items() if demand.projects]
        with without_adapter(self.model):
            seen = Seen(*read_reference(self.model, batch, declared, self.vocabulary, self.form, projected))
            if not is_merged(self.model.get_output_embeddings()):
                return seen
            # the head's own weights are others as soon as the context ends
            return Seen(seen.signals, {split: lasting(found) for split, found in seen.distributions.items()})


@dataclass(frozen=True)
class Asked:
    """Who is asked for the reference, and for what."""

    model: Any
    form: Form | None
    vocabulary: int
    demands: Mapping[str, Demand]
    """Split -> what is read there, of whichever reads something."""
    examples: Mapping[str, Sequence[Encoded]]
    """Split -> all examples that the run reads of it."""

    def is_cached(self, mode: Literal["auto", "cached", "live"]) -> bool:
        """Return whether the reference is remembered; "auto" does where it can, and hidden rows take little memory.

        Raises InputError where it cannot be, and is to.
        """
        if any(demand.projects for demand in self.demands.values()) and not (self.form and self.form.fuses):
            if mode == "cached":
                raise InputError(
                    f"the head of {type(self.model).__name__} is no plain linear layer, so what the reference gives "
                    "cannot be kept; give --reference_mode live."
                )
            return False
        every = processes.gathered(free_memory(torch.device("cpu")))  # it moves, and all processes have to do the same
        free = min((size for size in every if size is not None), default=None)
        return mode == "cached" or (mode == "auto" and (free is None or self.bytes <= SHARE_OF_MEMORY * free))

    @property
    def bytes(self) -> int:
        """Return what the hidden rows take."""
        width = int(self.model.config.get_text_config().hidden_size)
        tokens = {split: int(fact(self.examples[split], "scored").sum(dtype=np.int64)) for split in self.demands}
        rows = sum(tokens[split] * demand.rows for split, demand in self.demands.items())
        return rows * width * int(self.model.dtype.itemsize)

    def live(self, has_adapter: bool) -> Live:
        """Return the reference as a model; raises InputError where a second one would have to be spread."""
        model = self.model
        if not has_adapter:
            if is_sharded(model):
                raise InputError(
                    "a live reference of a model that --fsdp spreads would be a second one; give --reference_mode "
                    "cached, or --use_peft."
                )
            model = deepcopy(model).requires_grad_(False)
        return Live(model, self.form, self.vocabulary, self.demands)

    def cached(
        self, batch_size: int, check: Callable[[], None] = lambda: None, advance: Callable[[int], None] = lambda _: None
    ) -> Cached:
        """Read the reference, `batch_size` rows at a time; `check` is called between passes, and may raise.

        Several processes share the work, and all have the whole. `advance` is told how many examples were read.
        """
        tables = {split: self._table(split, batch_size, check, advance) for split in self.demands}
        return Cached(tables, self._head(), device_of(self.model))

    def remembered(self, state: Mapping[str, Tensor]) -> Cached:
        """Return the reference of which `state` was kept."""
        tables = {}
        for split in self.demands:
            own = {name.partition("/")[2]: value for name, value in state.items() if name.startswith(f"{split}/")}
            tables[split] = Table(*Table.places(self.examples[split]), own)
        return Cached(tables, self._head(), device_of(self.model))

    def _table(self, split: str, batch_size: int, check: Callable[[], None], advance: Callable[[int], None]) -> Table:
        starts, sizes = Table.places(self.examples[split])
        found = []
        packs = self.form is not None and self.form.packs
        for together, chosen, made in turns(split, self.examples[split], batch_size, packs):
            check()
            values = self._read(split, made.to(device_of(self.model)))
            if chosen is not None:
                found.append((made.shares[split].ids, values))
            advance(len(together))
        parts = [batch for share in processes.gathered(found) for batch in share]
        order = {id: place for place, id in enumerate(starts)}
        ids = [id for names, _ in parts for id in names]
        spans = np.cumsum([0, *(sizes[id] for id in ids)])
        pieces = [np.arange(spans[k], spans[k + 1]) for k in sorted(range(len(ids)), key=lambda k: order[ids[k]])]
        index = torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *pieces]))
        names = parts[0][1] if parts else {}
        return Table(starts, sizes, {name: torch.cat([values[name] for _, values in parts])[index] for name in names})

    def _read(self, split: str, batch: Batch) -> dict[str, Tensor]:
        demand = self.demands[split]
        projected = [split] if demand.projects else []
        with forward_only(self.model), without_adapter(self.model):
            signals, distributions = read_reference(
                self.model, batch, {split: demand.needs}, self.vocabulary, self.form, projected
            )
            values = dict(signals[split].values)
            if split in distributions:
                values[FINAL] = projected_rows(distributions[split])
            values = {name: value.cpu() for name, value in values.items()}
        return {name: value.clone() for name, value in values.items()}  # no tensor of inference mode

    def _head(self) -> Projection | None:
        """Return the head with weights that no step changes; its rows are of no use."""
        split = next((split for split, demand in self.demands.items() if demand.projects), None)
        if split is None:
            return None
        batch = pad(split, self.examples[split][:1]).to(device_of(self.model))
        with forward_only(self.model), without_adapter(self.model):
            _, found = read_reference(self.model, batch, {}, self.vocabulary, self.form, [split])
            head = cast(Projection, found[split])
            module = self.model.get_output_embeddings()
            is_adapted = hasattr(module, "lora_A")  # its weights are frozen, but change where the adapter is merged
            changes = is_sharded(self.model) or is_adapted or any(tensor.requires_grad for tensor in head.tensors)
            return cast(Projection, lasting(head)) if changes else head


def lasting(distribution: Distribution) -> Distribution:
    """Return the same with tensors that nobody else holds."""
    if not isinstance(distribution, Projection):
        return distribution
    return distribution.of([tensor.clone() for tensor in distribution.tensors])


def projected_rows(distribution: Distribution) -> Tensor:
    """Return the hidden rows that a distribution is made from, (N, D)."""
    (rows, _), *_ = cast(Projection, distribution).pairs
    return rows


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """Let `model` compute without its adapter, if it has one, for as long as the context lasts.

    Unlike peft's own switch it leaves alone which parameters are trained. Where the adapter is merged for the moment,
    the weights are those without it all the same.
    """
    exchange_merged(model)
    layers = [m for m in model.modules() if hasattr(m, "lora_A") and hasattr(m, "_disable_adapters")]
    before = [layer._disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer._disable_adapters = was
        exchange_merged(model)
