"""The model card: what it says, in which order, and what it never says."""

import copy
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from amnestic.reports.card import Origin, base_metadata, model_card

PACKAGES = {"amnestic": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "wandb": "0.31.0"}
RESULTS: dict[str, Any] = {
    "command": "unlearn",
    "status": "feasible",
    "verdict": "Bound held: retain loss 0.1 nats a token.",
    "model": "/data/jane/base",
    "bound": {
        "kind": "keep",
        "requested": 0.98,
        "L_ref": 0.1,
        "value": 0.1202,
        "reached": 0.11,
        "upper_limit": 0.1155,
        "probe_size": 256,
        "held_out": True,
        "whole_split": False,
        "confidence": 0.95,
    },
    "metrics": {"forget.probability": 0.25, "retain.probability": 0.75},
    "reference_metrics": {"forget.probability": 0.9941, "retain.probability": 0.8},
    "retrained_metrics": {"forget.probability": 0.125, "retain.probability": 0.7},
    "method": {"name": "pdu", "beta": 0.5, "words": "jane doe"},
    "kept_step": 12,
    "data": {
        "forget": {"source": "/data/jane.jsonl", "rows": 9, "examples": 8, "scored_tokens": 77},
        "retain": {"source": "me/rows", "rows": 90, "examples": 90, "scored_tokens": 777},
    },
    "training": {"steps": 20, "epochs": 2.5, "effective_batch": 16},
    "notes": ["2 of 9 rows of jane.jsonl are too long."],
    "probe_ids": ["jane-1"],
}
ORIGIN = Origin(
    base_model="me/base",
    from_scratch=False,
    sources={"forget": None, "retain": "me/rows"},
    hashes={"forget": ["a" * 64], "retain": []},
    metadata={},
    options={"learning_rate": 1e-5, "keep": 0.98},
    command="amnestic unlearn \\\n  --model me/base",
)


def changed(mapping: dict[str, Any], **changes: Any) -> dict[str, Any]:
    found = copy.deepcopy(mapping)
    for name, value in changes.items():
        *outer, last = name.split("__")
        place = found
        for part in outer:
            place = place[part]
        place[last] = value
    return found


def origin(**changes: Any) -> Origin:
    return Origin(**(vars(ORIGIN) | changes))


