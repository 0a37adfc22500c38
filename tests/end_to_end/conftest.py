"""Small models of invented people, and the commands as a user runs them."""

import contextlib
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

SHAPE = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 24,
}
TRAINING = {
    "learning_rate": 1e-2,
    "lr_scheduler_type": "cosine",
    "num_train_epochs": 60,
    "max_steps": None,
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "adam_beta2": 0.98,
    "max_new_tokens": 20,
}
FORGETTING = {
    "keep": 0.95,
    "learning_rate": 2e-3,
    "num_train_epochs": 12,
    "max_steps": None,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "retain_per_forget": 4,
    "adam_beta2": 0.98,
    "max_new_tokens": 20,
}
QUICK = {
    "max_steps": 2,
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "max_new_tokens": 3,
}
"""Two steps of four rows: enough for whatever is not about the numbers."""

Command = Callable[..., "Outcome"]


@dataclass(frozen=True)
class People:
    """Twelve invented people, three questions about each; four of them are to be forgotten."""

    folder: Path
    rows: dict[str, list[dict[str, Any]]]
    """Split -> rows: 36 in full, 12 in forget, 24 in retain."""
    start: Path
    """Shape and tokenizer of an untrained model."""
    model: Path
    """A model that knows them all."""

    def file(self, split: str) -> Path:
        """The rows of a split as JSON Lines."""
        return self.folder / f"{split}.jsonl"


