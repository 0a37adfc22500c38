"""What a judge found: means with intervals in judge.json, and the scores of each example beside it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.bootstrap import of_mean
from ..reports.files import write_json
from ..reports.judged import FILE, is_leading
from ..storage import write_file, writing
from .answers import Answer
from .asking import Outcome, Unanswered
from .cache import Verdict

FOLDER = "judge"
SCHEMA = 1


@dataclass(frozen=True)
class Judgement:
    """The scores of the answers of a run."""

    folder: Path
    """Of the run."""
    judged: Sequence[tuple[Answer, Outcome]]
    facts: Mapping[str, Any]
    """How they were made, as judge.json tells it."""

    @cached_property
    def results(self) -> dict[str, Any]:
        """Return the content of judge.json."""
        models = {model: self._of_model(model) for model in self._models}
        results = {"schema": SCHEMA, "command": "judge", "verdict": self._verdict(models), **self.facts}
        served = sorted({outcome.model for _, outcome in self.scored if outcome.model})
        return results | {"served_models": served, "models": models, "tokens": self._tokens}

    @property
    def scored(self) -> list[tuple[Answer, Verdict]]:
        """Return the answers that have scores."""
        return [(answer, outcome) for answer, outcome in self.judged if isinstance(outcome, Verdict)]

    @property
    def unanswered(self) -> int:
        """Return how many answers have no scores."""
        return len(self.judged) - len(self.scored)

    @property
    def _models(self) -> list[str]:
        return list(dict.fromkeys(answer.model for answer, _ in self.judged))

    def _of_model(self, model: str) -> dict[str, Any]:
        """Return the means and intervals of one model, by split and criterion, and what has none."""
        values: dict[str, list[float]] = {}
        for answer, verdict in self.scored:
            for criterion, score in verdict.scores.items() if answer.model == model else ():
                values.setdefault(f"{answer.split}.{criterion}", []).append(score)
        intervals = {key: of_mean(np.array(scores)) for key, scores in values.items()}
        unanswered: dict[str, Counter[str]] = {}
        for answer, outcome in self.judged:
            if isinstance(outcome, Unanswered) and answer.model == model:
                unanswered.setdefault(answer.split, Counter())[outcome.reason] += 1
        return {
            "metrics": {key: float(np.mean(scores)) for key, scores in values.items()},
            "intervals": {key: list(interval) for key, interval in intervals.items() if interval is not None},
            "answered": dict(Counter(answer.split for answer, _ in self.scored if answer.model == model)),
            "unanswered": unanswered,
        }

    @property
    def _tokens(self) -> dict[str, int]:
        """Return what the replies cost, as the server counted: each prompt once, however many answers it is about."""
        verdicts = {id(outcome): outcome for _, outcome in self.judged}.values()
        costs = [outcome.verdict if isinstance(outcome, Unanswered) else outcome for outcome in verdicts]
        return {
            "sent": sum(cost.sent for cost in costs),
            "received": sum(cost.received for cost in costs),
            "uncounted_replies": sum(cost.uncounted for cost in costs),
        }

    def _verdict(self, models: Mapping[str, Mapping[str, Any]]) -> str:
        told = [text for split in self.facts["prompts"] if (text := _course(split, models))]
        lost = f"; {self.unanswered} of {len(self.judged)} answers have no scores" if self.unanswered else ""
        return f"Judged by {self.facts['judge_model']}, 0 to 10: {'; '.join(told) or 'nothing'}{lost}."

    def write(self) -> None:
        """Write scores and judge.json; raises RunError where the file system refuses."""
        folder = self.folder / FOLDER
        with writing(folder):
            folder.mkdir(exist_ok=True)
            for earlier in folder.glob("*.parquet"):  # another call may have been about other splits
                earlier.unlink()
        for split in self.facts["prompts"]:
            _write_table(folder / f"{split}.parquet", [row for row in self.judged if row[0].split == split])
        write_json(self.folder / FILE, self.results)


def _course(split: str, models: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what the verdict says of a split: its leading criterion, of the models before, after and retrained."""
    keys = [key for found in models.values() for key in found["metrics"] if key.rpartition(".")[0] == split]
    if not keys:
        return ""
    key = next(filter(is_leading, keys), keys[0])
    values = {model: f"{found['metrics'][key]:.3g}" for model, found in models.items() if key in found["metrics"]}
    text = " -> ".join(values.pop(model) for model in ("before", "after") if model in values)
    others = ", ".join(value if model == "model" else f"{model} {value}" for model, value in values.items())
    name = f"{split} {key.rpartition('.')[2].replace('_', ' ')}"
    return f"{name} {text} ({others})" if text and others else f"{name} {text or others}"


def _write_table(path: Path, judged: Sequence[tuple[Answer, Outcome]]) -> None:
    """Write one row a model and example: its scores, or why it has none."""
    import pyarrow
    import pyarrow.parquet

    criteria = dict.fromkeys(name for _, outcome in judged if isinstance(outcome, Verdict) for name in outcome.scores)
    reasons = [outcome.reason if isinstance(outcome, Unanswered) else None for _, outcome in judged]
    columns: dict[str, Any] = {
        "id": [answer.id for answer, _ in judged],
        "model": [answer.model for answer, _ in judged],
        **{name: [_score(outcome, name) for _, outcome in judged] for name in criteria},
        "unanswered": pyarrow.array(reasons, pyarrow.string()),  # of a type also where there is none
    }
    table = pyarrow.table(columns)
    write_file(path, lambda temporary: pyarrow.parquet.write_table(table, temporary))


def _score(outcome: Outcome, criterion: str) -> float | None:
    return outcome.scores.get(criterion) if isinstance(outcome, Verdict) else None
