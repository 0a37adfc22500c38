"""Uploading to the Hub, against a server on this machine that answers as the Hub does, and keeps what it is sent."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

TOKEN = "hf_" + "Sentinel" * 5
SENTINEL = "Xylographic Quokka Lullaby"
LARGE = (".safetensors",)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    token: str
    body: bytes


@dataclass
class Hub:
    """A hub of one account, ``me``, and what it was sent."""

    address: str = ""
    repositories: dict[str, bool] = field(default_factory=dict)
    """Name -> whether it is private."""
    requests: list[Request] = field(default_factory=list)
    refusals: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Part of a path -> statuses to answer with, one a request, before anything else is done."""
    files: dict[str, bytes] = field(default_factory=dict)
    """What was committed."""
    operations: list[str] = field(default_factory=list)
    """The keys of the commits' lines."""
    stored: dict[str, bytes] = field(default_factory=dict)
    silent: str = ""
    """Part of a path that gets no answer before `end` is set."""
    end: threading.Event = field(default_factory=threading.Event)

    def refused(self, path: str) -> int:
        for part, statuses in self.refusals.items():
            if part in path and statuses:
                return statuses.pop(0)
        return 0

    def answer(self, request: Request) -> tuple[int, Any]:
        """Return status and JSON."""
        method, path, body = request.method, request.path, request.body
        if status := self.refused(path):
            return status, {"error": f"refused with {status}"}
        if method == "PUT":
            self.stored[path.rpartition("/")[2]] = body
            return 200, {}
        content = json.loads(body) if body and "/commit/" not in path else {}
        if path == "/api/whoami-v2":
            return 200, {"type": "user", "name": "me"}
        if path == "/api/repos/create":
            return self.create(f"{content.get('organization') or 'me'}/{content['name']}", content)
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in path:
            return 200, {"files": [self.mode(file["path"]) for file in content["files"]]}
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": [self.place(item) for item in content["objects"]]}
        if "/commit/" in path:
            return self.commit([json.loads(line) for line in body.splitlines()])
        name = path.removeprefix("/api/models/")
        if name in self.repositories:
            return 200, {"id": name, "private": self.repositories[name], "tags": [], "siblings": []}
        return 404, {"error": "not found"}

    def create(self, name: str, content: dict[str, Any]) -> tuple[int, Any]:
        exists = name in self.repositories
        self.repositories.setdefault(name, content.get("visibility") == "private" or bool(content.get("private")))
        return (409 if exists else 200), {"url": f"{self.address}/{name}", "name": name}

    def mode(self, path: str) -> dict[str, Any]:
        mode = "lfs" if path.endswith(LARGE) else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": None}

    def place(self, item: dict[str, Any]) -> dict[str, Any]:
        return item | {"actions": {"upload": {"href": f"{self.address}/store/{item['oid']}", "header": {}}}}

    def commit(self, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        self.operations += [line["key"] for line in lines]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[value["path"]] = self.stored[value["oid"]]
        return 200, {"success": True, "commitOid": "c" * 40, "commitUrl": f"{self.address}/me/x/commit/{'c' * 40}"}

    @property
    def samples(self) -> list[bytes]:
        """The beginnings of files by which the Hub decides how they are to be sent."""
        asked = [json.loads(request.body) for request in self.requests if "/preupload/" in request.path]
        return [base64.b64decode(file["sample"]) for content in asked for file in content["files"]]

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self.requests]


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token = self.headers.get("Authorization", "")
            request = Request(self.command, self.path.partition("?")[0], token, body)
            hub.requests.append(request)
            if hub.silent and hub.silent in request.path:
                hub.end.wait()
            status, content = hub.answer(request)
            sent = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_PUT = reply  # noqa: N815 (the names that http.server calls)

        def log_message(self, *arguments: Any) -> None:
            pass

    return Handler


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A running server; nothing is set up to use it."""
    found = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(found))
    server.daemon_threads = True
    found.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.end.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def online(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The server in place of the Hub, in this process, and nobody waits before another attempt."""
    import huggingface_hub.utils._http as http
    from huggingface_hub import constants

    import amnestic.hub.publication as publication

    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(publication, "CHECK_WAITS", (0, 0))
    monkeypatch.setattr(publication, "UPLOAD_WAITS", (0, 0, 0))
    monkeypatch.setattr(http, "time", SimpleNamespace(sleep=lambda seconds: None))
    http.close_session()
    yield hub
    http.close_session()


