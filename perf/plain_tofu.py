"""The TOFU evaluation the plain way, from transformers alone: what ours is compared with, in numbers and in time.

    python perf/plain_tofu.py --model MODEL --data FOLDER [--split forget10] [--retrained MODEL] [--reference MODEL]

One pass over the data for each metric, in the order of the files, in batches of 32 padded on the right, with the
logits of all positions in float32; generation is `model.generate` in batches of 32 padded on the left. The formulas are
those of TOFU (arXiv:2401.06121) and, for memorization and membership, of arXiv:2506.12618; nothing of amnestic is
imported. Which metric takes a pass of its own follows the public framework of arXiv:2506.12618: its default suite is
`PASSES`, and `MORE_PASSES` are added with all membership metrics, of which Min-K%++ reads the model twice (once for the
tokens, once for the vocabulary) and the reference attack reads two models. One thing is kinder than there: in the
default suite exact memorization is read off the pass of extraction strength. The batches of wrong answers hold one
answer of each row: first all first ones of 32 rows, then the second ones.
"""

import argparse
import json
import math
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

PROMPT = "Question: {question}\nAnswer: "
BATCH = 32
NEW_TOKENS = 200
LOWEST = 0.4
"""The share of an answer's tokens that Min-K% reads."""
FLOOR = 1e-6
"""The least variance that Min-K%++ divides by."""
UTILITY = ("retain", "real_authors", "world_facts")
PASSES = (
    ("forget", "answer", "probability"),
    ("forget", "answer", "memorization"),
    ("forget", "answer", "min_k"),
    ("holdout", "answer", "min_k"),
    ("forget", "paraphrased_answer", "truth_ratio"),
    ("forget", "perturbed_answer", "truth_ratio"),
    ("retain", "answer", "probability"),
    ("retain", "paraphrased_answer", "truth_ratio"),
    ("retain", "perturbed_answer", "truth_ratio"),
    ("real_authors", "answer", "probability"),
    ("real_authors", "perturbed_answer", "probability"),
    ("world_facts", "answer", "probability"),
    ("world_facts", "perturbed_answer", "probability"),
)
"""Split, its answers, and who reads them, in the default suite."""
RETRAINED_PASSES = tuple(item for item in PASSES if item[0] != "retain" and item[2] in ("min_k", "truth_ratio"))
"""What forget quality and PrivLeak want of the retrained model."""
ATTACKS = ("loss", "zlib", "min_k", "min_k_plus_plus", "reference")
"""Membership metrics, each with passes of its own over forget and holdout rows."""


class Row(NamedTuple):
    """A question with one of its answers, as tokens."""

    ids: list[int]
    """The closing end of sequence among them."""
    begin: int
    """The first token of the answer; those before are what generation starts from."""
    answer: str


@dataclass
class Counts:
    """What was computed."""

    rows: int = 0
    tokens: int = 0
    """Positions that teacher-forced passes computed, padding included; the last token of the longest row is not fed."""
    vocabulary_rows: int = 0
    scored: int = 0
    """Tokens of answers, which are all that the vocabulary is needed for."""
    decode_steps: int = 0
    row_steps: int = 0
    """Rows that decode steps computed: a batch goes on until its last row has ended."""
    generated: int = 0
    """Tokens that the answers consist of, with the end of sequence: the row-steps that are needed."""


@dataclass
class Plain:
    """What the plain way found."""

    metrics: dict[str, float] = field(default_factory=dict)
    per_example: dict[str, np.ndarray] = field(default_factory=dict)
    generated: dict[str, list[str]] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    seconds: dict[str, float] = field(default_factory=dict)
    """Of scoring, of the further passes of all membership metrics, of generation, and of computing the metrics."""


