"""One evaluation: the data that a model is measured on, what it is held beside, and the folder of the outcome."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from . import processes
from .benchmarks.base import Benchmark, Source
from .claims import PER_TOKEN, Claim, sentence
from .config import EvalConfig, write_yaml
from .data.encode import Encoded
from .data.example import Example
from .data.quoting import hiding_rows
from .errors import InputError, Interrupted
from .evaluation.collect import Suite, collect, metric_classes, suite, wanted_metrics
from .evaluation.conditions import Conditions
from .evaluation.metric import Contents, Measurement
from .evaluation.needs import OfRetrained
from .evaluation.plan import Plan, planned, vocabulary_rows
from .evaluation.store import FILE, Store
from .inputs import Given, Inputs, Loading, gather_measured, load_beside
from .interruption import Interruption
from .measuring import Measured, Measuring, Recorded, evenly, joined
from .model.load import Loaded, digest
from .model.options import AdapterOptions
from .model.sharding import device_of
from .progress import Progress, timed
from .reports.environment import environment, file_hashes
from .reports.files import read_json
from .reports.redaction import Redaction
from .reports.results import SCHEMA
from .reports.run_folder import RunFolder, peak_memory
from .shortage import memory_explained

SPLITS = ("forget", "retain", "holdout")
"""The files that one may give in place of a benchmark."""
WEIGHTS = "weights"
"""What environment.json calls the hash of the model that is measured."""


class Evaluating:
    """One execution of ``amnestic eval``: its folder, its clock and its observer."""

    def __init__(self, config: EvalConfig, progress: Progress | None, given: Given | None) -> None:
        """Check the output folder, and touch nothing; raises InputError where it cannot be used."""
        self.config = config
        self.given = given or Given()
        self.redaction = Redaction(config.run.redact)
        self.seconds: dict[str, float] = {}
        self.progress = progress if progress is not None and processes.is_first() else Progress()
        with processes.agreed():
            metric_classes(config.evaluation.metrics)  # an unknown name costs no loading
            run = config.run
            place = Path(run.output_dir)
            is_written_here = processes.is_first() and not config.evaluation.plan
            goes_on = is_written_here and not run.overwrite and _was_interrupted(place)
            self.folder = RunFolder(place, run.overwrite, goes_on, is_written_here, logs=False)
            self.folder.refuse_cache(config.evaluation.cache_dir)
            named = config.data.benchmark
            self.benchmark = None if named is None else Benchmark.open(named, config.data.data)
            self.claim = Claim.of(config.data)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Let the evaluation end with one sentence where somebody stops it, or memory runs out.

        Raises Interrupted and RunError.
        """
        try:
            with (
                Interruption(is_shared=processes.count() > 1).caught(),
                memory_explained(self.config, self.seconds, self._go_on),
                processes.loss_explained(self._go_on),
            ):
                yield
        except KeyboardInterrupt as error:
            raise Interrupted(f"interrupted.{self._go_on()}") from error
        finally:
            self.folder.release()

    def _go_on(self) -> str:
        if not self.folder.is_open and self.config.evaluation.cache_dir is None:
            return " Nothing was written."
        return " What was computed is kept: the same command goes on with what is missing."

    def timed(self, stage: str) -> AbstractContextManager[None]:
        """Add the seconds of the context to those of `stage`."""
        return timed(self.seconds, stage)

    def gather(self) -> Inputs:
        """Load the model, and read and encode what it is measured on; raises InputError for what cannot be used."""
        config = self.config
        named = {split: getattr(config.data, split) for split in SPLITS}
        sources = {split: Source(name) for split, name in named.items() if name is not None}
        with hiding_rows(self.redaction.is_on):
            if self.claim is not None:
                with processes.agreed():
                    told = self.claim.sources(config.data, self.given)
                    self.claim.refuse_changed(told)
                sources = told | {split: source for split, source in sources.items() if split == "holdout"}
            loading = Loading(config.model, AdapterOptions(), config.sharding, 0)
            inputs = gather_measured(sources, self.benchmark, loading, config.data, self.given, self._chosen)
        with processes.agreed():
            self.folder.refuse_inputs([*inputs.files, *inputs.loaded.files])
        return inputs

    def _chosen(self, split: str, examples: Sequence[Example]) -> Sequence[Example]:
        """Return the examples of a split that are encoded: no more than are measured, or of a run's what it needs."""
        if self.claim is not None and split != "holdout":
            return self.claim.chosen(split, examples)
        return evenly(examples, self.config.evaluation.eval_rows)

    @property
    def conditions(self) -> Conditions:
        """Return what the benchmark says of its splits, where there is one."""
        return Conditions() if self.benchmark is None else self.benchmark.conditions

    def measuring(self, inputs: Inputs) -> Measuring:
        """Return how the model is measured, without a store; a reference model is loaded."""
        options = self.config.evaluation
        splits: dict[str, Sequence[Encoded]] = {name: split.examples for name, split in inputs.splits.items()}
        if self.claim is not None:
            with processes.agreed():
                splits = dict(self.claim.rows(inputs.splits, options.eval_rows))
            options = replace(options, metrics=(*options.metrics, PER_TOKEN))
        elif self.benchmark is None:  # a text is several examples
            splits = {name: evenly(rows, options.eval_rows) for name, rows in splits.items()}
        measured = Measured.of(inputs.encoder, inputs.examples, splits, self.conditions)
        reference = None
        if options.reference is not None:
            reference = load_beside(inputs, self.config.model, options.reference, "--reference")
        return Measuring(options, measured, None, reference)

    def beside(self, retrained: Loaded | dict[str, Measurement] | None, measuring: Measuring) -> Measuring:
        """Return `measuring` with the numbers of the retrained model, which are measured where there are none yet.

        That is done for whatever a metric reads of it, and nothing else.
        """
        if isinstance(retrained, Loaded):
            asked = of_retrained(measuring.subject(retrained).contents, measuring.options.metrics)
            plan = planned(measuring.subject(retrained), asked.needs)
            retrained = self.run(retrained, measuring, asked, plan, "measure the retrained model").measurements
        return replace(measuring, retrained=retrained)

    def only_planned(self, inputs: Inputs, measuring: Measuring, retrained: Any) -> dict[str, Any]:
        """Show what would be computed, and return it; nothing is written."""
        cache = self.config.evaluation.cache_dir
        if cache is not None and (Path(cache) / FILE).is_file():
            measuring = replace(measuring, store=Store(cache))
        known = frozenset(retrained) if isinstance(retrained, dict) else None
        if isinstance(retrained, Loaded):
            asked = of_retrained(measuring.subject(retrained).contents, measuring.options.metrics)
            known = frozenset(item.key for item in asked.metrics)
        subject = measuring.subject(inputs.loaded)
        asked = suite(replace(subject.contents, retrained=known), measuring.options.metrics)
        plan = planned(subject, asked.needs)
        logits = vocabulary_rows(subject, asked.needs)
        counted = plan.facts | {"logits to compute": f"{logits:,} rows"}
        self.announce(inputs, counted, asked)
        return {
            "schema": SCHEMA,
            "command": "eval",
            "status": "planned",
            "verdict": "Nothing was computed.",
            "plan": asdict(plan) | {"vocabulary_rows": logits},
            "not_computed": asked.not_computed,
        }

    def run(self, loaded: Loaded, measuring: Measuring, asked: Suite, plan: Plan, title: str) -> Recorded:
        """Measure a model for the metrics `asked`."""
        subject = measuring.subject(loaded, self.progress.advance)
        self.progress.start(title, plan.units)
        return Recorded.of(collect(subject, asked), asked, measuring.measured)

    def announce(self, inputs: Inputs, plan: Mapping[str, Any], asked: Suite) -> None:
        """Show one rendered example, and the work before it starts."""
        first = next(iter(inputs.splits.values())).examples[0]
        if not self.redaction.is_on:
            self.progress.preview(inputs.encoder.preview(first))
        counts = {f"{name} split": f"{len(split.examples):,} examples" for name, split in inputs.splits.items()}
        self.progress.plan(counts | {"metrics": len(asked.metrics)} | dict(plan))
        for note in inputs.loaded.notes:
            self.progress.note(note)

    @contextmanager
    def open(self, inputs: Inputs) -> Iterator[Store]:
        """Create the folder, describe the evaluation in it, and yield what keeps all that is computed.

        What only served to go on is gone when the evaluation has ended.
        """
        store, weights = None, digest(inputs.loaded)
        cache, held_back = self.config.evaluation.cache_dir, self.redaction.held_back
        try:
            with processes.agreed():
                if cache:  # before the folder: one that cannot be used leaves nothing behind
                    store = Store(cache, held_back)
                self.folder.open(keeps={"checkpoints"})
                self._describe(inputs, weights)
                store = store or Store(self.folder.checkpoints, held_back)
            yield store
        except BaseException:
            self.folder.close(has_ended=False)
            raise
        finally:
            if store is not None:
                store.close()
        self.folder.close(has_ended=True)

    def _describe(self, inputs: Inputs, weights: str) -> None:
        if not self.folder.is_written_here:
            return
        described = environment()
        facts = {
            "dtype": dtype_name(inputs.loaded),
            "device": str(device_of(inputs.loaded.model)),
            "processes": processes.count(),
            WEIGHTS: weights,
            "sha256": file_hashes([*inputs.files, *inputs.loaded.files]),
            "command": self.redaction.command(described["command"], self.config.data.system_prompt),
        }
        self.folder.write("environment.json", described | facts)
        config = replace(self.config, run=replace(self.config.run, overwrite=False))
        write_yaml(config, self.folder.path / "config.yaml")

    def conclude(self, inputs: Inputs, measuring: Measuring, recorded: Recorded) -> dict[str, Any]:
        """Write scores and results, and return the results, on all processes."""
        results: dict[str, Any] = {}
        with processes.agreed():
            if self.folder.is_written_here:
                for split in recorded.columns:
                    columns = joined(split, {"model": recorded})
                    self.folder.write_scores(split, self.redaction.columns(columns))
                results = self._results(inputs, measuring, recorded)
                self.folder.write("results.json", results)
                self.progress.stop()
        return processes.from_first(results)

    def _results(self, inputs: Inputs, measuring: Measuring, recorded: Recorded) -> dict[str, Any]:
        template, config = measuring.measured.template, self.config
        said = verdict(recorded.values, config.data.benchmark)
        claim = None if self.claim is None else self.claim.facts(recorded.values, dtype_name(inputs.loaded))
        named = {
            "benchmark": config.data.benchmark,
            "retrained": config.evaluation.retrained,
            "reference": config.evaluation.reference,
        }
        return {
            "schema": SCHEMA,
            "command": "eval",
            "status": "done",
            "verdict": said if claim is None else f"{sentence(claim)} {said}",
            "model": self.config.model.model,
            **{name: value for name, value in named.items() if value is not None},
            **({} if claim is None else {"recomputed": claim}),
            **recorded.facts,
            "data": inputs.facts,
            "measured_on": self.redaction.measured(measuring.measured.facts),
            "template": self.redaction.template(template["template"]),
            "prompts": self.redaction.prompts(template["prompts"]),
            "work": recorded.work,
            "timings": self.seconds | recorded.seconds,
            "peak_memory_bytes": peak_memory(),
            "notes": inputs.loaded.notes,
            **({"redacted": True} if self.redaction.is_on else {}),
        }


