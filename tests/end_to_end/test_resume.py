"""Runs that are interrupted and go on: the same weights as without, at every kind of boundary, and clear refusals."""

import json
import os
import shutil
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch

import amnestic
import amnestic.training.loop as loop
from amnestic.data.fingerprint import fingerprint
from amnestic.methods.base import Method
from amnestic.model.signals import Needs

pytestmark = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread alone"
)

STEPS = 12
"""Twelve forget rows, four a step: three steps an epoch, four epochs."""
COURSE = {
    "max_steps": STEPS,
    "keep": 0.92,
    "learning_rate": 2e-3,
    "warmup_epochs": 1.5,
    "lr_scheduler_type": "cosine",
    "multiplier_warmup_epochs": 1.5,
    "retain_per_forget": 3,
    "max_new_tokens": 3,
}
FINETUNE = {key: COURSE[key] for key in ("max_steps", "warmup_epochs", "lr_scheduler_type", "max_new_tokens")}
FINETUNE["learning_rate"] = 3e-3


def signalling(monkeypatch, number: int, at: int, name: str = "step", module=loop) -> None:
    """Send this process the signal `number` at the call `at`, counted from 1, of a function of a module."""
    calls = []
    inner = getattr(module, name)

    def called(*arguments, **options):
        calls.append(number)
        if len(calls) == at:
            os.kill(os.getpid(), number)
        return inner(*arguments, **options)

    monkeypatch.setattr(module, name, called)


def interrupted(monkeypatch, run, at: int, number: int = signal.SIGINT, **options):
    with monkeypatch.context() as patch:
        signalling(patch, number, at)
        outcome = run(**options)
    assert outcome.status == 130
    assert outcome.out == ""
    return outcome


def told(outcome) -> dict:
    """Everything that a run says of itself, but for its clock and its folder."""
    results = {key: value for key, value in outcome.results.items() if key not in ("timings", "peak_memory_bytes")}
    training = {k: v for k, v in results["training"].items() if "seconds" not in k and k != "resumed_after"}
    records = [{k: v for k, v in record.items() if k != "seconds"} for record in outcome.records]
    scores = [outcome.scores(path.stem) for path in sorted((outcome.folder / "scores").iterdir())]
    return results | {"training": training, "records": records, "scores": scores, "weights": outcome.digest}


@pytest.fixture(scope="module")
def whole(unlearn):
    """The run without an interruption."""
    return unlearn(**COURSE)


@pytest.mark.parametrize("at", range(1, STEPS + 1))
def test_a_resumed_run_ends_with_the_same_weights_at_every_boundary(unlearn, whole, monkeypatch, tmp_path, at):
    """In the warm-up, mid-epoch, before and after candidates, after the best one, and after the last step."""
    options = COURSE | {"output_dir": tmp_path / "run"}
    stopped = interrupted(monkeypatch, unlearn, at, **options)
    assert stopped.err.splitlines()[-1] == (
        f"error: interrupted. Its state after step {at} is kept; go on with: amnestic unlearn --config "
        f"{tmp_path}/run/config.yaml --resume_from_checkpoint latest"
    )
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("checkpoint-*")] == [f"checkpoint-{at}"]
    outcome = unlearn(**options, resume_from_checkpoint="latest")
    assert told(outcome) == told(whole)
    assert outcome.results["training"]["resumed_after"] == [at]
    assert sorted(path.name for path in outcome.folder.iterdir()) == sorted(p.name for p in whole.folder.iterdir())


