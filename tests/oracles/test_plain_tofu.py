"""The plain TOFU evaluation (``perf/plain_tofu.py``) by hand and against float64 loops; then ours against it.

It is imported from its file: it is no part of the package, and shares no code with it.
"""

import importlib.util
import math
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import amnestic

PERF = Path(__file__).parents[2] / "perf" / "plain_tofu.py"
FILES = ("forget10_perturbed", "retain_perturbed", "real_authors_perturbed", "world_facts_perturbed", "holdout10")
ROWS = 12
"""Rows of each file that the trained models are measured on: the first ones."""
SPLITS = ("forget", "retain", "real_authors", "world_facts")


def imported() -> Any:
    spec = importlib.util.spec_from_file_location("plain_tofu", PERF)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found  # dataclasses look their module up
    spec.loader.exec_module(found)
    return found


plain = imported()


# By hand


def test_the_share_of_a_right_end_by_hand() -> None:
    """Of 10011 the last two are right without a gap; of 11110 none; of 111 all."""
    cases = {"10011": 2 / 5, "11110": 0, "111": 1, "0": 0, "1": 1}
    for hits, share in cases.items():
        assert plain.suffix_share(np.array([hit == "1" for hit in hits])) == pytest.approx(share), hits


def test_the_lowest_tokens_by_hand() -> None:
    """0.4 of 5 are 2: -(-9 - 7) / 2 = 8; 0.4 of 4 is 1.6, so 1: 9; of 2 it is 0.8, and still 1."""
    assert plain.lowest_mean(np.array([-1.0, -9.0, -3.0, -7.0, -2.0])) == 8
    assert plain.lowest_mean(np.array([-1.0, -9.0, -3.0, -7.0])) == 9
    assert plain.lowest_mean(np.array([-1.0, -2.0])) == 2


def test_the_area_under_the_curve_by_hand() -> None:
    """Members 1, 2 against others 2, 3: of four pairs three are in order and one is a tie, 3.5 / 4."""
    assert plain.area_under_curve([1, 2], [2, 3]) == 3.5 / 4
    assert plain.area_under_curve([5, 6], [1, 2]) == 0


def test_forget_quality_and_privleak_by_hand() -> None:
    """Two samples of five that do not overlap: the largest distance, of probability 2 / C(10, 5) = 1 / 126.

    AUC 0.9 against 0.6: 100 (0.1 - 0.4) / 0.4 = -75.
    """
    found = plain.Plain({"mia.min_k.auc": 0.9}, {"forget.truth_ratio": np.linspace(0.1, 0.5, 5)})
    retrained = plain.Plain({"mia.min_k.auc": 0.6}, {"forget.truth_ratio": np.linspace(1.0, 1.4, 5)})
    plain._measure_suite(found, retrained)
    assert found.metrics["forget_quality"] == pytest.approx(1 / 126, rel=1e-9)
    assert found.metrics["privleak"] == pytest.approx(-75)
    assert "model_utility" not in found.metrics


def test_model_utility_by_hand() -> None:
    """The harmonic mean of eight halves and a quarter: 9 / (8 * 2 + 4) = 9 / 20; with a 0 among them, 0."""
    names = [
        f"{split}.{name}"
        for split in SPLITS[1:]
        for name in ("probability" if split == "retain" else "normalized_probability", "rouge", "truth_ratio")
    ]
    for odd, utility in ((0.25, 9 / 20), (0.0, 0.0)):
        found = plain.Plain(dict.fromkeys(names, 0.5) | {"retain.rouge": odd})
        plain._measure_suite(found, None)
        assert found.metrics["model_utility"] == pytest.approx(utility)
        assert "forget_quality" not in found.metrics


