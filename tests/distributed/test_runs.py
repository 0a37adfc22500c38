"""Whole runs of two processes: the same result as one process, one folder, and an end that all of them agree on."""

import io
import json
import os
import signal
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

OPTIONS = {
    "learning_rate": 2e-3,
    "lr_scheduler_type": "constant",
    "num_train_epochs": 3,
    "bound": 9,
    "multiplier_warmup_epochs": 0,
    "max_new_tokens": 3,
    "probe_size": 5,
    "eval_rows": 7,
    "per_device_eval_batch_size": 3,
}
TWO = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}
ONE = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
"""The same effective batch for one process as for two."""
FSDP = {"fsdp": True}
MEASURING = {name: OPTIONS[name] for name in ("max_new_tokens", "eval_rows", "per_device_eval_batch_size")}


def people(count: int, name: str) -> list[dict[str, str]]:
    """Questions and answers of several lengths."""
    return [
        {
            "question": f"Who wrote book {i} of {name}?",
            "answer": " ".join(["Ines", "Marek", "wrote", f"{i}."] * (1 + i % 3)),
        }
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files of seven rows to forget and of eleven to keep."""
    folder = tmp_path_factory.mktemp("data")
    for split, count in (("forget", 7), ("retain", 11)):
        rows = "".join(f"{json.dumps(row)}\n" for row in people(count, split))
        (folder / f"{split}.jsonl").write_text(rows, encoding="utf-8")
    return {split: str(folder / f"{split}.jsonl") for split in ("forget", "retain")}


def command(name: str, options: dict[str, Any], stop: Any = None) -> dict[str, Any]:
    """Run a command on this process; `stop` is (process, step): that one gets a SIGTERM within that step."""
    from amnestic import processes
    from amnestic.cli import main
    from amnestic.training import loop

    step, taken = loop.step, 0

    def counting(*arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        if stop is not None and (processes.rank(), taken) == tuple(stop):
            signal.raise_signal(signal.SIGTERM)
        return step(*arguments)

    flags = [
        flag for key, value in options.items() for flag in ([f"--{key}"] if value is True else [f"--{key}", str(value)])
    ]
    out, err = io.StringIO(), io.StringIO()
    loop.step = counting
    try:
        with redirect_stdout(out), redirect_stderr(err):
            status = main([name, *flags])
    finally:
        loop.step = step
    return {"status": status, "out": out.getvalue(), "err": err.getvalue(), "steps": taken}


def alone(name: str, options: dict[str, Any], stop: Any = None) -> dict[str, Any]:
    """Run a command in the process of the tests, which is alone."""
    with suppress(KeyError):
        del os.environ["WORLD_SIZE"]
    return command(name, options, stop)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def compare(found: Path, expected: Path, tolerance: float = 2e-5) -> None:
    """Two runs left the same weights, metrics and records, up to rounding."""
    for name, value in weights(expected).items():
        torch.testing.assert_close(weights(found)[name], value, rtol=tolerance, atol=tolerance, msg=name)
    results = [json.loads((folder / "results.json").read_text(encoding="utf-8")) for folder in (found, expected)]
    assert results[0]["metrics"] == pytest.approx(results[1]["metrics"], rel=1e-3, abs=1e-5)
    assert results[0]["reference_metrics"] == pytest.approx(results[1]["reference_metrics"], rel=1e-3, abs=1e-5)
    assert (results[0]["status"], results[0]["kept_step"]) == (results[1]["status"], results[1]["kept_step"])
    records = [(folder / "train.jsonl").read_text(encoding="utf-8").splitlines() for folder in (found, expected)]
    assert len(records[0]) == len(records[1])
    for one, other in zip(*records, strict=True):
        first, second = json.loads(one), json.loads(other)
        assert first.keys() == second.keys()
        for name in first.keys() - {"seconds"}:
            assert first[name] == pytest.approx(second[name], rel=1e-3, abs=1e-6), (name, one, other)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any, data: dict[str, str]) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("one") / "run"
    outcome = alone("unlearn", OPTIONS | ONE | data | {"model": tiny_model(), "output_dir": folder})
    assert outcome["status"] == 0, outcome["err"]
    return folder


@pytest.mark.parametrize("spread", [{}, FSDP], ids=["ddp", "fsdp"])
def test_two_processes_end_as_one(pool, tiny_model, data, whole, tmp_path, spread):
    options = OPTIONS | TWO | data | spread | {"model": str(tiny_model()), "output_dir": str(tmp_path / "run")}
    first, second = pool.run(command, "unlearn", options)
    assert (first["status"], second["status"]) == (0, 0), first["err"] + second["err"]
    assert (second["out"], second["err"]) == ("", "")
    assert "Bound held" in first["out"]
    compare(tmp_path / "run", whole)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {path.name for path in whole.iterdir()}
    environment = json.loads((tmp_path / "run" / "environment.json").read_text(encoding="utf-8"))
    assert environment["processes"] == 2
    saved = json.loads((tmp_path / "run" / "model" / "config.json").read_text(encoding="utf-8"))
    assert saved == json.loads((whole / "model" / "config.json").read_text(encoding="utf-8"))


MOVES = {
    "two to one": (2, TWO, 1, ONE),
    "one to two": (1, ONE, 2, TWO),
    "two sharded to one": (2, TWO | FSDP, 1, ONE),
    "one to two sharded": (1, ONE, 2, TWO | FSDP),
    "two sharded to two": (2, TWO | FSDP, 2, TWO),
}


@pytest.mark.parametrize("move", MOVES)
def test_a_checkpoint_moves_between_numbers_of_processes(pool, tiny_model, data, whole, tmp_path, move):
    """Stopped within the fourth of six steps, by a signal to the last process; step 2 ended an epoch."""
    before, options, after, others = MOVES[move]
    fixed = OPTIONS | data | {"model": str(tiny_model()), "output_dir": str(tmp_path / "run")}

    def run(count: int, options: dict[str, Any], stop: Any = None) -> list[dict[str, Any]]:
        if count == 1:
            return [alone("unlearn", options, stop)]
        return pool.run(command, "unlearn", options, stop)

    for outcome in run(before, fixed | options, (before - 1, 4)):
        assert (outcome["status"], outcome["steps"]) == (130, 4), outcome["err"]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("checkpoint-*")] == ["checkpoint-4"]
    resumed = run(after, fixed | others | {"resume_from_checkpoint": "latest"})
    assert [(outcome["status"], outcome["steps"]) for outcome in resumed] == [(0, 2)] * after, resumed[0]["err"]
    compare(tmp_path / "run", whole)


def test_an_interruption_is_told_once(pool, tiny_model, data, tmp_path):
    options = OPTIONS | TWO | data | {"model": str(tiny_model()), "output_dir": str(tmp_path / "run")}
    first, second = pool.run(command, "unlearn", options, (1, 1))
    assert "interrupted. Its state after step 1 is kept; go on with: amnestic unlearn --config" in first["err"]
    assert second["err"] == ""


def test_another_effective_batch_is_another_run(pool, tiny_model, data, tmp_path):
    """Two processes with the options of one would take steps of twice as many rows."""
    options = OPTIONS | ONE | data | {"model": str(tiny_model()), "output_dir": str(tmp_path / "run")}
    assert alone("unlearn", options, (0, 1))["status"] == 130
    first, second = pool.run(command, "unlearn", options | {"resume_from_checkpoint": "latest"})
    assert (first["status"], second["status"]) == (2, 2)
    assert "the effective batch is 8 here and was 4" in first["err"]
    assert second["err"] == ""


def test_wrong_input_is_told_once_and_leaves_nothing(pool, tiny_model, data, tmp_path):
    options = OPTIONS | TWO | data | {"model": str(tiny_model()), "output_dir": str(tmp_path / "run")}
    first, second = pool.run(command, "unlearn", options | {"forget": str(tmp_path / "no.jsonl")})
    assert (first["status"], second["status"]) == (2, 2)
    assert first["err"].splitlines()[-1].startswith("error: ")
    assert second["err"] == ""
    assert not (tmp_path / "run").exists()


def differing(options: dict[str, Any], others: list[dict[str, Any]]) -> dict[str, Any]:
    """Run a command with options of this process alone."""
    from amnestic import processes

    return command("unlearn", options | others[processes.rank()])


@pytest.mark.parametrize(
    ("others", "text"),
    [
        ([{}, {"forget": "{retain}2"}], "error: process 1: "),
        ([{}, {"seed": 5}], "error: process 1 of the run does not start from the same options as process 0; give all"),
        ([{}, {"model": "{other}"}], "error: process 1 of the run does not start from the same model as process 0;"),
    ],
    ids=["a file is missing", "options", "model"],
)
def test_processes_that_start_from_different_things(pool, tiny_model, data, tmp_path, others, text):
    places = {"retain": data["retain"], "other": str(tiny_model(seed=1))}
    filled = [{key: str(value).format(**places) for key, value in given.items()} for given in others]
    options = OPTIONS | TWO | data | {"model": str(tiny_model()), "output_dir": str(tmp_path / "run")}
    first, second = pool.run(differing, options, filled)
    assert (first["status"], second["status"]) == (2, 2)
    assert first["err"].splitlines()[-1].startswith(text)
    assert second["err"] == ""
    assert not (tmp_path / "run").exists()


def failing(options: dict[str, Any], error: Exception) -> dict[str, Any]:
    """Run a command in which the second process alone meets an error that is not ours while it reads its data."""
    from amnestic import processes
    from amnestic.benchmarks import base

    plain = base.read_examples

    def refused(*arguments: Any) -> Any:
        if processes.rank() == 1:
            raise error
        return plain(*arguments)

    base.read_examples = refused
    try:
        return command("unlearn", options)
    finally:
        base.read_examples = plain


UNEXPECTED = {
    "plain": ({}, ValueError("her secret"), "error: process 1: ValueError: her secret"),
    "redacted": ({"redact": True}, ValueError("her secret"), "error: process 1: ValueError in test_runs.py, line "),
    "memory": ({}, MemoryError("no"), "error: out of memory in the stage 'load'; try --dtype bfloat16; or a smaller "),
}


@pytest.mark.parametrize("kind", UNEXPECTED)
def test_an_error_that_nobody_foresaw_is_told_as_that_of_one_process_is(pool, tiny_model, data, tmp_path, kind):
    """A redacted run hides its text, which may quote a row; a lack of memory is explained."""
    given, error, text = UNEXPECTED[kind]
    options = OPTIONS | TWO | data | {"model": str(tiny_model()), "output_dir": str(tmp_path / "run")} | given
    first, second = pool.run(failing, options, error)
    assert (first["status"], second["status"]) == (1, 1)
    assert first["err"].splitlines()[-1].startswith(text)
    assert ("secret" in first["err"]) == (kind == "plain")
    assert second["err"] == ""


def unloaded(options: dict[str, Any], place: str) -> dict[str, Any]:
    """Run a command in which the second process alone cannot load a model: a retrained one, or what was saved."""
    from amnestic import inputs, processes
    from amnestic.errors import InputError
    from amnestic.model import load

    module, name = {"retrained": (inputs, "load"), "saved": (load, "_load_saved")}[place]
    plain = getattr(module, name)

    def refused(*arguments: Any, **named: Any) -> Any:
        if processes.rank() == 1:
            raise InputError("there is no such folder here.")
        return plain(*arguments, **named)

    setattr(module, name, refused)
    try:
        return command("unlearn", options)
    finally:
        setattr(module, name, plain)


@pytest.mark.parametrize("place", ["retrained", "saved"])
def test_a_model_that_one_process_cannot_load_ends_all(pool, tiny_model, data, tmp_path, place):
    options = OPTIONS | TWO | data | {"model": str(tiny_model()), "output_dir": str(tmp_path / "run"), "max_steps": 1}
    options |= {"retrained": str(tiny_model(seed=1))} if place == "retrained" else {}
    first, second = pool.run(unloaded, options, place, limit=60.0)
    assert (first["status"], second["status"]) == (2, 2)
    last = first["err"].splitlines()[-1]
    assert last.startswith("error: process 1: ")
    assert last.endswith("there is no such folder here.")
    assert second["err"] == ""


def looking_elsewhere(options: dict[str, Any]) -> Any:
    """Return which checkpoint each process goes on from where the second one does not see the newest."""
    from amnestic import execution, processes
    from amnestic.config import UnlearnConfig, from_mapping

    plain = execution.source_of
    execution.source_of = lambda *_: Path(f"checkpoint-{2 - processes.rank()}")
    try:
        made = execution.Execution(from_mapping(UnlearnConfig, options), None, None)
    finally:
        execution.source_of = plain
    made.folder.release()
    return made.source


def test_all_go_on_from_the_checkpoint_of_the_first(pool, data, tmp_path):
    options = data | {"model": "m", "output_dir": str(tmp_path / "run")}
    assert pool.run(looking_elsewhere, options) == [Path("checkpoint-2")] * 2


def test_a_failure_that_all_see_is_told_once(pool, tiny_model, data, tmp_path):
    """A loss that is no number."""
    options = OPTIONS | TWO | data | {"model": str(tiny_model()), "output_dir": str(tmp_path / "run")}
    first, second = pool.run(command, "unlearn", options | {"learning_rate": 1e30, "max_grad_norm": 0})
    assert (first["status"], second["status"]) == (1, 1)
    assert "lower --learning_rate" in first["err"].splitlines()[-1]
    assert second["err"] == ""


def test_a_sharded_model_is_trained_from_scratch_beside_a_retrained_one(pool, tiny_model, data, whole, tmp_path):
    """finetune --from_scratch, then unlearn with --retrained, redacted."""
    options = OPTIONS | TWO | FSDP | {"model": str(tiny_model()), "output_dir": str(tmp_path / "full")}
    del options["bound"], options["multiplier_warmup_epochs"], options["probe_size"]
    for outcome in pool.run(command, "finetune", options | {"data": data["forget"], "from_scratch": True}):
        assert outcome["status"] == 0, outcome["err"]
    options = OPTIONS | TWO | FSDP | data | {"model": str(tmp_path / "full"), "output_dir": str(tmp_path / "run")}
    options |= {"model": str(tmp_path / "full" / "model"), "retrained": str(tiny_model()), "redact": True}
    for outcome in pool.run(command, "unlearn", options):
        assert outcome["status"] == 0, outcome["err"]
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    apart = ("forget_quality", "distinct_ngrams")  # of a model beside the retrained one, and of answers with two words
    own = {key for key in results["metrics"] if not any(name in key for name in apart)}
    assert own <= results["retrained_metrics"].keys()
    assert {"forget.probability", "forget.rouge", "retain.probability"} <= own
    assert results["reload_difference"] < 1e-4


ADAPTER = {"use_peft": True, "lora_r": 4, "learning_rate": 2e-2}
SAVED = {"adapter": ("adapter_model.safetensors", {}), "merged": ("model.safetensors", {"merge": True})}


@pytest.mark.parametrize("saved", SAVED)
def test_two_processes_train_an_adapter_as_one_does(pool, tiny_model, data, tmp_path, saved):
    """Whole on each process, and spread with its frozen model; saved as it is, and merged."""
    file, merge = SAVED[saved]
    options = OPTIONS | data | ADAPTER | merge | {"model": str(tiny_model()), "gradient_checkpointing": True}
    outcome = alone("unlearn", options | ONE | {"output_dir": str(tmp_path / "one")})
    assert outcome["status"] == 0, outcome["err"]
    expected = load_file(tmp_path / "one" / "model" / file)
    for name, spread in (("ddp", {}), ("fsdp", FSDP)):
        for outcome in pool.run(command, "unlearn", options | TWO | spread | {"output_dir": str(tmp_path / name)}):
            assert outcome["status"] == 0, outcome["err"]
        found = load_file(tmp_path / name / "model" / file)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-4, msg=f"{name}: {key}")


def test_the_demonstration_is_for_one_process(pool, tmp_path):
    first, second = pool.run(command, "demo", {"output_dir": str(tmp_path / "demo")})
    assert (first["status"], second["status"]) == (2, 2)
    assert first["err"] == (
        "error: the demonstration runs in one process; start it as amnestic demo, without a launcher.\n"
    )


@pytest.mark.parametrize("own", [{}, FSDP])
def test_two_processes_evaluate_as_one_does(pool, tiny_model, data, tmp_path, own):
    """One folder, all numbers, and a cache that a single process goes on with."""
    options = {"model": str(tiny_model()), **data, **MEASURING, "holdout": data["retain"]}
    one = alone("eval", options | {"output_dir": str(tmp_path / "alone")})
    cache = {"cache_dir": str(tmp_path / "cache")}
    together = pool.run(command, "eval", options | own | cache | {"output_dir": str(tmp_path / "together")})
    assert [found["status"] for found in (one, *together)] == [0, 0, 0], together
    expected, found = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("alone", "together"))
    assert found["metrics"] == pytest.approx(expected["metrics"], rel=1e-4, abs=1e-6)
    assert found["measured_on"] == expected["measured_on"]
    again = alone("eval", options | cache | {"output_dir": str(tmp_path / "again")})
    assert again["status"] == 0
    repeated = json.loads((tmp_path / "again" / "results.json").read_text())
    assert repeated["metrics"] == found["metrics"]