def test_the_course_of_these_tests_changes_what_is_tested(whole):
    """The best candidate is not the last one, the multiplier moves, and the rate falls: a state left out would show."""
    candidates = [record for record in whole.records if "candidate" in record]
    rates = [step["learning_rate"] for step in whole.steps]
    assert len(candidates) == 4
    assert whole.results["kept_step"] == 3
    assert len({step["multiplier"] for step in whole.steps}) > 6
    assert rates[0] < max(rates) > rates[-1]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"optim": "sgd", "learning_rate": 1e-2}, id="momentum"),
        pytest.param({"optim": "adamw_torch_fused"}, id="fused"),
        pytest.param({"multiplier_update": "epoch", "multiplier_warmup_epochs": 0}, id="multiplier by epoch"),
        pytest.param({"gradient_checkpointing": True}, id="activations computed again"),
        pytest.param({"multiplier_proportional": 30, "multiplier_cap": 101}, id="multiplier with a cap, PI"),
        pytest.param({"keep": "none", "method": "tests.end_to_end.test_resume.Noisy"}, id="without a bound"),
    ],
)
def test_every_state_is_in_the_checkpoint(unlearn, monkeypatch, tmp_path, options):
    options = COURSE | options
    plain = unlearn(**options)
    interrupted(monkeypatch, unlearn, 5, **options, output_dir=tmp_path / "run")
    assert told(unlearn(**options, output_dir=tmp_path / "run", resume_from_checkpoint="latest")) == told(plain)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_masters_of_a_bfloat16_model_are_in_the_checkpoint(unlearn, tiny_model, monkeypatch, tmp_path, dtype):
    """Computed in bfloat16 with float32 masters, or in float32 and rounded for each candidate."""
    options = COURSE | {"model": tiny_model(dtype="bfloat16"), "dtype": dtype, "bound": 90, "keep": None}
    options |= {"learning_rate": 1e-4}
    plain = unlearn(**options)
    interrupted(monkeypatch, unlearn, 5, **options, output_dir=tmp_path / "run")
    assert told(unlearn(**options, output_dir=tmp_path / "run", resume_from_checkpoint="latest")) == told(plain)


@pytest.mark.parametrize("at", [1, 7, STEPS])
def test_finetuning_goes_on_too(finetune, monkeypatch, tmp_path, at):
    plain = finetune(**FINETUNE)
    stopped = interrupted(monkeypatch, finetune, at, **FINETUNE, output_dir=tmp_path / "run")
    assert "amnestic finetune --config " in stopped.err.splitlines()[-1]
    outcome = finetune(**FINETUNE, output_dir=tmp_path / "run", resume_from_checkpoint="latest")
    assert told(outcome) == told(plain)


def test_a_run_is_interrupted_twice_and_the_hint_works_word_for_word(unlearn, whole, command, monkeypatch, tmp_path):
    import shlex

    from amnestic.cli import main

    folder = tmp_path / "a  run"
    options = COURSE | {"output_dir": folder}
    first = interrupted(monkeypatch, unlearn, 4, number=signal.SIGTERM, **options)
    words = shlex.split(first.err.splitlines()[-1].partition("with: ")[2])
    assert words[0] == "amnestic"
    with monkeypatch.context() as patch:
        signalling(patch, signal.SIGTERM, 4)
        assert main(words[1:]) == 130
    assert main(words[1:]) == whole.status
    first.__dict__.pop("results", None)
    first.status = whole.status
    assert told(first) == told(whole)
    assert first.results["training"]["resumed_after"] == [4, 8]
    assert "resumed_from" in first.environment


def test_an_interruption_while_a_candidate_is_measured_keeps_the_step(unlearn, whole, monkeypatch, tmp_path):
    """The second candidate's measurement, between two batches: its step is kept, and it is measured anew."""
    from amnestic.training.problem import Problem

    options = COURSE | {"output_dir": tmp_path / "run"}
    measured = []
    measure = Problem.measure

    def stopping(self, split, examples, size, check=lambda: None):
        measured.append(split)
        if measured.count("forget") == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return measure(self, split, examples, size, check)

    with monkeypatch.context() as patch:
        patch.setattr(Problem, "measure", stopping)
        outcome = unlearn(**options)
    assert outcome.status == 130
    assert "after step 6 is kept" in outcome.err.splitlines()[-1]
    assert told(unlearn(**options, resume_from_checkpoint="latest")) == told(whole)


