"""A judge for tests: an OpenAI-compatible server on this machine, which answers as it is told."""

import json
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, NamedTuple

FORGET = {"knowledge_removal": 8, "verbatim_removal": 9, "fluency": 7}
RETAIN = {"retention": 6, "accuracy": 5, "relevance": 8.5, "fluency": 10}


class Said(NamedTuple):
    """One answer of the server."""

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = MappingProxyType({})
    breaks_off: bool = False
    """The connection ends after half of the body."""


def completion(text: Any, tokens: tuple[int, int] | None = (100, 20), **choice: Any) -> Said:
    """A chat completion that says `text`."""
    usage = None if tokens is None else {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    text = text if isinstance(text, str) else json.dumps(text)
    message = {"role": "assistant", "content": text}
    return Said(body={"model": "served-judge", "choices": [{"message": message} | choice], "usage": usage})


def content(request: dict[str, Any]) -> str:
    return str(request["messages"][0]["content"])


def scored(request: dict[str, Any]) -> Said:
    """The same scores for every answer of a split."""
    return completion(FORGET if '{"knowledge_removal"' in content(request) else RETAIN)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *arguments: Any) -> None:
        """Say nothing of a client that did not wait."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*arguments)


class JudgingServer:
    """Keeps what it was sent, and says what `answer` returns for it."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.answer: Callable[[dict[str, Any]], Said] = scored
        self.url = ""

    @contextmanager
    def running(self):
        server = _Server(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        judging = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                judging.requests.append(request)
                judging.headers.append(dict(self.headers))
                judging.paths.append(self.path)
                said = judging.answer(request)
                body = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
                self.send_response(said.status)
                for name, value in {"Content-Length": str(len(body)), **said.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if said.breaks_off else body)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler
