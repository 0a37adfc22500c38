"""What the command line draws: progress on stderr and results on stdout, live on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich import progress as bars
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from .progress import Progress
from .reports.display import duration, size, visible
from .reports.leaderboard import Leaderboard
from .reports.results import comparison

if TYPE_CHECKING:
    from .benching.outcome import Comparison
    from .reproducing.outcome import Reproduction
    from .reproducing.settings import Setting

PREVIEW = 800
"""Most characters that are shown of a stretch of scored, or of unscored, tokens."""

LIBRARIES = ("transformers", "tokenizers", "safetensors", "datasets", "huggingface-hub", "accelerate", "bitsandbytes")
"""Packages that a bug report names, besides torch."""


def open_console(file: TextIO) -> Console:
    """Return a console that takes text as it stands, and leaves lines whole where `file` is no terminal."""
    width = None if file.isatty() else 200
    return Console(file=file, width=width, soft_wrap=width is not None, markup=False, emoji=False, highlight=False)


@contextmanager
def watching(console: Console, quiet: bool) -> Iterator[Progress]:
    """Yield what shows a run on `console`, and leave the display in order however the run ends."""
    if quiet:
        yield Progress()
        return
    live = console.is_terminal and not console.is_dumb_terminal
    progress = LiveProgress(console) if live else LineProgress(console)
    try:
        yield progress
    finally:
        progress.close()


class ConsoleProgress(Progress):
    """What both kinds of display write the same way."""

    def __init__(self, console: Console) -> None:
        """Write to `console`."""
        self.console = console

    def note(self, text: str) -> None:
        """Write a sentence for the user."""
        self.console.print(f"note: {visible(text)}")

    def report(self, text: str) -> None:
        """Write a line about a part that has ended."""
        self.console.print(_spaced(visible(text)))

    def quote(self, title: str, text: str) -> None:
        """Write a text line by line."""
        self.console.print(f"{title}:")
        self.console.print(Text("\n".join(f"  {visible(line)}" for line in text.split("\n"))), end="\n\n")

    def preview(self, tokens: list[tuple[str, bool]]) -> None:
        """Write one rendered example with its scored tokens marked."""
        self._preview(tokens, "scored tokens")

    def preview_spans(self, tokens: list[tuple[str, bool]]) -> None:
        """Write one rendered example with the tokens of its spans marked."""
        self._preview(tokens, "tokens to forget")

    def _preview(self, tokens: list[tuple[str, bool]], what: str) -> None:
        marked = self.console.is_terminal
        self.console.print(f"First example, {what} {'underlined' if marked else 'in [[ ]]'}:")
        text = Text()
        for is_marked, run in groupby(tokens, key=lambda token: token[1]):
            stretch = _readable("".join(token for token, _ in run))
            shown = stretch if marked or not is_marked else f"[[{stretch}]]"
            text.append(shown, style="bold underline" if is_marked else "")
        self.console.print(text, end="\n\n")

    def plan(self, facts: Mapping[str, Any]) -> None:
        """Write the numbers of the run."""
        self.console.print(pairs(facts))
        self.console.print()

    def candidate(self, record: Mapping[str, Any]) -> None:
        """Write a line about a measured candidate."""
        text = Text(f"epoch {record['epoch']:.4g}, step {record['step']}: forget loss {record['forget_loss']:.4g}")
        if "reached" not in record:  # a run without a bound
            self.console.print(text)
            return
        limit = record.get("upper_limit")
        text.append(f", retain loss {record['reached']:.4g}" + (f" (at most {limit:.4g})" if limit is not None else ""))
        others = {key.removesuffix("_reached"): value for key, value in record.items() if key.endswith("_reached")}
        for name, value in others.items():
            text.append(f", {name} loss {value:.4g}")
        which = "bounds" if others else "bound"
        held = Text(f"{which} held", style="green") if record["holds"] else Text(f"{which} not held", style="red")
        self.console.print(text.append(": ").append_text(held))

    def close(self) -> None:
        """Leave the display without saying that the stage was completed."""


class LineProgress(ConsoleProgress):
    """Lines at the start and the end of a stage, and at about every tenth of it."""

    SHORTEST = 1.0
    """Seconds between two lines of a stage: short stages take two lines, not twelve."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        """Write to `console`; `clock` returns seconds."""
        super().__init__(console)
        self._clock = clock
        self._title, self._total, self._done, self._status = "", 0, 0, Text()
        self._begin = self._last = clock()

    def start(self, title: str, total: int) -> None:
        """Write that a stage begins."""
        self.stop()
        self._title, self._total, self._done, self._status = title, total, 0, Text()
        self._begin = self._last = self._clock()
        self.console.print(f"{title} ...")

    def advance(self, units: int = 1) -> None:
        """Write a line when another tenth is done."""
        tenth = 10 * self._done // max(self._total, 1)
        self._done += units
        is_due = 10 * self._done // max(self._total, 1) > tenth and self._clock() - self._last >= self.SHORTEST
        if is_due and self._done < self._total:
            self._line()

    def step(self, record: Mapping[str, Any]) -> None:
        """Keep the record for the next line."""
        self._status = status(record)

    def stop(self) -> None:
        """Write that the stage is over, and how long it took."""
        if self._title:
            self._line()
        self.close()

    def close(self) -> None:
        """Forget the stage."""
        self._title = ""

    def _line(self) -> None:
        self._last = self._clock()
        values = f": {self._status.plain}" if self._status else ""
        self.console.print(
            f"{self._title}, {self._done} of {self._total}, {_spaced(duration(self._last - self._begin))}{values}"
        )


class LiveProgress(ConsoleProgress):
    """A bar with the time left, and a line with the latest losses below it."""

    def __init__(self, console: Console) -> None:
        """Draw on `console`, a terminal."""
        super().__init__(console)
        self._bar: _Bar | None = None
        self._title = ""
        self._begin = 0.0

    def start(self, title: str, total: int) -> None:
        """Draw a new bar."""
        self.stop()
        self._title, self._begin = title, time.monotonic()
        self._bar = _Bar(self.console)
        self._bar.add_task(title, total=total)
        self._bar.start()

    def advance(self, units: int = 1) -> None:
        """Move the bar."""
        if self._bar:
            self._bar.advance(self._bar.task_ids[0], units)

    def step(self, record: Mapping[str, Any]) -> None:
        """Draw the values of a step."""
        if self._bar:
            self._bar.status = status(record)

    def stop(self) -> None:
        """Replace the bar by a line that stays."""
        if self._bar:
            values = self._bar.status
            self.close()
            seconds = _spaced(duration(time.monotonic() - self._begin))
            self.console.print(Text(f"{self._title}, {seconds}" + (": " if values else "")).append_text(values))

    def close(self) -> None:
        """Remove the bar."""
        if self._bar:
            self._bar.stop()
        self._bar = None


class _Bar(bars.Progress):
    """One bar, with a line below."""

    def __init__(self, console: Console) -> None:
        self.status = Text()
        super().__init__(
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeRemainingColumn(),
            bars.TextColumn("left"),
            console=console,
            transient=True,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.status:
            yield self.status


def status(record: Mapping[str, Any]) -> Text:
    """Return the values of a step on one line; a loss that is held is red where it is above its bound."""
    text = Text(f"epoch {record['epoch']:.2f}")
    for key, label in (("loss", "loss"), ("forget_loss", "forget loss")):
        if record.get(key) is not None:
            text.append(f", {label} {record[key]:.4g}")
    kept = [key.removesuffix("_loss") for key in record if key.endswith("_loss") and key != "forget_loss"]
    for number, name in enumerate(kept):  # the first one's facts stand under plain names
        prefix = f"{name}_" if number else ""
        loss, bound = record[f"{name}_loss"], record.get(f"{prefix}bound")
        if loss is not None:
            exceeds = bound is not None and loss > bound
            text.append(f", {name} loss ").append(f"{loss:.4g}", style="red" if exceeds else "")
            text.append(f" (bound {bound:.4g})" if bound is not None else "")
        if record.get(f"{prefix}multiplier") is not None:
            text.append(f", multiplier {record[f'{prefix}multiplier']:.4g}")
    return text


def pairs(facts: Mapping[str, Any]) -> Table:
    """Return a table of labels and values."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for label, value in facts.items():
        table.add_row(visible(str(label)), visible(_written(value)))
    return table


