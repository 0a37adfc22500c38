"""Private data stays where it was: redacted runs quote no row, and no run tells a secret of the environment."""

import functools
import html
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet
import pytest

import amnestic
from amnestic import demo
from amnestic.benchmarks.fiction import Fiction
from amnestic.model import source

TEMPLATE = (
    "{% for message in messages %}<bos>{{ message['role'] }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<eos>{% endif %}\n{% endfor %}"
)
QUESTION, ANSWER, SYSTEM = "Zyqvorth", "Blixtamun", "Quorndelph"
"""Words that stand in prompts, in answers and in the system prompt, and nowhere else."""
SECRETS = {
    "HF_TOKEN": "hf_" + "x9Y" * 11,
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfi=",
    "MY_SERVICE_PASSWORD": "co\"rr<e>ct 'hörse",
    "DATABASE_URL": "postgres://me:hunter2hunter2@db.example.org/x",
}
SPELT = [*list(SECRETS.values())[:3], "hunter2hunter2"]
"""What must not be read anywhere."""
UNKNOWN_TOKEN = "hf_" + "q7R" * 12
"""A token that no variable holds."""


def contents(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield every file of a run folder but the model's, and its text: of a table the decompressed columns too."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or "model" in path.relative_to(folder).parts:
            continue
        text = path.read_bytes().decode("utf-8", errors="replace")
        if path.suffix == ".parquet":
            text += json.dumps(pyarrow.parquet.read_table(path).to_pydict(), default=str, ensure_ascii=False)
        yield path, f"{path.name} {text} {html.unescape(text)}"


def told(folder: Path, words: list[str]) -> dict[str, set[str]]:
    """Return the words that each file of a run folder holds, in any case of their letters; files with none left out."""
    found = {}
    for path, text in contents(folder):
        if held := {word for word in words if word.casefold() in text.casefold()}:
            found[path.name] = held
    return found


def marked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The people's rows with an unmistakable word in each question and each answer."""
    return [
        {"question": f"{QUESTION} {row['question']}", "answer": f"{row['answer']} {ANSWER} {n}"}
        for n, row in enumerate(rows)
    ]


def in_messages(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows as chats, the first of them with a system message of its own."""
    system = {"role": "system", "content": f"{SYSTEM} of the row"}
    chats = [
        [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}] for row in rows
    ]
    return [{"messages": [system, *chat] if n == 0 else chat} for n, chat in enumerate(chats)]


@pytest.fixture(scope="module")
def private(people, retrained, as_file, tmp_path_factory) -> dict[str, Any]:
    """Options of a run that reports whatever can be reported, over rows and a system prompt with marked words."""
    folder = tmp_path_factory.mktemp("private")
    (folder / "chat.jinja").write_text(TEMPLATE, encoding="utf-8")
    files = {
        "forget": as_file(folder / "forget.jsonl", in_messages(marked(people.rows["forget"]))),
        "retain": as_file(folder / "retain.jsonl", marked(people.rows["retain"])),
    }
    options = {"chat_template": folder / "chat.jinja", "system_prompt": f"{SYSTEM}, be brief", "max_new_tokens": 12}
    return {"files": files, "options": options, "retrained": retrained.folder / "model"}


def generated(outcome: Any) -> list[str]:
    """What the models of a run said, wherever it is long enough to be told from other words."""
    texts = {row["generated"] for name in outcome.folder.glob("scores/*") for row in outcome.scores(name.stem)}
    return [text for text in texts if len(text) > 12]


@pytest.fixture(scope="module")
def runs(unlearn, private) -> SimpleNamespace:
    """The same run of unlearning twice, redacted and not."""
    options = private["options"] | private["files"] | {"bound": 20, "retrained": private["retrained"]}
    return SimpleNamespace(plain=unlearn(**options), redacted=unlearn(**options, redact=True))


@pytest.fixture(scope="module")
def process(people, as_file, as_flags, tmp_path_factory):
    """Run ``amnestic`` in a process whose environment holds the secrets, its arguments and its rows too."""
    folder = tmp_path_factory.mktemp("secrets")
    rows = people.rows["forget"]
    rows = [row | {"answer": f"{row['answer']} {SPELT[n]}"} for n, row in enumerate(rows[: len(SPELT)])]
    as_file(folder / "forget.jsonl", rows)

    def run(debug: str = "0", **options: Any) -> Any:
        own = {"model": people.model, "forget": folder / "forget.jsonl", "retain": people.file("retain")}
        own |= {"max_steps": 1, "max_new_tokens": 2, "bound": 20, "eval_rows": 8, "probe_size": 8}
        own["output_dir"] = folder / "run"
        command = [sys.executable, "-m", "amnestic", "unlearn", *as_flags(own | options)]
        variables = os.environ | SECRETS | {"AMNESTIC_DEBUG": debug}
        found = subprocess.run(command, capture_output=True, env=variables, check=False, encoding="utf-8")
        return SimpleNamespace(status=found.returncode, out=found.stdout, err=found.stderr, folder=folder / "run")

    return run


@pytest.fixture(scope="module")
def finished(process):
    template = f"{UNKNOWN_TOKEN} {' '.join(SPELT)} https://me:pa55@x.org/\nQuestion: {{question}}\nAnswer:"
    outcome = process(question_template=template)
    assert outcome.status == 0, outcome.err
    return outcome


class TestRedacted:
    def test_no_file_of_an_unlearning_run_quotes_a_row(self, runs):
        words = [QUESTION, ANSWER, SYSTEM, *generated(runs.plain)]
        assert len(words) > 20
        assert told(runs.redacted.folder, words) == {}
        assert told(runs.plain.folder, [QUESTION, ANSWER]) == {
            **{name: {QUESTION, ANSWER} for name in ("forget.parquet", "retain.parquet", "report.html")},
            "results.json": {QUESTION},  # in the first prompt
        }
        assert set(told(runs.plain.folder, [SYSTEM])) == {
            *("config.yaml", "results.json", "report.html", "forget.parquet"),
        }
        assert set(told(runs.plain.folder, words[3:])) == {"forget.parquet", "retain.parquet", "report.html"}

    def test_the_screen_shows_counts_in_the_place_of_the_first_example(self, runs):
        assert QUESTION in runs.plain.err
        assert not [word for word in (QUESTION, ANSWER, SYSTEM) if word in runs.redacted.err + runs.redacted.out]
        assert re.search(r"^first example +\d+ tokens, \d+ of them scored *$", runs.redacted.err, re.MULTILINE)
        assert "First example, scored tokens" not in runs.redacted.err

    def test_the_numbers_and_ids_are_those_of_the_plain_run(self, runs):
        assert runs.redacted.digest == runs.plain.digest
        for name in ("metrics", "bound", "candidates", "probe_ids", "verdict", "notes"):
            assert runs.redacted.results[name] == runs.plain.results[name]
        assert runs.redacted.results["redacted"] is True
        assert "redacted" not in runs.plain.results
        texts = ("prompt", "answer", "generated")
        for split in ("forget", "retain"):
            plain, redacted = (
                [{name: value for name, value in row.items() if name not in texts} for row in run.scores(split)]
                for run in (runs.plain, runs.redacted)
            )
            assert redacted == plain

    def test_equal_texts_have_equal_hashes_over_models_splits_and_columns(self, runs):
        """The texts of the plain run, stripped, and the hashes of the redacted one map to each other one to one."""
        pairs = {
            (str(plain[name]).strip(), redacted[name])
            for split in ("forget", "retain")
            for plain, redacted in zip(runs.plain.scores(split), runs.redacted.scores(split), strict=True)
            for name in ("prompt", "answer", "generated")
        }
        assert len({text for text, _ in pairs}) == len({digest for _, digest in pairs}) == len(pairs) > 60
        assert all(re.fullmatch("hash:[0-9a-f]{16}", digest) for text, digest in pairs if text)

    def test_another_run_has_other_hashes(self, runs, unlearn, private):
        again = unlearn(**private["options"] | private["files"] | {"bound": 20, "redact": True})
        first = {row["prompt"] for row in runs.redacted.scores("forget")}
        assert not first & {row["prompt"] for row in again.scores("forget")}

    def test_the_report_shows_ids_values_and_hashes(self, runs):
        page = (runs.redacted.folder / "report.html").read_text("utf-8")
        row = runs.redacted.scores("forget")[0]
        for text in ("This run is redacted", row["id"], row["prompt"], row["answer"], row["generated"], "ROUGE-L"):
            assert text in page
        assert "This run is redacted" not in (runs.plain.folder / "report.html").read_text("utf-8")

    def test_the_hash_of_the_first_prompt_is_left_out(self, runs):
        assert "first_prompt_sha256" in runs.plain.results["template"]
        assert "first_prompt_sha256" not in runs.redacted.results["template"]
        assert runs.redacted.results["template"]["system_prompt"] == "[redacted]"

    def test_its_configuration_repeats_it_once_the_system_prompt_is_given(self, runs, command, private, tmp_path):
        options = {"config": runs.redacted.folder / "config.yaml", "output_dir": tmp_path / "again"}
        outcome = command("unlearn", options)
        assert outcome.status == 2
        assert "--system_prompt is '[redacted]', which a redacted run writes in place of the text" in outcome.err
        outcome = command("unlearn", options | {"system_prompt": private["options"]["system_prompt"]})
        assert outcome.digest == runs.redacted.digest
        assert outcome.results["redacted"] is True

    def test_word_for_word_is_still_said(self, people, unlearn):
        """The people's model knows its answers by heart, so that what it says equals them."""
        options = {"bound": 9, "max_new_tokens": 20, "max_steps": 1}
        plain, redacted = (unlearn(**options, redact=redact) for redact in (False, True))
        counts = [(run.folder / "report.html").read_text("utf-8").count("word for word") for run in (plain, redacted)]
        assert counts[0] == counts[1] > 10
        answers = [row["answer"] for row in people.rows["forget"]]
        assert set(told(plain.folder, answers)) == {"forget.parquet", "report.html"}
        assert told(redacted.folder, answers) == {}

    def test_no_file_of_a_finetuning_run_quotes_a_row(self, finetune, private):
        options = private["options"] | {"data": private["files"]["retain"]}
        plain, redacted = (finetune(**options, redact=redact) for redact in (False, True))
        words = [QUESTION, ANSWER, SYSTEM, *generated(plain)]
        assert told(redacted.folder, words) == {}
        assert set(told(plain.folder, words)) >= {"data.parquet", "results.json", "config.yaml"}
        assert not [word for word in words if word in redacted.err + redacted.out]

    def test_rows_in_memory_are_as_private(self, people, private, tmp_path):
        rows = {split: marked(people.rows[split]) for split in ("forget", "retain")}
        options = {"max_steps": 1, "max_new_tokens": 4, "bound": 20, "redact": True}
        run = amnestic.unlearn(people.model, **rows, output_dir=tmp_path / "run", **options)
        assert told(tmp_path / "run", [QUESTION, ANSWER]) == {}
        assert QUESTION not in json.dumps(run.results)

    def test_an_interrupted_run_leaves_no_text(self, unlearn, private, monkeypatch):
        import amnestic.training.loop as loop

        def stopped(*arguments):
            raise KeyboardInterrupt

        monkeypatch.setattr(loop, "step", stopped)
        outcome = unlearn(**private["options"] | private["files"] | {"bound": 20, "redact": True})
        assert outcome.status == 130
        assert (outcome.folder / "config.yaml").is_file()
        assert told(outcome.folder, [QUESTION, ANSWER, SYSTEM]) == {}

    @pytest.mark.parametrize("redact", [False, True])
    def test_the_demonstration_hands_it_on_to_its_runs(self, command, monkeypatch, tmp_path, redact):
        seen = []

        def run(config, progress):
            seen.append(config.run.redact)
            return SimpleNamespace(results={"status": "done", "verdict": "."}, output_dir=tmp_path, feasible=True)

        monkeypatch.setattr(demo, "Fiction", functools.partial(Fiction, people=4, questions=1, forget_share=0.5))
        monkeypatch.setattr(demo, "run_finetune", run)
        monkeypatch.setattr(demo, "run_unlearn", run)
        assert command("demo", {"output_dir": tmp_path / "demo", "redact": redact}).status == 0
        assert seen == [redact] * len(demo.RUNS)


class TestErrorsOfRedactedRuns:
    @pytest.mark.parametrize("debug", ["0", "1"])
    def test_wrong_rows_are_not_quoted(self, unlearn, tmp_path, monkeypatch, debug):
        """The first row of a file without a header stands where its columns' names should."""
        monkeypatch.setenv("AMNESTIC_DEBUG", debug)
        (tmp_path / "rows.csv").write_text(f"{QUESTION}?,{ANSWER}\nc,d\n", encoding="utf-8")
        options = {"forget": tmp_path / "rows.csv", "bound": 9}
        assert QUESTION in unlearn(**options).err
        outcome = unlearn(**options, redact=True)
        assert outcome.status == 2
        assert "(found: not shown under --redact)" in outcome.err
        assert not [word for word in (QUESTION, ANSWER) if word in outcome.err]

    def test_a_template_s_refusal_is_not_quoted(self, unlearn, private, tmp_path):
        (tmp_path / "refusing.jinja").write_text("{{ raise_exception('no ' + messages[0]['content']) }}")
        options = private["files"] | {"chat_template": tmp_path / "refusing.jinja", "bound": 9}
        assert SYSTEM in unlearn(**options).err
        outcome = unlearn(**options, redact=True)
        assert outcome.err == "error: the chat template refused a conversation: not shown under --redact.\n"

    @pytest.mark.parametrize("debug", ["0", "1"])
    def test_an_error_of_another_library_is_named_and_placed_alone(self, unlearn, monkeypatch, debug):
        def fail(*arguments):
            raise ValueError(ANSWER) from KeyError(QUESTION)

        monkeypatch.setenv("AMNESTIC_DEBUG", debug)
        monkeypatch.setattr("amnestic.benchmarks.base.read_examples", fail)
        plain = unlearn(bound=9).err
        assert re.search(rf"error: ValueError in test_private.py, line \d+: {re.escape(ANSWER)} \(run again", plain)
        outcome = unlearn(bound=9, redact=True)
        assert outcome.status == 1
        assert re.search(r"error: ValueError in test_private.py, line \d+ \(its text: not shown", outcome.err)
        assert not [word for word in (QUESTION, ANSWER) if word in outcome.err]

    @pytest.mark.parametrize("debug", ["0", "1"])
    def test_the_cause_of_an_error_of_ours_is_not_shown(self, unlearn, monkeypatch, debug):
        def fail(*arguments):
            raise amnestic.InputError("no such row.") from KeyError(QUESTION)

        monkeypatch.setenv("AMNESTIC_DEBUG", debug)
        monkeypatch.setattr("amnestic.benchmarks.base.read_examples", fail)
        assert (QUESTION in unlearn(bound=9).err) == (debug == "1")
        outcome = unlearn(bound=9, redact=True)
        assert outcome.err.endswith("error: no such row.\n")
        assert QUESTION not in outcome.err


class TestSecrets:
    def test_no_file_and_no_output_of_a_run_holds_one(self, finished):
        words = [*SPELT, UNKNOWN_TOKEN, "pa55@"]
        assert told(finished.folder, words) == {}
        assert not [word for word in words if word in finished.out + finished.err]

    def test_what_stands_in_their_place_says_what_was_there(self, finished):
        settings = "[token] [HF_TOKEN] [AWS_SECRET_ACCESS_KEY] [MY_SERVICE_PASSWORD] [DATABASE_URL]"
        texts = {path.name: text for path, text in contents(finished.folder)}
        for name in ("config.yaml", "results.json", "report.html", "environment.json"):
            assert settings in texts[name].replace("\n", " "), name
            assert "https://[password]@x.org/" in texts[name]
        answers = " ".join(pyarrow.parquet.read_table(finished.folder / "scores/forget.parquet")["answer"].to_pylist())
        for name in SECRETS:
            assert f"[{name}]" in answers
        assert f"{settings} https://[password]@x.org/" in finished.err

    def test_errors_and_tracebacks_hold_none(self, process, tmp_path):
        name = f"https://me:pa55@x.org/{UNKNOWN_TOKEN}/{SPELT[0]}/{SPELT[3]}"
        outcome = process("1", model=name, output_dir=tmp_path / "run")
        assert outcome.status == 2
        traceback, _, error = outcome.err.rpartition("\nerror: ")
        assert "Traceback" in traceback
        for part in (traceback, error):
            assert "https://[password]@x.org/[token]/[HF_TOKEN]/[DATABASE_URL]" in part
        assert not [word for word in (*SPELT, UNKNOWN_TOKEN, "pa55@") if word in outcome.out + outcome.err]
        assert not (tmp_path / "run").exists()

    def test_what_a_library_says_is_masked(self, command, monkeypatch, people):
        """Warnings, prints and logs of libraries go to stderr; under AMNESTIC_DEBUG nothing silences them."""

        def speaking(*arguments, **options):
            print(f"stdout {SPELT[0]}")
            print(f"stderr {SPELT[0]}", file=sys.stderr)
            raise OSError(f"401 for {SPELT[0]}")

        monkeypatch.setenv("AMNESTIC_DEBUG", "1")
        monkeypatch.setenv("HF_TOKEN", SPELT[0])
        monkeypatch.setattr(source.PreTrainedConfig, "get_config_dict", speaking)
        outcome = command("finetune", {"model": "a/b", "data": people.file("retain"), "output_dir": "never"})
        assert SPELT[0] not in outcome.err + outcome.out
        for text in ("stdout [HF_TOKEN]", "stderr [HF_TOKEN]", "OSError: 401 for [HF_TOKEN]"):
            assert text in outcome.err

    def test_the_environment_for_a_bug_report_holds_none(self, command, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", SPELT[0])
        monkeypatch.setattr(sys, "argv", ["amnestic", SPELT[0], "http://me:pw@x"])
        outcome = command("env", {}, "--json")
        assert json.loads(outcome.out)["command"] == ["amnestic", "[HF_TOKEN]", "http://[password]@x"]
        assert SPELT[0] not in outcome.out


def test_hostile_rows_names_and_settings_make_a_run_like_any_other(people, unlearn, as_file, tmp_path, monkeypatch):
    """Rows and file names that try to be more than text, from the file to the page and the screen."""
    hostile = '<script>alert(1)</script></style>{{ 7 * 7 }}"onload="\x1b[31m\u202e\u200b'
    rows = {
        split: [
            row | {"question": f"{hostile} {row['question']}", "answer": f"{hostile} {row['answer']}"} for row in found
        ]
        for split, found in people.rows.items()
    }
    folder = tmp_path / "<img src=x onerror=alert(1)>\x1b[2J"
    folder.mkdir()
    files = {split: as_file(folder / f"{split}.jsonl", rows[split]) for split in ("forget", "retain")}
    outcome = unlearn(**files, bound=20, question_template=f"{hostile} {{question}}")
    page = (outcome.folder / "report.html").read_text("utf-8")
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;&lt;/style&gt;{{ 7 * 7 }}&#34;onload=&#34;") > 20
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e\u200b]", page + outcome.err + outcome.out)
    assert outcome.scores("forget")[0]["prompt"] == rows["forget"][0]["question"]


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o007], ids=oct)
def test_a_run_folder_has_the_permissions_that_the_umask_leaves(unlearn, monkeypatch, umask):
    """The files while they are written too: whatever is renamed has its permissions before."""
    early = []
    replace = Path.replace

    def watched(path, target):
        early.extend([path, *path.rglob("*")] if path.is_dir() else [path])
        assert not [item for item in early if item.exists() and permissions(item) & umask]
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", watched)
    old = os.umask(umask)
    try:
        outcome = unlearn(bound=20, max_steps=1)
    finally:
        os.umask(old)
    assert outcome.status == 0
    assert len(early) > 10
    for path in (outcome.folder, *outcome.folder.rglob("*")):
        assert permissions(path) == (0o777 if path.is_dir() else 0o666) & ~umask, path.name


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
