"""Asking a judge many prompts at once: tries, pauses, and when to stop.

Threads wait for the server; the calling thread alone keeps what they bring, so that every reply is kept in one place.
"""

import queue
import random
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .cache import Verdict
from .endpoint import Endpoint, Reply, UnavailableError
from .reply import UnreadableError, scores_of

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
LONGEST_WAIT = 600.0
"""Seconds beyond which a server's wish to be asked later counts as no answer."""
GLANCE = 0.2
"""Seconds between two looks at whether somebody wants to stop."""


class StoppedError(Exception):
    """Asking ends before this prompt was answered."""


@dataclass(frozen=True)
class Question:
    """One prompt, as it is sent."""

    key: str
    request: Mapping[str, Any]
    criteria: tuple[str, ...]


@dataclass(frozen=True)
class Unanswered:
    """A prompt that was given up."""

    reason: str
    is_heard: bool
    """The server said something, at the last try, or at an earlier one that was out of form."""
    is_out_of_form: bool = False
    """The last try brought a reply, without scores."""
    verdict: Verdict = field(default_factory=lambda: Verdict({}, ""))
    """What its replies cost, without scores."""


Outcome = Verdict | Unanswered


class Asking:
    """A judge behind an endpoint, with the patience that a user chose."""

    def __init__(
        self,
        endpoint: Endpoint,
        retries: int,
        pause: Callable[[float], Any] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`pause` waits for seconds, by default until asking is stopped; `jitter` returns numbers from 0 to 1."""
        self.endpoint = endpoint
        self.retries = retries
        self._stopping = threading.Event()
        self._pause = pause or self._stopping.wait
        self._jitter = jitter

    @property
    def is_stopping(self) -> bool:
        """Return whether nothing more is sent."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Send nothing more, and wait for no pause; replies under way are still received."""
        self._stopping.set()

    def ask(self, question: Question) -> Outcome:
        """Ask until there is an answer in form, or no try is left.

        Raises RefusedError where no prompt would be answered, StoppedError where asking ends before this one was.
        """
        replies: list[Reply] = []
        reason, is_heard, is_out_of_form = "", False, False
        for attempt in range(self.retries + 1):
            if self._stopping.is_set():
                raise StoppedError
            wait = None
            try:
                reply = self.endpoint.post(_reseeded(question.request, len(replies)))
                replies.append(reply)
                return _verdict(replies, scores_of(reply.text, question.criteria))
            except UnreadableError as error:
                reason = f"{error}{', which was cut off at --max_tokens' if replies[-1].is_cut else ''}"
                is_out_of_form = True
                continue  # the server is well, so it is asked again at once, with another seed
            except UnavailableError as error:
                reason, wait, is_heard, is_out_of_form = str(error), error.wait, error.is_heard, False
            if attempt < self.retries:
                if wait is not None and wait > LONGEST_WAIT:
                    reason = f"{reason}, and asked to wait {wait:.0f} s"
                    break
                self._pause(self._seconds(attempt) if wait is None else wait)
        return Unanswered(reason, is_heard or bool(replies), is_out_of_form, _verdict(replies, {}))

    def _seconds(self, attempt: int) -> float:
        """Return a pause: twice the one before, and up to as much less as lets requests fall apart."""
        return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**attempt) * (0.5 + self._jitter() / 2)

    def each(self, questions: Sequence[Question], at_once: int) -> Generator[tuple[Question, Outcome] | None]:
        """Yield the outcome of every question as it comes, and None now and then where none comes.

        Once `stop` was called, it ends when the requests under way have ended: their replies are paid for. Raises what
        `ask` does, RefusedError say, in the same way. To be closed: threads that still wait then end with the process.
        """
        left: queue.SimpleQueue[Question] = queue.SimpleQueue()
        for question in questions:
            left.put(question)
        ended: queue.SimpleQueue[tuple[Question, Outcome | BaseException] | None] = queue.SimpleQueue()
        failure: BaseException | None = None
        threads = min(at_once, len(questions))
        for _ in range(threads):
            threading.Thread(target=self._work, args=(left, ended), daemon=True).start()
        try:
            while threads:
                try:
                    found = ended.get(timeout=GLANCE)
                except queue.Empty:
                    yield None
                    continue
                if found is None:
                    threads -= 1
                    continue
                question, outcome = found
                if isinstance(outcome, BaseException):
                    failure = failure or outcome
                    self.stop()
                else:
                    yield question, outcome
        finally:
            self.stop()
        if failure is not None:
            raise failure

    def _work(
        self,
        left: "queue.SimpleQueue[Question]",
        ended: "queue.SimpleQueue[tuple[Question, Outcome | BaseException] | None]",
    ) -> None:
        """Ask what is left until nothing is; whatever goes wrong is the caller's to raise."""
        while not self._stopping.is_set():
            try:
                question = left.get_nowait()
            except queue.Empty:
                break
            try:
                ended.put((question, self.ask(question)))
            except StoppedError:
                break
            except BaseException as error:
                ended.put((question, error))
                break
        ended.put(None)


def _reseeded(request: Mapping[str, Any], by: int) -> Mapping[str, Any]:
    """Return the request with another seed, if it has one: at temperature 0 the same one gets the same reply."""
    seed = request.get("seed")
    return {**request, "seed": seed + by} if isinstance(seed, int) else request


def _verdict(replies: Sequence[Reply], scores: Mapping[str, float]) -> Verdict:
    """Return scores with what all replies to a prompt cost; the last of them is the one with the scores."""
    counted = [reply.tokens for reply in replies if reply.tokens is not None]
    return Verdict(
        scores,
        replies[-1].model if replies else "",
        sum(sent for sent, _ in counted),
        sum(received for _, received in counted),
        len(replies) - len(counted),
    )
