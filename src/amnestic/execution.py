"""What every command that trains does around its training: announce, time, measure, save, check, write."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import processes
from .benchmarks.base import Benchmark, Source
from .config import FinetuneConfig, UnlearnConfig, write_yaml
from .data.encode import Encoded, Split, fact, span_facts
from .data.quoting import hiding_rows
from .errors import InputError, Interrupted, RunError
from .evaluation.collect import collect, metric_classes
from .evaluation.plan import planned
from .evaluation.store import Store
from .identity import effective_batch
from .inputs import Given, Inputs, Loading, gather
from .interruption import Interruption
from .measuring import Measured, Measuring, Recorded, evenly, joined
from .model import adapter as adapters
from .model.compiling import compiled
from .model.fidelity import RELOAD_TOLERANCE, SAMPLED, Sample
from .model.load import Loaded, checkpointed, digest, merge_adapter, reload, round_to_saved, save
from .model.sharding import device_of
from .progress import Observers, Progress, timed
from .reports.environment import environment, file_hashes
from .reports.redaction import Redaction
from .reports.render import render_report
from .reports.results import SCHEMA, read_json
from .reports.run_folder import RunFolder, peak_memory
from .resuming import LATEST, Memory, goes_on_within, going_on, identity_of, refuse_other, source_of
from .sharing import Sharing
from .shortage import memory_explained, refuse_full_disk
from .storage import writing
from .training.checkpoint import Checkpoints, found_in, read_state, step_of
from .training.loop import Plan
from .training.optimizer import check_library
from .training.problem import Problem

MEASURED = "measured.json"
"""File of the checkpoints' folder that holds what was measured before the first step."""


@dataclass(frozen=True)
class Check:
    """The losses by which a saved model is compared with the live one."""

    problem: Problem
    split: str
    examples: Sequence[Encoded]

    def losses(self, model: Any, batch_size: int) -> np.ndarray:
        """Return the loss of each example under `model`, in nats a token, (B,); that of the split's last term."""
        measured = replace(self.problem, model=model).measure(self.split, self.examples, batch_size)
        of_split = [sums for term, sums in zip(self.problem.terms, measured, strict=True) if term.split == self.split]
        means: np.ndarray = of_split[-1].sums / of_split[-1].counts
        return means


ALWAYS = "probability"
"""The metric that is measured whatever others are asked for: a run's sentence tells it."""


