"""The model card: README.md of the folder model, for whoever gets the model without the rest of the run folder.

It holds numbers, choices, and names that the Hub knows: no text of a row, and no path or file name of this machine.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from . import display
from .results import Comparison, bounds_of, comparison

LIBRARIES = ("amnestic", "torch", "transformers", "tokenizers", "safetensors", "peft")
"""Packages whose versions a card names."""
INHERITED = ("language", "license", "license_name", "license_link", "base_model")
"""Metadata of the base model's own card that hold for what was made of it."""
HASHED = 12
"""Most files of a split whose hash a card shows."""


@dataclass(frozen=True)
class Origin:
    """What a card says of where its model comes from."""

    base_model: str | None
    """Name on the Hub; None for a model of this machine."""
    from_scratch: bool
    """The base model gave its shape alone."""
    sources: Mapping[str, str | None]
    """Split -> name on the Hub; None for data of this machine."""
    hashes: Mapping[str, list[str]]
    """Split -> SHA-256 of the files that it was read from."""
    metadata: Mapping[str, Any]
    """Of the base model's own card."""
    options: Mapping[str, Any]
    """The options of the run that may be told, by name."""
    command: str
    """The command that repeats the run."""


def model_card(results: Mapping[str, Any], origin: Origin, packages: Mapping[str, str]) -> str:
    """Return the card as Markdown with metadata for the Hub; `packages` are the installed versions by name."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(**_metadata(results, origin))
    libraries = [name for name in LIBRARIES if name != "peft" or results.get("adapter")]
    template = _environment().get_template("card.md.j2")
    return template.render(
        metadata=data.to_yaml(),
        results=results,
        origin=origin,
        bounds={_title(name): bound for name, bound in bounds_of(results).items()},
        units={_title(name): _unit(results, name) for name in bounds_of(results)},
        rows=comparison(results),
        columns=_columns(results),
        hyper_parameters=_numbers(results.get("method") or {}),
        not_computed=results.get("not_computed") or {},
        versions={name: packages[name] for name in libraries if name in packages},
        is_adapter=saved_as_adapter(results),
        most_hashes=HASHED,
    )


def base_metadata(folder: Path | None) -> dict[str, Any]:
    """Return the metadata of the card in `folder` that hold for a model made of it; empty where there is none."""
    from huggingface_hub import metadata_load

    if folder is None:
        return {}
    try:
        found = metadata_load(folder / "README.md")
    except Exception:  # somebody else's file, of whatever form
        return {}
    return {name: found[name] for name in INHERITED if _is_metadata(found.get(name))} if found else {}


def saved_as_adapter(results: Mapping[str, Any]) -> bool:
    """Return whether the folder of the model holds an adapter, and not a whole model."""
    adapter = results.get("adapter")
    return adapter is not None and not adapter["merged"]


def _title(name: str) -> str:
    """Return what is held under a bound, in words."""
    return "what stands around the marked spans" if name == "context" else f"{name} split"


def _unit(results: Mapping[str, Any], name: str) -> str:
    loss = (results.get("retentions") or {}).get(name, {}).get("loss")
    return {"kl": "divergence, nats a token", "hidden": "hidden distance"}.get(loss, "nats a token")


def _is_metadata(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return bool(values) and all(isinstance(item, str) and item for item in values)


def _metadata(results: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
    method = (results.get("method") or {}).get("name")
    unlearned = ["unlearning", "machine-unlearning", method] if results["command"] == "unlearn" else []
    learned = origin.sources.get("data")
    own = {
        "base_model": origin.base_model,
        "library_name": "peft" if saved_as_adapter(results) else "transformers",
        "base_model_relation": "adapter" if saved_as_adapter(results) and origin.base_model else None,
        "pipeline_tag": "text-generation",
        "tags": ["amnestic", *unlearned],
        "datasets": [learned.partition(":")[0]] if learned else None,
    }
    return dict(origin.metadata) | {name: value for name, value in own.items() if value is not None}


def _numbers(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if isinstance(value, bool | int | float)}


def _columns(results: Mapping[str, Any]) -> list[str]:
    measured = {"before": "reference_metrics", "retrained": "retrained_metrics", "after": "metrics"}
    return [column for column, name in measured.items() if results.get(name)]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("amnestic.reports"),
        autoescape=False,  # it is Markdown, and nothing on it was written by others
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"measured": display.measured, "percent": display.percent, "setting": display.setting}
    environment.filters |= {"row": _row, "values": _values}
    return environment


def _values(comparison: Comparison, columns: Iterable[str]) -> list[str]:
    return [display.measured(getattr(comparison, column)) for column in columns]


def _row(cells: Iterable[Any]) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