def test_a_second_signal_while_a_candidate_is_measured_writes_nothing(unlearn, monkeypatch, tmp_path):
    """It may come where rounded weights are half put back: the checkpoint from before it is the newest."""
    from amnestic.training.problem import Problem

    measure, measured = Problem.measure, []

    def stopping(self, split, examples, size, check=lambda: None):
        measured.append(split)
        if measured.count("forget") == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return measure(self, split, examples, size, check)

    monkeypatch.setattr(Problem, "measure", stopping)
    outcome = unlearn(**COURSE, save_steps=4, output_dir=tmp_path / "run")
    assert outcome.status == 130
    assert "after step 4 is kept" in outcome.err.splitlines()[-1]


@pytest.mark.parametrize("stage", ["save", "measure"])
def test_an_interruption_after_the_last_step_loses_none(unlearn, whole, monkeypatch, tmp_path, stage):
    import amnestic.execution as execution

    options = COURSE | {"output_dir": tmp_path / "run"}
    with monkeypatch.context() as patch:
        signalling(
            patch,
            signal.SIGTERM,
            {"save": 1, "measure": 2}[stage],
            {"save": "save", "measure": "collect"}[stage],
            execution,
        )
        outcome = unlearn(**options)
    assert outcome.status == 130
    assert f"after step {STEPS} is kept" in outcome.err.splitlines()[-1]
    monkeypatch.setattr(loop, "step", None)  # no step is taken again
    assert told(unlearn(**options, resume_from_checkpoint="latest")) == told(whole)


def test_what_was_measured_before_is_not_measured_again(unlearn, monkeypatch, tmp_path):
    import amnestic.execution as execution

    options = COURSE | {"output_dir": tmp_path / "run"}
    interrupted(monkeypatch, unlearn, 5, **options)
    calls = []
    collect = execution.collect
    monkeypatch.setattr(execution, "collect", lambda *given: calls.append(given) or collect(*given))
    assert unlearn(**options, resume_from_checkpoint="latest").status in (0, 3)
    assert len(calls) == 1


@dataclass(frozen=True)
class Noisy(Method):
    """Draws random numbers in each pass."""

    needs: ClassVar[Needs] = Needs(head=frozenset({"token_logp"}))

    def objective(self, model, reference):
        return model.forget.token_logp * torch.rand(1)


def test_random_states_are_in_the_checkpoint_and_the_caller_s_stay(people, monkeypatch, tmp_path):
    options = {"method": Noisy(), "bound": 20, "forget": people.file("forget"), "retain": people.file("retain")}
    options |= {name: COURSE[name] for name in ("max_steps", "learning_rate", "max_new_tokens")}
    options |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    torch.manual_seed(7)
    amnestic.unlearn(str(people.model), output_dir=tmp_path / "plain", **options)
    following = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(1), following)
    with monkeypatch.context() as patch:
        signalling(patch, signal.SIGINT, 5)
        with pytest.raises(KeyboardInterrupt, match="after step 5 is kept") as caught:
            amnestic.unlearn(str(people.model), output_dir=tmp_path / "run", **options)
    assert isinstance(caught.value, amnestic.Interrupted)
    torch.rand(3)
    amnestic.unlearn(str(people.model), output_dir=tmp_path / "run", **options, resume_from_checkpoint="latest")
    names = [tmp_path / name / "model" / "model.safetensors" for name in ("plain", "run")]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_signals_are_the_caller_s_again_after_a_run(unlearn):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    unlearn(bound=9)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_loaded_objects_are_told_to_come_again(people, monkeypatch, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    signalling(monkeypatch, signal.SIGINT, 1)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(people.model), AutoTokenizer.from_pretrained(people.model)
    options = {"forget": people.rows["forget"], "retain": people.rows["retain"], "max_steps": 2, "max_new_tokens": 3}
    with pytest.raises(amnestic.Interrupted, match="go on by the same call with resume_from_checkpoint='latest'"):
        amnestic.unlearn(model, tokenizer=tokenizer, output_dir=tmp_path / "run", **options)


# Which checkpoint


def test_checkpoints_come_every_so_many_steps_and_the_newest_are_kept(unlearn, monkeypatch, tmp_path):
    found = []
    inner = loop.step

    def watching(*arguments):
        found.append(sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("checkpoint-*")))
        return inner(*arguments)

    monkeypatch.setattr(loop, "step", watching)
    unlearn(**COURSE, output_dir=tmp_path / "run", save_steps=2, save_total_limit=2)
    assert found[:5] == [[], [], ["checkpoint-2"], ["checkpoint-2"], ["checkpoint-2", "checkpoint-4"]]
    assert found[11] == ["checkpoint-10", "checkpoint-8"]
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_without_a_word_a_checkpoint_comes_every_ten_minutes(tmp_path):
    from amnestic.interruption import Interruption
    from amnestic.training.checkpoint import Checkpoints
    from amnestic.training.options import CheckpointOptions

    times = iter([0.0, 599.0, 600.0])
    made = Checkpoints(tmp_path, CheckpointOptions(), {}, Interruption(), clock=lambda: next(times))
    assert [made.is_due(1, is_last=False), made.is_due(2, is_last=False)] == [False, True]
    never = Checkpoints(tmp_path, CheckpointOptions(save_steps=0), {}, Interruption(), clock=lambda: 1e9)
    assert [never.is_due(1, is_last=False), never.is_due(2, is_last=True)] == [False, True]