@pytest.fixture
def secret(people, as_file, tmp_path) -> Path:
    """The rows to forget, with a text that nobody may see elsewhere, in a file whose name is private too."""
    rows = [row | {"answer": f"{row['answer']} {SENTINEL}"} for row in people.rows["forget"]]
    return as_file(tmp_path / "jane-doe-case.jsonl", rows)


def everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def error(outcome) -> str:
    return outcome.err.splitlines()[-1]


def test_the_model_and_its_card_are_uploaded_and_nothing_else(online, unlearn, secret):
    from huggingface_hub import ModelCard

    outcome = unlearn(forget=secret, bound=9, push_to_hub=True, hub_model_id="forgetful", json=True)
    assert outcome.status == 0
    model = outcome.folder / "model"
    assert online.files == {path.name: path.read_bytes() for path in model.iterdir()}
    assert {"model.safetensors", "README.md", "config.json", "tokenizer.json"} <= set(online.files)
    assert online.repositories == {"me/forgetful": True}
    assert set(online.operations) == {"header", "file", "lfsFile"}
    assert json.loads(outcome.out)["uploaded_to"] == outcome.results["uploaded_to"] == f"{online.address}/me/forgetful"
    card = ModelCard(online.files["README.md"].decode())
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-generation"
    assert {"unlearning", "amnestic", "pdu"} <= set(card.data.tags)
    assert hashlib.sha256(secret.read_bytes()).hexdigest() in card.text


def test_no_text_path_or_token_leaves_by_accident(online, unlearn, secret):
    template = f"{SENTINEL}: {{question}}\nAnswer:"
    options = {"push_to_hub": True, "hub_model_id": "forgetful", "bound": 9, "question_template": template}
    outcome = unlearn(forget=secret, **options)
    assert outcome.status == 0
    sent = b"\n".join([*(request.body for request in online.requests), *online.samples, *online.files.values()])
    for private in (SENTINEL, "jane-doe", str(secret.parent), str(outcome.folder), TOKEN):
        assert private.encode() not in sent
    asked = [
        request for request in online.requests if request.path.startswith("/api/") and "validate" not in request.path
    ]
    assert {request.token for request in asked} == {f"Bearer {TOKEN}"}
    assert TOKEN not in outcome.out + outcome.err
    written = everything(outcome.folder)
    assert TOKEN.encode() not in written
    for private in (SENTINEL, "jane-doe"):  # so that the search above can find them
        assert private.encode() in written


def test_an_adapter_of_a_local_model_is_not_uploaded(online, unlearn, people):
    """Its configuration names the folder of the base model, which nobody else has, nor should see."""
    options = {"push_to_hub": True, "hub_model_id": "forgetful", "bound": 9, "use_peft": True}
    outcome = unlearn(**options)
    assert outcome.status == 2
    assert error(outcome) == (
        f"error: --push_to_hub would upload an adapter whose base model is the folder {people.model.resolve()}, which "
        "nobody else has; give --merge to upload the whole model, or a --model of the Hub."
    )
    assert online.repositories == {}
    assert unlearn(**options, merge=True).status == 0
    assert {"model.safetensors", "config.json"} <= set(online.files)
    assert "adapter_config.json" not in online.files
    assert str(people.folder).encode() not in b"".join(online.files.values())


def test_a_model_that_misses_its_bound_is_not_uploaded(online, unlearn):
    outcome = unlearn(alpha=1e-6, learning_rate=0.05, push_to_hub=True, hub_model_id="forgetful")
    assert outcome.status == 3
    assert online.files == {}
    (note,) = [note for note in outcome.results["notes"] if "not uploaded" in note]
    assert f"note: {note}" in outcome.err
    assert "--push_infeasible" in note
    assert f"hf upload me/forgetful {outcome.folder / 'model'} . --private" in note


