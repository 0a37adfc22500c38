"""A leaderboard as text: for a terminal, as Markdown, as CSV and as JSON."""

import csv
import io
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .display import NOTHING, visible
from .entries import Entry
from .figures import KEPT, KNOWN_KEPT, PRIVLEAK, UTILITY, Figure
from .rows import Row
from .seeds import Spread

if TYPE_CHECKING:
    from rich.table import Table

    from .leaderboard import Leaderboard

ON_TERMINAL = ("forget.knowmem", "forget_quality_log10", "forget.exact_memorization")
"""The first of them that is measured stands in the terminal, beside what was forgotten and what was kept."""
STYLES = {"feasible": "green", "infeasible": "bold red", "failed": "bold red"}
MARKUP = re.compile(r"([\\`*<>\[\]|&~])|(?<![^\W_])(_)|(_)(?![^\W_])")
"""What Markdown could take for its own; an underscore within a word is none of it."""


def terminal(board: "Leaderboard") -> "Table":
    """Return means alone, of the few columns that fit beside each other in 80 letters."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("method", overflow="fold", vertical="bottom")
    table.add_column("setting", overflow="fold", vertical="bottom")
    if board.folds:
        table.add_column("fold", overflow="fold", vertical="bottom")
    table.add_column("bound", no_wrap=True, vertical="bottom")
    columns = _on_terminal(board)
    for column in columns:
        table.add_column(column.label, justify="right", vertical="bottom")
    for row in board.rows:
        means = [_plainly(column, row.values.get(column.key)) for column in columns]
        held = Text(row.held, style=STYLES.get(row.state or "", ""))
        named = [Text(visible(text)) for text in (row.method, row.setting, *_fold(board, row, ""))]
        table.add_row(*named, held, *means)
    return table


def _on_terminal(board: "Leaderboard") -> list[Figure]:
    known = {column.key: column for column in board.columns}
    forgotten, kept = board.axes
    choices = (ON_TERMINAL, UTILITY, (PRIVLEAK,) if kept and kept.key == KNOWN_KEPT else (KEPT,))
    found = (next((known[key] for key in keys if key in known), None) for keys in choices)
    return [column for column in (forgotten, *found) if column]


def _fold(board: "Leaderboard", row: Row, nothing: str) -> list[str]:
    """Return the cell of a row's fold, where the table has such a column."""
    return [row.fold or nothing] if board.folds else []


def _plainly(column: Figure, spread: Spread | None) -> str:
    """Return a mean in letters that every terminal has, and logs are searched for."""
    if spread is None:
        return "-"
    return column.written(spread.mean).replace("\u00a0", " ") if column.key == KEPT else f"{spread.mean:.3g}"


def markdown(board: "Leaderboard") -> str:
    """Return the leaderboard as a GitHub table, with the facts above and what to know below it."""
    columns = board.shown()
    lines = ["# Leaderboard", "", escaped(board.verdict), ""]
    lines += [f"- {escaped(label)}: {escaped(fact)}" for label, fact in board.facts.items()]
    named = ["Method", "Setting", *(["Fold"] if board.folds else []), "Seeds", "Bound"]
    lines += ["", _line([*named, *(escaped(column.label) for column in columns)])]
    lines.append(_line(["---"] * len(named) + ["---:"] * len(columns)))
    for row in board.rows:
        folds = [escaped(fold) for fold in _fold(board, row, NOTHING)]
        named = [escaped(row.method), escaped(row.setting) or NOTHING, *folds, _seeds(row), row.held or NOTHING]
        lines.append(_line(named + [_with_interval(column, row.values.get(column.key)) for column in columns]))
    lines += ["", *(f"- {escaped(sentence)}" for sentence in (*readings(board), *board.notes))]
    if failed := [entry for entry in board.entries if entry.results is None]:
        lines += ["", "## Failed runs", "", *(f"- {escaped(failure(entry))}" for entry in failed)]
    return "\n".join(lines) + "\n"