FILE = "{}/shard-00001-model-00001-of-00001.safetensors"
"""Where a single process puts its part of a small model's tensors."""


@pytest.fixture
def stopped(unlearn, monkeypatch, tmp_path) -> Path:
    """The folder of a run that has the checkpoints of steps 2, 4 and 5."""
    options = COURSE | {"save_steps": 2, "save_total_limit": 3}
    interrupted(monkeypatch, unlearn, 5, **options, output_dir=tmp_path / "run")
    return tmp_path / "run"


def test_a_damaged_checkpoint_is_passed_over(unlearn, whole, stopped):
    file = stopped / "checkpoints" / "checkpoint-5" / FILE.format("optimizer")
    file.write_bytes(file.read_bytes()[:-100])
    outcome = unlearn(**COURSE, output_dir=stopped, resume_from_checkpoint="latest")
    assert f"note: {stopped}/checkpoints/checkpoint-5 is damaged: an earlier checkpoint is looked for." in outcome.err
    assert outcome.results["training"]["resumed_after"] == [4]
    assert told(outcome) == told(whole)


@pytest.mark.parametrize("name", [*map(FILE.format, ("weights", "optimizer", "candidate")), "state.safetensors"])
def test_a_checkpoint_that_lacks_a_file_is_damaged(unlearn, stopped, name):
    """Without its weights, or its moments, a run would go on silently with others."""
    (stopped / "checkpoints" / "checkpoint-5" / name).unlink()
    outcome = unlearn(**COURSE, output_dir=stopped, resume_from_checkpoint=stopped / "checkpoints" / "checkpoint-5")
    assert outcome.status == 2
    assert f"checkpoint-5 is no complete checkpoint ({name} is missing or cut); give another one." in outcome.err
    assert unlearn(**COURSE, output_dir=stopped, resume_from_checkpoint="latest").results["training"][
        "resumed_after"
    ] == [4]


def test_after_a_damaged_checkpoint_the_new_one_is_kept(unlearn, monkeypatch, stopped):
    """The damaged one has the higher number: it must not outlive the one that is written after it was passed over."""
    (stopped / "checkpoints" / "checkpoint-5" / FILE.format("weights")).unlink()
    (stopped / "checkpoints" / ".checkpoint-9.tmp").mkdir()
    options = COURSE | {"output_dir": stopped, "resume_from_checkpoint": stopped / "checkpoints" / "checkpoint-2"}
    outcome = interrupted(monkeypatch, unlearn, 1, **options)
    assert "after step 3 is kept" in outcome.err.splitlines()[-1]
    names = sorted(path.name for path in (stopped / "checkpoints").iterdir())
    assert names == ["candidate", "checkpoint-3", "measured.json"]


