"""What ``amnestic finetune`` trains on, and what commands leave to a benchmark."""

from pathlib import Path
from typing import Any

import pytest
from muse_folder import muse_rows, passage, write_muse

from amnestic.benchmarks.fiction import Fiction
from amnestic.benchmarks.passages import Passages
from amnestic.config import FinetuneConfig, UnlearnConfig, from_mapping, to_mapping
from amnestic.data.options import FinetuneData
from amnestic.defaults import configured
from amnestic.errors import InputError
from amnestic.lessons import lesson

OWN = {"model": "m", "output_dir": "run"}
USUAL = to_mapping(from_mapping(FinetuneConfig, OWN | {"data": "d.jsonl"}))


def finetuning(mapping: dict[str, Any]) -> FinetuneConfig:
    return configured(FinetuneConfig, mapping, "", "learning")


def changed(**options: Any) -> dict[str, Any]:
    """What a configuration with a benchmark says otherwise than one without."""
    found = to_mapping(finetuning(OWN | options))
    named = ("benchmark", "data", "without_forget")
    return {name: value for name, value in found.items() if value != USUAL[name] and name not in named}


def batch(config: FinetuneConfig) -> int:
    return config.training.per_device_train_batch_size * config.training.gradient_accumulation_steps


def test_tofu_s_models_are_trained_as_the_authors_did() -> None:
    """1e-5, 5 epochs, one of them to warm up, 32 rows a step, weight decay 0.01; linear, as transformers' Trainer."""
    assert changed(benchmark="tofu:forget10") == {"lr_scheduler_type": "linear"}
    config = finetuning(OWN | {"benchmark": "tofu:forget10"})
    training = config.training
    assert (training.learning_rate, training.num_train_epochs, training.warmup_epochs) == (1e-5, 5, 1)
    assert (batch(config), training.weight_decay) == (32, 0.01)


def test_muse_s_models_are_trained_as_the_authors_did() -> None:
    """1e-5 all the time, 5 epochs, 32 chunks a step."""
    assert changed(benchmark="muse:news") == {"lr_scheduler_type": "constant", "weight_decay": 0.0}
    config = finetuning(OWN | {"benchmark": "muse:news"})
    assert (config.training.learning_rate, config.training.num_train_epochs, batch(config)) == (1e-5, 5, 32)


def test_options_that_are_given_go_before_the_authors() -> None:
    config = finetuning(OWN | {"benchmark": "muse:news", "learning_rate": 1e-3, "max_steps": 2})
    assert (config.training.learning_rate, config.training.max_steps) == (1e-3, 2)
    assert config.training.lr_scheduler_type == "constant"
    again = finetuning(to_mapping(config))
    assert again == config


def test_unlearning_takes_what_fits_the_benchmark_s_models_unless_it_is_given() -> None:
    own = OWN | {"benchmark": "fiction:passages:3"}
    found, fitting = configured(UnlearnConfig, own, "", "unlearning"), Passages(seed=3).unlearning
    assert fitting
    assert {name: to_mapping(found)[name] for name in fitting} == dict(fitting)
    found = configured(UnlearnConfig, own | {"max_steps": 2}, "", "unlearning")
    assert found.training.max_steps == 2
    assert found.training.learning_rate == fitting["learning_rate"]


def test_files_are_learned_with_the_usual_options() -> None:
    assert to_mapping(finetuning(OWN | {"data": "d.jsonl"})) == USUAL
    assert lesson(FinetuneData(data="d.jsonl")).name == "d.jsonl"


def test_the_target_learns_all_and_the_retrained_one_no_forget_text(tmp_path: Path) -> None:
    write_muse(tmp_path / "muse")
    where = {"benchmark": "muse:books", "data": str(tmp_path / "muse")}
    texts = {split: "\n\n".join(row["text"] for row in rows) for split, rows in muse_rows()["train"].items()}
    everything, kept = lesson(FinetuneData(**where)), lesson(FinetuneData(**where, without_forget=True))
    assert everything.rows == [{"text": texts[split]} for split in ("retain1", "retain2", "forget")]
    assert kept.rows == [{"text": texts[split]} for split in ("retain1", "retain2")]
    assert kept.files == [tmp_path / "muse" / "raw" / f"{split}.jsonl" for split in ("retain1", "retain2")]
    assert passage("forget", 9) in everything.rows[-1]["text"]
    assert everything.name == "<all of muse:books>"
    assert kept.name == "<muse:books without what is to be forgotten>"


@pytest.mark.parametrize(("name", "benchmark"), [("fiction:1", Fiction(seed=1)), ("fiction:passages", Passages())])
def test_embedded_benchmarks_are_learned_as_they_are_elsewhere(name: str, benchmark: Any) -> None:
    splits = benchmark.splits()
    assert sorted(map(str, lesson(FinetuneData(benchmark=name)).rows or ())) == sorted(map(str, splits["full"]))
    assert lesson(FinetuneData(benchmark=name, without_forget=True)).rows == splits["retain"]
    learned = changed(benchmark=name)
    assert {name: benchmark.learning[name] for name in learned} == learned
    assert "learning_rate" in learned


def test_tofu_s_full_rows_are_both_parts_in_their_order(tmp_path: Path) -> None:
    for name, answer in (("forget10", "To go."), ("retain90", "To stay.")):
        (tmp_path / f"{name}.json").write_text(f'{{"question": "What?", "answer": "{answer}"}}\n', encoding="utf-8")
    where = {"benchmark": "tofu:forget10", "data": str(tmp_path)}
    assert [row["answer"] for row in lesson(FinetuneData(**where)).rows or ()] == ["To stay.", "To go."]
    assert [row["answer"] for row in lesson(FinetuneData(**where, without_forget=True)).rows or ()] == ["To stay."]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "missing --data; expected on the command line or, without the dashes, in the --config file."),
        (
            {"benchmark": "muse:news", "exclude": "f.jsonl"},
            "--exclude leaves rows out of files, and --benchmark brings its own; give --without_forget instead.",
        ),
        ({"benchmark": "muse:newz"}, "unknown corpus 'newz' of the benchmark muse; did you mean 'news'? Known: "),
        ({"data": "d.jsonl", "without_forget": True}, "--without_forget leaves out what a --benchmark is to forget"),
        ({"benchmark": "fiction", "data": "d"}, "--data is d, and the benchmark fiction makes its own rows; leave it"),
        ({"benchmark": 3}, "benchmark is 3; expected text"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        finetuning(OWN | options)
    assert str(error.value).startswith(sentence)
