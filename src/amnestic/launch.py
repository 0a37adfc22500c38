"""What a launcher (torchrun, accelerate launch) told this process of the others; nothing heavy is imported here."""

import os

from .errors import InputError

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def size() -> int:
    """Return how many processes were started together; raises InputError where the variables make no sense."""
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    """Return the number of this process among them, from 0."""
    return _number("RANK", 0) if size() > 1 else 0


def local_rank() -> int:
    """Return the number of this process among those of its machine, from 0."""
    return _number("LOCAL_RANK", 0) if size() > 1 else 0


def address() -> str:
    """Return where the processes meet; raises InputError where no launcher said so."""
    if absent := [name for name in VARIABLES if not os.environ.get(name)]:
        raise InputError(
            f"WORLD_SIZE is {size()}, and {absent[0]} is not set; start several processes with torchrun or accelerate "
            "launch, or unset WORLD_SIZE."
        )
    return f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"


def _number(name: str, usual: int) -> int:
    text = os.environ.get(name) or str(usual)
    if not text.isdecimal():
        raise InputError(f"the variable {name} is {text!r}; expected the number that a launcher sets, or unset it.")
    return int(text)
