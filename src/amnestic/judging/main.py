"""The path of a judgement, top to bottom: read answers, show what would be sent, ask, and write what was scored."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from .. import launch
from ..config import from_mapping
from ..credentials import declare
from ..errors import InputError, Interrupted, RunError
from ..interruption import Interruption
from ..progress import Progress
from ..reports.places import alone
from ..reports.render import render_report
from .answers import Answer, JudgedRun
from .asking import Asking, Outcome, Question, Unanswered
from .cache import FILE as ANSWERED
from .cache import Cache, content_key
from .endpoint import Endpoint, RefusedError
from .options import KEY, NO_KEY, JudgeConfig, ServerOptions, fields_of
from .outcome import FOLDER, Judgement
from .prompt import Prompt, described, read_prompts
from .sending import Sending

Agree = Callable[[Sending], bool]
"""Shows what would be sent, and returns whether somebody agrees."""
FEW = 4
"""Prompts in a row that a server which answers may dislike by chance, one less: more are asked at once as a rule."""


def judge(
    run: str | Path,
    *,
    endpoint: str,
    judge_model: str,
    agree: Agree | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Judgement:
    """Let a language model score the answers of a run; the same code as ``amnestic judge``.

    `agree` decides whether the prompts may be sent, unless ``yes=True`` is among the `options`, which are those of the
    command line. Raises InputError before anything is sent, RunError where the server refuses or gives no scores.
    """
    given = {"run": run, "endpoint": endpoint, "judge_model": judge_model}
    return run_judge(from_mapping(JudgeConfig, given | options), progress, agree)


def run_judge(config: JudgeConfig, progress: Progress | None = None, agree: Agree | None = None) -> Judgement:
    """Do what `config` says, as far as no earlier call has."""
    if launch.size() > 1:
        raise InputError("a judgement is one process; start it as amnestic judge, without a launcher.")
    run, chosen = JudgedRun.at(config.answers.run), config.answers
    prompts = read_prompts(chosen.splits, chosen.prompts)
    answers = run.answers(chosen.splits, chosen.models, chosen.rows)
    with alone(run.folder):
        judging = Judging(config, run, progress or Progress())
        questions = [judging.question(answer, prompts[answer.split]) for answer in answers]
        judging.ask(answers, questions, agree or _agreed)
        outcomes = judging.outcomes(questions)
        judgement = Judgement(run.folder, list(zip(answers, outcomes, strict=True)), judging.facts(prompts))
        judgement.write()
        if (run.folder / "report.html").is_file():
            render_report(run.folder)
    return judgement


def _agreed(sending: Sending) -> bool:
    """Agree where the options do: there is nobody to ask."""
    return sending.options.yes


class Judging:
    """One call of a judge."""

    def __init__(self, config: JudgeConfig, run: JudgedRun, progress: Progress) -> None:
        """Read what earlier calls were told, and send nothing; raises InputError where the key is missing."""
        self.config = config
        self.run = run
        self.progress = progress
        self.endpoint = Endpoint(config.server.url, _key(config.server), config.server.timeout)
        self.cache = Cache(Path(config.sending.cache_dir or run.folder / FOLDER) / ANSWERED)
        self.unanswered: dict[str, Unanswered] = {}
        """Key of a question -> why it was given up."""
        self._lost = 0
        """Questions that were given up since the last one that was answered."""
        self._has_scored = False
        """Some question was answered, by this call or an earlier one."""
        self._is_silent = False
        """Too many of them: replies under way change nothing any more."""

    def question(self, answer: Answer, prompt: Prompt) -> Question:
        """Return what the judge is asked about one answer."""
        server = self.config.server
        request = {
            "model": server.judge_model,
            "messages": [{"role": "user", "content": prompt.about(answer)}],
            **fields_of(server),
        }
        return Question(content_key(request, prompt.criteria), request, prompt.criteria)

    def ask(self, answers: Sequence[Answer], questions: Sequence[Question], agree: Agree) -> None:
        """Ask what no earlier call has, each question once, if somebody agrees, and keep every reply as it comes.

        Raises InputError where nobody does, RunError where the server refuses or gives no scores, and Interrupted where
        somebody stops it: what was answered is kept in each case.
        """
        left = {q.key: q for q in questions if self.cache.get(q.key) is None}
        known = len({q.key for q in questions}) - len(left)
        self._has_scored = known > 0
        if not left:
            self.progress.note("every answer was judged before; nothing is sent.")
            return
        about = [answer for answer, question in zip(answers, questions, strict=True) if question.key in left]
        asked, options = list(left.values()), self.config.sending
        key_env = self.config.server.key_env
        if not agree(Sending(self.endpoint, key_env, asked, about, known, self.run.tokenizer, options)):
            raise InputError("nothing was sent, since nobody agreed; give --yes, or type yes at a terminal.")
        with self._told(asked):
            self._ask(asked)

    @contextmanager
    def _told(self, questions: Sequence[Question]) -> Iterator[None]:
        """Let an early end say what is kept."""
        try:
            yield
        except RefusedError as error:
            raise RefusedError(f"{error} {self._kept(questions)}") from None
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted. {self._kept(questions)}") from None

    def _ask(self, questions: Sequence[Question]) -> None:
        """Ask until all is answered or given up, or it makes no sense to go on."""
        asking, interruption = Asking(self.endpoint, self.config.server.retries), Interruption()
        self.progress.start("judge", len(questions))
        with (
            self.cache.open(),
            interruption.caught(),
            interruption.deferred(),
            closing(asking.each(questions, self.config.server.concurrency)) as ended,
        ):
            for found in ended:
                if found is not None:
                    self._keep(*found)
                if self._is_silent:
                    asking.stop()
                if interruption.is_requested and not asking.is_stopping:
                    asking.stop()
                    self.progress.note("stopping: replies under way are waited for; once more ends it at once.")
        interruption.check()
        self._refuse_silence(questions)
        self.progress.stop()

    def _keep(self, question: Question, outcome: Outcome) -> None:
        if isinstance(outcome, Unanswered):
            self.unanswered[question.key] = outcome
            self._lose(outcome)
        else:
            self.cache.put(question.key, outcome)
            self._lost, self._has_scored = 0, True
        self.progress.advance()

    def _lose(self, outcome: Unanswered) -> None:
        """Count a question that was given up, unless the fault is its own: the next call would begin with it again."""
        if outcome.is_out_of_form and self._has_scored:
            return
        self._lost += 1
        self._is_silent |= self._lost >= max(self.config.server.concurrency, FEW if outcome.is_heard else 1)

    def _refuse_silence(self, questions: Sequence[Question]) -> None:
        """Raise RunError where too many questions in a row were given up, or all of them.

        All of them is a fault of the server where it answered no other question either, or was not heard at all.
        """
        given_up = list(self.unanswered.values())
        is_heard = any(outcome.is_heard for outcome in given_up)
        has_nothing = len(given_up) == len(questions) and not (is_heard and self._has_scored)
        if has_nothing or self._is_silent:
            count, each = len(given_up), self.config.server.retries + 1
            what = f"{count} prompt{' was' if count == 1 else 's were'} given up"
            tries = f"{what}, {each} {'try' if each == 1 else 'tries'}{'' if count == 1 else ' each'}"
            raise RunError(
                f"{self.endpoint.address} gives no scores: {given_up[-1].reason} ({tries}). {self._kept(questions)}"
            )

    def _kept(self, questions: Sequence[Question]) -> str:
        kept = sum(self.cache.get(question.key) is not None for question in questions)
        return f"{kept} of {len(questions)} replies are kept; the same command goes on with the rest."

    def outcomes(self, questions: Sequence[Question]) -> list[Outcome]:
        """Return what became of each question."""
        return [self.cache.get(question.key) or self.unanswered[question.key] for question in questions]

    def facts(self, prompts: Mapping[str, Prompt]) -> dict[str, Any]:
        """Return how answers were judged."""
        server = self.config.server
        return {
            "judge_model": server.judge_model,
            "endpoint": self.endpoint.address,
            "request": fields_of(server),
            "prompts": described(prompts),
        }


def _key(server: ServerOptions) -> str | None:
    """Return the key, which is masked in everything that is written from here on.

    Raises InputError where it is missing, or cannot be sent.
    """
    if server.key_env == NO_KEY:
        return None
    declare(server.key_env)
    key = os.environ.get(server.key_env, "").strip()
    if not key:
        if server.key_env == KEY:
            return None  # servers of one's own need none, and others say so
        raise InputError(f"--key_env names {server.key_env}, which the environment does not set; set it to the key.")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InputError(f"the value of {server.key_env} holds characters that no key has; expected the key alone.")
    return key
