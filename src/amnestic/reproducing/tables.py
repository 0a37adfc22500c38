"""Settings, and a reproduction's numbers, as tables for a terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..reports.display import size
from ..reports.seeds import Spread
from .outcome import Reproduction
from .settings import Setting

if TYPE_CHECKING:
    from rich.table import Table


def settings_table(settings: Sequence[Setting], with_models: bool = True) -> "Table":
    """Return what each setting is about, and what it needs; models are named with their owners, and so are wide."""
    numbers = ("bound", "epochs", "rows a step", "download", "GPU memory", "GPUs of 80 GB")
    table = _table("name", *(["model"] if with_models else []), numbers=numbers)
    for setting in settings:
        options, facts = setting.options, setting.facts
        sizes = [size(facts[name]).replace("\u00a0", " ") for name in ("download_bytes", "memory_bytes")]
        model = [options["model"]] if with_models else []
        needs = (options["bound"], options["num_train_epochs"], setting.batch, *sizes, facts["gpus_of_80_gb"])
        table.add_row(setting.name, *model, *map(str, needs))
    return table


def numbers_table(reproduction: Reproduction) -> "Table":
    """Return both sides' numbers."""
    table = _table("model", "metric", numbers=("here", "published", "difference"))
    table.add_column("source")
    for row in reproduction.rows:
        ours = "not measured" if row.ours is None else _over_seeds(row.ours)
        published = "not known" if row.published is None else _over_seeds(row.published)
        difference = "-" if row.difference is None else f"{row.difference:.4g}"
        table.add_row(row.of, row.metric, ours, published, difference, row.source or "")
    return table


def _table(*texts: str, numbers: Sequence[str]) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(texts):  # the first gives way last; none is cut, for names are typed again
        table.add_column(name, overflow="fold", no_wrap=number == 0)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _over_seeds(found: Spread) -> str:
    interval = "" if found.low is None else f" [{found.low:.4g}, {found.high:.4g}]"
    return f"{found.mean:.4g}{interval}"