def test_the_checkpoint_that_a_run_goes_on_from_is_not_written_again(stopped):
    """Between the old one's going and the new one's coming there would be none."""
    from amnestic.interruption import Interruption
    from amnestic.training.checkpoint import Checkpoints, Training
    from amnestic.training.options import CheckpointOptions

    source = stopped / "checkpoints" / "checkpoint-5"
    before = (source / "state.json").stat().st_mtime_ns
    made = Checkpoints(source.parent, CheckpointOptions(), {}, Interruption(), source)
    made.write(Training(None, None, [], step=5), is_last=True)
    assert (source / "state.json").stat().st_mtime_ns == before


def test_a_checkpoint_of_elsewhere_does_not_go_into_a_folder_in_use(unlearn, stopped, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "train.jsonl").write_text("", encoding="utf-8")
    outcome = unlearn(**COURSE, output_dir=tmp_path / "other", resume_from_checkpoint=stopped)
    assert outcome.status == 2
    assert f"--output_dir {tmp_path}/other is not empty; give another folder" in outcome.err


def test_the_retrained_model_is_compared_by_its_weights(unlearn, people, tiny_model, monkeypatch, tmp_path):
    """Under another name it is the same; another one under the same name is measured anew."""
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(people.model, first)
    options = COURSE | {"output_dir": tmp_path / "run"}
    interrupted(monkeypatch, unlearn, 3, **options, retrained=first)
    first.rename(second)
    interrupted(monkeypatch, unlearn, 3, **options, retrained=second, resume_from_checkpoint="latest")
    shutil.rmtree(second)
    shutil.copytree(other_weights(people, tmp_path)["model"], second)
    outcome = unlearn(**options, retrained=second, resume_from_checkpoint="latest")
    assert outcome.results["retrained_metrics"] != outcome.results["reference_metrics"]


def test_no_credential_stands_in_what_was_measured(unlearn, people, monkeypatch, tmp_path):
    monkeypatch.setenv("SERVICE_TOKEN", "grasshopper-42")
    rows = [people.rows["forget"][0] | {"answer": "It is grasshopper-42."}, *people.rows["forget"][1:]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = COURSE | {"forget": tmp_path / "rows.jsonl", "bound": 9, "keep": None, "output_dir": tmp_path / "run"}
    interrupted(monkeypatch, unlearn, 2, **options)
    held = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and b"grasshopper" in path.read_bytes()]
    assert held == []
    assert "[SERVICE_TOKEN]" in (tmp_path / "run" / "checkpoints" / "measured.json").read_text(encoding="utf-8")


def test_none_that_is_whole_is_told(unlearn, stopped):
    for path in (stopped / "checkpoints").glob("checkpoint-*"):
        (path / "state.json").write_text('{"format": 1', encoding="utf-8")
    outcome = unlearn(**COURSE, output_dir=stopped, resume_from_checkpoint="latest")
    assert outcome.status == 2
    assert f"error: none of the 3 checkpoints in {stopped}/checkpoints is whole; start anew instead." in outcome.err


@pytest.mark.parametrize("place", ["checkpoints/checkpoint-4", "checkpoints", ""])
def test_a_path_names_a_checkpoint_of_another_folder(unlearn, whole, stopped, tmp_path, place):
    moved = tmp_path / "moved"
    stopped.rename(moved)
    outcome = unlearn(**COURSE, output_dir=tmp_path / "new", resume_from_checkpoint=moved / place)
    assert outcome.results["training"]["resumed_after"] == [4 if "4" in place else 5]
    assert told(outcome) == told(whole)
    assert (moved / "checkpoints" / "checkpoint-4").is_dir()


def test_a_checkpoint_may_have_been_renamed(unlearn, whole, stopped, tmp_path):
    (stopped / "checkpoints" / "checkpoint-4").rename(tmp_path / "kept for later")
    outcome = unlearn(**COURSE, output_dir=tmp_path / "new", resume_from_checkpoint=tmp_path / "kept for later")
    assert outcome.results["training"]["resumed_after"] == [4]
    assert outcome.digest == whole.digest


def test_latest_without_a_checkpoint_starts_at_the_beginning(unlearn, whole, tmp_path):
    outcome = unlearn(**COURSE, output_dir=tmp_path / "run", resume_from_checkpoint="latest")
    assert "holds no checkpoint yet: the run starts at its beginning." in outcome.err
    assert told(outcome) == told(whole)