class Execution:
    """One execution of a command: its folder, its clock, its observer, and where it goes on from."""

    def __init__(self, config: UnlearnConfig | FinetuneConfig, progress: Progress | None, given: Given | None) -> None:
        """Check the output folder, and touch nothing; raises InputError where it cannot be used."""
        self.config = config
        self.command = "unlearn" if isinstance(config, UnlearnConfig) else "finetune"
        self.given = given or Given()
        self.redaction = Redaction(config.run.redact)
        self.seconds: dict[str, float] = {}
        self.interruption = Interruption(is_shared=processes.count() > 1)
        is_first = processes.is_first()
        watcher = progress if progress is not None and is_first else Progress()
        with processes.agreed():
            metric_classes(config.evaluation.metrics)
            check_library(config.training)
            adapters.check_library(config.adapter)
            self.folder = RunFolder(config.run.output_dir, config.run.overwrite, goes_on_within(config), is_first)
            self.folder.refuse_cache(config.evaluation.cache_dir)
        try:
            with processes.agreed():
                source = source_of(config, self.folder.checkpoints, watcher.note)
                self.sharing = Sharing(config, self.folder, watcher)
            self.source = processes.from_first(source)  # another one may have looked later, or elsewhere
        except BaseException:
            self.folder.release()
            raise
        self.progress: Progress = Observers(watcher, self.sharing.tracking)
        self._identity: dict[str, Any] = {}
        self._memory: Memory | None = None
        self.digest_before = ""

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Let the run end with one sentence where somebody stops it, or memory runs out; both say how it goes on.

        Raises Interrupted and RunError.
        """
        try:
            with (
                self.interruption.caught(),
                memory_explained(self.config, self.seconds, self._go_on),
                processes.loss_explained(self._go_on),
            ):
                yield
        except KeyboardInterrupt as error:
            raise Interrupted(f"interrupted.{self._go_on()}") from error
        finally:
            self.folder.release()

    def _go_on(self) -> str:
        """Return a sentence, with a blank before it, that says how a run that did not end goes on."""
        file = self.folder.path / "config.yaml"
        if not self.folder.is_open:
            return " Nothing was written." if self.source is None else f" It can still go on from {self.source}."
        if not file.exists():
            return " There is nothing yet to go on from: start anew."
        if not self.config.training.is_resumable:
            return f" The state of --optim {self.config.training.optim} cannot be kept: start anew with --overwrite."
        found = found_in(self.folder.checkpoints)
        what = "No checkpoint was written; start again"
        if found:
            what = f"Its state after step {step_of(found[0])} is kept; go on"
        elif self.source is not None:
            return f" No further checkpoint was written; go on from {self.source} into another folder."
        if vars(self.given) != vars(Given()):
            return f" {what} by the same call with resume_from_checkpoint='{LATEST}'."
        return f" {what} with: {going_on(self.command, file, self.config, '--resume_from_checkpoint', LATEST)}"

    def identify(self, inputs: Inputs) -> None:
        """Find out what the run is made from; raises InputError where the checkpoint to go on from is of another run.

        To be called once the configuration is resolved, and before anything is measured.
        """
        found = digest(inputs.loaded)
        self.digest_before = digest(inputs.loaded, without_adapter=True) if self.config.adapter.merge else found
        self._identity = identity_of(self.command, self.config, inputs, found)
        if self.source is not None:
            refuse_other(self.source, read_state(self.source)["identity"], self._identity)
        folder = self.folder.checkpoints if self.source is None else self.source.parent
        self._refuse_unlike()
        is_resuming = self.config.checkpoints.resume_from_checkpoint is not None
        self._memory = Memory(self._identity, folder / MEASURED if is_resuming else None)

    def _refuse_unlike(self) -> None:
        """Raise InputError where the processes of the run start from different things."""
        others = processes.gathered(self._identity)
        if unlike := [number for number, identity in enumerate(others) if identity != others[0]]:
            named = [name for name in others[0] if others[0][name] != others[unlike[0]][name]]
            raise InputError(
                f"process {unlike[0]} of the run does not start from the same {' and '.join(named)} as process 0; give "
                "all of them the same files and options."
            )

    def recall(self, name: str, measure: Callable[[], Any]) -> Any:
        """Return what `measure` does, or did in the run that is resumed; as JSON holds it."""
        if self._memory is None:
            return measure()
        return self._memory.recall(name, measure)

    def recall_texts(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what `recall` does, of what was generated: a redacted run keeps nothing, and makes it again."""
        return make() if self.redaction.is_on else self.recall(name, make)

    def checkpoints(self) -> Checkpoints:
        """Return what writes the run's checkpoints, and reads the one that it goes on from."""
        return Checkpoints(
            self.folder.checkpoints,
            self.config.checkpoints,
            self._identity,
            self.interruption,
            self.source,
            is_resumable=self.config.training.is_resumable,
        )

    @property
    def reaches_all(self) -> bool:
        """Return whether each tensor must get a gradient in the first step.

        Not where a whole model is trained as it is: some hold tensors that no text reaches.
        """
        return self.config.adapter.use_peft or self.config.training.gradient_checkpointing

    def timed(self, stage: str) -> AbstractContextManager[None]:
        """Add the seconds of the context to those of `stage`."""
        return timed(self.seconds, stage)

    @property
    def batch_size(self) -> int:
        """Return the examples of a split in one optimiser step, over all processes."""
        return effective_batch(self.config.training)

    def gather(
        self, sources: Mapping[str, Source], exclude: str | None = None, benchmark: Benchmark | None = None
    ) -> Inputs:
        """Read what the configuration names; raises InputError for what cannot be used, or would be overwritten."""
        config = self.config
        with hiding_rows(self.redaction.is_on):
            settings = Loading(config.model, config.adapter, config.sharding, config.training.seed)
            inputs = gather(sources, exclude, settings, config.data, self.given, benchmark)
        with processes.agreed():
            self.folder.refuse_inputs([*inputs.files, *inputs.loaded.files])
        self._judge_adapter(inputs.loaded)
        if not any(parameter.requires_grad for parameter in inputs.loaded.model.parameters()):
            raise InputError("no parameter of the model is trainable; set requires_grad of those that should learn.")
        with self.training(inputs.loaded):
            pass  # a model that cannot be trained so is refused here, before anything is written
        return inputs

    @contextmanager
    def training(self, loaded: Loaded) -> Iterator[None]:
        """Hold the model in the form that it is trained in for as long as the context lasts."""
        options = self.config.training
        backend = options.torch_compile_backend if options.torch_compile else None
        with checkpointed(loaded, options.gradient_checkpointing), compiled(loaded.model, backend):
            yield

    def _judge_adapter(self, loaded: Loaded) -> None:
        """Note a learning rate at which an adapter hardly moves; raise InputError where nobody could load an upload."""
        if loaded.adapter is None:
            return
        base, rate = loaded.adapter.base, self.config.training.learning_rate
        if self.config.hub.push_to_hub and not loaded.adapter.options.merge and base is not None and base.is_local:
            raise InputError(
                f"--push_to_hub would upload an adapter whose base model is the folder {base.name}, which nobody else "
                "has; give --merge to upload the whole model, or a --model of the Hub."
            )
        if rate < adapters.SLOW:
            loaded.notes.append(
                f"an adapter hardly moves at --learning_rate {rate:g}: its second factor starts at 0; 1e-4 to 1e-3 is "
                "usual."
            )

    def announce(self, inputs: Inputs, plan: Plan, facts: Mapping[str, Any]) -> None:
        """Show one rendered example, the size of the work, and whatever should be known before it starts.

        Raises InputError where the model could not be uploaded afterwards.
        """
        first = preview_example(next(iter(inputs.splits.values())).examples)
        counts = {f"{name} split": _counted(split) for name, split in inputs.splits.items()}
        if self.redaction.is_on:  # screens are captured in logs
            counts["first example"] = f"{len(first.input_ids)} tokens, {first.scored} of them scored"
        else:
            show = self.progress.preview if first.is_span is None else self.progress.preview_spans
            show(inputs.encoder.preview(first))
        steps = {"steps": f"{plan.steps}, {plan.steps_per_epoch} an epoch", "effective batch": self.batch_size}
        self.progress.plan(counts | steps | dict(facts))
        for note in inputs.loaded.notes:
            self.progress.note(note)
        with processes.agreed():
            self.sharing.prepare()

    def measuring(self, measured: Measured) -> Measuring:
        """Return how models are measured on `measured`; raises InputError for a cache that cannot be used."""
        options = self.config.evaluation
        options = replace(options, metrics=(*options.metrics, ALWAYS))
        store = None if options.cache_dir is None else Store(options.cache_dir, self.redaction.held_back)
        return Measuring(options, measured, store)

    def measure(self, title: str, loaded: Loaded, measuring: Measuring) -> Recorded:
        """Measure a model with every metric that is asked for."""
        measuring = measuring.anew()  # training changes weights in place
        asked = measuring.suite(loaded)
        subject = measuring.subject(loaded, self.progress.advance)
        self.progress.start(title, planned(subject, asked.needs).units)
        return Recorded.of(collect(subject, asked), asked, measuring.measured)

    def measured_facts(self, measured: Measured) -> dict[str, Any]:
        """Return what results.json records of what models were measured on."""
        prompts = measured.template["prompts"]
        return {"measured_on": self.redaction.measured(measured.facts), "prompts": self.redaction.prompts(prompts)}

    def measure_once(self, name: str, title: str, loaded: Loaded, measuring: Measuring) -> Recorded:
        """Measure a model as `measure` does, unless the run that is resumed has done so.

        A redacted run keeps nothing that was generated, and so measures again.
        """
        if self.redaction.is_on:
            return self.measure(title, loaded, measuring)
        return Recorded(**self.recall(name, lambda: vars(self.measure(title, loaded, measuring))))

    @contextmanager
    def opened(self, inputs: Inputs) -> Iterator[None]:
        """Create the run folder, or open it where the run goes on.

        At the end what only training needed is gone from it; a run that does not get there leaves its checkpoints.
        """
        try:
            with processes.agreed():
                if self.folder.is_written_here:
                    refuse_full_disk(self.folder.path, inputs.loaded, self.config)
                self.folder.open(self.source)
                self._describe(inputs)
                if self._memory is not None and self.folder.is_written_here:
                    self._memory.write(self.folder.checkpoints / MEASURED)
            with self.sharing.guarded():
                done = 0 if self.source is None else int(read_state(self.source)["step"])
                with processes.agreed():
                    self._refuse_unseen()
                    self.sharing.open(self.config, inputs.sources, done)
                yield
        except BaseException:
            self.folder.close(has_ended=False)
            raise
        self.folder.close(has_ended=True)

    def _refuse_unseen(self) -> None:
        """Raise RunError where this process does not see the run folder that the first one opened."""
        if not (self.folder.path / "config.yaml").is_file():
            raise RunError(f"--output_dir {self.folder.path} is not seen here; give a folder that all machines share.")

    def _describe(self, inputs: Inputs) -> None:
        """Write the resolved configuration and the environment; that of a run that goes on keeps the earlier one."""
        if not self.folder.is_written_here:
            return
        run = replace(self.config.run, overwrite=False)  # repeating a run must not silently replace it
        checkpoints = replace(self.config.checkpoints, resume_from_checkpoint=None)
        write_yaml(replace(self.config, run=run, checkpoints=checkpoints), self.folder.path / "config.yaml")
        files = [*inputs.files, *inputs.loaded.files]
        training = self.config.training
        facts = {
            "dtype": str(inputs.loaded.model.dtype).removeprefix("torch."),
            "device": str(device_of(inputs.loaded.model)),
            "processes": processes.count(),
            "seed": training.seed,
            "sha256": file_hashes(files),
        }
        path = self.folder.path / "environment.json"
        earlier = {"resumed_from": read_json(path)} if self.source is not None and path.exists() else {}
        described = environment()
        command = self.redaction.command(described["command"], self.config.data.system_prompt)
        self.folder.write("environment.json", described | facts | {"command": command} | earlier)

    def recorder(
        self, complete: Callable[[dict[str, Any]], dict[str, Any]], plan: Plan
    ) -> Callable[[dict[str, Any]], None]:
        """Begin the stage of training, and return what the loop calls after each step.

        `complete` turns the loop's record into the one that is shown.
        """
        self.progress.start(self.command, plan.steps)
        if self.source is not None:
            step = int(read_state(self.source)["step"])
            self.progress.note(f"going on after step {step}, from {self.source}.")
            self.progress.advance(step)

        def record(values: dict[str, Any]) -> None:
            values = complete(values)
            if values["step"] % self.config.training.logging_steps == 0:
                self.folder.log(values)
            self.progress.step(values)
            self.progress.advance()

        return record

    def save(self, loaded: Loaded, check: Check) -> dict[str, float]:
        """Save the model, load it again, and return how far it is from the live one, by the key in results.json.

        That is the largest difference of the losses on `check`, in nats a token; of a merged adapter also that of the
        logits. Raises RunError where the weights did not change, or the reloaded model differs from the live one.
        """
        self.progress.start("save and check the model", 2)
        unmerged = self._merge(loaded, check.examples)
        round_to_saved(loaded)
        if digest(loaded) == self.digest_before:
            raise RunError(_unchanged(self.config.training.learning_rate, loaded), is_shared=True)
        path = self.folder.path / "model"
        with writing(path):
            self.folder.replace("model", lambda path: save(loaded, path))
        self.progress.advance()
        size = self.config.evaluation.per_device_eval_batch_size
        live = check.losses(loaded.model, size)
        if not np.isfinite(live).all():
            raise RunError(
                f"the trained model's loss on {check.split} is {live.sum():g}; lower --learning_rate.", is_shared=True
            )
        again = reload(loaded, path)
        difference = float(np.abs(live - check.losses(again.model, size)).max())
        self.progress.advance()
        if not difference <= (most := RELOAD_TOLERANCE[_width(loaded.model.dtype)]):
            raise RunError(
                f"the saved model in {path} differs from the live one by {difference:.3g} nats a token on the "
                f"{check.split} examples; expected at most {most:g}.",
                is_shared=True,
            )
        differences = {"reload_difference": difference}
        if unmerged is not None:
            differences["merge_difference"] = unmerged.refuse_other(again, path)
        return differences

    def _merge(self, loaded: Loaded, examples: Sequence[Encoded]) -> Sample | None:
        """Merge the adapter where that is asked for, and return the logits from before."""
        if not self.config.adapter.merge:
            return None
        before = Sample.of(loaded, [example.input_ids for example in evenly(examples, SAMPLED)])
        merge_adapter(loaded)
        return before

    def finish(self, results: dict[str, Any], inputs: Inputs, recorded: Mapping[str, Recorded]) -> dict[str, Any]:
        """Write scores, results and report, and return the whole results, on all processes."""
        with processes.agreed():
            if self.folder.is_written_here:
                results = self._conclude(results, inputs, recorded)
        return processes.from_first(results)

    def _conclude(self, results: dict[str, Any], inputs: Inputs, recorded: Mapping[str, Recorded]) -> dict[str, Any]:
        for split in next(iter(recorded.values())).columns:
            self.folder.write_scores(split, self.redaction.columns(joined(split, recorded)))
        results = {
            "schema": SCHEMA,
            "model": self.config.model.model,
            **results,
            "data": inputs.facts,
            "template": self.redaction.template(inputs.encoder.facts(next(iter(inputs.examples.values()))[0])),
            **({"adapter": inputs.loaded.adapter.facts} if inputs.loaded.adapter else {}),
            "timings": self.seconds,
            "peak_memory_bytes": peak_memory(),
            "notes": inputs.loaded.notes + self.sharing.notes(self.config, results["status"]),
            **({"redacted": True} if self.redaction.is_on else {}),
        }
        with self.sharing.guarded():
            self.sharing.write_card(results)
            self.folder.write("results.json", results)
            if self.command == "unlearn":
                render_report(self.folder.path)
            self.progress.stop()
            return self.sharing.finish(self.config, results)

    def training_facts(self, plan: Plan, seconds: float, resumed_after: Sequence[int]) -> dict[str, Any]:
        """Return what results.json records of the training."""
        options = self.config.training
        length = "num_train_epochs" if options.max_steps is None else "max_steps"
        return {
            "steps": plan.steps,
            "epochs": plan.steps / plan.steps_per_epoch,
            "effective_batch": self.batch_size,
            "learning_rate": options.learning_rate,
            length: getattr(options, length),
            "seconds": seconds,
            "seconds_per_step": seconds / plan.steps,
            "resumed_after": list(resumed_after),
        }


def preview_example(examples: Sequence[Encoded]) -> Encoded:
    """Return the first example that has a marked span, so that a user sees where it stands; else the first."""
    has_span = fact(examples, "is_marked") & (fact(examples, "forgotten") > 0)
    return examples[int(has_span.argmax())]


def _counted(split: Split) -> str:
    counts = f"{len(split.examples)} examples, {split.scored} scored tokens"
    spans = span_facts(split.examples)
    return f"{counts}, {spans['span_tokens']} of them in marked spans" if spans else counts


def _width(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _unchanged(learning_rate: float, loaded: Loaded) -> str:
    dtype = _width(loaded.saved_dtype)
    return (
        f"no weight changed: at --learning_rate {learning_rate:g} every update was lost to rounding in {dtype}; raise "
        "it, or take more steps."
    )
