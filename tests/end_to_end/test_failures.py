"""Runs that end before they are done: one sentence, an exit status, and a folder that claims nothing."""

import json

import pytest

LEFT = ["checkpoints", "config.yaml", "environment.json", "train.jsonl"]


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def interrupting(step, number):
    """Return `step`, which is interrupted at its call `number`, counted from 1."""
    calls = []

    def stopped(*arguments):
        calls.append(arguments)
        if len(calls) == number:
            raise KeyboardInterrupt
        return step(*arguments)

    return stopped


@pytest.mark.parametrize(("command", "steps"), [("unlearn", 1), ("unlearn", 3), ("finetune", 3)])
def test_numbers_that_overflow_are_an_error(request, command, steps):
    """Steps as long as float32 reaches: the second one, or the first measurement, finds no number."""
    run = request.getfixturevalue(command)
    options = {"optim": "sgd", "learning_rate": 1e38, "max_grad_norm": 0, "warmup_steps": 0}
    outcome = run(**options, max_steps=steps, **({"bound": 9} if command == "unlearn" else {}))
    last = outcome.err.splitlines()[-1]
    assert outcome.status == 1
    assert outcome.out == ""
    assert last.startswith("error: ")
    assert "nan" in last or "inf" in last
    assert "; lower --learning_rate" in last
    assert "Traceback" not in outcome.err
    assert names(outcome.folder) == LEFT


def test_a_last_step_that_ruins_the_weights_is_an_error(finetune, monkeypatch):
    import amnestic.training.loop as loop

    def ruining(objective, *arguments):
        found = step(objective, *arguments)
        objective.problem.model.get_output_embeddings().weight.data[7] = float("nan")
        return found

    step = loop.step
    monkeypatch.setattr(loop, "step", ruining)
    outcome = finetune(max_steps=1)
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1] == "error: the trained model's loss on data is nan; lower --learning_rate."
    assert "results.json" not in names(outcome.folder)


@pytest.mark.parametrize("command", ["unlearn", "finetune"])
def test_a_run_stopped_at_once_exits_130_and_can_be_replaced(request, monkeypatch, tmp_path, command):
    """Twelve forget rows make three steps an epoch: the fourth step comes after a candidate was kept.

    An interruption in the middle of a step, as a second Ctrl-C makes one, leaves no checkpoint of it.
    """
    import amnestic.training.loop as loop

    run = request.getfixturevalue(command)
    options = {"output_dir": tmp_path / "run", "max_steps": 5} | ({"bound": 9} if command == "unlearn" else {})
    with monkeypatch.context() as patch:
        patch.setattr(loop, "step", interrupting(loop.step, 4))
        outcome = run(**options)
    assert outcome.status == 130
    assert outcome.out == ""
    assert outcome.err.endswith(
        f"\nerror: interrupted. No checkpoint was written; start again with: amnestic {command} --config "
        f"{tmp_path}/run/config.yaml --resume_from_checkpoint latest\n"
    )
    assert names(outcome.folder) == LEFT
    assert [step["step"] for step in outcome.steps] == ([1, 2, 3] if command == "unlearn" else [1, 2])
    assert run(**options).status == 2
    assert run(**options, overwrite=True).status == 0


def test_an_interruption_before_the_first_step_leaves_nothing(unlearn, monkeypatch, tmp_path):
    from amnestic.evaluation import continuations

    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(continuations, "generate", stopped)
    assert unlearn(output_dir=tmp_path / "run").status == 130
    assert names(tmp_path) == []


def test_what_a_killed_run_left_is_replaced(unlearn, tmp_path):
    """Half-written parts under the names that they are written to, and the weights of a candidate."""
    folder = tmp_path / "run"
    for name in (".model.tmp", "checkpoints", "scores"):
        (folder / name).mkdir(parents=True)
        (folder / name / "half.tmp").write_text("half", encoding="utf-8")
    (folder / ".results.json.77.tmp").write_text("{", encoding="utf-8")
    (folder / "train.jsonl").write_text('{"step": 1}\n{"st', encoding="utf-8")
    outcome = unlearn(output_dir=folder, overwrite=True, bound=9)
    assert outcome.status == 0
    assert [path for path in folder.rglob("*") if "tmp" in path.name or "half" in path.name] == []
    assert [step["step"] for step in outcome.steps] == [1, 2]


def test_a_run_that_fails_over_an_earlier_one_leaves_none_of_its_results(unlearn, tmp_path):
    assert unlearn(output_dir=tmp_path / "run", bound=9).status == 0
    options = {"optim": "sgd", "learning_rate": 1e38, "max_grad_norm": 0, "warmup_steps": 0}
    assert unlearn(output_dir=tmp_path / "run", bound=9, overwrite=True, **options).status == 1
    assert names(tmp_path / "run") == LEFT


def test_a_model_that_changed_on_its_way_to_the_disk_is_an_error(unlearn, damaged_on_its_way, tmp_path):
    outcome = unlearn(output_dir=tmp_path / "run", bound=9)
    assert outcome.status == 1
    assert "differs from the live one by " in outcome.err.splitlines()[-1]
    assert "results.json" not in names(tmp_path / "run")


def test_a_full_disk_is_an_error(unlearn, monkeypatch, tmp_path):
    import amnestic.execution as execution

    def full(loaded, folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(execution, "save", full)
    outcome = unlearn(output_dir=tmp_path / "run", bound=9)
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1] == f"error: cannot write {tmp_path}/run/model: No space left on device."
    assert names(tmp_path / "run") == LEFT


def test_records_are_on_the_disk_when_a_run_dies(unlearn, monkeypatch, tmp_path):
    import amnestic.execution as execution

    def read(loaded):
        text = (tmp_path / "run" / "train.jsonl").read_text(encoding="utf-8")
        seen.extend(json.loads(line) for line in text.splitlines())
        raise MemoryError

    seen: list[dict] = []
    monkeypatch.setattr(execution, "round_to_saved", read)
    assert unlearn(output_dir=tmp_path / "run", bound=9).status == 1
    assert [record["step"] for record in seen] == [1, 2, 2]