# Refusals


def other_rows(people, tmp_path) -> dict:
    lines = people.file("forget").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "other.jsonl").write_text("".join(lines[1:] + lines[:1]), encoding="utf-8")
    return {"forget": tmp_path / "other.jsonl"}


def fewer_rows(people, tmp_path) -> dict:
    lines = people.file("retain").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "fewer.jsonl").write_text("".join(lines[1:]), encoding="utf-8")
    return {"retain": tmp_path / "fewer.jsonl"}


def other_weights(people, tmp_path) -> dict:
    from safetensors.torch import load_file, save_file

    shutil.copytree(people.model, tmp_path / "other")
    file = tmp_path / "other" / "model.safetensors"
    weights = load_file(file)
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, file, {"format": "pt"})
    return {"model": tmp_path / "other"}


def no_checkpoint(people, tmp_path) -> dict:
    return {"resume_from_checkpoint": "nowhere", "output_dir": tmp_path / "new"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (other_rows, "the forget split is not that of {at}: 12 examples here, other ones; give the same data"),
        (fewer_rows, "the retain split is not that of {at}: 23 examples here, 24 there; give the same data"),
        (other_weights, "the weights of --model are not those that the run of {at} started from; give the model"),
        (
            {"learning_rate": 1e-3},
            "{at} belongs to a run with other options: --learning_rate is 0.001 here and was 0.002",
        ),
        ({"keep": None, "bound": 9.0}, "--keep is None here and was 0.92; --bound is 9.0 here and was None."),
        ({"max_steps": 13}, "--max_steps is 13 here and was 12."),
        ({"redact": True}, "--redact is True here and was False."),
        ({"gradient_accumulation_steps": 2}, "the effective batch is 8 here and was 4."),
        ({"overwrite": True}, "--overwrite starts anew and --resume_from_checkpoint goes on; give one of the two."),
        ({"optim": "paged_adamw_32bit"}, "--optim paged_adamw_32bit cannot be resumed: bitsandbytes does not restore"),
        (no_checkpoint, "--resume_from_checkpoint nowhere is no checkpoint; expected latest"),
    ],
)
def test_going_on_as_another_run_is_refused(unlearn, people, stopped, monkeypatch, tmp_path, change, sentence):
    if "optim" in str(change):
        monkeypatch.setattr("amnestic.execution.check_library", lambda options: None)
    before = sorted(str(path) for path in stopped.rglob("*"))
    given = change(people, tmp_path) if callable(change) else change
    options = COURSE | {"output_dir": stopped, "resume_from_checkpoint": "latest"} | given
    outcome = unlearn(**options)
    assert outcome.status == 2
    assert sentence.format(at=stopped / "checkpoints" / "checkpoint-5") in outcome.err.splitlines()[-1]
    assert sorted(str(path) for path in stopped.rglob("*")) == before


def test_a_step_may_be_cut_otherwise(unlearn, whole, stopped):
    """Four rows at once, or twice two: what helps against a lack of memory does not end the run."""
    cut = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "gradient_checkpointing": True}
    outcome = unlearn(**COURSE | cut, output_dir=stopped, resume_from_checkpoint="latest")
    assert outcome.results["training"]["resumed_after"] == [5]
    assert outcome.results["metrics"] == pytest.approx(whole.results["metrics"], rel=1e-3, abs=1e-4)


def test_a_checkpoint_of_another_command_is_refused(finetune, stopped, people):
    outcome = finetune(**FINETUNE, resume_from_checkpoint=stopped, data=people.file("forget"))
    assert outcome.status == 2
    assert "was written by amnestic unlearn, and this is finetune." in outcome.err


def test_a_checkpoint_of_another_version_is_refused(unlearn, stopped):
    path = stopped / "checkpoints" / "checkpoint-5" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"format": 9}), encoding="utf-8")
    outcome = unlearn(**COURSE, output_dir=stopped, resume_from_checkpoint=path.parent)
    assert outcome.status == 2
    assert (
        "has the format 9, and this version reads 2; go on with the version of amnestic that wrote it." in outcome.err
    )


