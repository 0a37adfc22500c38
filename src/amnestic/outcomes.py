"""What a command writes of its outcome, as tables for people."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from .console import pairs, spaced, written
from .reports.display import size, visible
from .reports.leaderboard import Leaderboard
from .reports.results import comparison

if TYPE_CHECKING:
    from .benching.outcome import Comparison
    from .reproducing.outcome import Reproduction
    from .reproducing.settings import Setting

LIBRARIES = ("transformers", "tokenizers", "safetensors", "datasets", "huggingface-hub", "accelerate", "bitsandbytes")
"""Packages that a bug report names, besides torch."""

ANY_WIDTH = 10_000
"""Columns of a terminal in which every table has room."""


def environment_facts(environment: Mapping[str, Any]) -> dict[str, str]:
    """Return the part of `environment` that a bug report needs, in words."""
    processor, torch = environment["processor"], environment["torch"]
    facts = {name: environment[name] or "not installed" for name in ("amnestic", "python", "system")}
    facts["processor"] = f"{processor['model']}, {processor['usable_cores']} of {processor['cores']} cores"
    facts["instructions"] = " ".join(processor["flags"]) or "unknown"
    facts["memory"] = spaced(size(environment["memory_bytes"])) if environment["memory_bytes"] else "unknown"
    facts["accelerators"] = ", ".join(device["name"] for device in environment["accelerators"]) or "none"
    build = f"cuda {torch['cuda']}" if torch["cuda"] else f"rocm {torch['hip']}" if torch["hip"] else "cpu"
    facts["torch"] = f"{torch['version']} ({build}, {torch['threads']} threads)"
    return facts | {name: environment["packages"].get(name, "not installed") for name in LIBRARIES}


def show_results(console: Console, results: Mapping[str, Any], output_dir: Path, quiet: bool) -> None:
    """Write the verdict, then, unless `quiet`, the measured values and where the files are."""
    style = {"feasible": "bold green", "infeasible": "bold red"}.get(results["status"], "bold")
    console.print(Text(visible(results["verdict"]), style=style))
    if quiet:
        return
    if results.get("metrics"):
        console.print()
        console.print(_measured(results) if results.get("command") == "eval" else _metrics(results))
    for key, reason in (results.get("not_computed") or {}).items() if results.get("command") == "eval" else ():
        console.print(f"not computed: {visible(key)}: {visible(reason)}")
    for note, keys in _notes(results.get("metric_notes") or {}).items():
        console.print(f"note on {', '.join(map(visible, keys))}: {visible(note)}")
    files = {"model": output_dir / "model", "report": output_dir / "report.html"}
    if results.get("command") == "eval":
        files["results"] = output_dir / "results.json"
    console.print()
    console.print(pairs({name: path for name, path in files.items() if path.exists()}))


def show_leaderboard(console: Console, board: Leaderboard, folder: str | Path) -> None:
    """Write the rows of a comparison, what must be read with them, and where the files are."""
    console.print(
        Text(visible(board.verdict), style="bold red" if board.status in ("infeasible", "failed") else "bold")
    )
    console.print()
    console.print(board.table())
    console.print()
    for note in board.notes:
        console.print(f"note: {visible(note)}")
    console.print(pairs({"leaderboard": Path(folder, "leaderboard.md"), "report": Path(folder, "report.html")}))


def show_comparison(console: Console, comparison: "Comparison", quiet: bool) -> None:
    """Write the leaderboard of a comparison and where its files are, or what would be run where nothing was."""
    if comparison.leaderboard is None:
        planned, bench = comparison.planned, comparison.plan.config.bench
        done = sum(state == "done" for state in planned.values())
        trials = f", after {bench.trials} trials of each method and share" if bench.trials else ""
        console.print(f"{len(planned)} runs, {done} of them done already{trials}.")
        if not quiet:
            console.print(pairs(planned))
        return
    if quiet:
        console.print(visible(comparison.leaderboard.verdict))
        return
    show_leaderboard(console, comparison.leaderboard, comparison.output_dir)
    for entry in comparison.failed:
        console.print(f"failed: {visible(f'{entry.name}: {entry.error}')}")


def show_sequence(console: Console, results: Mapping[str, Any], output_dir: Path, quiet: bool) -> None:
    """Write the verdict of a sequence, then, unless `quiet`, its requests and where the files are."""
    style = {"feasible": "bold green", "infeasible": "bold red"}.get(results["status"], "bold")
    console.print(Text(visible(results["verdict"]), style=style))
    if quiet:
        return
    table = Table("request", "bound", "remembered by", box=None, pad_edge=False, header_style="bold")
    for name in ("before", "after", "after the last"):
        table.add_column(name, justify="right")
    table.add_column("became")
    held = {"feasible": "held", "infeasible": "missed"}
    for one in results["requests"]:
        metric, course = next(iter((one["memory"] or {"-": []}).items()))
        values = [written(course[place]["value"]) for place in (0, 1, -1)] if course else ["-"] * 3
        name = visible(f"{one['number']} {one['name']}")
        table.add_row(name, held.get(one["status"], "free"), metric, *values, one["state"])
    console.print()
    console.print(table)
    console.print()
    for note in results["notes"]:
        console.print(f"note: {visible(note)}")
    console.print(pairs({"models": output_dir / "requests", "report": output_dir / "sequence.html"}))


def show_settings(console: Console, settings: Sequence["Setting"]) -> None:
    """Write the published settings, and what each needs."""
    from .reproducing.tables import settings_table

    table = settings_table(settings)
    fits = Measurement.get(console, console.options.update(max_width=ANY_WIDTH), table).maximum <= console.width
    console.print(table if fits else settings_table(settings, with_models=False))
    console.print("\ndownload: the model in bfloat16, and the retrained one where it is public")
    console.print("GPU memory: weights, gradients, AdamW and activations on one GPU; --fsdp spreads them over several")


def show_reproduction(console: Console, reproduction: "Reproduction", quiet: bool) -> None:
    """Write in what it departs from the published run, each seed's verdict, and both sides' numbers."""
    from .reproducing.tables import numbers_table

    for text in reproduction.departures:
        console.print(f"not as published: {visible(text)}")
    for seed, results in reproduction.results.items():
        style = {"feasible": "bold green", "infeasible": "bold red"}.get(results["status"], "bold")
        console.print(Text(f"seed {seed}: {visible(results['verdict'])}", style=style))
    if quiet:
        return
    console.print()
    console.print(numbers_table(reproduction))
    console.print()
    for name, facts in reproduction.sources.items():
        console.print(f"{name}: {facts['title']} ({facts['conditions']}); {facts['url']}")
    for note in reproduction.notes:
        console.print(f"note: {visible(note)}")
    console.print(pairs({"reproduction": reproduction.output_dir / "reproduction.json"}))


def show_judgement(console: Console, results: Mapping[str, Any], folder: Path, quiet: bool) -> None:
    """Write what a judge found of each model, and where the files are."""
    console.print(Text(visible(results["verdict"]), style="bold"))
    if quiet:
        return
    models: Mapping[str, Any] = results["models"]
    table = Table("", box=None, pad_edge=False, header_style="bold")
    for model in models:
        table.add_column(visible(model), justify="right")
        table.add_column("95 % interval", justify="right")
    for key in dict.fromkeys(key for found in models.values() for key in found["metrics"]):
        cells = [cell for found in models.values() for cell in _judged(found, key)]
        table.add_row(visible(key), *cells)
    console.print()
    console.print(table)
    for model, found in models.items():
        for split, reasons in found["unanswered"].items():
            for reason, count in reasons.items():
                console.print(f"without scores: {count} of {visible(f'{model}, {split}: {reason}')}")
    tokens = results["tokens"]
    console.print()
    console.print(pairs({"tokens": f"{tokens['sent']:,} sent, {tokens['received']:,} received"}))
    console.print(pairs({"results": folder / "judge.json", "scores": folder / "judge"}))


def _judged(found: Mapping[str, Any], key: str) -> tuple[str, str]:
    """Return the mean and the interval of one criterion, as a table has them."""
    interval = found["intervals"].get(key)
    mean = found["metrics"].get(key)
    return (
        "-" if mean is None else f"{mean:.2f}",
        "" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}",
    )


def _measured(results: Mapping[str, Any]) -> Table:
    """Return what was measured of one model, with intervals."""
    table = Table("", box=None, pad_edge=False, header_style="bold")
    intervals = results.get("intervals") or {}
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    for row in comparison(results):
        low, high = intervals.get(row.key, (None, None))
        interval = "" if low is None else f"{written(low)} to {written(high)}"
        table.add_row(visible(row.key), written(row.after), interval)
    return table


def _notes(notes: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the keys that each note is about."""
    found: dict[str, list[str]] = {}
    for key, note in notes.items():
        found.setdefault(note, []).append(key)
    return found


def _metrics(results: Mapping[str, Any]) -> Table:
    rows = comparison(results)
    columns = [name for name in ("before", "retrained", "after") if any(getattr(row, name) is not None for row in rows)]
    table = Table("", box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(visible(row.key), *(written(getattr(row, name)) for name in columns))
    return table