def dtype_name(loaded: Loaded) -> str:
    """Return the name of the precision that a model computes in."""
    return str(loaded.model.dtype).removeprefix("torch.")


def _was_interrupted(place: Path) -> bool:
    """Return whether `place` holds what an evaluation leaves that did not end, wherever it kept its scores."""
    if (place / "results.json").exists() or (place / "train.jsonl").exists():
        return False
    with suppress(InputError):
        return (place / "checkpoints" / FILE).is_file() or WEIGHTS in read_json(place / "environment.json")
    return False


def of_retrained(contents: Contents, names: tuple[str, ...]) -> Suite:
    """Return the suite of what the metrics called `names` read of a retrained model, which has none beside it."""
    contents = replace(contents, retrained=frozenset())
    wanted = wanted_metrics(contents, names)
    needs = [need for item in wanted for need in item.needs().values()]
    return Suite.of([need.metric for need in needs if isinstance(need, OfRetrained)], contents)


def verdict(values: Mapping[str, float], benchmark: str | None) -> str:
    """Return one sentence about what was measured."""
    names = {
        "forget.verbmem": "forget VerbMem",
        "forget.knowmem": "forget KnowMem",
        "retain.knowmem": "retain KnowMem",
        "privleak": "PrivLeak",
        "forget.probability": "forget probability",
        "forget.rouge": "forget ROUGE",
        "retain.probability": "retain probability",
        "model_utility": "model utility",
        "forget_quality": "forget quality",
    }
    found = [f"{name} {values[key]:.3g}" for key, name in names.items() if key in values]
    where = f" on {benchmark}" if benchmark else ""
    count = f"{len(values)} number{'' if len(values) == 1 else 's'}"
    return f"Measured{where}: {', '.join(found) or count}."