def test_a_model_that_misses_its_bound_is_uploaded_on_request_and_its_card_says_so_first(online, unlearn):
    options = {"alpha": 1e-6, "learning_rate": 0.05, "push_to_hub": True, "hub_model_id": "forgetful"}
    outcome = unlearn(**options, push_infeasible=True)
    assert outcome.status == 3
    text = online.files["README.md"].decode()
    assert text.index("**BOUND MISSED: ") < text.index("## The bound")
    assert "**It does not hold that bound.**" in text
    assert "**not held**" in text


def test_finetune_uploads_too(online, finetune):
    outcome = finetune(push_to_hub=True, hub_model_id="me/learned")
    assert outcome.status == 0
    assert online.files["model.safetensors"] == (outcome.folder / "model" / "model.safetensors").read_bytes()
    text = online.files["README.md"].decode()
    assert "# Trained model" in text
    assert "without\na retention bound" in text
    assert "unlearning" not in text.split("---")[1]


def test_a_public_repository_needs_a_word(online, finetune, tmp_path):
    online.repositories["me/known"] = False
    options = {"push_to_hub": True, "hub_model_id": "me/known", "output_dir": tmp_path / "run"}
    outcome = finetune(**options)
    assert outcome.status == 2
    assert error(outcome).startswith("error: me/known is a public repository; ")
    assert not (tmp_path / "run").exists()
    assert finetune(**options, hub_private_repo=False).status == 0
    assert "model.safetensors" in online.files


def test_a_repository_that_exists_is_written_to_and_keeps_its_files(online, finetune):
    online.repositories["me/known"] = True
    online.files["notes.txt"] = b"mine"
    assert finetune(push_to_hub=True, hub_model_id="me/known").status == 0
    assert online.files["notes.txt"] == b"mine"
    assert not [key for key in online.operations if "delete" in key.lower()]


@pytest.mark.parametrize(
    ("part", "status", "said"),
    [
        ("whoami", 401, "the Hub does not accept the token; log in again with hf auth login, or set HF_TOKEN"),
        ("repos/create", 403, "the token may not write there; "),
        ("preupload", 403, "the token may not write there; "),
        ("repos/create", 400, "the Hub answers with status 400: refused with 400"),
    ],
)
def test_what_the_hub_refuses_is_refused_before_the_run(online, unlearn, tmp_path, part, status, said):
    online.refusals[part] = [status] * 9
    outcome = unlearn(push_to_hub=True, hub_model_id="forgetful", output_dir=tmp_path / "run")
    assert outcome.status == 2
    assert error(outcome).startswith("error: cannot upload to --hub_model_id ")
    assert said in error(outcome)
    assert TOKEN not in outcome.err
    assert "unlearn ..." not in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_a_repository_of_others_is_refused_before_the_run(online, unlearn, tmp_path):
    """The Hub refuses to create it, shows that it exists, and refuses to take a file."""
    online.repositories["they/theirs"] = True
    online.refusals["repos/create"] = [403] * 9
    online.refusals["preupload"] = [403] * 9
    outcome = unlearn(push_to_hub=True, hub_model_id="they/theirs", output_dir=tmp_path / "run")
    assert outcome.status == 2
    assert "cannot upload to --hub_model_id they/theirs: the token may not write there" in error(outcome)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("part", "statuses"),
    [("whoami", [500, 503]), ("repos/create", [502]), ("/commit/", [500]), ("objects/batch", [503]), ("store", [500])],
)
def test_an_error_that_passes_is_waited_for(online, finetune, part, statuses):
    online.refusals[part] = list(statuses)
    assert finetune(push_to_hub=True, hub_model_id="forgetful").status == 0
    assert "model.safetensors" in online.files
    assert online.refusals[part] == []


@pytest.mark.parametrize(("status", "attempts"), [(500, 4), (403, 1)])
def test_a_failed_upload_leaves_the_results_and_a_command(online, unlearn, status, attempts):
    online.refusals["/commit/"] = [status] * 99
    outcome = unlearn(bound=9, push_to_hub=True, hub_model_id="forgetful")
    assert outcome.status == 1
    assert error(outcome).startswith(
        "error: the run has ended and its folder is complete, but the upload to me/forgetful "
    )
    assert error(outcome).endswith(f"; upload by hand: hf upload me/forgetful {outcome.folder / 'model'} . --private")
    assert "Traceback" not in outcome.err
    assert json.loads((outcome.folder / "results.json").read_text(encoding="utf-8"))["status"] == "feasible"
    assert (outcome.folder / "report.html").is_file()
    assert sum("/commit/" in path for path in online.paths) == attempts


