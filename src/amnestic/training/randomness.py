"""The random numbers of a run: none is drawn by the loop itself, but a method of one's own may draw some."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Start torch's, numpy's and Python's generators from `seed`; the caller's go on afterwards as if unused."""
    earlier = states(), numbers()
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (the generator that code without one of its own draws from)
    random.seed(seed)
    try:
        yield
    finally:
        restore(*earlier)


def states() -> dict[str, Tensor]:
    """Return the states of torch's generators, by device."""
    found = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        found |= {f"cuda:{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return found


def numbers() -> dict[str, Any]:
    """Return the states of numpy's and Python's global generators, as JSON holds them."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    version, values, gauss = random.getstate()
    return {"numpy": [name, np.asarray(keys).tolist(), *rest], "python": [version, list(values), gauss]}


def restore(devices: Mapping[str, Tensor], others: Mapping[str, Any]) -> None:
    """Put back what `states` and `numbers` returned; devices that are not here keep what they have."""
    for device, state in devices.items():
        if device == "cpu":
            torch.set_rng_state(state)
        elif torch.cuda.is_available() and int(device.removeprefix("cuda:")) < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, device)
    name, keys, *rest = others["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    version, values, gauss = others["python"]
    random.setstate((version, tuple(values), gauss))
