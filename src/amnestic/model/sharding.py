"""A model whose weights are spread over the processes of a run: torch's ``fully_shard`` (FSDP2), in place.

Each process holds its part of every weight, gradient and moment. The weights of a block are gathered when the block is
computed, and freed behind it. Gradients are summed over the processes, not averaged, in float32.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from .. import processes
from ..errors import InputError
from .options import ShardingOptions

_EXPERT = re.compile(r"expert\w*\.\d+\.")
"""What the name of a parameter holds that belongs to one expert alone."""


def shard(model: Any, options: ShardingOptions, device: torch.device) -> None:
    """Spread the weights of `model`, which this process holds whole, over all processes; each computes on `device`.

    Raises InputError for a model whose trainable weights differ in precision, or that this torch cannot spread.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    _refuse_mixed(model)
    mesh = init_device_mesh(device.type, (processes.count(),))
    settings: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(reduce_dtype=_reduced_in(model)),
        "offload_policy": CPUOffloadPolicy(pin_memory=device.type != "cpu")
        if options.fsdp_offload_params
        else OffloadPolicy(),
    }
    for block in blocks(model):
        fully_shard(block, reshard_after_forward=options.fsdp_reshard_after_forward, **settings)
    fully_shard(model, **settings)
    for module in _sharded_parts(model):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo knows no other
        if _has_experts_apart(module):
            _send_all(module)


def blocks(model: Any) -> list[Any]:
    """Return the blocks whose weights are gathered together: those that transformers does not split over devices.

    Where a model names none, the members of its longest list of modules.
    """
    names = set(getattr(model, "_no_split_modules", None) or ())
    found = [module for module in model.modules() if type(module).__name__ in names]
    inner = {id(part) for module in found for part in module.modules() if part is not module}
    if found:
        return [module for module in found if id(module) not in inner]
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return list(max(lists, key=len, default=[]))


def _has_experts_apart(module: Any) -> bool:
    """Return whether the weights of single experts are parameters of their own, which the rows may pass by."""
    return any(_EXPERT.search(name) for name, _ in module.named_parameters())


def _send_all(module: Any) -> None:
    """Let each process send a gradient of 0 for what its rows passed by.

    Without, each sends the gradients that it has, one behind the other, and those of different experts are added up.
    An expert that no process reads gets a gradient of 0, where one process has none: weight decay moves it.
    """
    if not hasattr(module, "set_reduce_scatter_unused_params"):
        raise InputError("--fsdp needs a newer torch for a model with experts; upgrade it, or leave --fsdp out.")
    module.set_reduce_scatter_unused_params(True, recurse=False)


def _sharded_parts(model: Any) -> list[Any]:
    """Return the modules whose weights are gathered together: the blocks, and the model for all else."""
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def is_sharded(model: Any) -> bool:
    """Return whether the weights of `model` are spread over processes."""
    if not torch.distributed.is_available():
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


@contextmanager
def forward_only(model: Any) -> Iterator[None]:
    """Compute without gradients for as long as the context lasts, and free what a sharded model gathered in it.

    The root's weights stay gathered behind a forward pass, and those of all blocks without
    `fsdp_reshard_after_forward`: they would be those from before the next change. Tensors of inference mode could not
    be used by a backward pass that finds them gathered.
    """
    if not is_sharded(model):
        with torch.inference_mode():
            yield
        return
    try:
        with torch.no_grad():
            yield
    finally:
        free_gathered(model)


def free_gathered(model: Any) -> None:
    """Free what a sharded model gathered of its weights, and still holds."""
    if is_sharded(model):
        for module in _sharded_parts(model):
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor that may be spread; every process must ask for it, and gets it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def device_of(model: Any) -> torch.device:
    """Return the device that `model` computes on."""
    return computing_device(next(model.parameters()))


def computing_device(parameter: Tensor) -> torch.device:
    """Return the device that `parameter` is computed with on; if spread, it may be kept in the host's memory."""
    return torch.device(parameter.device_mesh.device_type) if isinstance(parameter, DTensor) else parameter.device


def _reduced_in(model: Any) -> torch.dtype:
    """Return the precision that gradients are summed in."""
    return torch.float64 if model.dtype == torch.float64 else torch.float32


def _refuse_mixed(model: Any) -> None:
    found = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    if len(found) > 1:
        named = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))
        raise InputError(
            f"the weights of {type(model).__name__} are in {named}, and --fsdp sums gradients of one precision; give "
            "--dtype float32, or leave --fsdp out."
        )
