"""The main path, top to bottom: load, encode, measure, train, save, check, report."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import processes
from .benchmarks.base import Benchmark, Source
from .benchmarks.folds import fold_named
from .config import EvalConfig, FinetuneConfig, UnlearnConfig, from_mapping
from .constraints.multiplier import Fixed
from .constraints.retention import NLL, Retention
from .data.batches import StepRows
from .data.quoting import hiding_rows
from .defaults import configured
from .errors import InputError
from .evaluating import SPLITS, Evaluating
from .evaluation.conditions import Conditions
from .evaluation.plan import planned
from .execution import Check, Execution
from .inputs import Given, Inputs, refuse_shared
from .lessons import lesson
from .measuring import Measured, Measuring, Recorded, evenly
from .methods.base import Method, build
from .model.load import Loaded, digest
from .probing import PROBE_SEED, Probes
from .progress import Progress
from .reports.verdict import verdict
from .retaining import described
from .retrained import files_of, find_retrained
from .training.loop import Loop, Plan
from .training.problem import Problem, retain_term
from .unlearning import Trained, Unlearning


@dataclass
class Run:
    """A run that ended: the model as it was saved, and what was measured."""

    model: Any
    tokenizer: Any
    results: dict[str, Any]
    output_dir: Path

    @property
    def feasible(self) -> bool:
        """Return whether every bound is held (True of a run that had none)."""
        return bool(self.results["status"] != "infeasible")


def unlearn(
    model: Any,
    *,
    output_dir: str | Path,
    forget: Any = None,
    retain: Any = None,
    tokenizer: Any = None,
    method: "str | Method" = "pdu",
    progress: Progress | None = None,
    **options: Any,
) -> Run:
    """Make `model` forget the answers of `forget` while its loss on `retain` stays within a bound.

    The same code as ``amnestic unlearn``; a ``benchmark`` ("muse:books") brings what is to be forgotten and kept.
    `retain` may name several splits: a mapping of names to what each is read from, each with its own bound.

    `model` is a folder, a Hub id, or a loaded model with its `tokenizer` (it is trained in place); `forget` and
    `retain` are files, folders, Hub data sets, lists of rows or of `Example`, or a ``datasets.Dataset``; `options` are
    those of the command line (``keep=0.98``, ``learning_rate=1e-5``, ...; ``keep="none"`` asks for no bound). Raises
    InputError before the first step, RunError after it; a run that misses its bound returns with ``feasible`` False.
    """
    named = {"model": model, "tokenizer": tokenizer, "method": method, "forget": forget, "retain": retain}
    named |= {name: options.pop(name) for name in ("measure", "bound_model") if name in options}
    given, names = Given.split(named)
    if given.method is not None and "method_args" in options:
        raise InputError("method_args go with a method's name; an instance has its hyper-parameters already.")
    mapping = {"output_dir": output_dir} | names | options
    return run_unlearn(configured(UnlearnConfig, mapping, "", "unlearning"), progress, given)


def finetune(
    model: Any,
    *,
    data: Any = None,
    output_dir: str | Path,
    exclude: Any = None,
    tokenizer: Any = None,
    progress: Progress | None = None,
    **options: Any,
) -> Run:
    """Train `model` on the answers of `data`, without the rows that stand in `exclude` too; ``amnestic finetune``.

    With `exclude` the result is a retrained model. ``benchmark="tofu:forget10"`` brings the data, and `data` is then
    the folder of its files; ``without_forget=True`` leaves out what it is to forget. Arguments and errors are those of
    `unlearn`.
    """
    given, names = Given.split({"model": model, "tokenizer": tokenizer, "data": data, "exclude": exclude})
    mapping = {"output_dir": output_dir} | names | options
    return run_finetune(configured(FinetuneConfig, mapping, "", "learning"), progress, given)


def evaluate(
    model: Any = None,
    *,
    output_dir: str | Path,
    tokenizer: Any = None,
    progress: Progress | None = None,
    **options: Any,
) -> Run:
    """Measure `model` on a ``benchmark`` ("tofu:forget10"), or on ``forget``, ``retain`` and ``holdout`` rows.

    The same code as ``amnestic eval``. Without a model, that of the ``run`` of unlearning whose folder is named, on the
    rows that the run measured; ``results["recomputed"]`` holds it against what the run said.

    Arguments and errors are those of `unlearn`; ``results["metrics"]`` of what is returned holds the numbers, and
    ``results["not_computed"]`` why others are missing. The model is left as it is.
    """
    rows = {split: options.pop(split) for split in SPLITS if split in options}
    given, names = Given.split({"model": model, "tokenizer": tokenizer, **rows})
    mapping = {"output_dir": output_dir} | names | options
    return run_eval(from_mapping(EvalConfig, mapping), progress, given)


def run_unlearn(config: UnlearnConfig, progress: Progress | None = None, given: Given | None = None) -> Run:
    """Do what `config` says; objects in `given` stand in for what it names."""
    processes.join(config.sharding.ddp_timeout)
    execution = Execution(config, progress, given)
    with execution.guarded():
        return _unlearn(execution, config)


def _unlearn(execution: Execution, config: UnlearnConfig) -> Run:
    method = execution.given.method or build(config.method.method, config.method.method_args)
    with execution.timed("load"):
        benchmark, named = _benchmark(config)
        sources = {name: Source(source) for name, source in config.data.sources.items()}
        inputs = execution.gather(sources, benchmark=benchmark)
        refuse_shared(inputs)
        task = Unlearning.of(config, inputs, method, execution.batch_size)
        measured = task.measured(Conditions() if benchmark is None else benchmark.conditions)
        retrained = find_retrained(config.evaluation.retrained, inputs, config.model, measured)
        with processes.agreed():
            execution.folder.refuse_inputs(files_of(retrained, config.evaluation.retrained))
        execution.config = task.resolved()
        execution.identify(inputs)
    with execution.timed("reference"):
        task = task.answered(execution)
        probes = task.judge(execution)
        execution.announce(inputs, task.plan, task.facts(probes))
        measuring, recorded = _measured_before(execution, config, inputs, retrained, measured)
        del retrained  # training needs the memory
    with execution.opened(inputs):
        task.write_answers(execution)
        with execution.timed("reference"):
            task = task.referred(execution)
        with execution.timed("train"):
            trained = task.train(execution, probes)
        with execution.timed("save"):
            differences = execution.save(inputs.loaded, task.check)
        with execution.timed("measure"):
            recorded["after"] = execution.measure("measure the model after", inputs.loaded, measuring)
        results = _unlearn_results(execution, task, probes, trained, recorded, named) | differences
        results |= execution.measured_facts(measured)
        results = execution.finish(results, inputs, recorded)
    return Run(inputs.loaded.model, inputs.loaded.tokenizer, results, execution.folder.path)


def _measured_before(
    execution: Execution, config: UnlearnConfig, inputs: Inputs, retrained: Any, measured: Measured
) -> tuple[Measuring, dict[str, Recorded]]:
    """Measure the model before, and the retrained one where it is a model; return how others are measured, and both."""
    measuring, recorded = execution.measuring(measured), {}
    if isinstance(retrained, Loaded):
        title, name = "measure the retrained model", f"retrained {digest(retrained)}, on {measured.fingerprint}"
        recorded["retrained"] = execution.measure_once(name, title, retrained, measuring)
        retrained = recorded["retrained"].measurements
    if retrained is not None:
        measuring = replace(measuring, retrained=retrained)
    title = "measure the model before"
    name = f"before, beside {config.evaluation.retrained}, on {measured.fingerprint}"
    recorded["before"] = execution.measure_once(name, title, inputs.loaded, measuring)
    return measuring, recorded


def _unlearn_results(
    execution: Execution,
    task: Unlearning,
    probes: Probes,
    trained: Trained,
    recorded: Mapping[str, Recorded],
    named: Mapping[str, str],
) -> dict[str, Any]:
    config = task.config
    facts = {
        "retentions": task.retention_facts,
        **task.bound_facts(probes, trained.kept.reached),
        **named,
        **recorded["after"].facts,
        "reference_metrics": recorded["before"].values,
        **({"retrained_metrics": recorded["retrained"].values} if "retrained" in recorded else {}),
        "method": described(task.method) | task.alike,
        **task.multiplier_facts(trained.multipliers),
        "candidates": [candidate.record for candidate in trained.candidates],
        "kept_step": trained.kept.step,
        "probe_ids": [example.id for split in task.kept for example in split.probe],
        "training": execution.training_facts(task.plan, trained.seconds, trained.resumed_after),
        "seeds": {"training": config.training.seed, "probe": PROBE_SEED},
    }
    status = "unconstrained" if not probes else "feasible" if trained.kept.holds else "infeasible"
    sentence = verdict(facts, [split.name for split in task.kept])
    return {"command": "unlearn", "status": status, "verdict": sentence} | facts


def _benchmark(config: UnlearnConfig) -> tuple[Benchmark | None, dict[str, str]]:
    """Return the benchmark, and what results.json says of it: its name, and which of its forget sets that stands for.

    Its files are looked at before anything is computed, and never when the run has ended.
    """
    name = config.data.benchmark
    if name is None:
        return None, {}
    benchmark = Benchmark.open(name, config.data.data)
    fold = fold_named(benchmark, name)
    return benchmark, {"benchmark": name} | ({} if fold is None else {"fold": fold})


def run_eval(config: EvalConfig, progress: Progress | None = None, given: Given | None = None) -> Run:
    """Do what `config` says; objects in `given` stand in for what it names."""
    processes.join(config.sharding.ddp_timeout)
    evaluating = Evaluating(config, progress, given)
    with evaluating.guarded():
        return _evaluate(evaluating, config)


def _evaluate(evaluating: Evaluating, config: EvalConfig) -> Run:
    with evaluating.timed("load"):
        inputs = evaluating.gather()
        measuring = evaluating.measuring(inputs)
        retrained = find_retrained(config.evaluation.retrained, inputs, config.model, measuring.measured)
        beside = [] if measuring.reference is None else measuring.reference.files
        with processes.agreed():
            evaluating.folder.refuse_inputs([*files_of(retrained, config.evaluation.retrained), *beside])
    loaded, folder = inputs.loaded, evaluating.folder.path
    if config.evaluation.plan:
        return Run(loaded.model, loaded.tokenizer, evaluating.only_planned(inputs, measuring, retrained), folder)
    with evaluating.open(inputs) as store:
        measuring = replace(measuring, store=store)
        with evaluating.timed("retrained"):
            measuring = evaluating.beside(retrained, measuring)
            del retrained
        asked = measuring.suite(loaded)
        plan = planned(measuring.subject(loaded), asked.needs)
        evaluating.announce(inputs, plan.facts, asked)
        with evaluating.timed("measure"):
            recorded = evaluating.run(loaded, measuring, asked, plan, "measure the model")
        results = evaluating.conclude(inputs, measuring, recorded)
    return Run(loaded.model, loaded.tokenizer, results, folder)


def run_finetune(config: FinetuneConfig, progress: Progress | None = None, given: Given | None = None) -> Run:
    """Do what `config` says; objects in `given` stand in for what it names."""
    processes.join(config.sharding.ddp_timeout)
    execution = Execution(config, progress, given)
    with execution.guarded():
        return _finetune(execution, config)


def _finetune(execution: Execution, config: FinetuneConfig) -> Run:
    with execution.timed("load"):
        with hiding_rows(execution.redaction.is_on), processes.agreed():
            source = lesson(config.data)
        inputs = execution.gather({"data": source}, config.data.exclude)
        examples = inputs.splits["data"].examples
        rows = StepRows({"data": len(examples)}, execution.batch_size, config.training.seed)
        plan = Plan.of(config.training, rows.steps_per_epoch)
        loss = retain_term(Retention(NLL(), Fixed(), "data"))
        problem = Problem((loss,), inputs.loaded.model, inputs.loaded.vocabulary, inputs.loaded.form)
        execution.identify(inputs)
    execution.announce(inputs, plan, {})
    measured = Measured({"data": evenly(examples, config.evaluation.eval_rows)})
    with execution.opened(inputs):
        with execution.timed("train"):
            record, checkpoints = execution.recorder(_finetune_record, plan), execution.checkpoints()
            splits = {"data": examples}
            loop = Loop(problem, splits, rows, plan, config.training, [], record, lambda *_: None, checkpoints)
            loop.reaches_all = execution.reaches_all
            with execution.training(inputs.loaded):
                seconds = loop.run()
        with execution.timed("save"):
            differences = execution.save(inputs.loaded, Check(problem, "data", measured.splits["data"]))
        with execution.timed("measure"):
            after = execution.measure("measure the model", inputs.loaded, execution.measuring(measured))
        reached = after.values["data.probability"]
        results = {
            "command": "finetune",
            "status": "done",
            "verdict": f"Trained for {plan.steps} steps; probability of an answer {reached:.3g}.",
            **({} if config.data.benchmark is None else {"benchmark": config.data.benchmark}),
            **after.facts,
            "training": execution.training_facts(plan, seconds, checkpoints.resumed_after),
            **differences,
            "seeds": {"training": config.training.seed},
        }
        results = execution.finish(results, inputs, {"after": after})
    return Run(inputs.loaded.model, inputs.loaded.tokenizer, results, execution.folder.path)


def _finetune_record(values: dict[str, Any]) -> dict[str, Any]:
    names = {"data_loss": "loss"}
    return {names.get(name, name): value for name, value in values.items() if name != "multipliers"}
