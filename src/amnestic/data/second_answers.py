"""Second answers: what a method teaches to the prompts of the forget rows in the place of the true answers.

``B`` forget rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ..errors import InputError
from .encode import Encoded, Encoder
from .example import SECOND, Example, example_rows
from .options import SecondAnswersOptions
from .rows import Form
from .sources import rows_of


def refuse_texts(examples: Sequence[Example]) -> None:
    """Raise InputError for a corpus text, which asks nothing that could be answered otherwise."""
    text = next((example for example in examples if example.kind == "text"), None)
    if text is not None:
        raise InputError(
            f"{text.id} is a text without a question, to which there is no second answer; give rows with a question or "
            "a prompt, or take another method, such as npo."
        )


def files_of_answers(options: SecondAnswersOptions) -> list[Path]:
    """Return the files that second answers are read from."""
    return [Path(name) for name in (options.alternates_file, options.refusals) if name is not None]


def given_answers(examples: Sequence[Example], options: SecondAnswersOptions) -> dict[str, str]:
    """Return the second answers that a user gives, by id of the example: those of a file, or of a column of the rows.

    Raises InputError for a file that cannot be read, lacks one of `examples`, or names another row.
    """
    if options.alternates_file is None:
        return {example.id: example.alternates[SECOND][0] for example in examples if SECOND in example.alternates}
    file = options.alternates_file
    found = _read_answers(file)
    names = [example.id for example in examples]
    if lacking := [name for name in names if name not in found]:
        raise InputError(
            f"--alternates_file {file} has no answer for {len(lacking)} of {len(names)} forget rows (the first is "
            f"{lacking[0]}); expected one for each."
        )
    return {name: found[name] for name in names}


def _read_answers(file: str) -> dict[str, str]:
    """Return id -> answer of each row of a file; raises InputError for a row without either, and for two of one id."""
    found: dict[str, str] = {}
    for row in rows_of(Path(file), "alternates"):
        example = Form("prompt", ("id", "answer")).example("", row)
        name = str(example.prompt)
        if name in found:
            raise InputError(f"{row.place} names {name} a second time; expected one answer a row.")
        found[name] = example.answer
    return found


def with_answers(
    encoder: Encoder, examples: Sequence[Example], forget: Sequence[Encoded], answers: Mapping[str, str]
) -> list[Encoded]:
    """Return `forget`, which was encoded from `examples`, with `answers` (by id) in the place of the true ones.

    Each keeps id and prompt, and is encoded as the true answer was: same template, same closing token, all of it
    scored, whatever spans the true one marks. Raises InputError, with the row, where nothing of an answer fits.
    """
    given = example_rows()
    given.extend(replace(example, answer=answers[example.id], forget_spans=(), alternates={}) for example in examples)
    found = {row.id: row for row in encoded_within(encoder, given)}
    for row in forget:
        if row.id not in found:
            _refuse(row.id, encoder)
    return [found[row.id] for row in forget]


def encoded_within(encoder: Encoder, examples: Sequence[Example]) -> Sequence[Encoded]:
    """Return those of `examples` that fit into the limit: cut, where true answers would be, or else whole."""
    too_long: Literal["cut", "drop"] = "cut" if encoder.options.too_long == "cut" else "drop"
    options = replace(encoder.options, too_long=too_long)
    try:
        return Encoder(encoder.tokenizer, options, encoder.limit).encode("second answers", examples).examples
    except InputError:  # none does
        return []


def _refuse(name: str, encoder: Encoder) -> None:
    raise InputError(
        f"the second answer of {name} does not fit into {encoder.limit} tokens behind its prompt; raise --max_length, "
        "or give a shorter one with --alternates_file."
    )
