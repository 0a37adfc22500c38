"""Wrong input: one sentence on stderr, exit status 2, and nothing left behind."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

CASES = {}


def case(*expected: str, command: str = "unlearn"):
    """Register a function that returns the options of a run that is refused; `expected` must stand in the sentence."""

    def store(make):
        CASES[make.__name__] = (make, command, expected)
        return make

    return store


def text(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def lines(path: Path, *rows: dict) -> Path:
    return text(path, "".join(json.dumps(row) + "\n" for row in rows))


ROW = {"question": "Who is it?", "answer": "Nobody."}


@case("there is no file or folder {place}/forgot.jsonl; did you mean 'forget.jsonl'?")
def missing_file(place, people):
    lines(place / "forget.jsonl", ROW)
    return {"forget": place / "forgot.jsonl"}


@case("{place}/forget.jsonl is empty; expected at least one row.")
def empty_file(place, people):
    return {"forget": text(place / "forget.jsonl", "")}


@case("{place}/retain.jsonl, line 2 is not JSON (")
def broken_line(place, people):
    return {"retain": text(place / "retain.jsonl", json.dumps(ROW) + '\n{"question": \n')}


@case("{place}/forget.csv, line 3 has 1 cells, but the header names 2 columns")
def broken_table(place, people):
    return {"forget": text(place / "forget.csv", "question,answer\nWho?,Me.\nWho else?\n")}


@case("{place}/forget.jsonl, line 1 has no usable columns (found: 'query', 'reply'); expected messages, question and")
def no_usable_columns(place, people):
    return {"forget": lines(place / "forget.jsonl", {"query": "a", "reply": "b"})}


@case("has no column 'anser' for --answer_column (found: 'question', 'answer'); did you mean 'answer'?")
def unknown_column(place, people):
    return {"forget": lines(place / "forget.jsonl", ROW), "answer_column": "anser"}


@case("{place}/forget.jsonl, line 2: 'answer' is empty; write text there, or remove the row.")
def empty_answer(place, people):
    return {"forget": lines(place / "forget.jsonl", ROW, ROW | {"answer": " "})}


@case("{place}/forget.jsonl, line 1: 'messages' ends with a message of the role user; expected the assistant's")
def no_last_assistant_turn(place, people):
    turns = [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    return {"forget": lines(place / "forget.jsonl", {"messages": turns})}


@case("forget:0 is a list of messages, and there is no chat template for it; give --chat_template FILE.")
def messages_without_a_template(place, people):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    return {"forget": lines(place / "forget.jsonl", {"messages": turns})}


@case("forget and retain share 3 rows of 5 and 24; take them out of one of the two.")
def shared_rows(place, people):
    return {"forget": lines(place / "forget.jsonl", *people.rows["forget"][:2], *people.rows["retain"][4:7])}


@case("12 of 12 forget rows are longer than 25 tokens (the longest has ", "; raise --max_length where the model allows")
def too_long(place, people):
    return {"max_length": 25, "too_long": "error"}


@case("no forget row has a token to score within 5 tokens")
def nothing_left_to_score(place, people):
    return {"max_length": 5}


@case("Unknown option: --learning_rat. Did you mean --learning_rate?")
def unknown_flag(place, people):
    return {"learning_rat": 1}


@case('Invalid value "float8" for --dtype. Choose from: "auto", "float32", "bfloat16".')
def unknown_choice(place, people):
    return {"dtype": "float8"}


@case("unknown method 'pdo'; did you mean 'pdu'? Known: ")
def unknown_method(place, people):
    return {"method": "pdo"}


@case("cannot import method 'nowhere.Method': No module named 'nowhere'.")
def method_that_cannot_be_imported(place, people):
    return {"method": "nowhere.Method"}


@case("method 'pdu' has no hyper-parameter 'beta'. It has: none.")
def unknown_hyper_parameter(place, people):
    return {"method_args": {"beta": 1}}


@case("unknown key 'learning-rate' in {place}/run.yaml; did you mean 'learning_rate'?")
def unknown_key(place, people):
    return {"config": text(place / "run.yaml", "learning-rate: 1e-5\n")}


@case("--output_dir {place} is not empty; give another folder, or --overwrite an earlier run.")
def folder_that_is_not_empty(place, people):
    text(place / "notes.txt", "mine")
    return {"output_dir": place}


@case("--output_dir {place} holds 'notes.txt', which no run wrote; --overwrite replaces only earlier runs.")
def foreign_file_with_overwrite(place, people):
    text(place / "notes.txt", "mine")
    text(place / "results.json", "{{}}")
    return {"output_dir": place, "overwrite": True}


@case("--output_dir {place}/run is a file; expected a folder.")
def folder_that_is_a_file(place, people):
    return {"output_dir": text(place / "run", "mine"), "overwrite": True}


@case("--output_dir {place}/file/run lies below {place}/file, which is a file; give another folder.")
def folder_below_a_file(place, people):
    text(place / "file", "mine")
    return {"output_dir": place / "file" / "run"}


@case("--output_dir {place} holds {place}/model/", ", which this run reads; give another folder.")
def overwriting_the_model_that_is_read(place, people):
    shutil.copytree(people.model, place / "model")
    return {"model": place / "model", "output_dir": place, "overwrite": True}


@case("--output_dir {place} holds {place}/scores/forget.jsonl, which this run reads; give another folder.")
def overwriting_the_data_that_are_read(place, people):
    (place / "scores").mkdir()
    return {"forget": lines(place / "scores" / "forget.jsonl", ROW), "output_dir": place, "overwrite": True}


@case("--model is '{place}/absent', and there is no such folder")
def model_that_is_not_there(place, people):
    return {"model": place / "absent"}


@case("cannot load the model 'owner/absent': ")
def model_that_is_not_on_the_hub(place, people):
    return {"model": "owner/absent"}


@case("cannot load the weights of '{place}/model': ")
def model_without_weights(place, people):
    shutil.copytree(people.start, place / "model")
    return {"model": place / "model"}


@case("is T5ForConditionalGeneration; expected a causal language model (...ForCausalLM).")
def encoder_and_decoder(place, people):
    from transformers import T5Config

    T5Config(architectures=["T5ForConditionalGeneration"]).save_pretrained(place / "model")
    return {"model": place / "model"}


@case("is BertModel; expected a causal language model (...ForCausalLM).")
def encoder(place, people):
    from transformers import BertConfig

    BertConfig(architectures=["BertModel"]).save_pretrained(place / "model")
    return {"model": place / "model"}


@case("{place}/model", "--tokenizer")
def model_without_tokenizer(place, people):
    shutil.copytree(people.model, place / "model", ignore=shutil.ignore_patterns("tokenizer*"))
    return {"model": place / "model"}


@case("--device is 'cuda:99', which this machine does not offer: ")
def absent_device(place, people):
    return {"device": "cuda:99"}


@case("--bound is 0.001 nats a token, but the model's loss on the retain probe is 0.0", "give --keep 0.98.")
def bound_below_the_loss_of_today(place, people):
    return {"bound": 0.001}


@case("--keep is 0.0; expected a share between 0 and 1, such as 0.98.")
def keep_nothing(place, people):
    return {"keep": 0}


@case("--keep is 1.0; expected a share between 0 and 1, such as 0.98.")
def keep_everything(place, people):
    return {"keep": 1}


@case("--keep is 1.5; expected a share between 0 and 1, such as 0.98.")
def keep_more_than_there_is(place, people):
    return {"keep": 1.5}


@case("--keep and --bound were given; expected one of --keep, --alpha, --bound.")
def two_bounds(place, people):
    return {"keep": 0.9, "bound": 0.5}


@case("--chat_template is '{place}/absent.jinja', and there is no such file; expected auto, none or a file.")
def absent_chat_template(place, people):
    return {"chat_template": place / "absent.jinja"}


@case("--retrained {place}/absent cannot be loaded: ", "there is no such folder")
def absent_retrained_model(place, people):
    return {"retrained": place / "absent"}


@case("--retrained {place}/model has another tokenizer than the model; expected the same.")
def retrained_model_with_another_tokenizer(place, people):
    from transformers import AutoTokenizer

    shutil.copytree(people.model, place / "model")
    tokenizer = AutoTokenizer.from_pretrained(people.model)
    tokenizer.add_tokens(["never-seen"])
    tokenizer.save_pretrained(place / "model")
    return {"retrained": place / "model"}


@case("missing --data; expected on the command line", command="finetune")
def nothing_to_learn(place, people):
    return {"data": None}


@case("there is no file or folder {place}/absent.jsonl", command="finetune")
def nothing_to_exclude(place, people):
    return {"exclude": place / "absent.jsonl"}


@case("--output_dir {place} holds {place}/model/", ", which this run reads; give another folder.", command="finetune")
def training_on_in_its_own_folder(place, people):
    shutil.copytree(people.model, place / "model")
    return {"model": place / "model", "output_dir": place, "overwrite": True}


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("name", CASES)
def test_wrong_input_is_one_sentence_and_leaves_nothing_behind(people, request, tmp_path, name):
    make, command, expected = CASES[name]
    place = tmp_path / "given"
    place.mkdir()
    run = request.getfixturevalue(command)
    options = {"output_dir": tmp_path / "out" / "run"} | make(place, people)
    before = contents(tmp_path)
    outcome = run(**options)
    assert contents(tmp_path) == before
    assert outcome.status == 2
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert outcome.err.rstrip()[-1] in ".?"
    for part in expected:
        assert part.format(place=place) in outcome.err


def test_a_bound_below_today_s_loss_is_told_what_that_is(people, unlearn, answers, tmp_path):
    logp = np.concatenate([answer["logp"] for answer in answers(people.model, people.rows["retain"])])
    outcome = unlearn(bound=0.001, output_dir=tmp_path / "run")
    told = re.search(r"the model's loss on the retain probe is ([\d.]+) before unlearning", outcome.err)
    assert float(told[1]) == pytest.approx(-logp.mean(), rel=1e-4)


def test_the_sentence_alone_is_written_in_a_quiet_run_too(unlearn, tmp_path):
    outcome = unlearn("--quiet", "--json", keep=2, output_dir=tmp_path / "run")
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err == "error: --keep is 2.0; expected a share between 0 and 1, such as 0.98.\n"
