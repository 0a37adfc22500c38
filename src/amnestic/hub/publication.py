"""The repository on the Hub that a model is uploaded to: checked before a run, filled after it.

Everything that can be refused is refused before the first step. Nothing is ever deleted from the repository.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from ..errors import InputError, RunError
from .options import HubOptions

T = TypeVar("T")

CHECK_WAITS = (1.0, 3.0)
"""Seconds before the second and third attempt of a question that fails for a reason that may pass."""
CHECK_LIMIT = 60.0
"""Seconds for a question with all its attempts: the Hub's client itself would wait for an answer without end."""
UPLOAD_WAITS = (5.0, 20.0, 60.0)
"""The same of an upload, which goes on where it was cut off."""
PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP statuses of errors that may pass."""
CHECK_CONTENT = b"# The model is uploaded when the run has ended.\n"
"""What the Hub is asked whether it would take; it is not sent to be stored."""


class Publication:
    """One repository, and whether this process may write to it."""

    def __init__(self, options: HubOptions) -> None:
        """Check that somebody is logged in; raises InputError where nothing could be uploaded."""
        from huggingface_hub import HfApi, constants, get_token

        self.options = options
        self.repo_id = str(options.hub_model_id)
        if constants.HF_HUB_OFFLINE:
            raise InputError(
                "--push_to_hub was given, and HF_HUB_OFFLINE is set; unset it, or leave --push_to_hub out."
            )
        if not get_token():
            raise InputError("--push_to_hub needs a token; log in with hf auth login, or set HF_TOKEN.")
        self._api = HfApi()
        self._checked(self._api.whoami)

    def prepare(self) -> None:
        """Create the repository where there is none, and make sure that it can be written; raises InputError."""
        private = self.options.hub_private_repo
        created = self._checked(lambda: self._api.create_repo(self.repo_id, private=private, exist_ok=True))
        self.repo_id = created.repo_id
        is_private = self._checked(lambda: self._api.repo_info(self.repo_id)).private
        if private and not is_private:
            raise InputError(
                f"{self.repo_id} is a public repository; give another --hub_model_id, or --no_hub_private_repo to "
                "upload to it all the same."
            )
        self._checked(self._ask_to_write)

    def upload(self, folder: Path, summary: str) -> str:
        """Upload the files of `folder`, and return the repository's address; raises RunError where that fails."""
        try:
            _patiently(
                lambda: self._api.upload_folder(repo_id=self.repo_id, folder_path=folder, commit_message=summary),
                UPLOAD_WAITS,
            )
        except (Exception, KeyboardInterrupt) as error:
            failed = "was interrupted" if isinstance(error, KeyboardInterrupt) else f"failed: {_reason(error)}"
            raise RunError(
                f"the run has ended and its folder is complete, but the upload to {self.repo_id} {failed}; upload by "
                f"hand: {self.by_hand(folder)}"
            ) from error
        return f"{self._api.endpoint}/{self.repo_id}"

    def by_hand(self, folder: Path) -> str:
        """Return the command that uploads `folder` to the repository."""
        private = " --private" if self.options.hub_private_repo else ""
        return f"hf upload {self.repo_id} {folder} .{private}"

    def _ask_to_write(self) -> None:
        """Do what an upload begins with: only this shows the right to write to a repository that exists."""
        from huggingface_hub import CommitOperationAdd

        addition = CommitOperationAdd(path_in_repo="README.md", path_or_fileobj=CHECK_CONTENT)
        self._api.preupload_lfs_files(self.repo_id, additions=[addition])

    def _checked(self, question: Callable[[], T]) -> T:
        try:
            return _within(CHECK_LIMIT, lambda: _patiently(question, CHECK_WAITS))
        except Exception as error:
            raise InputError(f"cannot upload to --hub_model_id {self.repo_id}: {_reason(error)}.") from error


def _patiently(attempt: Callable[[], T], waits: Sequence[float]) -> T:
    """Return what `attempt` returns; an error that may pass is waited for as often as `waits` is long."""
    for seconds in waits:
        try:
            return attempt()
        except Exception as error:
            if not _may_pass(error):
                raise
            time.sleep(seconds)
    return attempt()


def _within(seconds: float, question: Callable[[], T]) -> T:
    """Return what `question` returns; raises TimeoutError where that takes longer than `seconds`."""
    outcome: Future[T] = Future()

    def ask() -> None:
        try:
            outcome.set_result(question())
        except BaseException as error:  # raised again where the answer is waited for
            outcome.set_exception(error)

    Thread(target=ask, name="question to the Hub", daemon=True).start()
    try:
        return outcome.result(seconds)
    except TimeoutError as error:
        raise TimeoutError(str(error) or f"it did not answer within {seconds:g} seconds") from error


def _may_pass(error: BaseException) -> bool:
    """Return whether the Hub was out of reach or out of order; a refusal, or a mistake of ours, stays one."""
    status = _status(error)
    return not isinstance(error, ValueError | TypeError) if status is None else status in PASSING


def _status(error: BaseException | None) -> int | None:
    """Return the HTTP status of an error, or of the one that it was raised from."""
    while error is not None:
        if status := getattr(getattr(error, "response", None), "status_code", None):
            return int(status)
        error = error.__cause__
    return None


def _reason(error: BaseException) -> str:
    """Return what went wrong in a part of a sentence, without the address of the request."""
    refusals = {
        401: "the Hub does not accept the token; log in again with hf auth login, or set HF_TOKEN",
        403: "the token may not write there; take one with write access, or a --hub_model_id of your own",
        404: "the Hub knows no such account or repository, or the token may not see it",
    }
    status = _status(error)
    if status in refusals:
        return f"{refusals[status]} (status {status})"
    text: Any = getattr(error, "server_message", None) or str(error) or type(error).__name__
    said = " ".join(str(text).split()).rstrip(".")[:300]
    return f"the Hub answers with status {status}: {said}" if status else f"the Hub cannot be reached: {said}"
