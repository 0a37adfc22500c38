"""What the command line draws: progress on stderr and results on stdout, live on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any, TextIO

from rich import progress as bars
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from .progress import Progress
from .reports.display import duration, visible

if TYPE_CHECKING:
    pass

PREVIEW = 800
"""Most characters that are shown of a stretch of scored, or of unscored, tokens."""


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
        self.console.print(spaced(visible(text)))

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
            stretch = readable("".join(token for token, _ in run))
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
            f"{self._title}, {self._done} of {self._total}, {spaced(duration(self._last - self._begin))}{values}"
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
            seconds = spaced(duration(time.monotonic() - self._begin))
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
        table.add_row(visible(str(label)), visible(written(value)))
    return table


def written(value: Any) -> str:
    """Return a value as tables show it; nothing as a dash."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def spaced(text: str) -> str:
    """Return `text` with plain blanks: logs are searched, and some streams take ASCII alone."""
    return text.replace("\u00a0", " ")


def readable(text: str) -> str:
    """Return `text` with its line breaks, other unsafe characters as escapes, and its middle left out if it is long."""
    if len(text) > PREVIEW:
        text = f"{text[: PREVIEW // 2]} [...] {text[-PREVIEW // 2 :]}"
    return "\n".join(visible(line) for line in text.split("\n"))