def test_rows_of_the_two_suites(tofu: Path) -> None:
    """Metric by metric 7,668 rows of forget10 are read, and 13,668 with all membership metrics.

    With 400 forget, retain and holdout rows, 100 real authors and 117 world facts, two or three readers of the forget
    answers and five or three wrong answers: 400 * (3 + 1 + 6) + 400 * 7 + 217 * 4. Seven passes over members and
    non-members and one for exact memorization more: 7 * 800 + 400.
    """
    data = plain.read_tofu(tofu)
    sizes = {split: len(examples) for split, examples in data.items()}
    assert sizes == {"forget": 400, "retain": 400, "real_authors": 100, "world_facts": 117, "holdout": 400}
    rows = sum(
        sizes[split] * (len(data[split][0][answer]) if answer == "perturbed_answer" else 1)
        for split, answer, _ in plain.PASSES
    )
    assert rows == 7668 == 400 * (3 + 1 + 6) + 400 * 7 + 217 * 4
    assert len(plain.ATTACKS) == 5  # of which Min-K%++ and the reference attack read twice
    assert rows + 7 * 800 + 400 == 13668


# Against float64 loops on a small random model

QUESTIONS = ("Who wrote The Salt Meridian?", "Where was Ines Marek born?", "Who?")
ANSWERS = ("Ines Marek wrote The Salt Meridian in 1987.", "Ostrava Bay ⏰", "x")
OTHERS = ("Her father repaired clocks.", "In a town", "Nobody knows, and nobody asks")


def made_up() -> dict[str, list[dict[str, Any]]]:
    """Rows of every split, of unlike lengths; each has three wrong answers."""
    rows = [
        {
            "question": question,
            "answer": answer,
            "paraphrased_answer": other,
            "perturbed_answer": [f"{answer} {other}", other.upper(), "no"],
        }
        for question, answer, other in zip(QUESTIONS, ANSWERS, OTHERS, strict=True)
    ]
    turned = [row | {"answer": row["paraphrased_answer"], "paraphrased_answer": row["answer"]} for row in rows]
    return {"forget": rows, "retain": turned, "real_authors": rows[1:], "world_facts": turned[:2], "holdout": turned}