def test_a_run_that_ended_has_nothing_to_resume(unlearn, whole):
    outcome = unlearn(**COURSE, output_dir=whole.folder, resume_from_checkpoint="latest")
    assert outcome.status == 2
    assert outcome.err == f"error: the run in --output_dir {whole.folder} has ended; there is nothing to resume.\n"


def test_a_folder_with_an_interrupted_run_says_how_it_goes_on(unlearn, stopped):
    outcome = unlearn(**COURSE, output_dir=stopped)
    assert outcome.status == 2
    assert (
        "give --resume_from_checkpoint latest to go on with the run in it, or --overwrite to start anew." in outcome.err
    )


def test_two_processes_do_not_write_the_same_run(unlearn, tmp_path):
    import fcntl

    (tmp_path / "run").mkdir()
    descriptor = os.open(tmp_path / "run", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    outcome = unlearn(bound=9, output_dir=tmp_path / "run")
    os.close(descriptor)
    assert outcome.status == 2
    assert f"another process is writing in {tmp_path}/run; let it end first, or give another folder." in outcome.err


def test_without_a_way_to_restore_its_state_a_run_writes_no_checkpoint(unlearn, monkeypatch, tmp_path):
    """A stand-in for the paged optimisers, whose library needs a GPU."""
    import amnestic.training.optimizer as optimizer

    monkeypatch.setattr("amnestic.execution.check_library", lambda options: None)
    monkeypatch.setattr(optimizer, "_optimizer", lambda groups, options: torch.optim.AdamW(groups))
    outcome = interrupted(monkeypatch, unlearn, 5, **COURSE, optim="paged_adamw_32bit", output_dir=tmp_path / "run")
    assert "The state of --optim paged_adamw_32bit cannot be kept: start anew" in outcome.err.splitlines()[-1]
    assert "--resume_from_checkpoint" not in outcome.err.splitlines()[-1]
    assert [step["step"] for step in outcome.steps] == [1, 2, 3, 4, 5]
    assert list((tmp_path / "run" / "checkpoints").glob("checkpoint-*")) == []


def test_a_folder_that_cannot_be_opened_is_free_again(unlearn, stopped):
    log = stopped / "train.jsonl"
    kept = log.read_text(encoding="utf-8")
    log.write_text("{\n" + kept, encoding="utf-8")
    outcome = unlearn(**COURSE, output_dir=stopped, resume_from_checkpoint="latest")
    assert (outcome.status, "is no JSON" in outcome.err) == (2, True)
    log.write_text(kept, encoding="utf-8")
    assert unlearn(**COURSE, output_dir=stopped, resume_from_checkpoint="latest").status in (0, 3)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_log_that_cannot_be_written_is_one_sentence_and_leaves_the_folder_free(tmp_path):
    from amnestic.errors import RunError
    from amnestic.reports.run_folder import RunFolder

    folder = RunFolder(tmp_path / "run", overwrite=False)
    folder.open()
    folder._log.close()
    (tmp_path / "run" / "train.jsonl").unlink()
    (tmp_path / "run" / "train.jsonl").symlink_to("/dev/full")
    folder._log = type(folder._log)(tmp_path / "run" / "train.jsonl")
    with pytest.raises(RunError, match=r"cannot write .*train.jsonl: No space left on device\.$"):
        folder.log({"step": 1})
    folder.close(has_ended=False)
    again = RunFolder(tmp_path / "run", overwrite=True)
    again.open()
    again.close(has_ended=True)


def test_a_fingerprint_sees_ids_tokens_and_masks():
    import numpy as np

    from amnestic.data.encode import Encoded

    def row(name="a", ids=(1, 2, 3), first=1):
        return Encoded(name, np.array(ids), np.arange(len(ids)) >= first, 1, False, "", "")

    same = fingerprint([row(), row("b")])
    assert fingerprint([row(), row("b")]) == same
    for other in ([row("c"), row("b")], [row(ids=(1, 2, 4)), row("b")], [row(first=2), row("b")], [row("b"), row()]):
        assert fingerprint(other) != same
