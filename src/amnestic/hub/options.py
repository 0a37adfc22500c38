"""Options of uploading a model to the Hub; nothing heavy is imported here."""

from dataclasses import dataclass
from typing import ClassVar

from ..errors import InputError


@dataclass(frozen=True, kw_only=True)
class HubOptions:
    """Where the model is uploaded once the run has ended; only the folder ``model`` is."""

    indifferent: ClassVar[frozenset[str]] = frozenset({"push_to_hub", "hub_model_id", "hub_private_repo"})

    push_to_hub: bool = False
    """Upload the model and its card to --hub_model_id when the run has ended; the token is that of HF_TOKEN or of
    hf auth login, never a flag."""
    hub_model_id: str | None = None
    """Repository on the Hub, owner/name, or name for your own account; it is created where there is none
    [default: none]."""
    hub_private_repo: bool = True
    """Create a private repository, and refuse one that is public."""

    def __post_init__(self) -> None:
        """Raise InputError for values that no run could use."""
        if self.push_to_hub and not self.hub_model_id:
            raise InputError("--push_to_hub needs --hub_model_id; expected owner/name, or name for your own account.")
        if self.hub_model_id is not None:
            _refuse_malformed(self.hub_model_id)


@dataclass(frozen=True, kw_only=True)
class UnlearnHub(HubOptions):
    """What is uploaded of an unlearned model."""

    indifferent: ClassVar[frozenset[str]] = HubOptions.indifferent | {"push_infeasible"}

    push_infeasible: bool = False
    """Upload a model that misses its bound as well; its card says so first."""


def _refuse_malformed(repo_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(
            f"--hub_model_id is '{repo_id}'; expected owner/name, or name for your own account, of letters, digits, "
            "'-', '_' and '.'."
        ) from error
