"""The optimiser by its name in transformers.TrainingArguments, with float32 master weights and clipping."""

import math
import weakref
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils.hooks import RemovableHandle

from .. import processes
from ..errors import InputError
from ..model.sharding import computing_device, whole
from .options import TrainingOptions

BUCKET = 64 * 2**20
"""Bytes of gradients that are sent at once: few enough to need little memory, enough to fill a connection."""
BITSANDBYTES = {"paged_adamw_32bit": "PagedAdamW32bit", "paged_adamw_8bit": "PagedAdamW8bit"}


class Optimizer:
    """An optimiser over the trainable parameters of a model.

    With master weights it moves float32 copies of parameters in lower precision, sums their gradients in float32 over
    the micro-batches, and writes the result back after each step: 16 bytes a parameter with Adam, and no update lost to
    rounding. The hooks that collect the gradients go with the optimiser, so that a model can be trained again.
    """

    def __init__(self, parameters: Iterable[Tensor], options: TrainingOptions) -> None:
        """Raise InputError where the optimiser's library is missing, or nothing is trainable."""
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        if not self.parameters:
            raise InputError("no parameter of the model is trainable.")
        for parameter in self.parameters:
            parameter.grad = None  # whatever a caller's own backward pass left there
        self.device = computing_device(self.parameters[0])
        self.max_grad_norm = options.max_grad_norm or math.inf
        self.masters = [_master(p) if options.master_weights else p for p in self.parameters]
        pairs = zip(self.parameters, self.masters, strict=True)
        hooks = [_collect(parameter, master) for parameter, master in pairs if master is not parameter]
        weakref.finalize(self, _remove, hooks)
        matrices = [p for p in self.masters if p.ndim >= 2]
        vectors = [p for p in self.masters if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.inner = _optimizer([group for group in groups if group["params"]], options)
        self.learning_rate = options.learning_rate

    def set_learning_rate(self, factor: float) -> None:
        """Set the learning rate to `factor` times its peak."""
        for group in self.inner.param_groups:
            group["lr"] = self.learning_rate * factor

    @torch.no_grad()
    def step(self) -> Tensor:
        """Sum over processes, clip, move, clear the gradients, and return the gradient's norm () before clipping."""
        sum_gradients(self.masters)
        norm = torch.nn.utils.clip_grad_norm_(self.masters, self.max_grad_norm)
        norm = whole(norm).to(self.device)
        self.inner.step()
        self.inner.zero_grad(set_to_none=True)
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if master is not parameter:
                parameter.copy_(master)
        return norm

    def tensors(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return masters and the optimiser's state for a checkpoint, as ``NAME/master`` or ``NAME/exp_avg``.

        `names` are those of the parameters, in their order. Nothing is copied.
        """
        found = {}
        for name, parameter, master in zip(names, self.parameters, self.masters, strict=True):
            if master is not parameter:
                found[f"{name}/master"] = master
            state = self.inner.state.get(master, {})
            found |= {f"{name}/{key}": value for key, value in state.items() if isinstance(value, Tensor)}
        return found

    def allocate(self, names: Sequence[str], stored: Iterable[str]) -> None:
        """Make the state that is `stored` under the names of `tensors`, so that it can be read in place."""
        keys: dict[str, list[str]] = {name: [] for name in names}
        for name, _, key in (entry.rpartition("/") for entry in stored):
            keys[name].append(key)
        is_fused = self.inner.defaults.get("fused")
        for name, master in zip(names, self.masters, strict=True):
            count = torch.zeros((), device=master.device if is_fused else "cpu")
            kinds = [key for key in keys[name] if key != "master"]
            self.inner.state[master] = {key: count if key == "step" else torch.zeros_like(master) for key in kinds}


@torch.no_grad()
def sum_gradients(parameters: Sequence[Tensor]) -> None:
    """Add up the gradients of `parameters`, which each process holds whole, over all processes; in place.

    Once an optimiser step, in the precision of the masters. A parameter that has a gradient on some processes gets it
    on all; one that has none anywhere is left without. Those of a sharded model were summed in its backward pass.
    """
    whole = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
    if processes.count() == 1 or not whole:
        return
    used = processes.summed(torch.tensor([int(parameter.grad is not None) for parameter in whole])).tolist()
    moving = [parameter for parameter, some in zip(whole, used, strict=True) if some]
    for parameter in moving:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for bucket in _buckets([parameter.grad for parameter in moving if parameter.grad is not None]):
        flat = processes.summed(torch.cat([gradient.flatten() for gradient in bucket]))
        for gradient, total in zip(bucket, torch.split(flat, [g.numel() for g in bucket]), strict=True):
            gradient.copy_(total.view_as(gradient))


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield gradients of one precision in runs of at most BUCKET bytes, or one gradient."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        is_other = bool(bucket) and bucket[0].dtype != gradient.dtype
        if bucket and (is_other or sum(g.nbytes for g in bucket) + gradient.nbytes > BUCKET):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def check_library(options: TrainingOptions) -> None:
    """Raise InputError where the library of the optimiser in `options` is not installed; nothing is imported."""
    if options.optim in BITSANDBYTES and find_spec("bitsandbytes") is None:
        raise InputError(
            f"--optim {options.optim} needs bitsandbytes; install it with: pip install 'amnestic[bitsandbytes]'."
        )


def _master(parameter: Tensor) -> Tensor:
    """Return a float32 copy of `parameter`, or `parameter` itself where it is wide enough."""
    if parameter.dtype not in (torch.bfloat16, torch.float16):
        return parameter
    return parameter.detach().float().requires_grad_()


def _collect(parameter: Tensor, master: Tensor) -> RemovableHandle:
    """Let each gradient of `parameter` be added to that of `master` as soon as it is complete."""

    def collect(source: Tensor) -> None:
        if source.grad is None:
            return
        master.grad = source.grad.float() if master.grad is None else master.grad.add_(source.grad)
        source.grad = None

    return parameter.register_post_accumulate_grad_hook(collect)  # type: ignore[no-untyped-call, no-any-return]


def _remove(hooks: list[RemovableHandle]) -> None:
    for hook in hooks:
        hook.remove()


def _optimizer(groups: list[dict[str, Any]], options: TrainingOptions) -> torch.optim.Optimizer:
    adam = {"lr": options.learning_rate, "betas": (options.adam_beta1, options.adam_beta2), "eps": options.adam_epsilon}
    if options.optim == "sgd":
        return torch.optim.SGD(groups, lr=options.learning_rate, momentum=options.adam_beta1)
    if options.optim in ("adamw_torch", "adamw_torch_fused"):
        return torch.optim.AdamW(groups, fused=options.optim.endswith("fused") or None, **adam)  # type: ignore[arg-type]
    check_library(options)
    import bitsandbytes

    return getattr(bitsandbytes.optim, BITSANDBYTES[options.optim])(groups, **adam)  # type: ignore[no-any-return]
