"""What is told of metrics, and that one class in one file is enough to be told of."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from amnestic import cli
from amnestic.evaluation.explanation import describe, explain, lines
from amnestic.evaluation.metric import METRICS, Measurement, Metric
from amnestic.reports.results import comparison

EVERY = METRICS.names()


@pytest.mark.parametrize("name", EVERY)
def test_every_metric_is_explained(name: str) -> None:
    """Its label, formula, source, directions and targets are its own words, and it stands in its own place."""
    cls = METRICS.get(name)
    found = explain(cls)
    for fact in ("label", "definition", "formula", "source", "direction", "target", "reads"):
        assert found[fact], fact
    assert found["name"] == name
    assert cls.place < Metric.place
    others = [METRICS.get(other) for other in EVERY if other != name]
    assert cls.label not in {other.label for other in others}
    assert cls.place not in {other.place for other in others}
    for facts in (found["direction"], found["target"]):
        assert all(text == text.strip() and not text.endswith(".") for text in facts.values())


@pytest.mark.parametrize(
    ("key", "split", "label", "direction", "is_share"),
    [
        ("forget.probability", "forget", "Probability of an answer", "lower means more forgotten", True),
        ("retain.rouge", "retain", "ROUGE-L recall", "higher means more kept", True),
        ("real_authors.truth_ratio", "real_authors", "Truth ratio", "higher means more kept", True),
        ("forget.truth_ratio", "forget", "Truth ratio", "higher means more forgotten", True),
        ("retain.margin", "retain", "Logit margin", "closer to before means kept", False),
        ("forget.margin", "forget", "Logit margin", "lower means flatter", False),
        ("forget.entropy", "forget", "Entropy, nats", "higher means flatter", False),
        ("data.probability", "data", "Probability of an answer", "higher means more learned", True),
        ("mine.probability", "mine", "Probability of an answer", "", True),
        ("mia.min_k.auc", "", "Membership by Min-K%, AUC", "lower means more forgotten", True),
        ("forget_quality", "", "Forget quality (p)", "higher means harder to tell from the retrained model", True),
        (
            "forget_quality_log10",
            "",
            "Forget quality (log10 p)",
            "higher means harder to tell from the retrained model",
            False,
        ),
        ("model_utility", "", "Model utility", "higher means more kept", True),
        ("privleak", "", "PrivLeak, %", "below 0: under-unlearned; above: over-unlearned", False),
        ("forget.verbmem", "forget", "VerbMem", "lower means more forgotten", True),
        ("forget.knowmem", "forget", "KnowMem", "lower means more forgotten", True),
        ("retain.knowmem", "retain", "KnowMem", "higher means more kept", True),
        ("forget_2.probability", "forget_2", "Probability of an answer", "lower means more forgotten", True),
        ("forget_2.truth_ratio", "forget_2", "Truth ratio", "higher means more forgotten", True),
        ("forget_12.margin", "forget_12", "Logit margin", "lower means flatter", False),
        ("forget_qa.rouge", "forget_qa", "ROUGE-L recall", "lower means more forgotten", True),
        ("retain_1.margin", "retain_1", "Logit margin", "closer to before means kept", False),
        ("mine_1.probability", "mine_1", "Probability of an answer", "", True),
        ("forget.mine", "forget", "mine", "", False),
        ("mine", "", "mine", "", False),
        ("forget.package.module.Mine", "forget", "package.module.Mine", "", False),
    ],
)
def test_keys_are_described(key: str, split: str, label: str, direction: str, is_share: bool) -> None:
    found = describe(key)
    assert (found.split, found.label, found.direction, found.is_share) == (split, label, direction, is_share)
    assert (f"{found.split}.{found.metric}" if found.split else found.metric) == key


def test_the_model_as_a_whole_comes_first_and_unknown_keys_last() -> None:
    keys = [
        "retain.rouge",
        "mine",
        "forget.rouge",
        "mia.loss.auc",
        "model_utility",
        "forget.mine",
        "forget.probability",
    ]
    more = ["holdout.probability", "world_facts.rouge", "forget_quality", "forget.span_probability", "data.margin"]
    metrics = dict.fromkeys(keys + more, 0.5)
    assert [row.key for row in comparison({"metrics": metrics})] == [
        "model_utility",
        "forget_quality",
        "mia.loss.auc",
        "mine",
        "forget.span_probability",
        "forget.probability",
        "forget.rouge",
        "forget.mine",
        "retain.rouge",
        "world_facts.rouge",
        "data.margin",
        "holdout.probability",
    ]


def test_each_split_stands_in_front_of_its_parts_in_their_order() -> None:
    """By number, not by letter; splits that nobody knows last, each by itself."""
    splits = ["mine", "retain", "forget_10", "holdout", "forget_2", "forget_texts", "forget", "forget_1", "forget_qa"]
    keys = {f"{split}.{metric}": 0.5 for metric in ("rouge", "probability") for split in splits}
    assert list(dict.fromkeys(row.split for row in comparison({"metrics": keys}))) == [
        "forget",
        "forget_qa",
        "forget_texts",
        "forget_1",
        "forget_2",
        "forget_10",
        "retain",
        "holdout",
        "mine",
    ]
    rows = [row.key for row in comparison({"metrics": keys})]
    assert rows[:2] == ["forget.probability", "forget.rouge"]
    assert rows[-2:] == ["mine.probability", "mine.rouge"]


@pytest.fixture
def lonely(monkeypatch: pytest.MonkeyPatch) -> type[Metric]:
    """A metric that says nothing of itself but what it must."""
    monkeypatch.setattr(METRICS, "_classes", dict(METRICS._classes))

    @METRICS.register("lonely")
    @dataclass(frozen=True)
    class Lonely(Metric):
        """Nothing."""

        is_share: ClassVar = True

        split: str
        depth: int = 3

        def needs(self) -> dict[str, Any]:
            """Return nothing."""
            return {}

        def compute(self) -> Measurement:
            """Return a number."""
            return Measurement(0.5)

    return Lonely


def test_one_class_is_enough(lonely: type[Metric]) -> None:
    """It stands behind the others with its name as label, and with what every metric means unless it says otherwise."""
    found = describe("forget.lonely")
    assert (found.label, found.direction, found.is_share) == ("lonely", "lower means more forgotten", True)
    rows = comparison({"metrics": {"forget.lonely": 1.0, "forget.entropy": 2.0, "retain.margin": 3.0}})
    assert [row.key for row in rows] == ["forget.entropy", "forget.lonely", "retain.margin"]
    shown = lines(explain(lonely))
    assert shown["settings: depth"] == "3"
    assert "formula" not in shown


def test_an_explanation_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "metrics", "--explain", "truth_ratio"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "mean of min(R, 1/R) on forget, mean of max(0, 1 - R) on other splits",
        "direction: forget higher means more forgotten",
        "source TOFU (Maini et al., 2024, arXiv:2401.06121)",
        "settings: right paraphrased_answer",
        "reads likelihood of paraphrased answers, likelihood of wrong answers",
    ):
        assert part in text
    assert cli.main(["list", "metrics", "--explain", "privleak", "--json"]) == 0
    assert '"mia.min_k.auc of the retrained model"' in capsys.readouterr().out
    assert cli.main(["list", "methods", "--explain", "pdu"]) == 0
    assert "Flatten the logits" in capsys.readouterr().out


def test_an_unknown_name_is_wrong_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "metrics", "--explain", "truth_ration"]) == 2
    assert "error: unknown metric 'truth_ration'; did you mean 'truth_ratio'?" in capsys.readouterr().err
