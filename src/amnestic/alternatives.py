"""Second answers for methods that teach one: refusals, the model's own alternatives, or what the user gives.

A model of chats is asked for an alternative. One that cannot be asked, or answers with what it is to forget, is made to
leave its answer: it goes along with the true one up to the place where it is least sure, may not take the next token
there, and goes on by lot. So does a model that knows the answer by heart, of which samples would be nothing but that
answer. ``B`` forget rows, ``N`` scored tokens of one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from . import processes
from .data.batches import turns
from .data.encode import Encoded
from .data.example import Example
from .data.options import SecondAnswersOptions
from .data.records import take
from .data.refusals import read_refusals, refusal_for
from .data.second_answers import encoded_within, given_answers, refuse_texts, with_answers
from .errors import InputError
from .evaluation.metrics.text import rouge_recall
from .inputs import Inputs
from .methods.base import Method
from .model.decoding import Begun
from .model.generate import Generated, Settings, go_on, stops
from .model.sampling import Sampling
from .model.sharding import device_of, forward_only
from .model.signals import Needs, read

INSTRUCTION = (
    "Below stand a question and its answer. Write another answer to the question: just as plausible and in the same "
    "manner, but false. Change the facts that the answer adds to the question, such as names, places, dates and "
    "numbers. Write that answer and nothing else.\n\nQuestion: {question}\nAnswer: {answer}"
)
"""What a model of chats is asked."""
MOST_TOKENS = 200
"""Of an alternative."""
FEW_TOKENS = 32
"""An alternative may have so many tokens, or twice as many as the true answer."""
PLACES = 4
"""Places of an answer at which it is left, one after the other, until an alternative is unlike enough."""
LIKE = 0.75
"""Share of the true answer's words, in their order (ROUGE-L recall), up to which an alternative is unlike it."""

Recall = Callable[[str, Callable[[], Any]], Any]
"""Returns what a function does, or what it did in the run that is resumed."""


def second_answers(
    kind: Literal["refusal", "generated"],
    inputs: Inputs,
    forget: Sequence[Encoded],
    options: SecondAnswersOptions,
    seed: int,
    *,
    recall: Recall = lambda name, answer: answer(),
    batch_size: int = 32,
) -> list[Encoded]:
    """Return `forget` with second answers of `kind` in the place of the true ones; what the user gives comes first.

    Ids and prompts are those of `forget`, and all of a second answer is scored. The same seed gives the same answers,
    whatever the batches and processes; `recall` keeps their texts, by id. Raises InputError for rows that ask nothing,
    for files that cannot be used, and for a row to which no other answer was found.
    """
    by_id = {example.id: number for number, example in enumerate(inputs.examples["forget"])}
    refuse_texts(inputs.examples["forget"])
    examples = take(inputs.examples["forget"], [by_id[row.id] for row in forget])

    def answer() -> dict[str, str]:
        with processes.agreed():
            found = given_answers(examples, options)
            if kind == "refusal":
                refusals = read_refusals(options.refusals)
                return {example.id: refusal_for(refusals, seed, example.id) for example in examples} | found
        lacking = [place for place, example in enumerate(examples) if example.id not in found]
        if lacking:
            asked = take(examples, lacking), take(forget, lacking)
            found |= Alternatives(inputs, *asked, seed, batch_size).found()
        return found

    return with_answers(inputs.encoder, examples, forget, recall("second answers", answer))


def unused_answers(method: Method, options: SecondAnswersOptions) -> str:
    """Return a note on options for second answers that `method` does not teach; nothing where none is given."""
    idle = {
        None: ("alternate_answer_column", "alternates_file", "refusals"),
        "generated": ("refusals",),
        "refusal": (),
    }[method.alternate]
    given = ", ".join(f"--{name}" for name in idle if getattr(options, name) is not None)
    what = "refusal" if method.alternate else "second answer"
    return f"{given}: {method.name} teaches no {what}; nothing is changed by that." if given else ""


def records(answers: Sequence[Encoded]) -> list[dict[str, str]]:
    """Return what the run folder keeps of second answers, in the form that --alternates_file reads."""
    return [{"id": row.id, "answer": row.answer} for row in answers]


