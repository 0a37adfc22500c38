"""What of a configuration may leave the machine."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amnestic.cli import application
from amnestic.config import FinetuneConfig, UnlearnConfig, from_mapping, options
from amnestic.disclosure import command_line, disclosed, public_name

REQUIRED = {"model": "me/base", "forget": "me/rows:forget10", "retain": "me/rows:retain90", "output_dir": "run"}


@pytest.mark.parametrize(
    "name", ["gpt2", "me/base", "me/base-1.5", "me/rows:forget10", "me/rows:all:train", "a.b.Class"]
)
def test_names_of_the_hub_are_public(name):
    assert public_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", None, "/data/base", "./base", "../base", "~/base", "a/b/c", "C:\\base", "<Llama in memory>", "my base",
     "forget.jsonl", "jane/doe.csv", "doe.JSON", "rows.parquet", "-base", ".base", "me/"],
)  # fmt: skip
def test_paths_files_and_objects_are_not(name):
    assert public_name(name) is None


def test_a_folder_of_this_disk_is_not(tmp_path, monkeypatch):
    (tmp_path / "me" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public_name("me/base") is None
    assert public_name("me/rows") == "me/rows"


def test_free_text_stays():
    """Every option of text is set to one that may quote somebody; nothing of it is told."""
    secret = "jane doe"
    kinds = (str, str | None, dict[str, str], tuple[str, ...])
    texts = {option.name: secret for option in options(UnlearnConfig) if option.annotation in kinds[:2]}
    texts |= {"question_template": f"{secret} {{question}}", "answer_template": f"{secret} {{answer}}"}
    texts |= {"retain": {"general": secret, "other": f"{secret}.jsonl"}, "measure": {"more": f"{secret}.jsonl"}}
    texts |= {"template_args": {"day": secret}, "method_args": {"beta": secret}, "report_to": [secret]}
    # some must be known, others replace files or each other
    for name in ("hub_model_id", "preset", "benchmark", "data", "alternate_answer_column"):
        del texts[name]
    config = from_mapping(UnlearnConfig, texts)
    assert {option.annotation for option in options(UnlearnConfig)} >= set(kinds)
    assert secret not in str(disclosed(config))
    assert secret not in command_line(config, "unlearn")


@given(st.text(max_size=20))
def test_no_argument_of_a_method_in_words_is_told(word):
    config = from_mapping(UnlearnConfig, REQUIRED | {"method_args": {"beta": "0.5", "word": f"x{word}"}})
    told = {name: value for name, value in disclosed(config).items() if name.startswith("method_args")}
    assert told == {"method_args.beta": "0.5"}


def test_numbers_choices_and_public_names_are_told():
    config = from_mapping(UnlearnConfig, REQUIRED | {"keep": 0.9, "dtype": "bfloat16", "max_steps": 5})
    told = disclosed(config)
    assert {name: told[name] for name in ("model", "forget", "retain", "keep", "dtype", "max_steps", "method")} == {
        "model": "me/base",
        "forget": "me/rows:forget10",
        "retain": "me/rows:retain90",
        "keep": 0.9,
        "dtype": "bfloat16",
        "max_steps": 5,
        "method": "pdu",
    }
    assert not {"output_dir", "overwrite", "push_to_hub", "run_name", "report_to"} & set(told)


def test_the_command_repeats_what_is_public():
    given = {"keep": 0.9, "master_weights": False, "learning_rate": 3e-4, "device": "cpu", "method_args": {"beta": "2"}}
    config = from_mapping(UnlearnConfig, REQUIRED | given)
    assert command_line(config, "unlearn").replace(" \\\n ", "") == (
        "amnestic unlearn --model me/base --forget me/rows:forget10 --retain me/rows:retain90 --output_dir RUN "
        "--device cpu --method_args.beta 2 --keep 0.9 --learning_rate 0.0003 --no_master_weights"
    )


def test_capitals_stand_for_what_stays():
    given = {"model": "/data/base", "data": "all.jsonl", "exclude": "jane.jsonl", "output_dir": "run"}
    config = from_mapping(FinetuneConfig, given)
    expected = "amnestic finetune --model MODEL --data DATA --exclude EXCLUDE --output_dir RUN"
    assert command_line(config, "finetune").replace(" \\\n ", "") == expected


def test_the_command_can_be_typed():
    """Cyclopts reads each flag back as the option's value."""
    given = {"keep": 0.9, "master_weights": False, "learning_rate": 3e-4, "max_steps": 7, "optim": "sgd"}
    config = from_mapping(UnlearnConfig, REQUIRED | given)
    words = shlex.split(command_line(config, "unlearn").replace("\\\n", ""))
    _, bound, _ = application().parse_args(words[1:])
    assert {name: bound.arguments[name] for name in given} == given
