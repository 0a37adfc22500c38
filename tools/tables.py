"""Write the tables of the documentation from the registries, or check them: ``python tools/tables.py [--check]``.

A table stands between ``<!-- table:NAME -->`` and ``<!-- /table -->`` in a file of ``docs``.
"""

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from amnestic.evaluation.explanation import explain
from amnestic.evaluation.metric import KNOWLEDGE, METRICS, UNTOUCHED, Metric
from amnestic.methods.base import METHODS, Method
from amnestic.methods.explanation import explain as explain_method

DOCS = Path(__file__).parents[1] / "docs"
MARKED = re.compile(r"<!-- table:(?P<name>\w+) -->\n.*?<!-- /table -->", re.DOTALL)
RISES = "rises with what the model knows"
NEITHER_MORE_NOR_LESS = "on forget, what a retrained model has; elsewhere, what the model had before"
PAPER = re.compile(r"arXiv:(\d{4}\.\d{5})")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what is out of date, or with ``--check`` name it and return 1."""
    parser = argparse.ArgumentParser(description="Write the tables of the documentation from the registries.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file is out of date")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the Markdown files")
    given = parser.parse_args(arguments)
    stale = [path for path in sorted(given.docs.rglob("*.md")) if filled(read(path)) != read(path)]
    for path in stale:
        if given.check:
            print(f"error: the tables in {path} differ from the code; write them with: make format.", file=sys.stderr)
        else:
            path.write_text(filled(read(path)), encoding="utf-8")
    return int(given.check and bool(stale))


def read(path: Path) -> str:
    """Return the text of a file."""
    return path.read_text(encoding="utf-8")


def filled(text: str) -> str:
    """Return `text` with the tables between its markers made anew; raises KeyError for a table that nobody makes."""
    return MARKED.sub(lambda found: f"<!-- table:{found['name']} -->\n{TABLES[found['name']]()}<!-- /table -->", text)


def methods() -> str:
    """Return the table of the methods."""
    header = (
        "name",
        "what it does",
        "one value for each",
        "reads",
        "of the reference",
        "second answer",
        "hyper-parameters",
        "published with",
        "paper",
    )
    return table(header, (method_row(METHODS.get(name)) for name in METHODS.names()))


def method_row(cls: type[Method]) -> tuple[str, ...]:
    """Return the cells of one method."""
    known = explain_method(cls)
    papers = ", ".join(f"arXiv:{number}" for number in dict.fromkeys(PAPER.findall(docstring(cls))))
    return (
        code(cls.name),
        docstring(cls).partition("\n")[0],
        known["one value for each"],
        code(*known["reads"]),
        code(*known["reads of the reference"]),
        known["second answer"],
        settings(cls),
        ", ".join(known["published retention"]),
        linked(papers),
    )


def metrics() -> str:
    """Return the table of the metrics that are computed wherever the data allow it."""
    return metric_table(is_on_request=False)


def metrics_on_request() -> str:
    """Return the table of the metrics that are computed where they are named."""
    return metric_table(is_on_request=True)


def metric_table(is_on_request: bool) -> str:
    """Return a table of metrics, in the order in which reports list them."""
    header = ("name", "definition", "formula", "direction", "target", "reads", "settings", "source")
    every = sorted(map(METRICS.get, METRICS.names()), key=lambda cls: (cls.place, cls.name))
    return table(header, (metric_row(cls) for cls in every if cls.on_request == is_on_request))


def metric_row(cls: type[Metric]) -> tuple[str, ...]:
    """Return the cells of one metric."""
    known = explain(cls)
    direction = RISES if cls.directions is KNOWLEDGE else listed(known["direction"])
    target = NEITHER_MORE_NOR_LESS if cls.targets is UNTOUCHED else listed(known["target"])
    reads = ", ".join(known["reads"])
    return (
        code(cls.name),
        known["definition"],
        code(cls.formula),
        direction,
        target,
        reads,
        settings(cls),
        linked(cls.source),
    )


def listed(facts: Mapping[str, str]) -> str:
    """Return what holds for each split, equal facts together; a single fact without a split."""
    splits: dict[str, list[str]] = {}
    for split, fact in facts.items():
        splits.setdefault(fact, []).append(split)
    if len(facts) == 1:
        return next(iter(splits))
    return "; ".join(f"{', '.join(names)}: {fact}" for fact, names in splits.items())


TABLES: dict[str, Callable[[], str]] = {
    "methods": methods,
    "metrics": metrics,
    "metrics_on_request": metrics_on_request,
}


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table; its cells may hold anything but line breaks."""
    cells = [header, ("---",) * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in cells)


def docstring(cls: type) -> str:
    """Return the docstring of a class without its indentation."""
    return inspect.cleandoc(cls.__doc__ or "")


def settings(cls: Any) -> str:
    """Return ``name = default`` for each dataclass field that has a default."""
    return code(*(f"{field.name} = {field.default}" for field in fields(cls) if field.default is not MISSING))


def linked(text: str) -> str:
    """Return `text` with a link behind each arXiv number."""
    return PAPER.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def code(*values: object) -> str:
    """Return the values, each as code."""
    return ", ".join(f"`{value}`" for value in values)


if __name__ == "__main__":
    sys.exit(main())