@dataclass
class Alternatives:
    """The search for alternatives to the answers of some rows, by the model that knows them."""

    inputs: Inputs
    examples: Sequence[Example]
    """B of them."""
    rows: Sequence[Encoded]
    """The same, encoded."""
    seed: int
    batch_size: int
    best: dict[str, tuple[float, str]] = field(default_factory=dict)
    """Id -> the alternative that is least like the true answer, and how like it is; 1 more for one that did not end."""

    def found(self) -> dict[str, str]:
        """Return an alternative for each row, by its id; raises InputError, with the row, where none was found."""
        if self.inputs.encoder.chat_template is not None:
            self._ask()
        places = self._unsure(self._pending())
        for number in range(PLACES):
            chosen = {i: places[i][number] for i in self._pending() if number < len(places[i])}
            self._leave(number, chosen)
        lacking = [example.id for example in self.examples if example.id not in self.best]
        if lacking:
            raise InputError(
                f"the model gave no answer to {lacking[0]} but the true one, or none that fits into "
                f"{self.inputs.encoder.limit} tokens; give one in the column alternate_answer, or by --alternates_file."
            )
        return {example.id: self.best[example.id][1] for example in self.examples}

    def _pending(self) -> list[int]:
        """Return the rows that have no alternative yet that ended by itself and is unlike the true answer."""
        return [i for i, example in enumerate(self.examples) if self.best.get(example.id, (np.inf, ""))[0] > LIKE]

    def _ask(self) -> None:
        """Ask a model of chats for alternatives."""
        asked = [instructed(example) for example in self.examples if example.kind in ("question", "messages")]
        prompts = {row.id: row for row in encoded_within(self.inputs.encoder, asked)}
        begun = []
        for i, example in enumerate(self.examples):
            if row := prompts.get(example.id):
                tokens = row.input_ids[: row.prompt_length]
                most = min(self._most(i), self.inputs.encoder.limit - len(tokens))
                begun += [Begun(i, tokens, len(tokens), most)] if most > 0 else []
        self._take(begun, self._go_on(begun, "asked"))

    def _leave(self, number: int, places: Mapping[int, int]) -> None:
        """Let the model leave the answer of each row of `places` at its place there: another token, and on by lot."""
        begun, barred = [], {}
        for i, place in places.items():
            row = self.rows[i]
            barred[i] = int(row.input_ids[place])
            start = first_scored(row)
            begun.append(Begun(i, row.input_ids[:place].copy(), start, self._most(i) - (place - start)))
        self._take(begun, self._go_on(begun, f"left {number}", barred))

    def _go_on(self, begun: Sequence[Begun], purpose: str, barred: Mapping[int, int] | None = None) -> list[Generated]:
        """Return what becomes of each of `begun`, whose indices are those of their rows."""
        loaded, numbers = self.inputs.loaded, {row.index: place for place, row in enumerate(begun)}
        names = [f"{self.examples[row.index].id} {purpose}" for row in begun]
        first_barred = {numbers[i]: token for i, token in (barred or {}).items()}
        pick = Sampling(self.seed, names, loaded.vocabulary, first_barred)
        ends = stops(loaded.model, loaded.tokenizer, self.rows)
        settings = Settings(MOST_TOKENS, self.batch_size, pick=pick)
        renumbered = [replace(row, index=numbers[row.index]) for row in begun]
        return go_on(loaded, loaded.tokenizer, renumbered, settings, ends)

    def _take(self, begun: Sequence[Begun], generated: Sequence[Generated]) -> None:
        """Keep the alternatives that are another answer, fit behind their prompts, and are the least like so far."""
        pairs = [(self.examples[row.index], answer) for row, answer in zip(begun, generated, strict=True)]
        others = [(example, answer) for example, answer in pairs if is_other(example.answer, answer.text)]
        given = [replace(example, answer=answer.text, forget_spans=(), alternates={}) for example, answer in others]
        fitting = {row.id for row in encoded_within(self.inputs.encoder, given)} if given else set()
        for example, answer in others:
            likeness = rouge_recall(example.answer, answer.text) + (not answer.has_ended)
            if example.id in fitting and likeness < self.best.get(example.id, (np.inf, ""))[0]:
                self.best[example.id] = likeness, answer.text

    def _most(self, i: int) -> int:
        """Return the most tokens of an alternative for row i: within the limit, and before a token that closes it."""
        row = self.rows[i]
        room = self.inputs.encoder.limit - first_scored(row) - 1
        return min(MOST_TOKENS, max(FEW_TOKENS, 2 * row.scored), room)

    def _unsure(self, pending: Sequence[int]) -> dict[int, list[int]]:
        """Return the places of each of these rows' answers at which the model is least sure, the least sure first.

        A token that stands in the prompt too is passed over where there are others: the fact is in what the answer
        adds to the question. So is what leaves no room for another token.
        """
        logps = self._logps([self.rows[i] for i in pending])
        return {i: self._ordered(i, logp) for i, logp in zip(pending, logps, strict=True)}

    def _ordered(self, i: int, logp: np.ndarray) -> list[int]:
        row, start = self.rows[i], first_scored(self.rows[i])
        size = min(row.scored - row.closes, self._most(i))
        tokens = row.input_ids[start : start + size]
        is_known = np.isin(tokens, row.input_ids[:start])
        order = np.lexsort((logp[:size], is_known))
        return [start + int(place) for place in order[:PLACES]]

    def _logps(self, rows: Sequence[Encoded]) -> list[np.ndarray]:
        """Return log p of the scored tokens of each row, (N,) float64 each; the processes share the work."""
        loaded, needs = self.inputs.loaded, Needs(head=frozenset({"token_logp"}))
        found: dict[int, np.ndarray] = {}
        for _, chosen, made in turns("forget", rows, self.batch_size, loaded.form.packs):
            batch = made.to(device_of(loaded.model))
            with forward_only(loaded.model):
                signals = read(loaded.model, batch, {"forget": needs}, loaded.vocabulary, loaded.form)["forget"]
            owner, values = signals.row.cpu().numpy(), signals.token_logp.cpu().double().numpy()
            found |= {i: values[owner == place] for place, i in enumerate(chosen or [])}
        every = {i: values for share in processes.gathered(found) for i, values in share.items()}
        return [every[i] for i in range(len(rows))]


def first_scored(row: Encoded) -> int:
    """Return the index of the first scored token."""
    return int(row.is_scored.argmax())


def instructed(example: Example) -> Example:
    """Return a conversation of one turn that asks for an alternative to the answer of `example`."""
    prompt = INSTRUCTION.format(question=example.prompt_text, answer=example.answer)
    asked = ({"role": "user", "content": prompt},)
    return replace(example, kind="messages", prompt=asked, forget_spans=(), alternates={})


def is_other(answer: str, text: str) -> bool:
    """Return whether `text` is an answer, and neither the true `answer` nor a part of it, nor holds it."""
    true, other = _words(answer), _words(text)
    return bool(other.strip()) and other not in true and true not in other


def _words(text: str) -> str:
    """Return the words of a text without case and punctuation, a blank before and behind each."""
    letters = "".join(letter if letter.isalnum() else " " for letter in text.casefold())
    return f" {' '.join(letters.split())} "
