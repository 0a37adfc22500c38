"""Too little disk, a read-only folder, too little memory: exit 1, a sentence, and nothing complete is lost."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch

import amnestic.training.loop as loop
from amnestic.errors import RunError
from amnestic.shared_folder import write_folder
from amnestic.storage import write_file

COURSE = {"max_steps": 6, "bound": 9, "save_steps": 2, "max_new_tokens": 3}


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command to make a small disk with")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[[str], Path]]:
    """Mount a small disk with the given options."""
    with ExitStack() as stack:
        yield lambda options: stack.enter_context(mounted(tmp_path / "disk", options))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(disk: Path) -> Path:
    """Write a file that takes all the room that is left."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"0" * 4096)
        except OSError:
            return path


def test_a_disk_without_room_is_told_before_the_first_step(unlearn, disk):
    """16 MiB for small files; 83,000 weights take 0.3 MiB twice, and 1 MiB in each of two checkpoints."""
    place = disk("size=10m")
    outcome = unlearn(**COURSE, output_dir=place / "run")
    assert outcome.status == 1
    last = outcome.err.splitlines()[-1]
    assert last.startswith(f"error: --output_dir {place}/run has room for 10 MiB, and the run may need 1")
    assert last.endswith("; make room, or give a folder on another disk.")
    assert names(place) == []


def test_the_room_that_is_asked_for_is_what_a_run_needs(people):
    """Parameters in float32: the model, the candidate, and two checkpoints of weights and two moments."""
    from transformers import AutoModelForCausalLM

    from amnestic.training.checkpoint import checkpoint_bytes
    from amnestic.training.options import TrainingOptions

    model = AutoModelForCausalLM.from_pretrained(people.model)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert checkpoint_bytes(model, TrainingOptions()) == 12 * count
    assert checkpoint_bytes(model, TrainingOptions(optim="sgd")) == 8 * count
    model = model.to(torch.bfloat16)
    assert checkpoint_bytes(model, TrainingOptions()) == (2 + 4 + 8) * count
    assert checkpoint_bytes(model, TrainingOptions(master_weights=False)) == (2 + 4) * count


def test_a_disk_that_fills_up_ends_the_run_and_an_earlier_checkpoint_goes_on(unlearn, disk, monkeypatch):
    whole = unlearn(**COURSE)
    place = disk("size=40m")
    calls = []
    step = loop.step

    def filling(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            fill(place)
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "step", filling)
        outcome = unlearn(**COURSE, output_dir=place / "run")
    assert outcome.status == 1
    last = outcome.err.splitlines()[-1]
    assert last.startswith(f"error: cannot write {place}/run/")
    assert "No space left on device" in last
    assert "Traceback" not in outcome.err
    assert list((place / "run").rglob("*.tmp")) == []
    assert names(place / "run" / "checkpoints")[-1] == "measured.json"
    (place / "filler").unlink()
    again = unlearn(**COURSE, output_dir=place / "run", resume_from_checkpoint="latest")
    assert again.results["training"]["resumed_after"] == [2]
    assert again.digest == whole.digest


def test_a_read_only_disk_is_told_before_the_first_step(unlearn, disk):
    place = disk("size=1m,ro")
    outcome = unlearn(**COURSE, output_dir=place / "run")
    assert outcome.status == 1
    assert (
        outcome.err
        == f"error: --output_dir {place}/run cannot be written: {place} is read-only; give another folder.\n"
    )