def readings(board: "Leaderboard") -> list[str]:
    """Return what a change of each column of the tables for people means."""
    return [f"{column.label}: {column.direction}." for column in board.shown() if column.direction]


def failure(entry: Entry) -> str:
    """Return what happened to a run that failed."""
    return f"{entry.name}: {entry.error or 'it left no reason'}"


def _seeds(row: Row) -> str:
    return str(len(row.entries)) if row.entries else NOTHING


def _with_interval(column: Figure, spread: Spread | None) -> str:
    if spread is None:
        return NOTHING
    mean = column.written(spread.mean)
    if spread.low is None or spread.high is None:
        return mean
    return f"{mean} ({column.written(spread.low)} to {column.written(spread.high)})"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escaped(text: str) -> str:
    """Return a text in one line that is no markup."""
    return MARKUP.sub(r"\\\g<0>", " ".join(visible(text).split()))


def csv_of_rows(board: "Leaderboard") -> str:
    """Return a line for each row: means, with the ends of their intervals in columns of their own."""
    keys = [column.key for column in board.columns]
    header = ["method", "setting", "fold", "forget_tokens", "seeds", "failed", "state", "held"]
    lines: list[list[Any]] = [[*header, *(name for key in keys for name in (key, f"{key}.low", f"{key}.high"))]]
    for row in board.rows:
        states = [entry.state for entry in row.entries]
        counts = [len(states), states.count("failed"), row.state, states.count("feasible") if row.is_bounded else None]
        numbers = [number for key in keys for number in _ends(row.values.get(key))]
        lines.append([row.method, row.setting, row.fold, row.forget_tokens, *counts, *numbers])
    return _csv(lines)


def _ends(spread: Spread | None) -> tuple[float | None, float | None, float | None]:
    return (None, None, None) if spread is None else (spread.mean, spread.low, spread.high)


def csv_of_runs(board: "Leaderboard") -> str:
    """Return a line for each run."""
    keys = [column.key for column in board.columns]
    header = ["method", "setting", "fold", "forget_tokens", "seed", "folder", "state", "error"]
    lines: list[list[Any]] = [[*header, *keys]]
    for entry in board.entries:
        forgot = [entry.method, entry.setting, entry.fold, entry.forget_tokens]
        ended = [entry.seed, entry.folder, entry.state, entry.error]
        lines.append([*forgot, *ended, *(entry.values.get(key) for key in keys)])
    return _csv(lines)


def _csv(lines: Iterable[Iterable[Any]]) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows([[visible(cell) for cell in line] for line in lines])
    return written.getvalue()


def records(board: "Leaderboard") -> list[dict[str, Any]]:
    """Return the rows with their runs, as JSON holds them."""
    return [_record(row) for row in board.rows]


def _record(row: Row) -> dict[str, Any]:
    record: dict[str, Any] = {"method": row.method, "setting": row.setting or None, "state": row.state}
    if row.fold is not None:
        record |= {"fold": row.fold, "forget_tokens": row.forget_tokens}
    if row.is_bounded:
        states = [entry.state for entry in row.entries]
        record["bound_held"] = {"held": states.count("feasible"), "of": len(states)}
    record["values"] = {
        key: {"mean": spread.mean, "low": spread.low, "high": spread.high, "count": spread.count}
        for key, spread in row.values.items()
    }
    record["missing"] = dict(row.missing)
    record["runs"] = [_run(entry) for entry in row.entries]
    return record


def _run(entry: Entry) -> dict[str, Any]:
    run: dict[str, Any] = {"seed": entry.seed, "folder": str(entry.folder), "state": entry.state}
    results: Mapping[str, Any] = entry.results or {}
    if entry.error is not None:
        run["error"] = entry.error
    if "verdict" in results:
        run["verdict"] = results["verdict"]
    return run | {"values": entry.values}