class Loop:
    """The same numbers one row, one token, one Python number at a time."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.double(), tokenizer

    def tokens(self, question: str, answer: str) -> tuple[list[int], int]:
        """Prompt and answer with the closing token, and where the answer begins: at its first whole token."""
        prompt = f"Question: {question}\nAnswer:"
        ids = self.tokenizer(f"{prompt} {answer}").input_ids
        begin = next(i for i in range(len(ids)) if self.tokenizer.decode(ids[: i + 1])[len("<bos>" + prompt) :].strip())
        return [*ids, self.tokenizer.eos_token_id], begin

    def values(self, question: str, answer: str) -> list[tuple[float, bool, float, float]]:
        """log p, whether it is the argmax, mean and variance of log p, of each token of the answer."""
        ids, begin = self.tokens(question, answer)
        with torch.inference_mode():
            logits = self.model(input_ids=torch.tensor([ids])).logits[0].tolist()
        found = []
        for at in range(begin, len(ids)):
            z = logits[at - 1]
            total = math.log(math.fsum(math.exp(value) for value in z))
            logp = [value - total for value in z]
            mean = math.fsum(math.exp(value) * value for value in logp)
            square = math.fsum(math.exp(value) * value * value for value in logp)
            found.append((logp[ids[at]], z.index(max(z)) == ids[at], mean, square - mean**2))
        return found

    def loss(self, question: str, answer: str) -> float:
        values = self.values(question, answer)
        return -math.fsum(value[0] for value in values) / len(values)

    def greedy(self, question: str, answer: str, new: int) -> str:
        ids, begin = self.tokens(question, answer)
        ids = ids[:begin]
        while len(ids) < begin + new:
            with torch.inference_mode():
                ids.append(int(self.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == self.tokenizer.eos_token_id:
                break
        return str(self.tokenizer.decode(ids[begin:], skip_special_tokens=True)).strip()


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def lowest(values: Sequence[float]) -> float:
    return -mean(sorted(values)[: max(1, len(values) * 2 // 5)])


@pytest.fixture(scope="module")
def small(tiny_model: Callable[..., Path]) -> list[tuple[Any, Any]]:
    """Two models of other random weights, with their tokenizers."""
    folders = [tiny_model(tied=False, seed=seed) for seed in (0, 1)]
    return [(AutoModelForCausalLM.from_pretrained(f), AutoTokenizer.from_pretrained(f)) for f in folders]


def test_likelihoods_against_a_slow_loop(small: list[tuple[Any, Any]]) -> None:
    (model, tokenizer), (other, _) = small
    data = made_up()
    found = plain.evaluate(model.float(), tokenizer, data, reference=other.float(), all_membership=True, new_tokens=4)
    loop, beside = Loop(model, tokenizer), Loop(other, tokenizer)
    expected: dict[str, float] = {}
    for split in SPLITS:
        rows = data[split]
        right = "paraphrased_answer" if split in ("forget", "retain") else "answer"
        ratios = []
        for row in rows:
            wrong = mean([loop.loss(row["question"], text) for text in row["perturbed_answer"]])
            ratios.append(math.exp(-wrong + loop.loss(row["question"], row[right])))
        shown = [min(r, 1 / r) if split == "forget" else max(0, 1 - r) for r in ratios]
        expected[f"{split}.truth_ratio"] = mean(shown)
        probabilities = [math.exp(-loop.loss(row["question"], row["answer"])) for row in rows]
        expected[f"{split}.probability"] = mean(probabilities)
        if right == "answer":
            pairs = zip(rows, probabilities, strict=True)
            expected[f"{split}.normalized_probability"] = mean(
                [
                    p / (p + math.fsum(math.exp(-loop.loss(row["question"], text)) for text in row["perturbed_answer"]))
                    for row, p in pairs
                ]
            )
    hits = [[hit for _, hit, *_ in loop.values(row["question"], row["answer"])[:-1]] for row in data["forget"]]
    expected["forget.exact_memorization"] = mean([sum(row) / len(row) for row in hits])
    expected |= attacks(loop, beside, data)
    assert {name: found.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert set(found.metrics) == {
        *expected,
        *(f"{split}.rouge" for split in SPLITS),
        "forget.extraction_strength",
        "model_utility",
    }


def attacks(loop: Loop, beside: Loop, data: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """The AUC of each attack, by counting pairs."""
    scores: dict[str, dict[str, list[float]]] = {}
    for split in ("forget", "holdout"):
        for row in data[split]:
            asked = (row["question"], row["answer"])
            values = loop.values(*asked)
            loss = loop.loss(*asked)
            found = {
                "loss": loss,
                "zlib": loss / len(zlib.compress(row["answer"].encode())),
                "min_k": lowest([value[0] for value in values]),
                "min_k_plus_plus": lowest([(v[0] - v[2]) / math.sqrt(max(v[3], 1e-6)) for v in values]),
                "reference": loss - beside.loss(*asked),
            }
            for name, score in found.items():
                scores.setdefault(name, {}).setdefault(split, []).append(score)
    return {
        f"mia.{name}.auc": mean([(a < b) + (a == b) / 2 for a in both["forget"] for b in both["holdout"]])
        for name, both in scores.items()
    }


def test_greedy_answers_are_those_of_one_row_without_padding(small: list[tuple[Any, Any]]) -> None:
    """Prompts of unlike lengths in one batch, in the order of the file; batches of two are another cut."""
    model, tokenizer = small[0]
    data, counts = made_up()["forget"], plain.Counts()
    loop = Loop(model, tokenizer)
    expected = [loop.greedy(row["question"], row["answer"], 6) for row in data]
    for batch in (2, 32):
        reader = plain.Reader(model.float(), tokenizer, counts, batch)
        assert reader.generate(reader.rows(data, "answer")[0], 6) == expected
        model.double()
    assert counts.row_steps == 2 * 3 * 6  # nothing ends by itself


def test_an_answer_that_ends_is_cut_there(small: list[tuple[Any, Any]]) -> None:
    """The token that the model writes third is made its end: two tokens are left, and three row-steps were needed."""
    model, tokenizer = small[0]
    counts = plain.Counts()
    reader = plain.Reader(model.float(), tokenizer, counts)
    row = reader.encode(QUESTIONS[0], ANSWERS[0])
    with torch.inference_mode():
        ids = torch.tensor([row.ids[: row.begin]])
        third = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=3)[0, -3:]
    assert len(set(third.tolist())) == 3
    kept = (model.generation_config.eos_token_id, tokenizer.eos_token)
    model.generation_config.eos_token_id = int(third[2])
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(int(third[2]))
    try:
        assert reader.generate([row]) == [str(tokenizer.decode(third[:2])).strip()]
    finally:
        model.generation_config.eos_token_id, tokenizer.eos_token = kept
    assert (counts.decode_steps, counts.row_steps, counts.generated) == (3, 3, 3)


def test_counts_by_hand(small: list[tuple[Any, Any]]) -> None:
    """Three rows in batches of two: (longest of the first two - 1) * 2 + (length of the third - 1) positions."""
    model, tokenizer = small[0]
    counts = plain.Counts()
    reader = plain.Reader(model.float(), tokenizer, counts, 2)
    (rows,) = reader.rows(made_up()["forget"], "answer")
    values = reader.token_logp(rows)
    lengths = [len(row.ids) for row in rows]
    assert counts.tokens == counts.vocabulary_rows == 2 * (max(lengths[:2]) - 1) + lengths[2] - 1
    assert counts.rows == 3
    assert counts.scored == sum(map(len, values))
    for row in rows:
        assert tokenizer.decode(row.ids[row.begin :]).strip() == f"{row.answer}<eos>"


# On models that know TOFU


@pytest.fixture(scope="module")
def some(tofu: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of TOFU's files with their first rows alone, under their own names."""
    folder = tmp_path_factory.mktemp("tofu")
    for name in FILES:
        lines = (tofu / f"{name}.json").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / f"{name}.json").write_text("".join(lines[:ROWS]), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def expected(some: Path, tiny_full: Path, tiny_retain90: Path) -> Any:
    """What the plain way finds; the retrained model is the reference too."""
    data = plain.read_tofu(some)
    assert {split: len(examples) for split, examples in data.items()} == dict.fromkeys((*SPLITS, "holdout"), ROWS)
    retrained, tokenizer = plain.load(str(tiny_retain90))
    beside = plain.of_retrained(retrained, tokenizer, data)
    return plain.evaluate(*plain.load(str(tiny_full)), data, beside, retrained, all_membership=True)


def test_the_plain_way_finds_what_is_known_of_the_model(expected: Any) -> None:
    """Probability 0.999 on what it was trained on, extraction strength and ROUGE near 1; nothing on other splits."""
    found = expected.metrics
    for split in ("forget", "retain"):
        assert found[f"{split}.probability"] == pytest.approx(0.999, abs=1e-3)
        assert found[f"{split}.rouge"] > 0.95
    assert found["forget.extraction_strength"] > 0.95
    assert found["forget.exact_memorization"] > 0.99
    assert found["real_authors.probability"] < 0.01
    assert found["mia.reference.auc"] > 0.99  # the reference knows the holdout rows, and not these
    assert found["forget_quality"] < 0.1  # of so few rows
    assert expected.counts.rows == ROWS * (3 + 1 + 6 + 7 + 4 + 4) + ROWS * (7 * 2 + 1)


def test_ours_gives_the_numbers_of_the_plain_way(
    expected: Any, some: Path, tiny_full: Path, tiny_retain90: Path, tmp_path: Path
) -> None:
    """Every number that the plain way finds, and those of each example, to 1e-4, and the same generated texts."""
    run = amnestic.evaluate(
        str(tiny_full),
        benchmark="tofu:forget10",
        data=str(some),
        retrained=str(tiny_retain90),
        reference=str(tiny_retain90),
        output_dir=tmp_path / "out",
        device="cpu",
    )
    found = run.results["metrics"]
    assert len(expected.metrics) == 24
    assert {name: found.get(name) for name in expected.metrics} == pytest.approx(expected.metrics, rel=1e-4, abs=1e-6)
    scores = {split: pq.read_table(tmp_path / "out" / "scores" / f"{split}.parquet").to_pydict() for split in SPLITS}
    for name, values in expected.per_example.items():
        split, column = ("forget", name) if name.startswith("mia.") else name.split(".", 1)
        np.testing.assert_allclose(scores[split][column], values, rtol=1e-3, atol=1e-6, err_msg=name)
    for split, texts in expected.generated.items():
        assert scores[split]["generated"] == texts
