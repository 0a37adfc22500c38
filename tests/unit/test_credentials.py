"""Credentials are masked wherever they stand, and nothing else is."""

import io
import json
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amnestic.config import UnlearnConfig, from_mapping, read_yaml, write_yaml
from amnestic.credentials import masked, masked_document, masked_output
from amnestic.reports.files import JsonLines, write_json, write_text

TOKEN = "hf_" + "aB3" * 11
AWKWARD = "p\"a\\s<s>&wörd'/+=\n2nd line of it"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """An environment with nothing in it."""
    for name in list(os.environ):
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    "name",
    [
        *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"),
        *(
            "OPENAI_APIKEY",
            "npm_config__authToken",
            "DB_PASSWORD",
            "MYSQL_PWD",
            "PGPASSWD",
            "GPG_PASSPHRASE",
            "DB_PASS",
        ),
        *("AZURE_CREDENTIALS", "HTTP_AUTHORIZATION", "BASIC_AUTH", "SESSION_COOKIE", "SENTRY_DSN", "API_KEY_2"),
    ],
)
def test_a_secret_of_the_environment_is_replaced_by_its_name(environment, name):
    environment.setenv(name, "s3cr3t-v4lue")
    assert masked("at s3cr3t-v4lue, twice: s3cr3t-v4lue") == f"at [{name}], twice: [{name}]"
    environment.delenv(name)
    assert masked("at s3cr3t-v4lue") == "at s3cr3t-v4lue"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PWD", "some/folder"),
        ("OLDPWD", "some/folder"),
        ("GIT_AUTHOR_NAME", "some/folder"),
        ("KEYBOARD_LAYOUT", "some/folder"),
        ("TOKENIZERS_PARALLELISM", "some/folder"),
        ("HF_TOKEN_PATH", "some/folder"),
        ("SSH_AUTH_SOCK", "some/folder"),
        ("COMPASS", "some/folder"),
        ("HF_TOKEN", "7 chars"),
        ("HF_TOKEN", ""),
        ("HF_TOKEN", " " * 9),
    ],
)
def test_what_is_no_secret_stays(environment, name, value):
    environment.setenv(name, value)
    text = f"in some/folder of 7 chars{' ' * 12}x"
    assert masked(text) == masked_document(text) == text


def test_the_path_of_an_existing_file_is_no_secret(environment, tmp_path):
    environment.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path))
    assert masked(f"in {tmp_path}") == f"in {tmp_path}"
    environment.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "absent"))
    assert masked(f"in {tmp_path}/absent") == "in [GOOGLE_APPLICATION_CREDENTIALS]"


def test_of_two_secrets_the_longer_one_leaves_no_end(environment):
    environment.setenv("A_KEY", "12345678x")
    environment.setenv("B_KEY", "12345678x-and-more")
    assert masked("12345678x-and-more 12345678x") == "[B_KEY] [A_KEY]"


def test_a_line_of_a_secret_is_one_too(environment):
    environment.setenv("SSH_KEY", "-----BEGIN KEY-----\nabcdefghijkl\n  mnopqrstuvwx\r\n-----END KEY-----\n")
    assert masked("no abcdefghijkl, mnopqrstuvwx") == "no [SSH_KEY], [SSH_KEY]"
    assert masked("-----BEGIN KEY-----") == "-----BEGIN KEY-----"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"model '{TOKEN}'", "model '[token]'"),
        (f"https://x.org/?token%3D{TOKEN}&a=1", "https://x.org/?token%3D[token]&a=1"),
        ("hf_internal_testing/tiny-random-LlamaForCausalLM", "hf_internal_testing/tiny-random-LlamaForCausalLM"),
        (TOKEN[:32], TOKEN[:32]),
        ("ghp_" + "a1B2" * 9, "[token]"),
        ("a task-" + "a" * 40, "a task-" + "a" * 40),
        ("key sk-" + "a1" * 20, "key [token]"),
        ("AKIAIOSFODNN7EXAMPLE", "[token]"),
    ],
)
def test_tokens_are_known_by_their_form(text, expected):
    assert masked(text) == masked_document(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at https://me:pa55@x.org:8080/a?b=c@d", "at https://[password]@x.org:8080/a?b=c@d"),
        ("postgresql+psycopg://me:p@ss:word@db/x", "postgresql+psycopg://[password]@db/x"),
        ("redis://:pw@h", "redis://[password]@h"),
        ('{"a": "http://u:p@h", "b": "x@y"}', '{"a": "http://[password]@h", "b": "x@y"}'),
        ("http://localhost:80, me@x.org", "http://localhost:80, me@x.org"),
        ("ssh://git@github.com:22/x", "ssh://git@github.com:22/x"),
        ('"http://localhost:80","me@x.org"', '"http://localhost:80","me@x.org"'),
    ],
)
def test_the_login_of_a_url_is_masked(text, expected):
    assert masked(text) == masked_document(text) == expected


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "DB_AUTH"])
def test_the_password_of_a_url_in_the_environment_is_a_secret(environment, name):
    environment.setenv(name, "http://me:hunter2%21hunter@proxy:3128")
    assert masked("login hunter2!hunter refused") == f"login [{name}] refused"
    assert masked("login hunter2%21hunter refused") == f"login [{name}] refused"
    assert masked("me at proxy:3128") == "me at proxy:3128"


