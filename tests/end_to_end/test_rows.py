"""The forms in which rows come, from the file to what was trained on."""

import json

import pytest
from transformers import AutoTokenizer

TEMPLATE = (
    "{% for message in messages %}<bos>{{ message['role'] }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<eos>{% endif %}\n{% endfor %}"
)


@pytest.fixture(scope="module")
def tokenizer(people):
    return AutoTokenizer.from_pretrained(people.model)


def test_a_question_equals_its_rendered_prompt(people, unlearn, as_file, tmp_path):
    """`prompt` and `completion` stand as they are, so the rendered template gives the same model bit for bit."""
    files = {}
    for split in ("forget", "retain"):
        rows = [
            {"prompt": f"Question: {row['question']}\nAnswer:", "completion": f" {row['answer']}"}
            for row in people.rows[split]
        ]
        files[split] = as_file(tmp_path / f"{split}.jsonl", rows)
    outcome = unlearn(**files, bound=9)
    assert outcome.results["template"]["kind"] == "as it stands"
    assert outcome.digest == unlearn(bound=9).digest


def test_messages_take_the_chat_template_as_questions_do(people, unlearn, as_file, tmp_path, tokenizer):
    template = tmp_path / "chat.jinja"
    template.write_text(TEMPLATE, encoding="utf-8")
    files = {}
    for split in ("forget", "retain"):
        rows = [
            {
                "messages": [
                    {"role": "user", "content": row["question"]},
                    {"role": "assistant", "content": row["answer"]},
                ]
            }
            for row in people.rows[split]
        ]
        files[split] = as_file(tmp_path / f"{split}.jsonl", rows)
    outcome = unlearn(**files, bound=20, chat_template=template)
    assert outcome.results["template"]["kind"] == "chat"
    scored = 0
    for row in people.rows["forget"]:
        prompt = f"<bos>user: {row['question']}\n<bos>assistant: "
        whole = tokenizer(f"{prompt}{row['answer']}<eos>", add_special_tokens=False, return_offsets_mapping=True)
        scored += sum(end > len(prompt) for _, end in whole["offset_mapping"])
    assert outcome.results["data"]["forget"]["scored_tokens"] == scored
    assert "[[" in outcome.err
    assert "<eos>]]" in outcome.err
    assert outcome.digest == unlearn(bound=20, chat_template=template).digest
    assert outcome.digest != unlearn(bound=20).digest


def test_texts_are_cut_into_chunks(people, unlearn, as_file, tmp_path, tokenizer):
    files = {}
    for split in ("forget", "retain"):
        rows = people.rows[split]
        texts = [" ".join(row["answer"] for row in rows[i : i + 6]) for i in range(0, len(rows), 6)]
        files[split] = as_file(tmp_path / f"{split}.jsonl", [{"text": text} for text in texts])
    outcome = unlearn(**files, bound=20, max_length=16)
    texts = [json.loads(line)["text"] for line in files["forget"].read_text(encoding="utf-8").splitlines()]
    sizes = [len(tokenizer(text)["input_ids"]) for text in texts]
    facts = outcome.results["data"]["forget"]
    chunks = sum(-(-(size - 1) // 15) for size in sizes)  # each with the begin of a text in front
    assert facts["rows"] == 2
    assert facts["examples"] == chunks
    assert facts["scored_tokens"] == sum(sizes) - len(sizes)
    assert (facts["too_long"], outcome.results["notes"]) == (0, [])
    assert outcome.results["template"]["kind"] == "text"
    assert len(outcome.scores("forget")) == 2 * chunks


@pytest.mark.parametrize(("too_long", "done"), [("cut", "cut"), ("drop", "left out")])
def test_what_is_too_long_is_counted_and_told(people, unlearn, as_file, tmp_path, tokenizer, too_long, done):
    rows = [row | {"answer": row["answer"] * (3 if i < 5 else 1)} for i, row in enumerate(people.rows["forget"])]
    data = as_file(tmp_path / "forget.jsonl", rows)
    sizes = [len(tokenizer(f"Question: {row['question']}\nAnswer: {row['answer']}")["input_ids"]) + 1 for row in rows]
    limit = max(sizes[5:])
    outcome = unlearn(forget=data, bound=20, max_length=limit, too_long=too_long)
    facts = outcome.results["data"]["forget"]
    beyond = sum(size > limit for size in sizes)
    assert beyond == 5
    assert (facts["rows"], facts["too_long"], facts["longest"]) == (12, 5, max(sizes))
    assert facts["examples"] == (12 if too_long == "cut" else 7)
    note = f"5 of 12 forget rows are longer than {limit} tokens (the longest has {max(sizes)}) and were {done}."
    assert note in outcome.results["notes"]
    assert f"note: {note}\n" in outcome.err


def test_tables_and_folders_of_files_hold_the_same_rows(people, unlearn, tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{"question": row["question"], "answer": row["answer"]} for row in people.rows["forget"]]
    folder = tmp_path / "forget"
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[:5]), folder / "a.parquet")
    quoted = [[value.replace('"', '""') for value in row.values()] for row in rows[5:9]]
    lines = "".join(f'"{question}","{answer}"\n' for question, answer in quoted)
    (folder / "b.csv").write_text("question,answer\n" + lines, encoding="utf-8")
    (folder / "c.json").write_text(json.dumps(rows[9:], indent=1), encoding="utf-8")
    outcome = unlearn(forget=folder, bound=9)
    assert outcome.digest == unlearn(bound=9).digest
    read = {path for path in outcome.environment["sha256"] if path.startswith(str(folder))}
    assert read == {str(folder / name) for name in ("a.parquet", "b.csv", "c.json")}
