"""The outcome of an earlier evaluation, of a model that never saw the forget split, which another is held beside."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import processes
from .errors import InputError
from .evaluation.metric import Measurement
from .inputs import Inputs, load_beside
from .measuring import Measured, Recorded
from .model.load import Loaded
from .model.options import ModelOptions
from .reports.files import read_json
from .reports.prompts import refuse_other_prompts
from .reports.results import SCHEMA

RESULTS = "results.json"
MODEL = "model"
"""The model's row in the scores of an evaluation."""


@dataclass(frozen=True)
class Earlier:
    """An evaluation that ended."""

    folder: Path
    results: Mapping[str, Any]

    @classmethod
    def at(cls, name: str) -> "Earlier | None":
        """Return the evaluation in the folder, or of the results file, called `name`; None where there is no such.

        Raises InputError for results that no evaluation wrote.
        """
        path = Path(name)
        folder = path.parent if path.name == RESULTS else path
        if not (folder / RESULTS).is_file():
            if path.suffix == ".json":
                raise InputError(f"--retrained {name} is no {RESULTS} of an evaluation; give its folder.")
            return None
        results = read_json(folder / RESULTS)
        if not isinstance(results, dict) or results.get("schema") != SCHEMA:
            raise InputError(f"--retrained {name} holds results that this version cannot read; evaluate it again.")
        if results.get("command") != "eval":
            return None
        return cls(folder, results)

    def measurements(self, own: Measured) -> dict[str, Measurement]:
        """Return what was measured, with the values of each example, to stand beside a model measured on `own`.

        Raises InputError where the two were not measured on the same: the numbers could not be compared.
        """
        self._refuse_damaged()
        measured = self.results["measured_on"]
        if "forget" not in measured or "forget" not in own.splits:
            raise InputError(
                f"--retrained {self.folder} was not measured on a forget split; evaluate it on the same data."
            )
        if "content" not in measured["forget"]:
            raise InputError(
                f"--retrained {self.folder} is redacted, so nobody can tell whether it was measured on the same rows; "
                "give the model itself."
            )
        facts = own.facts
        shared = [split for split in facts if split in measured]
        for split in shared:
            self._refuse_other(split, measured[split], facts[split])
        refuse_other_prompts(own.template, self.results, f"--retrained {self.folder}")
        for split in shared:
            if measured[split]["tokens"] != facts[split]["tokens"]:
                raise InputError(
                    f"--retrained {self.folder} read the same {split} rows as other tokens; expected a model of the "
                    "same tokenizer, measured with the same --max_length."
                )
        columns = {split: self._columns(split) for split in measured}
        try:
            return Recorded(dict(self.results["metrics"]), columns).measurements
        except (TypeError, ValueError) as error:
            raise InputError(
                f"the scores in {self.folder} are no numbers; evaluate the retrained model again."
            ) from error

    def _refuse_damaged(self) -> None:
        """Raise InputError for results that lack what every evaluation writes."""
        kinds = dict.fromkeys(("metrics", "measured_on", "template", "prompts"), dict)
        wrong = [name for name, kind in kinds.items() if not isinstance(self.results.get(name), kind)]
        if not wrong:
            numbers = self.results["metrics"].values()
            wrong += [] if all(isinstance(value, float | int) for value in numbers) else ["metrics"]
            needed = {"examples", "answers"} | (set() if self.results.get("redacted") else {"content", "tokens"})
            facts = self.results["measured_on"].values()
            is_whole = all(isinstance(found, dict) and found.keys() >= needed for found in facts)
            wrong += [] if is_whole else ["measured_on"]
        if wrong:
            raise InputError(
                f"--retrained {self.folder} is damaged: its {RESULTS} has no sound '{wrong[0]}'; evaluate it again."
            )

    def _refuse_other(self, split: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
        if there["content"] == here["content"]:
            return
        found = [f"{counts['examples']} rows with {_listed(counts['answers'])}" for counts in (there, here)]
        differ = f"{found[0]} there, {found[1]} here" if found[0] != found[1] else f"{found[0]} in both, other ones"
        raise InputError(
            f"--retrained {self.folder} was measured on another {split} split ({differ}); evaluate it on the same data."
        )

    def _columns(self, split: str) -> dict[str, list[Any]]:
        import pyarrow.parquet

        path = self.folder / "scores" / f"{split}.parquet"
        try:
            table = pyarrow.parquet.read_table(path)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read ({error}); evaluate the retrained model again.") from error
        rows = [row for row in table.to_pylist() if row.get("model") == MODEL]
        if len(rows) != (expected := self.results["measured_on"][split]["examples"]):
            raise InputError(
                f"{path} has {len(rows)} rows of the model; expected {expected}, as {RESULTS} says; evaluate the "
                "retrained model again."
            )
        return {name: [row[name] for row in rows] for name in table.column_names}


def _listed(answers: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}s" for kind, count in answers.items())


def files_of(retrained: Loaded | dict[str, Measurement] | None, name: str | None) -> list[Path]:
    """Return the local files behind what `find_retrained` found under `name`."""
    if isinstance(retrained, Loaded):
        return [*retrained.files]
    if retrained is None or name is None:
        return []
    return [Path(name) if Path(name).name == RESULTS else Path(name) / RESULTS]


def find_retrained(
    name: str | None, inputs: Inputs, options: ModelOptions, measured: Measured
) -> Loaded | dict[str, Measurement] | None:
    """Return what was measured of the retrained model `name`, or that model where nothing was yet.

    The folder of an evaluation stands for its numbers, that of a run for the model that it wrote. Raises InputError
    where it cannot be used.
    """
    if name is None:
        return None
    with processes.agreed():
        earlier = Earlier.at(name)
        if earlier is not None:
            return earlier.measurements(measured)
    inner = Path(name) / "model"
    return load_beside(inputs, options, str(inner) if (inner / "config.json").is_file() else name, "--retrained")