def rows(card: str) -> list[list[str]]:
    """The cells of all table rows."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line.startswith("|")]


def test_the_metadata_is_what_the_hub_reads():
    data = ModelCard(model_card(RESULTS, ORIGIN, PACKAGES)).data
    assert data.to_dict() == {
        "base_model": "me/base",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["amnestic", "unlearning", "machine-unlearning", "pdu"],
    }


def test_the_verdict_comes_first():
    text = ModelCard(model_card(RESULTS, ORIGIN, PACKAGES)).text
    first, second = [line for line in text.splitlines() if line][:2]
    assert first == "# Unlearned model"
    assert second == "**Bound held: retain loss 0.1 nats a token.**"


def test_bound_metrics_data_and_training_are_tables():
    found = rows(model_card(RESULTS, ORIGIN, PACKAGES))
    for row in (
        ["retain split", "nats a token"],
        ["loss before", "0.1000"],
        ["bound (`--keep 0.98`)", "0.1202"],
        ["loss after", "0.1100"],
        ["its upper limit, with 95\u00a0% confidence", "0.1155"],
        ["split", "metric", "before", "retrained", "after", "reading"],
        ["forget", "Probability of an answer", "0.9941", "0.1250", "0.2500", "lower means more forgotten"],
        ["retain", "Probability of an answer", "0.8000", "0.7000", "0.7500", "higher means more kept"],
        ["forget", "not public", "9", "8", "77"],
        ["retain", "me/rows", "90", "90", "777"],
        ["20", "2.5", "16"],
        ["learning_rate", "1e-05"],
        ["beta, of the method", "0.5"],
    ):
        assert row in found
    widths = {len(row) for row in found if row[0] in ("forget", "retain", "split")}
    assert widths == {5, 6}


def test_what_was_measured_and_how_to_repeat_it():
    card = model_card(RESULTS, ORIGIN, PACKAGES)
    assert "Measured on 256 examples,\nwhich training never drew." in card
    assert "The weights are those after step 12." in card
    assert "`" + "a" * 64 + "`" in card
    assert "With amnestic 0.1.0, torch 2.13.0, transformers 5.23.0:\n\n```\namnestic unlearn \\\n" in card
    assert "made from [me/base](https://huggingface.co/me/base) with amnestic" in card


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bound__whole_split": True}, "all there are."),
        ({"bound__held_out": False}, "which are part of the training rows."),
    ],
)
def test_where_the_bound_was_measured(changes, said):
    assert said in model_card(changed(RESULTS, **changes), ORIGIN, PACKAGES)


def test_an_upper_limit_that_decides_nothing_is_left_out():
    assert "upper limit" not in model_card(changed(RESULTS, bound__whole_split=True), ORIGIN, PACKAGES)
    assert "upper limit" not in model_card(changed(RESULTS, bound__upper_limit=None), ORIGIN, PACKAGES)


def test_nothing_is_promised():
    card = model_card(RESULTS, ORIGIN, PACKAGES).lower()
    for word in ("deleted", "guarantee", "erased", "proven", "safe "):
        assert word not in card
    assert "not proof of removal" in card
    assert "## what was not tested" in card


def test_no_text_path_or_id_is_told():
    card = model_card(RESULTS, origin(base_model=None), PACKAGES)
    for private in ("jane", "/data", "too long", "wandb"):
        assert private not in card
    assert "made from a model that is not public" in card


def test_a_missed_bound_is_said_before_the_numbers():
    results = changed(RESULTS, status="infeasible", verdict="BOUND MISSED: retain loss 0.3.")
    card = model_card(results, ORIGIN, PACKAGES)
    missed = card.index("**It does not hold that bound.**")
    assert card.index("BOUND MISSED") < missed < card.index("## The bound")
    assert "The bound is **not held**." in card


def test_a_second_bound_and_marked_spans_are_told():
    context = RESULTS["bound"] | {"L_ref": 0.25, "whole_split": True, "probe_size": 8}
    forget = RESULTS["data"]["forget"] | {"span_examples": 5, "span_tokens": 33}
    card = model_card(changed(RESULTS, context_bound=context, data__forget=forget), ORIGIN, PACKAGES)
    assert "## The bounds\n\n| retain split | nats a token |" in card
    assert "| what stands around the marked spans | nats a token |\n| --- | ---: |\n| loss before | 0.2500 |" in card
    assert "Measured on 8 examples,\nall there are." in card
    assert "The bounds are **held**." in card
    assert "In 5 examples of the forget split 33 scored tokens were marked to be forgotten" in card


def test_without_a_retrained_model_there_is_no_column():
    results = {name: value for name, value in RESULTS.items() if name != "retrained_metrics"}
    card = model_card(results, ORIGIN, PACKAGES)
    assert ["split", "metric", "before", "after", "reading"] in rows(card)
    assert "retrained" not in card


def test_metrics_that_were_left_out_are_named():
    card = model_card(changed(RESULTS, not_computed={"forget.privacy": "needs a retrained model"}), ORIGIN, PACKAGES)
    assert "- forget.privacy: needs a retrained model" in card


def trained(**changes: Any) -> dict[str, Any]:
    names = ("model", "data", "training", "notes")
    found = {name: copy.deepcopy(RESULTS[name]) for name in names}
    found |= {"command": "finetune", "status": "done", "verdict": "Trained for 20 steps; probability 0.9."}
    return found | {"metrics": {"data.probability": 0.9}, "data": {"data": RESULTS["data"]["retain"]}} | changes


def test_a_trained_model_claims_no_unlearning():
    card = ModelCard(model_card(trained(), origin(sources={"data": "me/rows:all"}, hashes={}), PACKAGES))
    assert card.data.tags == ["amnestic"]
    assert card.data.datasets == ["me/rows"]
    assert card.text.strip().startswith("# Trained model\n\n**Trained for 20 steps; probability 0.9.**")
    assert "nothing was unlearned" in card.text
    assert "## The bound" not in card.text
    assert "not tested" not in card.text


def test_a_model_from_random_weights_has_no_base():
    found = origin(base_model=None, from_scratch=True, sources={"data": None}, hashes={})
    card = ModelCard(model_card(trained(), found, PACKAGES))
    assert "base_model" not in card.data.to_dict()
    assert "made from random weights with amnestic" in card.text
    assert "None was stated." in card.text


def test_the_base_models_licence_and_language_hold(tmp_path):
    own = {"license": "mit", "language": ["en"], "base_model": "they/root", "tags": ["jane"], "datasets": ["jane/x"]}
    (tmp_path / "README.md").write_text(f"---\n{yaml.safe_dump(own)}---\n# Jane's model\n", encoding="utf-8")
    metadata = base_metadata(tmp_path)
    assert metadata == {"license": "mit", "language": ["en"], "base_model": "they/root"}
    card = ModelCard(model_card(RESULTS, origin(base_model=None, metadata=metadata), PACKAGES))
    assert (card.data.license, card.data.base_model, card.data.language) == ("mit", "they/root", ["en"])
    assert "That of the base model applies: mit." in card.text
    assert "jane" not in str(card).lower()
    card = ModelCard(model_card(RESULTS, origin(metadata=metadata), PACKAGES))
    assert card.data.base_model == "me/base"


@pytest.mark.parametrize(
    "content", [None, "", "# no metadata", "---\n- a\n- b\n---\n", "---\na: [\n---\n", "---\nlicense: 3\n---\n"]
)
def test_a_base_card_that_says_nothing_is_no_error(tmp_path, content):
    if content is not None:
        (tmp_path / "README.md").write_text(content, encoding="utf-8")
    assert base_metadata(tmp_path) == {}
    assert base_metadata(None) == {}


def test_many_files_are_counted():
    card = model_card(RESULTS, origin(hashes={"forget": [f"{i:064x}" for i in range(15)]}), PACKAGES)
    assert "SHA-256 of the forget files:" in card
    assert card.count("`0000") == 12
    assert "and 3 more" in card
