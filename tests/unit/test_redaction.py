"""What stands in for the texts of a redacted run."""

import hashlib
import hmac

import pytest

from amnestic.config import UnlearnConfig, from_mapping, read_yaml, write_yaml
from amnestic.data.options import DataOptions
from amnestic.data.quoting import HIDDEN, hiding_rows, quoted
from amnestic.data.sources import read_examples
from amnestic.errors import InputError
from amnestic.reports.redaction import Redaction

SECRET = "Zyqvorth"
REQUIRED = {"output_dir": "o", "model": "m", "forget": "f", "retain": "r"}


def test_equal_texts_have_equal_hashes_and_others_have_not():
    redaction = Redaction(True)
    one, same, other = (redaction.text(text) for text in ("Ana", " Ana\n", "ana"))
    assert one == same != other
    assert str(one).startswith("hash:")
    assert len(bytes.fromhex(str(one).removeprefix("hash:"))) == 8


def test_no_hash_can_be_guessed_or_compared_with_another_run_s():
    """Of a text of three letters there are few enough to try all: only the key stands between hash and text."""
    found = {str(Redaction(True).text("Ana")).removeprefix("hash:") for _ in range(8)}
    assert len(found) == 8
    plain = [hashlib.new(name, b"Ana").hexdigest() for name in ("md5", "sha1", "sha256", "sha512", "blake2b")]
    plain += [hashlib.blake2b(b"Ana", digest_size=8).hexdigest(), hmac.digest(b"", b"Ana", "sha256").hex()]
    assert not [guess for guess in plain for digest in found if guess.startswith(digest)]


def test_what_is_no_text_stays():
    redaction = Redaction(True)
    assert [redaction.text(text) for text in (None, "", " \n")] == [None, "", ""]
    columns = {
        "id": ["forget:0"],
        "prompt": ["a"],
        "answer": ["b"],
        "generated": [None],
        "rouge": [0.5],
        "model": ["x"],
    }
    found = redaction.columns(columns | {"spans": ["a", None]})
    assert found.pop("spans") == [redaction.text("a"), None]  # a text of a column that nobody foresaw
    assert found | {"prompt": 0, "answer": 0} == columns | {"prompt": 0, "answer": 0}
    assert [found["prompt"], found["answer"]] == [[redaction.text("a")], [redaction.text("b")]]


def test_without_redaction_texts_stay_but_for_the_environment_s_secrets(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "s3cr3t-v4lue")
    redaction = Redaction(False)
    token = "hf_" + "a" * 34
    texts = ["Ana ", "", None, f"{token} at http://me:pw@x", "is s3cr3t-v4lue"]
    assert [redaction.text(text) for text in texts] == [*texts[:4], "is [HF_TOKEN]"]
    facts = {"first_prompt_sha256": "ab", "system_prompt": SECRET}
    assert redaction.template(facts) == facts
    assert redaction.command(["x", SECRET], SECRET) == ["x", SECRET]


def test_the_template_is_described_without_a_prompt_or_its_hash():
    facts = {"kind": "chat", "first_prompt_sha256": "ab", "system_prompt": SECRET, "template_sha256": "cd"}
    found = Redaction(True).template(facts)
    assert found == {"kind": "chat", "system_prompt": "[redacted]", "template_sha256": "cd"}
    assert Redaction(True).template({"kind": "chat", "system_prompt": None})["system_prompt"] is None


def test_the_command_line_is_told_without_the_system_prompt():
    command = ["amnestic", "--system_prompt", SECRET, f"--system_prompt={SECRET}", "--forget", f"{SECRET}.jsonl"]
    assert Redaction(True).command(command, SECRET) == [
        *("amnestic", "--system_prompt", "[redacted]", "--system_prompt=[redacted]"),
        *("--forget", f"{SECRET}.jsonl"),
    ]
    assert Redaction(True).command(command, None) == command


def test_a_redacted_configuration_asks_for_the_system_prompt_again(tmp_path):
    config = from_mapping(UnlearnConfig, REQUIRED | {"redact": True, "system_prompt": SECRET})
    write_yaml(config, tmp_path / "config.yaml")
    assert SECRET not in (tmp_path / "config.yaml").read_text("utf-8")
    again = read_yaml(tmp_path / "config.yaml")
    with pytest.raises(InputError, match=r"--system_prompt is '\[redacted\]', which a redacted run writes in place of"):
        from_mapping(UnlearnConfig, again)
    assert from_mapping(UnlearnConfig, again | {"system_prompt": SECRET}) == config
    write_yaml(from_mapping(UnlearnConfig, REQUIRED | {"system_prompt": SECRET}), tmp_path / "config.yaml")
    assert SECRET in (tmp_path / "config.yaml").read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no_header.csv", f"{SECRET},b\nc,d\n", "no_header.csv, line 2 has no usable columns (found: {})"),
        ("twice.csv", f"{SECRET},{SECRET}\nc,d\n", "twice.csv, line 1 names the column '{}' twice"),
        ("semicolon.csv", f"{SECRET};b\nc;d\n", "semicolon.csv, line 1 names one column, {}; expected commas"),
        ("number.jsonl", '{"question": NaN, "answer": "b"}\n', "'question' is the number {}; expected text"),
        (
            "role.jsonl",
            f'{{"messages": [{{"role": "assistant", "content": "a"}}, {{"role": "{SECRET}", "content": "b"}}]}}\n',
            "ends with a message of the role {}; expected the assistant's",
        ),
        ("keys.jsonl", f'{{"messages": [{{"{SECRET}": "user"}}]}}\n', "has no role (found: {}); expected"),
        (
            "second.jsonl",
            f'{{"question": "a", "answer": "b"}}\n{{"{SECRET}": "c"}}\n',
            "has no column 'question' (found: {})",
        ),
    ],
)
def test_messages_quote_no_row_where_rows_are_hidden(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with hiding_rows(), pytest.raises(InputError) as error:
        read_examples(tmp_path / name, "forget", DataOptions())
    assert message.format(HIDDEN) in str(error.value)
    assert SECRET not in str(error.value)
    with pytest.raises(InputError) as error:
        read_examples(tmp_path / name, "forget", DataOptions())
    assert (SECRET if SECRET in content else "the number nan") in str(error.value)


def test_a_near_name_is_no_advice_where_rows_are_hidden(tmp_path):
    (tmp_path / "a.csv").write_text(f"{SECRET},b\nc,d\n", encoding="utf-8")
    with hiding_rows(), pytest.raises(InputError) as error:
        read_examples(tmp_path / "a.csv", "forget", DataOptions(text_column="Zyqvort"))
    expected = f"has no column 'Zyqvort' for --text_column (found: {HIDDEN}); name one of these."
    assert str(error.value).endswith(expected)


def test_hiding_ends_with_its_context():
    with hiding_rows():
        with hiding_rows(False):
            assert quoted("a") == "a"
        assert quoted("a") == HIDDEN
    assert quoted(1) == "1"
