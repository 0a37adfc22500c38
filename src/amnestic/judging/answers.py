"""The answers of a run that are judged: read from its scores, the same examples for every model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..errors import InputError, nearest
from ..reports.examples import MODELS, evenly
from ..reports.files import read_json

COLUMNS = ("id", "model", "prompt", "answer", "generated")
"""Columns of scores that a judge reads; the id stays here."""
COMMANDS = ("unlearn", "eval")


@dataclass(frozen=True)
class Answer:
    """What one model answered."""

    split: str
    model: str
    id: str
    question: str
    """As the model was given it, template included."""
    true: str
    given: str


@dataclass(frozen=True)
class JudgedRun:
    """A run that ended, with the answers that its models generated."""

    folder: Path
    results: Mapping[str, Any]

    @classmethod
    def at(cls, name: str) -> Self:
        """Return the run in the folder called `name`; raises InputError where there is none that can be judged."""
        folder = Path(name)
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}; expected the folder of a run of unlearn or eval.")
        if not (folder / "results.json").is_file():
            runs = sorted(folder.glob("*/*/results.json"))  # of a sequence, or of a comparison
            advice = f"name one of the runs in it, such as {runs[0].parent}" if runs else "let the run end first"
            raise InputError(f"{folder} holds no run that ended: it has no results.json; {advice}.")
        results = read_json(folder / "results.json")
        if (command := results.get("command")) not in COMMANDS:
            raise InputError(f"{folder} is a run of {command!r}; expected one of unlearn or eval.")
        if results.get("redacted"):
            raise InputError(f"the run in {folder} is redacted: it holds no texts, so there is nothing to judge.")
        return cls(folder, results)

    @property
    def tokenizer(self) -> Path | None:
        """Return the file of the run's tokenizer, where it lies on this machine."""
        places = [self.folder / "model", Path(str(self.results.get("model") or ""))]
        return next((file for place in places if (file := place / "tokenizer.json").is_file()), None)

    def answers(self, splits: Sequence[str], models: Sequence[str], rows: int) -> list[Answer]:
        """Return what `models` (none: all that answered) gave for at most `rows` examples of each split.

        Raises InputError for a split or a model without generated answers.
        """
        generated = {split: self._generated(split) for split in splits}
        found: list[Answer] = []
        for split, by_model in generated.items():
            wanted = list(dict.fromkeys(models or by_model))
            if missing := [model for model in wanted if model not in by_model]:
                raise InputError(
                    f"{self.folder} has no answers of a model '{missing[0]}' for the {split} split"
                    f"{nearest(missing[0], list(by_model)) or '.'} It has those of {', '.join(by_model)}."
                )
            shared = [id for id in by_model[wanted[0]] if all(id in by_model[model] for model in wanted)]
            if not shared:
                raise InputError(f"no example of the {split} split was answered by all of {', '.join(wanted)}.")
            found += [by_model[model][id] for model in wanted for id in evenly(shared, rows)]
        return found

    def _generated(self, split: str) -> dict[str, dict[str, Answer]]:
        """Return model -> id -> answer, of what was generated."""
        found: dict[str, dict[str, Answer]] = {}
        for row in self._rows(split):
            if row["generated"] is not None:
                answer = Answer(split, row["model"], row["id"], row["prompt"], row["answer"], row["generated"])
                found.setdefault(answer.model, {})[answer.id] = answer
        if not found:
            raise InputError(
                f"{self.folder} has no generated answers of the {split} split; measure the run with rouge among its "
                "--metrics, or name other --splits."
            )
        return {model: found[model] for model in sorted(found, key=_place)}

    def _rows(self, split: str) -> list[dict[str, Any]]:
        """Return the rows of one split; raises InputError where its file is missing or damaged."""
        import pyarrow.parquet

        path = self.folder / "scores" / f"{split}.parquet"
        if not path.is_file():
            known = sorted(file.stem for file in (self.folder / "scores").glob("*.parquet"))
            raise InputError(
                f"{self.folder} has no scores of a split '{split}'; it has {', '.join(known) or 'none'}, so name these "
                "with --splits."
            )
        try:
            rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path, columns=list(COLUMNS)).to_pylist()
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {path}: {error}.") from error
        if rows and rows[0].keys() != set(COLUMNS):
            raise InputError(f"{path} lacks one of the columns {', '.join(COLUMNS)}; expected the scores of a run.")
        return rows


def _place(model: str) -> tuple[int, str]:
    known = list(MODELS)
    return (known.index(model) if model in known else len(known), model)