def environment_facts(environment: Mapping[str, Any]) -> dict[str, str]:
    """Return the part of `environment` that a bug report needs, in words."""
    processor, torch = environment["processor"], environment["torch"]
    facts = {name: environment[name] or "not installed" for name in ("amnestic", "python", "system")}
    facts["processor"] = f"{processor['model']}, {processor['usable_cores']} of {processor['cores']} cores"
    facts["instructions"] = " ".join(processor["flags"]) or "unknown"
    facts["memory"] = _spaced(size(environment["memory_bytes"])) if environment["memory_bytes"] else "unknown"
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
        values = [_written(course[place]["value"]) for place in (0, 1, -1)] if course else ["-"] * 3
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

    console.print(settings_table(settings))
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
        interval = "" if low is None else f"{_written(low)} to {_written(high)}"
        table.add_row(visible(row.key), _written(row.after), interval)
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
        table.add_row(visible(row.key), *(_written(getattr(row, name)) for name in columns))
    return table


def _written(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _spaced(text: str) -> str:
    """Return `text` with plain blanks: logs are searched, and some streams take ASCII alone."""
    return text.replace("\u00a0", " ")


def _readable(text: str) -> str:
    """Return `text` with its line breaks, other unsafe characters as escapes, and its middle left out if it is long."""
    if len(text) > PREVIEW:
        text = f"{text[: PREVIEW // 2]} [...] {text[-PREVIEW // 2 :]}"
    return "\n".join(visible(line) for line in text.split("\n"))
