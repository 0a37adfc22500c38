"""One evaluation: the data that a model is measured on, what it is held beside, and the folder of the outcome."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from . import processes
from .benchmarks.base import open_benchmark
from .config import EvalConfig, write_yaml
from .data.quoting import hiding_rows
from .errors import Interrupted
from .evaluation.collect import Suite, collect, wanted_metrics
from .evaluation.metric import Contents, Measurement
from .evaluation.needs import OfRetrained
from .evaluation.plan import Plan, planned
from .evaluation.store import Store
from .inputs import Given, Inputs, Loading, gather_measured, load_beside
from .interruption import Interruption
from .measuring import Measured, Measuring, Recorded, joined
from .model.load import Loaded, digest
from .model.options import AdapterOptions
from .model.sharding import device_of
from .progress import Progress
from .reports.environment import environment, file_hashes
from .reports.redaction import Redaction
from .reports.results import SCHEMA
from .reports.run_folder import RunFolder, peak_memory
from .retrained import Earlier
from .shortage import memory_explained

SPLITS = ("forget", "retain", "holdout")
"""The files that one may give in place of a benchmark."""


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
            run = config.run
            self.folder = RunFolder(run.output_dir, run.overwrite, "evaluation", is_written_here=processes.is_first())
            self.opened = None if config.data.benchmark is None else open_benchmark(config.data.benchmark, config.data.data)

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

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds of the context to those of `stage`."""
        begin = time.perf_counter()
        self.seconds.setdefault(stage, 0.0)
        yield
        self.seconds[stage] += time.perf_counter() - begin

    def gather(self) -> Inputs:
        """Load the model, and read and encode what it is measured on; raises InputError for what cannot be used."""
        config = self.config
        sources, most = self._sources()
        with hiding_rows(self.redaction.is_on):
            loading = Loading(config.model, AdapterOptions(), config.sharding, 0)
            inputs = gather_measured(sources, most, loading, config.data, self.given)
        with processes.agreed():
            self.folder.refuse_inputs([*inputs.files, *inputs.loaded.files])
        return inputs

    def _sources(self) -> tuple[dict[str, Any], int | None]:
        """Return split -> what is read for it, and the most rows of each."""
        if self.opened is not None:
            return dict(self.opened.evaluation), None
        named = {split: getattr(self.config.data, split) for split in SPLITS}
        return {split: name for split, name in named.items() if name is not None}, self.config.evaluation.eval_rows

    @property
    def notes(self) -> Mapping[str, str]:
        """Return split -> a sentence to be read with whatever is measured on it."""
        return {} if self.opened is None else self.opened.notes

    def measuring(self, inputs: Inputs) -> Measuring:
        """Return how the model is measured; what it is held beside is loaded, and a retrained one measured."""
        options = self.config.evaluation
        measured = Measured.of(inputs.encoder, inputs.examples, self.notes)
        reference = None
        if options.reference is not None:
            reference = load_beside(inputs, self.config.model, options.reference, "--reference")
        store = Store(options.cache_dir or self.folder.checkpoints, self.redaction.held_back)
        return Measuring(options, measured, store, reference)

    def beside(self, inputs: Inputs, measuring: Measuring) -> tuple[Measuring, dict[str, Any]]:
        """Return `measuring` with what is known of the retrained model, and what results.json says of that model."""
        name = self.config.evaluation.retrained
        if name is None:
            return measuring, {}
        with processes.agreed():
            earlier = Earlier.at(name)
            if earlier is not None:
                prompts = inputs.encoder.prompts(inputs.examples)
                found = earlier.measurements(measuring.measured.facts, prompts)
        if earlier is None:
            loaded = load_beside(inputs, self.config.model, name, "--retrained")
            found = self._measure_retrained(loaded, measuring)
        return replace(measuring, retrained=found), {"retrained": name}

    def _measure_retrained(self, loaded: Loaded, measuring: Measuring) -> dict[str, Measurement]:
        """Measure a retrained model for whatever a metric reads of it, and nothing else."""
        contents = replace(measuring.subject(loaded).contents, retrained=frozenset())
        asked = of_retrained(contents, measuring.options.metrics)
        return self.run(loaded, measuring, asked, "measure the retrained model").measurements

    def run(self, loaded: Loaded, measuring: Measuring, asked: Suite, title: str) -> Recorded:
        """Measure a model for the metrics `asked`."""
        subject = measuring.subject(loaded, self.progress.advance)
        self.progress.start(title, planned(subject, asked.needs).units)
        return Recorded.of(collect(subject, asked), asked, measuring.measured)

    def announce(self, inputs: Inputs, plan: Plan, asked: Suite) -> None:
        """Show one rendered example, and the work before it starts."""
        first = next(iter(inputs.splits.values())).examples[0]
        if not self.redaction.is_on:
            self.progress.preview(inputs.encoder.preview(first))
        counts = {f"{name} split": f"{len(split.examples):,} examples" for name, split in inputs.splits.items()}
        self.progress.plan(counts | {"metrics": len(asked.metrics)} | plan.facts)
        for note in inputs.loaded.notes:
            self.progress.note(note)

    @contextmanager
    def open(self, inputs: Inputs) -> Iterator[None]:
        """Create the folder, and describe the evaluation in it; what it needed to go on is gone when it has ended."""
        try:
            with processes.agreed():
                self.folder.open()
                self._describe(inputs)
            yield
        except BaseException:
            self.folder.close(has_ended=False)
            raise
        self.folder.close(has_ended=True)

    def _describe(self, inputs: Inputs) -> None:
        if not self.folder.is_written_here:
            return
        config = replace(self.config, run=replace(self.config.run, overwrite=False))
        write_yaml(config, self.folder.path / "config.yaml")
        described = environment()
        facts = {
            "dtype": str(inputs.loaded.model.dtype).removeprefix("torch."),
            "device": str(device_of(inputs.loaded.model)),
            "processes": processes.count(),
            "weights": digest(inputs.loaded),
            "sha256": file_hashes([*inputs.files, *inputs.loaded.files]),
            "command": self.redaction.command(described["command"], self.config.data.system_prompt),
        }
        self.folder.write("environment.json", described | facts)

    def conclude(self, inputs: Inputs, measuring: Measuring, recorded: Recorded, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write scores and results, and return the results, on all processes."""
        results: dict[str, Any] = {}
        with processes.agreed():
            if self.folder.is_written_here:
                for split in recorded.columns:
                    columns = joined(split, {"model": recorded})
                    self.folder.write_scores(split, self.redaction.columns(columns))
                results = self._results(inputs, measuring, recorded, facts)
                self.folder.write("results.json", results)
                self.progress.stop()
        return processes.from_first(results)

    def _results(
        self, inputs: Inputs, measuring: Measuring, recorded: Recorded, facts: Mapping[str, Any]
    ) -> dict[str, Any]:
        first = next(iter(inputs.examples.values()))[0]
        return {
            "schema": SCHEMA,
            "command": "eval",
            "status": "done",
            "verdict": verdict(recorded.values, self.config.data.benchmark),
            "model": self.config.model.model,
            **({} if self.config.data.benchmark is None else {"benchmark": self.config.data.benchmark}),
            **facts,
            **recorded.facts,
            "data": inputs.facts,
            "measured_on": self.redaction.measured(measuring.measured.facts),
            "template": self.redaction.template(inputs.encoder.facts(first)),
            "prompts": self.redaction.prompts(inputs.encoder.prompts(inputs.examples)),
            "timings": self.seconds | recorded.seconds,
            "peak_memory_bytes": peak_memory(),
            "notes": inputs.loaded.notes,
            **({"redacted": True} if self.redaction.is_on else {}),
        }


def of_retrained(contents: Contents, names: tuple[str, ...]) -> Suite:
    """Return the suite of what the metrics called `names` read of a retrained model."""
    wanted = wanted_metrics(contents, names)
    needs = [need for item in wanted for need in item.needs().values()]
    return Suite.of([need.metric for need in needs if isinstance(need, OfRetrained)], contents)


def verdict(values: Mapping[str, float], benchmark: str | None) -> str:
    """Return one sentence about what was measured."""
    names = {
        "forget.probability": "forget probability",
        "forget.rouge": "forget ROUGE",
        "retain.probability": "retain probability",
        "model_utility": "model utility",
        "forget_quality": "forget quality",
    }
    found = [f"{name} {values[key]:.3g}" for key, name in names.items() if key in values]
    where = f" on {benchmark}" if benchmark else ""
    return f"Measured{where}: {', '.join(found) or f'{len(values)} numbers'}."