def test_what_cannot_be_written_whole_leaves_what_was_there(tmp_path):
    def failing(path: Path) -> None:
        target = path / "half" if path.is_dir() else path
        target.write_text("half", encoding="utf-8")
        raise OSError(28, "No space left on device")

    (tmp_path / "file").write_text("old", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("old", encoding="utf-8")
    for write, name in ((write_file, "file"), (write_folder, "folder")):
        with pytest.raises(RunError, match=f"^cannot write .*{name}: No space left on device.$"):
            write(tmp_path / name, failing)
    assert names(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_text(encoding="utf-8") == "old"
    assert names(tmp_path / "folder") == ["a"]
    write_folder(tmp_path / "folder", lambda path: (path / "b").write_text("new", encoding="utf-8"))
    assert names(tmp_path / "folder") == ["b"]
    assert names(tmp_path) == ["file", "folder"]


# Memory

ALL = (
    "--per_device_train_batch_size 2 --gradient_accumulation_steps 2 (the same steps); or "
    "--per_device_eval_batch_size 16 (the same numbers); or --gradient_checkpointing (the same steps, a third slower); "
    "or a --max_length below 2048; or --optim paged_adamw_8bit on an NVIDIA GPU; or --dtype bfloat16; or a smaller "
    "model or a larger machine."
)


def exhausting(function):
    """Return `function`, which asks for more memory than there is after its first call."""
    calls = []

    def called(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            torch.empty(2**58)
        return function(*arguments, **options)

    return called


@pytest.mark.parametrize(
    ("options", "ways"),
    [
        ({}, ALL),
        (
            {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "gradient_checkpointing": True},
            "--per_device_eval_batch_size 16 (the same numbers); or a --max_length below 2048; or ",
        ),
        (
            {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2},
            "--per_device_train_batch_size 1 --gradient_accumulation_steps 6 (the same steps); or ",
        ),
        ({"max_tokens_per_batch": 400}, "a --max_tokens_per_batch below 400 (the same steps); or --per_device_eval"),
    ],
)
def test_a_lack_of_memory_names_the_cheapest_remedies(unlearn, monkeypatch, tmp_path, options, ways):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "step", exhausting(loop.step))
        outcome = unlearn(**COURSE | {"save_steps": 1} | options, output_dir=tmp_path / "run")
    assert outcome.status == 1
    last = outcome.err.splitlines()[-1]
    assert last.startswith(f"error: out of memory in the stage 'train'; try {ways}")
    assert last.endswith(
        f"Its state after step 1 is kept; go on with: amnestic unlearn --config {tmp_path}/run/config.yaml "
        "--resume_from_checkpoint latest"
    )


def test_a_lack_of_memory_before_the_first_step(unlearn, monkeypatch, tmp_path):
    import amnestic.execution as execution

    monkeypatch.setattr(execution, "collect", lambda *given: torch.empty(2**58))
    outcome = unlearn(output_dir=tmp_path / "run")
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1].startswith(
        "error: out of memory in the stage 'reference'; try --per_device_eval_batch_size 16 (the same numbers); or "
    )
    assert outcome.err.endswith(" Nothing was written.\n")


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")])
def test_other_lacks_of_memory(finetune, monkeypatch, error):
    def lacking(*given):
        raise error

    monkeypatch.setattr(loop, "step", lacking)
    outcome = finetune()
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1].startswith("error: out of memory in the stage 'train'; try ")


def test_the_examples_that_gave_no_number_are_named(unlearn, monkeypatch, tmp_path):
    """One of the forget rows gives a loss that is no number: its batch is named, with the last good checkpoint."""
    from amnestic.training.problem import Problem

    values = Problem.values

    def spoiled(self, batch):
        found = values(self, batch)
        return found * float("nan") if "forget:7" in batch.ids else found

    monkeypatch.setattr(Problem, "values", spoiled)
    options = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "save_steps": 1, "seed": 4}
    outcome = unlearn(**COURSE | options, output_dir=tmp_path / "run")
    assert outcome.status == 1
    last = outcome.err.splitlines()[-1]
    assert "in example forget:7; lower --learning_rate, or use --dtype float32." in last
    step = int(last.removeprefix("error: step ").partition(":")[0])
    assert 1 < step <= 3
    good = f"{tmp_path}/run/checkpoints/checkpoint-{step - 1}"
    assert last.endswith(f" The last good checkpoint is {good}; with other options the run starts anew.")