@dataclass
class Outcome:
    """What a command left behind, on the screen and on the disk."""

    status: int
    out: str
    err: str
    folder: Path

    @cached_property
    def results(self) -> dict[str, Any]:
        return self._json("results.json")

    @cached_property
    def environment(self) -> dict[str, Any]:
        return self._json("environment.json")

    @property
    def records(self) -> list[dict[str, Any]]:
        """All records of train.jsonl."""
        return [json.loads(line) for line in (self.folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]

    @property
    def steps(self) -> list[dict[str, Any]]:
        return [record for record in self.records if "candidate" not in record]

    @property
    def weights(self) -> dict[str, Any]:
        from safetensors.torch import load_file

        return load_file(self.folder / "model" / "model.safetensors")

    @property
    def digest(self) -> str:
        """SHA-256 of the saved weights."""
        return hashlib.sha256((self.folder / "model" / "model.safetensors").read_bytes()).hexdigest()

    def scores(self, split: str) -> list[dict[str, Any]]:
        """The rows of scores/SPLIT.parquet."""
        import pyarrow.parquet

        return pyarrow.parquet.read_table(self.folder / "scores" / f"{split}.parquet").to_pylist()

    def _json(self, name: str) -> dict[str, Any]:
        assert self.status in (0, 3), self.err
        return json.loads((self.folder / name).read_text(encoding="utf-8"))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def flags(options: dict[str, Any]) -> list[str]:
    """Options as command-line arguments; None leaves one out."""
    found: list[str] = []
    for name, value in options.items():
        if isinstance(value, bool):
            found.append(f"--{name}" if value else f"--no_{name}")
        elif isinstance(value, dict):
            found += [part for key, item in value.items() for part in (f"--{name}.{key}", str(item))]
        elif value is not None:
            found += [f"--{name}", str(value)]
    return found


def run_command(name: str, options: dict[str, Any], *more: str) -> Outcome:
    from amnestic.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([name, *flags(options), *more])
    return Outcome(status, out.getvalue(), err.getvalue(), Path(str(options.get("output_dir"))))


def plain_answers(folder: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return logp and margin of each scored token of each answer, by transformers alone: row after row, unpadded.

    A token is scored if it ends after the answer starts; the end-of-sequence follows the answer.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for row in rows:
        prompt = f"Question: {row['question']}\nAnswer: "
        encoded = tokenizer(prompt + row["answer"], return_offsets_mapping=True)
        ids = torch.tensor([*encoded["input_ids"], tokenizer.eos_token_id])
        first = next(i for i, (_, end) in enumerate(encoded["offset_mapping"]) if end > len(prompt))
        with torch.no_grad():
            logits = model(ids[None]).logits[0, first - 1 : -1].double()
        logp = torch.log_softmax(logits, -1).gather(1, ids[first:, None]).squeeze(1)
        known = logits[:, : len(tokenizer)]
        found.append({"logp": logp.numpy(), "margin": (known.max(-1).values - known.mean(-1)).numpy()})
    return found


@pytest.fixture(scope="session")
def answers() -> Callable[[Path, list[dict[str, Any]]], list[dict[str, Any]]]:
    """Measure each scored token of each answer by transformers alone."""
    return plain_answers


@pytest.fixture(scope="session")
def as_flags() -> Callable[[dict[str, Any]], list[str]]:
    """Turn options into command-line arguments."""
    return flags


@pytest.fixture(scope="session")
def as_file() -> Callable[[Path, list[dict[str, Any]]], Path]:
    """Write rows as JSON Lines and return the path."""
    return write_rows


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    """The invented people, and a model that learned them in some two seconds."""
    from amnestic.benchmarks.fiction import Fiction
    from amnestic.scratch import write_start

    folder = tmp_path_factory.mktemp("people")
    rows = Fiction(people=12, questions=3, forget_share=1 / 3).splits()
    write_start(folder / "start", rows["full"])
    shape = json.loads((folder / "start" / "config.json").read_text(encoding="utf-8"))
    (folder / "start" / "config.json").write_text(json.dumps(shape | SHAPE), encoding="utf-8")
    found = People(folder, rows, folder / "start", folder / "target" / "model")
    for split in ("full", "forget", "retain"):
        write_rows(found.file(split), rows[split])
    options = {"model": found.start, "from_scratch": True, "data": found.file("full"), "output_dir": folder / "target"}
    outcome = run_command("finetune", options | TRAINING)
    assert outcome.results["metrics"]["data.probability"] > 0.9
    return found


@pytest.fixture(scope="session")
def training() -> dict[str, Any]:
    """The options by which the people are learned."""
    return dict(TRAINING)


@pytest.fixture(scope="session")
def forgetting() -> dict[str, Any]:
    """The options by which four of the people are forgotten."""
    return dict(FORGETTING)


@pytest.fixture(scope="session")
def command() -> Command:
    """Run a command of ``amnestic`` in this process: its name, its options, and further arguments."""
    return run_command


@pytest.fixture(scope="session")
def unlearn(people: People, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Run ``amnestic unlearn`` in this process: two steps on the people, into a new folder, unless told otherwise."""

    def run(*more: str, **options: Any) -> Outcome:
        own = {"model": people.model, "forget": people.file("forget"), "retain": people.file("retain")}
        own["output_dir"] = options.get("output_dir") or tmp_path_factory.mktemp("unlearn") / "run"
        return run_command("unlearn", own | QUICK | options, *more)

    return run


@pytest.fixture(scope="session")
def finetune(people: People, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Run ``amnestic finetune`` in this process, as `unlearn` does."""

    def run(*more: str, **options: Any) -> Outcome:
        own = {"model": people.model, "data": people.file("retain")}
        own["output_dir"] = options.get("output_dir") or tmp_path_factory.mktemp("finetune") / "run"
        return run_command("finetune", own | QUICK | options, *more)

    return run


@pytest.fixture(scope="session")
def evaluation(people: People, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Run ``amnestic eval`` in this process on the people, into a new folder, unless told otherwise."""

    def run(*more: str, **options: Any) -> Outcome:
        own = {"model": people.model, "forget": people.file("forget"), "retain": people.file("retain")}
        own |= {"max_new_tokens": QUICK["max_new_tokens"]}
        own["output_dir"] = options.get("output_dir") or tmp_path_factory.mktemp("eval") / "run"
        return run_command("eval", own | options, *more)

    return run


@pytest.fixture(scope="session")
def unlearned(people: People, unlearn: Command) -> Outcome:
    """Four people, forgotten under ``--keep 0.95``."""
    return unlearn(**FORGETTING)


@pytest.fixture(scope="session")
def retrained(people: People, finetune: Command) -> Outcome:
    """A model that learned all people but those to be forgotten."""
    options = {"model": people.start, "from_scratch": True, "data": people.file("full")}
    return finetune(**options, exclude=people.file("forget"), **TRAINING)


@pytest.fixture
def damaged_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head of a saved model is half of the live one's."""
    import amnestic.execution as execution

    save = execution.save

    def damaged(loaded, folder):
        weight = loaded.model.get_output_embeddings().weight
        kept = weight.detach().clone()
        weight.data.mul_(0.5)
        save(loaded, folder)
        weight.data.copy_(kept)

    monkeypatch.setattr(execution, "save", damaged)