def test_a_secret_that_is_a_number_is_no_part_of_a_number(environment, tmp_path):
    environment.setenv("CARD_KEY", "12345678")
    content = {"loss": 0.12345678, "seed": 12345678, "command": ["--seed", "12345678"]}
    write_json(tmp_path / "f.json", content)
    expected = {"loss": 0.12345678, "seed": 12345678, "command": ["--seed", "[CARD_KEY]"]}
    assert json.loads((tmp_path / "f.json").read_text()) == expected
    assert masked_document("12345678") == "12345678"


@pytest.mark.parametrize("secret", ["s3cr3t-v4lue", AWKWARD, "-----BEGIN KEY-----\nabcdefghijkl\n-----END KEY-----\n"])
def test_no_writer_writes_a_secret(environment, tmp_path, secret):
    """A value, part of a value, a key, an item of a list and a path; in JSON, JSON Lines, YAML, and as it stands."""
    environment.setenv("SOME_SECRET", secret)
    record = {"a": f"x{secret}", f"k{secret}": 1, "b": {"c": [secret, tmp_path / secret.split("/")[0]]}}
    write_json(tmp_path / "a.json", record)
    with JsonLines(tmp_path / "a.jsonl") as lines:
        lines.append(record)
    for name in ("a.json", "a.jsonl"):
        found = json.loads((tmp_path / name).read_text("utf-8"))
        assert (found["a"], found["k[SOME_SECRET]"]) == ("x[SOME_SECRET]", 1)
        assert found["b"]["c"][0] == "[SOME_SECRET]"
    values = {"output_dir": "o", "model": secret, "forget": "f", "retain": "r", "template_args": {"x": f"{secret}y"}}
    write_yaml(from_mapping(UnlearnConfig, values), tmp_path / "a.yaml")
    found = read_yaml(tmp_path / "a.yaml")
    assert (found["model"], found["template_args"]) == ("[SOME_SECRET]", {"x": "[SOME_SECRET]y"})
    for form in (secret, json.dumps(secret), repr(secret)):
        write_text(tmp_path / "a.txt", f"before {form} after")
        assert "[SOME_SECRET]" in (tmp_path / "a.txt").read_text("utf-8")
    lines = [line for line in secret.strip().splitlines() if not line.startswith("---")]
    for path in tmp_path.iterdir():
        text = path.read_text("utf-8")
        assert not [line for line in lines if line in text or json.dumps(line)[1:-1] in text]


def test_nothing_that_is_printed_holds_a_secret(environment):
    environment.setenv("HF_TOKEN", "s3cr3t-v4lue")
    out, err = io.StringIO(), io.StringIO()
    environment.setattr(sys, "stdout", out)
    environment.setattr(sys, "stderr", err)
    with masked_output():
        print("a", "xs3cr3t-v4lue", TOKEN)
        sys.stderr.writelines(["b s3cr3t-v4lue\n", "c"])
        sys.stderr.flush()
        assert not sys.stdout.isatty()
    print("d")
    assert (out.getvalue(), err.getvalue()) == ("a x[HF_TOKEN] [token]\nd\n", "b [HF_TOKEN]\nc")


@given(st.text())
def test_other_texts_stay_as_they_are(text):
    assert masked(text) == masked_document(text) == text