class Reader:
    """One model, read in batches."""

    def __init__(self, model: Any, tokenizer: Any, counts: Counts, batch: int = BATCH) -> None:
        """Read `model` with its own tokenizer, and add what it took to `counts`."""
        self.model, self.tokenizer, self.counts, self.batch = model.eval(), tokenizer, counts, batch

    def rows(self, examples: Sequence[Mapping[str, Any]], answer: str) -> list[list[Row]]:
        """Return the rows of one kind of answers, for wrong ones in as many lists as each example has of them."""
        found = [example[answer] for example in examples]
        texts = [[text] if isinstance(text, str) else text for text in found]
        columns = [list(column) for column in zip(*texts, strict=True)]
        return [
            [self.encode(example["question"], text) for example, text in zip(examples, column, strict=True)]
            for column in columns
        ]

    def encode(self, question: str, answer: str) -> Row:
        """Return prompt and answer as tokens of one text; a token is the answer's if it ends behind the prompt."""
        prompt = PROMPT.format(question=question)
        encoding = self.tokenizer(prompt + answer, return_offsets_mapping=True)
        ends = [end for _, end in encoding["offset_mapping"]]
        begin = next(i for i, end in enumerate(ends) if end > len(prompt))
        return Row([*encoding["input_ids"], self.tokenizer.eos_token_id], begin, answer)

    @torch.inference_mode()
    def score(self, rows: Sequence[Row]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield log p of the whole vocabulary (n, V) where an answer is predicted, and its tokens (n,)."""
        for first in range(0, len(rows), self.batch):
            chosen = rows[first : first + self.batch]
            ids, mask = self._padded([row.ids for row in chosen], on_left=False)
            logits = self.model(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], use_cache=False).logits.float()
            logp = torch.log_softmax(logits, dim=-1)
            self.counts.rows += len(chosen)
            self.counts.tokens += ids[:, :-1].numel()
            self.counts.vocabulary_rows += logits.shape[0] * logits.shape[1]
            self.counts.scored += sum(len(row.ids) - row.begin for row in chosen)
            for i, row in enumerate(chosen):
                yield logp[i, row.begin - 1 : len(row.ids) - 1], ids[i, row.begin : len(row.ids)]

    def token_logp(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """Return log p of each token of each row's answer."""
        found = [logp.gather(1, tokens[:, None])[:, 0] for logp, tokens in self.score(rows)]
        return [values.double().cpu().numpy() for values in found]

    def hits(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """Return for each token of each row's answer, without the end of sequence, whether it is the argmax."""
        return [(logp.argmax(dim=-1) == tokens)[:-1].cpu().numpy() for logp, tokens in self.score(rows)]

    def moments(self, rows: Sequence[Row]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return mean and variance of log p under the model's own distribution, at each token of each answer."""
        found = []
        for logp, _ in self.score(rows):
            wide = logp.double()
            mean = (wide.exp() * wide).sum(dim=-1)
            found.append((mean.cpu().numpy(), ((wide.exp() * wide.square()).sum(dim=-1) - mean.square()).cpu().numpy()))
        return found

    @torch.inference_mode()
    def generate(self, rows: Sequence[Row], new_tokens: int = NEW_TOKENS) -> list[str]:
        """Return what the model answers to the prompt of each row."""
        texts, end = [], self.tokenizer.eos_token_id
        for first in range(0, len(rows), self.batch):
            chosen = rows[first : first + self.batch]
            ids, mask = self._padded([row.ids[: row.begin] for row in chosen], on_left=True)
            output = self.model.generate(
                ids, attention_mask=mask, do_sample=False, max_new_tokens=new_tokens, pad_token_id=end
            )[:, ids.shape[1] :]
            self.counts.decode_steps += output.shape[1]
            self.counts.row_steps += output.numel()
            for answer in output.tolist():
                length = answer.index(end) if end in answer else len(answer)
                self.counts.generated += min(length + 1, len(answer))
                texts.append(self.tokenizer.decode(answer[:length], skip_special_tokens=True).strip())
        return texts

    def _padded(self, rows: Sequence[Sequence[int]], on_left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self.tokenizer.eos_token_id)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            begin = longest - len(row) if on_left else 0
            ids[i, begin : begin + len(row)] = torch.tensor(row)
            mask[i, begin : begin + len(row)] = 1
        return ids.to(self.model.device), mask.to(self.model.device)


def read_tofu(folder: Path, split: str = "forget10", rows: int | None = None) -> dict[str, list[dict[str, Any]]]:
    """Return the examples of each split, at most `rows` of each: the first ones."""
    number = split.removeprefix("forget")
    files = {
        "forget": f"{split}_perturbed",
        "retain": "retain_perturbed",
        "real_authors": "real_authors_perturbed",
        "world_facts": "world_facts_perturbed",
        "holdout": f"holdout{number}",
    }
    return {
        name: [json.loads(line) for line in (folder / f"{file}.json").read_text(encoding="utf-8").splitlines()[:rows]]
        for name, file in files.items()
    }


def evaluate(
    model: Any,
    tokenizer: Any,
    data: Mapping[str, Sequence[Mapping[str, Any]]],
    retrained: Plain | None = None,
    reference: Any = None,
    all_membership: bool = False,
    generates: bool = True,
    new_tokens: int = NEW_TOKENS,
) -> Plain:
    """Return every number of the suite; `reference` is a second model, of the same tokenizer, for its attack.

    `retrained` is what `of_retrained` found: without it there are neither forget quality nor PrivLeak.
    """
    found = Plain()
    reader = Reader(model, tokenizer, found.counts)
    begin = time.perf_counter()
    values = _run(reader, data, PASSES)
    found.seconds["score"] = time.perf_counter() - begin
    attacks = {}
    if all_membership:
        begin = time.perf_counter()
        attacks = _attacks(reader, data, reference)
        values["forget", "answer", "exact_memorization"] = [reader.hits(reader.rows(data["forget"], "answer")[0])]
        found.seconds["attacks"] = time.perf_counter() - begin
    if generates:
        begin = time.perf_counter()
        for split in ("forget", *UTILITY):
            found.generated[split] = reader.generate(reader.rows(data[split], "answer")[0], new_tokens)
        found.seconds["generate"] = time.perf_counter() - begin
    begin = time.perf_counter()
    _measure_splits(found, values)
    for split, texts in found.generated.items():
        _add(found, f"{split}.rouge", rouge_recalls(texts, [example["answer"] for example in data[split]]))
    _measure_membership(found, values, attacks)
    _measure_suite(found, retrained)
    found.seconds["compute"] = time.perf_counter() - begin
    return found


def of_retrained(model: Any, tokenizer: Any, data: Mapping[str, Sequence[Mapping[str, Any]]]) -> Plain:
    """Return what forget quality and PrivLeak want to know of a model that never saw the forget rows."""
    found = Plain()
    values = _run(Reader(model, tokenizer, found.counts), data, RETRAINED_PASSES)
    found.per_example["forget.truth_ratio"] = _truth_ratios(values, "forget", "paraphrased_answer", "truth_ratio")
    _measure_membership(found, values, {})
    return found


Values = dict[tuple[str, str, str], list[Any]]
"""Split, answers, reader -> for each answer of an example (there are several wrong ones) the values of all examples."""


def _run(
    reader: Reader, data: Mapping[str, Sequence[Mapping[str, Any]]], passes: Sequence[tuple[str, str, str]]
) -> Values:
    values: Values = {}
    for split, answer, name in passes:
        read = reader.hits if name == "memorization" else reader.token_logp
        values[split, answer, name] = [read(rows) for rows in reader.rows(data[split], answer)]
    return values


def _attacks(
    reader: Reader, data: Mapping[str, Sequence[Mapping[str, Any]]], reference: Any
) -> dict[str, dict[str, list[float]]]:
    """Return the score of each example, by attack and split; the lower, the more a member."""
    scores: dict[str, dict[str, list[float]]] = {}
    other = None if reference is None else Reader(reference, reader.tokenizer, reader.counts, reader.batch)
    for split in ("forget", "holdout"):
        (rows,) = reader.rows(data[split], "answer")
        found: dict[str, list[float]] = {}
        found["loss"] = [-values.mean() for values in reader.token_logp(rows)]
        sizes = [len(zlib.compress(row.answer.encode())) for row in rows]
        found["zlib"] = [-values.mean() / size for values, size in zip(reader.token_logp(rows), sizes, strict=True)]
        found["min_k"] = [lowest_mean(values) for values in reader.token_logp(rows)]
        pairs = zip(reader.token_logp(rows), reader.moments(rows), strict=True)
        found["min_k_plus_plus"] = [
            lowest_mean((values - mean) / np.sqrt(np.maximum(variance, FLOOR))) for values, (mean, variance) in pairs
        ]
        if other is not None:
            beside = zip(reader.token_logp(rows), other.token_logp(rows), strict=True)
            found["reference"] = [theirs.mean() - values.mean() for values, theirs in beside]
        for name, numbers in found.items():
            scores.setdefault(name, {})[split] = numbers
    return scores


def lowest_mean(values: np.ndarray, share: float = LOWEST) -> float:
    """Return minus the mean of the lowest `share` of the values, at least one."""
    return -float(np.sort(values)[: max(1, int(share * len(values)))].mean())


def area_under_curve(members: Sequence[float], others: Sequence[float]) -> float:
    """Return the share of pairs in which the member has the lower score, a tie being half of one."""
    from sklearn.metrics import roc_auc_score

    labels = [1] * len(members) + [0] * len(others)
    return float(roc_auc_score(labels, -np.array([*members, *others])))


def suffix_share(hits: np.ndarray) -> float:
    """Return the longest run of right tokens at the end of an answer, as a share of it."""
    n = len(hits)
    k = next(k for k in range(n + 1) if hits[k:].all())
    return 1 - k / n


def rouge_recalls(generated: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """Return the recall of ROUGE-L with stemming, of each pair."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    pairs = zip(answers, generated, strict=True)
    return np.array([scorer.score(answer, text)["rougeL"].recall for answer, text in pairs])


def _losses(columns: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Return the mean loss of each example and answer, (B, A)."""
    return np.array([[-values.mean() for values in column] for column in columns]).T


def _truth_ratios(values: Values, split: str, right: str, name: str) -> np.ndarray:
    right_loss = _losses(values[split, right, name])[:, 0]
    wrong_losses = _losses(values[split, "perturbed_answer", name])
    return np.exp(-wrong_losses.mean(axis=1)) / np.exp(-right_loss)


def _measure_splits(found: Plain, values: Values) -> None:
    for split in ("forget", "retain"):
        probability = np.exp(-_losses(values[split, "answer", "probability"])[:, 0])
        _add(found, f"{split}.probability", probability)
        ratios = _truth_ratios(values, split, "paraphrased_answer", "truth_ratio")
        _add_ratios(found, split, ratios)
    for split in ("real_authors", "world_facts"):
        right = np.exp(-_losses(values[split, "answer", "probability"])[:, 0])
        wrong = np.exp(-_losses(values[split, "perturbed_answer", "probability"]))
        _add(found, f"{split}.probability", right)
        _add(found, f"{split}.normalized_probability", right / (right + wrong.sum(axis=1)))
        _add_ratios(found, split, _truth_ratios(values, split, "answer", "probability"))
    (hits,) = values["forget", "answer", "memorization"]
    _add(found, "forget.extraction_strength", np.array([suffix_share(row) for row in hits]))
    (hits,) = values.get(("forget", "answer", "exact_memorization"), [hits])
    _add(found, "forget.exact_memorization", np.array([row.mean() for row in hits]))


def _add(found: Plain, name: str, per_example: np.ndarray) -> None:
    found.per_example[name] = per_example
    found.metrics[name] = float(per_example.mean())


def _add_ratios(found: Plain, split: str, ratios: np.ndarray) -> None:
    """Keep R of each example; the value is 1 where right and wrong answers are alike, or, if it is utility, apart."""
    shown = np.minimum(ratios, 1 / ratios) if split == "forget" else np.maximum(0, 1 - ratios)
    found.per_example[f"{split}.truth_ratio"] = ratios
    found.metrics[f"{split}.truth_ratio"] = float(shown.mean())


def _measure_membership(found: Plain, values: Values, attacks: Mapping[str, Mapping[str, list[float]]]) -> None:
    scores = {
        split: [lowest_mean(row) for row in values[split, "answer", "min_k"][0]] for split in ("forget", "holdout")
    }
    for name, both in {"min_k": scores, **attacks}.items():
        found.metrics[f"mia.{name}.auc"] = area_under_curve(both["forget"], both["holdout"])
        found.per_example[f"mia.{name}.auc"] = np.array(both["forget"])


def _measure_suite(found: Plain, retrained: Plain | None) -> None:
    from scipy.stats import ks_2samp

    names = [
        f"{split}.{name}"
        for split in UTILITY
        for name in ("probability" if split == "retain" else "normalized_probability", "rouge", "truth_ratio")
    ]
    if all(name in found.metrics for name in names):
        parts = [found.metrics[name] for name in names]
        found.metrics["model_utility"] = len(parts) / sum(1 / part for part in parts) if all(parts) else 0.0
    if retrained is None:
        return
    ratios = (found.per_example["forget.truth_ratio"], retrained.per_example["forget.truth_ratio"])
    found.metrics["forget_quality"] = float(ks_2samp(*ratios).pvalue)
    ours, theirs = 1 - found.metrics["mia.min_k.auc"], 1 - retrained.metrics["mia.min_k.auc"]
    found.metrics["privleak"] = 100 * (ours - theirs) / theirs if theirs else math.nan


def load(folder: str, dtype: str = "float32") -> tuple[Any, Any]:
    """Return a model and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).to(device)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def main() -> None:
    """Print every number, what was computed, and the time that it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path, help="the folder of TOFU's files")
    parser.add_argument("--split", default="forget10", choices=("forget01", "forget05", "forget10"))
    parser.add_argument("--retrained", help="a model that never saw the forget rows")
    parser.add_argument("--reference", help="the model that the reference attack compares with")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rows", type=int, help="at most so many rows of each split [default: all]")
    parser.add_argument(
        "--all_membership", action="store_true", help="LOSS, ZLIB, Min-K, Min-K++ and the reference too"
    )
    parser.add_argument("--no_generation", action="store_true", help="leave ROUGE and model utility out")
    options = parser.parse_args()
    data = read_tofu(options.data, options.split, options.rows)
    model, tokenizer = load(options.model, options.dtype)
    retrained = of_retrained(*load(options.retrained, options.dtype), data) if options.retrained else None
    reference = load(options.reference, options.dtype)[0] if options.reference else None
    found = evaluate(
        model, tokenizer, data, retrained, reference, options.all_membership, generates=not options.no_generation
    )
    for name, value in sorted(found.metrics.items()):
        print(f"{name:40} {value:.6g}")
    for name, number in vars(found.counts).items():
        print(f"{name:40} {number:,}")
    for name, seconds in found.seconds.items():
        print(f"{name:40} {seconds:.2f} s")


if __name__ == "__main__":
    main()
