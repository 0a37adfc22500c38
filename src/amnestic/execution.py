"""What every command that trains does around its training: announce, time, measure, save, check, write."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .config import FinetuneConfig, UnlearnConfig, write_yaml
from .data.encode import Encoded
from .errors import InputError, RunError
from .evaluation.collect import Collected, collect, rows, suite
from .evaluation.needs import Subject
from .inputs import Given, Inputs, gather
from .model.load import Loaded, checkpointed, digest, load, round_to_saved, save
from .model.options import ModelOptions
from .progress import Observers, Progress
from .reports.environment import environment, file_hashes
from .reports.render import render_report
from .reports.results import SCHEMA
from .reports.run_folder import RunFolder, peak_memory
from .sharing import Sharing
from .training.loop import Plan
from .training.optimizer import check_library
from .training.problem import Problem

RELOAD_TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 3e-2, "float16": 3e-3}
"""Largest difference between the live and the reloaded model's loss on an example, in nats a token."""

Measured = Mapping[str, Sequence[Encoded]]


@dataclass(frozen=True)
class Check:
    """The losses by which a saved model is compared with the live one."""

    problem: Problem
    split: str
    examples: Sequence[Encoded]

    def losses(self, model: Any, batch_size: int) -> np.ndarray:
        """Return the loss of each example under `model`, in nats a token, (B,); that of the split's last term."""
        sums = replace(self.problem, model=model).measure(self.split, self.examples, batch_size)[-1]
        means: np.ndarray = sums.sums / np.maximum(sums.counts, 1)
        return means


