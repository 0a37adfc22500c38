"""Which weights a run keeps: of the epochs' ends that hold the bound, the one that forgot most."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .. import processes
from ..constraints.bound import Probe, Reached, Sums
from ..errors import RunError
from ..model.load import Loaded, as_saved
from ..shared_folder import write_folder
from .checkpoint import link
from .tensor_files import read_tensors, write_tensors

LIKELIHOOD = "token_logp"
"""Among the losses of a candidate: log p of what is to be forgotten, where candidates are ranked by it."""


@dataclass(frozen=True)
class Candidate:
    """A measured state of the model."""

    step: int
    epoch: float
    forget_loss: float
    """The method's loss on the forget rows."""
    reached: Mapping[str, Reached]
    """Name of a bounded constraint -> what the model reaches, the leading one first; empty where there is no bound."""

    token_logp: float | None = None
    """Mean log p of what is to be forgotten, where candidates are ranked by it; else None."""

    @property
    def rank(self) -> float:
        """Return the figure by which candidates that hold the bound are ranked, the lower the better."""
        return self.forget_loss if self.token_logp is None else self.token_logp

    @property
    def holds(self) -> bool:
        """Return whether every bound is held; True where there is none."""
        return all(reached.holds for reached in self.reached.values())

    @property
    def violation(self) -> float:
        """Return the largest violation of a bound, in nats a token."""
        return max(reached.violation for reached in self.reached.values())

    def beats(self, other: "Candidate") -> bool:
        """Return whether this candidate, the later one, is kept in place of `other`.

        Holding the bounds comes first, then the lower rank; where neither holds, the smaller violation. A tie
        goes to the later.
        """
        if self.holds != other.holds:
            return self.holds
        if self.holds:
            return self.rank <= other.rank
        return self.violation <= other.violation

    @property
    def record(self) -> dict[str, Any]:
        """Return the candidate as a record of train.jsonl and results.json."""
        facts: dict[str, Any] = {"step": self.step, "epoch": self.epoch, "forget_loss": self.forget_loss}
        if self.token_logp is not None:
            facts["token_logp"] = self.token_logp
        for number, (name, found) in enumerate(self.reached.items()):
            own = {"reached": found.reached, "upper_limit": found.upper_limit}
            facts |= {f"{name}_reached": found.reached} if number else own
        return facts | ({"holds": self.holds} if self.reached else {})


@dataclass
class Candidates:
    """Measures candidates and keeps the weights of the best one, in `folder`."""

    loaded: Loaded
    probes: Mapping[str, Probe]
    """Name of a bounded constraint -> where its bound is verified, the leading one first; empty without a bound."""
    measure: Callable[[], tuple[float, Mapping[str, Sums]]]
    """Returns the forget loss and the losses of each probe of the model as it stands."""
    folder: Path
    all: list[Candidate] = field(default_factory=list)
    best: Candidate | None = None

    def add(self, step: int, epoch: float) -> Candidate:
        """Measure the model in the precision that it is saved in, and keep its weights if it is the best so far."""
        with as_saved(self.loaded):
            forget_loss, losses = self.measure()
            reached = {name: probe.judge(losses[name]) for name, probe in self.probes.items()}
            likelihood = losses.get(LIKELIHOOD)
            candidate = Candidate(step, epoch, forget_loss, reached, None if likelihood is None else likelihood.mean)
            if self._is_best(candidate):
                self._keep()
                self.best = candidate
        self.all.append(candidate)
        return candidate

    @property
    def states(self) -> list[dict[str, Any]]:
        """Return all candidates for a checkpoint, as `resume` takes them."""
        return [asdict(candidate) for candidate in self.all]

    def resume(self, states: Iterable[Mapping[str, Any]], weights: Path) -> None:
        """Take up the candidates of a checkpoint; the best one's weights lie in the folder `weights`."""
        for state in states:
            reached = {name: Reached(**found) for name, found in state["reached"].items()}
            candidate = Candidate(**{**state, "reached": reached})
            if self._is_best(candidate):
                self.best = candidate
            self.all.append(candidate)
        if self.all:
            write_folder(self.path, lambda folder: _link(weights, folder))

    @property
    def path(self) -> Path:
        """Return the folder of the kept weights."""
        return self.folder / "candidate"

    def restore(self) -> Candidate:
        """Put the kept weights back into the model, and return the kept candidate; raises RunError without any."""
        if self.best is None:
            raise RunError("no candidate was measured; expected at least one optimiser step.")
        named = self.loaded.model.named_parameters()
        with processes.agreed():
            try:
                read_tensors({name: parameter for name, parameter in named if parameter.requires_grad}, self.path)
            except Exception as error:  # of the file system, of safetensors, or a tensor that is not there
                raise RunError(f"the best candidate's weights in {self.path} cannot be read ({error}).") from error
        return self.best

    def _is_best(self, candidate: Candidate) -> bool:
        return self.best is None or candidate.beats(self.best)

    def _keep(self) -> None:
        weights = {
            name: parameter.detach().to(self.loaded.dtype_of(name))
            for name, parameter in self.loaded.model.named_parameters()
            if parameter.requires_grad
        }
        write_folder(self.path, lambda folder: write_tensors(weights, folder))


def _link(source: Path, folder: Path) -> None:
    if processes.is_first():
        link(source, folder)