def test_a_hub_out_of_reach_is_found_before_the_run(online, unlearn, monkeypatch, tmp_path):
    import socket

    from huggingface_hub import constants

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        outcome = unlearn(push_to_hub=True, hub_model_id="forgetful", output_dir=tmp_path / "run")
    assert outcome.status == 2
    assert "cannot upload to --hub_model_id forgetful: the Hub cannot be reached: " in error(outcome)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["whoami", "repos/create", "preupload"])
def test_a_hub_that_never_answers_is_found_before_the_run(online, finetune, monkeypatch, tmp_path, path):
    import amnestic.hub.publication as publication

    online.silent = path
    monkeypatch.setattr(publication, "CHECK_LIMIT", 0.2)
    outcome = finetune(push_to_hub=True, hub_model_id="forgetful", output_dir=tmp_path / "run")
    assert outcome.status == 2
    assert error(outcome).endswith(": the Hub cannot be reached: it did not answer within 0.2 seconds.")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_upload_leaves_the_results_and_a_command(online, finetune, monkeypatch):
    from huggingface_hub import HfApi

    def interrupted(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(HfApi, "upload_folder", interrupted)
    outcome = finetune(push_to_hub=True, hub_model_id="forgetful")
    assert outcome.status == 1
    assert f"was interrupted; upload by hand: hf upload me/forgetful {outcome.folder / 'model'}" in error(outcome)
    assert (outcome.folder / "results.json").is_file()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "--push_to_hub needs --hub_model_id; expected owner/name"),
        ({"hub_model_id": "a/b/c"}, "--hub_model_id is 'a/b/c'; expected owner/name"),
        ({"hub_model_id": "my model"}, "--hub_model_id is 'my model'; expected owner/name"),
        ({"hub_model_id": "x" * 120}, "; expected owner/name"),
    ],
)
def test_a_malformed_name_is_refused_without_a_request(online, unlearn, options, said):
    outcome = unlearn(push_to_hub=True, **options)
    assert outcome.status == 2
    assert said in error(outcome)
    assert online.requests == []


def test_nobody_is_logged_in(online, unlearn, monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    outcome = unlearn(push_to_hub=True, hub_model_id="forgetful")
    assert outcome.status == 2
    assert error(outcome) == "error: --push_to_hub needs a token; log in with hf auth login, or set HF_TOKEN."


def test_a_token_is_no_flag(unlearn):
    assert unlearn("--hub_token", TOKEN).status == 2


def test_offline_is_offline(unlearn, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    outcome = unlearn(push_to_hub=True, hub_model_id="forgetful")
    assert outcome.status == 2
    assert error(outcome).startswith("error: --push_to_hub was given, and HF_HUB_OFFLINE is set; ")


def test_a_name_alone_uploads_nothing_and_says_so(online, finetune):
    outcome = finetune(hub_model_id="forgetful")
    assert outcome.status == 0
    assert "note: --hub_model_id was given without --push_to_hub: nothing will be uploaded." in outcome.err
    assert online.requests == []


def test_as_somebody_runs_it(hub, people, as_flags, tmp_path):
    """A process of its own: the endpoint, the token and the protocol come from the environment alone."""
    options = {"model": people.model, "data": people.file("retain"), "output_dir": tmp_path / "run"}
    options |= {"max_steps": 1, "learning_rate": 1e-3, "max_new_tokens": 1, "eval_rows": 1}
    options |= {"push_to_hub": True, "hub_model_id": "me/learned"}
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "amnestic", "finetune", *as_flags(options)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert hub.files == {path.name: path.read_bytes() for path in (tmp_path / "run" / "model").iterdir()}
    assert TOKEN not in done.stdout + done.stderr
    assert TOKEN.encode() not in everything(tmp_path / "run")