class Execution:
    """One execution of a command: its folder, its clock, its observer."""

    def __init__(self, config: UnlearnConfig | FinetuneConfig, progress: Progress | None, given: Given | None) -> None:
        """Check the output folder, and touch nothing; raises InputError where it cannot be used."""
        self.config = config
        self.given = given or Given()
        check_library(config.training)
        self.folder = RunFolder(config.run.output_dir, config.run.overwrite)
        self.sharing = Sharing(config, self.folder, progress or Progress())
        self.progress: Progress = Observers(progress or Progress(), self.sharing.tracking)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds of the context to those of `stage`."""
        begin = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begin

    @property
    def batch_size(self) -> int:
        """Return the examples of a split in one optimiser step."""
        training = self.config.training
        return training.per_device_train_batch_size * training.gradient_accumulation_steps

    def gather(self, sources: Mapping[str, str], exclude: str | None = None) -> Inputs:
        """Read what the configuration names; raises InputError for what cannot be used, or would be overwritten."""
        config = self.config
        inputs = gather(sources, exclude, config.model, config.data, config.training.seed, self.given)
        self.folder.refuse_inputs([*inputs.files, *inputs.loaded.files])
        if not any(parameter.requires_grad for parameter in inputs.loaded.model.parameters()):
            raise InputError("no parameter of the model is trainable; set requires_grad of those that should learn.")
        with checkpointed(inputs.loaded, config.training.gradient_checkpointing):
            pass  # a model that has no checkpointing is refused here, before anything is written
        return inputs

    def announce(self, inputs: Inputs, plan: Plan, facts: Mapping[str, Any]) -> None:
        """Show one rendered example, the size of the work, and whatever should be known before it starts.

        Raises InputError where the model could not be uploaded afterwards.
        """
        first = next(iter(inputs.splits.values()))
        self.progress.preview(inputs.encoder.preview(first.examples[0]))
        counts = {
            f"{name} split": f"{len(split.examples)} examples, {split.scored} scored tokens"
            for name, split in inputs.splits.items()
        }
        steps = {"steps": f"{plan.steps}, {plan.steps_per_epoch} an epoch", "effective batch": self.batch_size}
        self.progress.plan(counts | steps | dict(facts))
        for note in inputs.loaded.notes:
            self.progress.note(note)
        self.sharing.prepare()

    def measure(self, title: str, loaded: Loaded, measured: Measured) -> Collected:
        """Measure a model with every metric on each split of `measured`."""
        subject = Subject(loaded, measured, self.config.evaluation, self.progress.advance)
        metrics = suite(measured)
        self.progress.start(title, rows(subject, metrics))
        return collect(subject, metrics)

    @contextmanager
    def opened(self, inputs: Inputs) -> Iterator[None]:
        """Create the run folder; however the context ends, what only training needed is gone from it."""
        self.folder.open()
        try:
            self._describe(inputs)
            with self.sharing.guarded():
                self.sharing.open(self.config)
                yield
        finally:
            self.folder.close()

    def _describe(self, inputs: Inputs) -> None:
        """Write the resolved configuration and the environment."""
        run = replace(self.config.run, overwrite=False)  # repeating a run must not silently replace it
        write_yaml(replace(self.config, run=run), self.folder.path / "config.yaml")
        files = [*inputs.files, *inputs.loaded.files]
        training = self.config.training
        facts = {
            "dtype": str(inputs.loaded.model.dtype).removeprefix("torch."),
            "device": str(inputs.loaded.model.device),
            "seed": training.seed,
            "sha256": file_hashes(files),
        }
        self.folder.write("environment.json", environment() | facts)

    def recorder(self, complete: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[dict[str, Any]], None]:
        """Return what the loop calls after each step; `complete` turns the loop's record into the one that is shown."""

        def record(values: dict[str, Any]) -> None:
            values = complete(values)
            if values["step"] % self.config.training.logging_steps == 0:
                self.folder.log(values)
            self.progress.step(values)
            self.progress.advance()

        return record

    def save(self, loaded: Loaded, digest_before: str, check: Check) -> float:
        """Save the model, load it again, and return the largest difference of the losses on `check`, in nats a token.

        Raises RunError where the weights did not change, or the reloaded model differs from the live one.
        """
        round_to_saved(loaded)
        if digest(loaded) == digest_before:
            raise RunError(_unchanged(self.config.training.learning_rate, loaded))
        self.progress.start("save and check the model", 2)
        self.folder.replace("model", lambda path: save(loaded, path))
        self.progress.advance()
        size = self.config.evaluation.per_device_eval_batch_size
        live = check.losses(loaded.model, size)
        if not np.isfinite(live).all():
            raise RunError(f"the trained model's loss on {check.split} is {live.sum():g}; lower --learning_rate.")
        dtype = str(loaded.model.dtype).removeprefix("torch.")
        options = ModelOptions(model=str(self.folder.path / "model"), dtype=dtype, device=str(loaded.model.device))  # type: ignore[arg-type]
        again = load(options)
        difference = float(np.abs(live - check.losses(again.model, size)).max())
        self.progress.advance()
        if not difference <= RELOAD_TOLERANCE[dtype]:
            raise RunError(
                f"the saved model in {self.folder.path / 'model'} differs from the live one by {difference:.3g} nats a "
                f"token on the {check.split} examples; expected at most {RELOAD_TOLERANCE[dtype]:g}."
            )
        return difference

    def finish(
        self, results: dict[str, Any], inputs: Inputs, collected: Mapping[str, Collected], measured: Measured
    ) -> dict[str, Any]:
        """Write scores, results and report, and return the whole results."""
        for split, examples in measured.items():
            self.folder.write_scores(split, scores(split, examples, collected))
        results = {
            "schema": SCHEMA,
            "model": self.config.model.model,
            **results,
            "data": inputs.facts,
            "template": inputs.encoder.facts(next(iter(inputs.examples.values()))[0]),
            "timings": self.seconds,
            "peak_memory_bytes": peak_memory(),
            "notes": inputs.loaded.notes + self.sharing.notes(self.config, results["status"]),
        }
        with self.sharing.guarded():
            self.folder.write("results.json", results)
            if "bound" in results:
                render_report(self.folder.path)
            self.progress.stop()
            return self.sharing.finish(self.config, results, inputs.sources)

    def training_facts(self, plan: Plan, seconds: float) -> dict[str, Any]:
        """Return what results.json records of the training."""
        return {
            "steps": plan.steps,
            "epochs": plan.steps / plan.steps_per_epoch,
            "effective_batch": self.batch_size,
            "seconds": seconds,
            "seconds_per_step": seconds / plan.steps,
        }


def scores(split: str, examples: Sequence[Encoded], collected: Mapping[str, Collected]) -> dict[str, list[Any]]:
    """Return the columns of the per-example values of one split: one row for each model and example."""
    columns: dict[str, list[Any]] = {"id": [], "model": [], "prompt": [], "answer": [], "generated": []}
    for model, found in collected.items():
        columns["id"] += [example.id for example in examples]
        columns["model"] += [model] * len(examples)
        columns["prompt"] += [example.prompt for example in examples]
        columns["answer"] += [example.answer for example in examples]
        columns["generated"] += found.generated(split)
        for key, measurement in found.measurements.items():
            name, _, metric = key.partition(".")
            if name == split and measurement.per_example is not None:
                columns.setdefault(metric, []).extend(measurement.per_example.tolist())
    return columns


def evenly(examples: Sequence[Encoded], most: int) -> Sequence[Encoded]:
    """Return at most `most` of `examples`, evenly spaced."""
    if len(examples) <= most:
        return examples
    return [examples[i] for i in np.linspace(0, len(examples) - 1, most).round().astype(int)]


def _unchanged(learning_rate: float, loaded: Loaded) -> str:
    dtype = str(loaded.saved_dtype).removeprefix("torch.")
    return (
        f"no weight changed: at --learning_rate {learning_rate:g} every update was lost to rounding in {dtype}; raise "
        "it, or take more steps."
    )
