"""What a sequence consists of: requests that were checked, and the ordinary run that each of them becomes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..config import UnlearnConfig, from_mapping, options, to_mapping
from ..data.quoting import hiding_rows
from ..errors import InputError
from ..identity import computed
from ..inputs import Given
from ..methods.base import build
from ..reports.environment import file_hashes
from ..resuming import LATEST
from ..retaining import will_be_bounded
from .options import SequenceConfig
from .requests import Arrived, Request, read, read_kept, refuse_contradictory, requests_of


@dataclass(frozen=True)
class Plan:
    """A sequence that was checked: every row was read, and every request has a configuration."""

    config: SequenceConfig
    given: Given
    requests: tuple[Request, ...]
    records: tuple[Mapping[str, Any], ...]
    """What was read of each request, as JSON holds it."""
    kept: Mapping[str, str]
    """What is kept -> a hash of its content."""
    notes: tuple[str, ...]
    holds_bound: bool

    @classmethod
    def of(cls, config: SequenceConfig, given: Given) -> "Plan":
        """Check everything that can be known before the first request; raises InputError."""
        _refuse_unfit(config)
        requests = requests_of(config.data)
        _refuse_within(config, requests)
        with hiding_rows(config.run.redact):
            arrived = read(requests, config.data, config.data, given.data)
            kept = read_kept(requests, config.data, config.data, given.data)
        notes = refuse_contradictory(arrived, kept)
        _refuse_names(requests, [*kept, *(config.data.measure or {})])
        method = given.method or build(config.method.method, config.method.method_args)
        holds_bound = will_be_bounded(method, config.bound)
        if holds_bound and config.bound.bound_model is None and config.model.model_revision is not None:
            raise InputError(
                "--model_revision names one version of --model, and the bound of a sequence is that of the first "
                "model; give the folder of that version as --model."
            )
        contents = {name: _content(rows) for name, rows in kept.items()}
        records = tuple(one.record for one in arrived)
        plan = cls(config, given, requests, records, contents, tuple(notes), holds_bound)
        for number in range(1, len(requests) + 1):
            plan.unlearning(number)
        return plan

    @property
    def root(self) -> Path:
        """Return the folder of the sequence."""
        return Path(self.config.run.output_dir)

    @property
    def cache(self) -> Path:
        """Return the folder that keeps what models gave of each row."""
        return Path(self.config.evaluation.cache_dir or self.root / "cache")

    def folder(self, number: int) -> Path:
        """Return the run folder of a request; they are counted from 1."""
        return self.root / "requests" / f"{number}-{self.requests[number - 1].name}"

    def unlearning(self, number: int) -> UnlearnConfig:
        """Return the configuration of the run that meets a request: it starts from the model of the one before.

        Raises InputError for options that exclude each other.
        """
        own = to_mapping(self.config)
        common = {option.name: own[option.name] for option in options(UnlearnConfig) if option.name in own}
        tracking, first, was_begun = self.config.tracking, number == 1, self.folder(number).exists()
        is_resumable = self.config.training.is_resumable
        name = tracking.run_name and f"{tracking.run_name}-{number}-{self.requests[number - 1].name}"
        decided = {
            "output_dir": str(self.folder(number)),
            "model": self.config.model.model if first else str(self.folder(number - 1) / "model"),
            "bound_model": self.config.bound.bound_model or (None if first else self._first_model),
            "measure": {**(self.config.data.measure or {}), **self._sources(number)} or None,
            "cache_dir": str(self.cache),
            "run_name": name,
            "overwrite": was_begun and not is_resumable,
            "resume_from_checkpoint": LATEST if was_begun and is_resumable else None,
        }
        return from_mapping(UnlearnConfig, common | decided | self._forgotten(self.requests[number - 1]))

    @property
    def _first_model(self) -> str | None:
        return self.config.model.model if self.holds_bound else None

    def _sources(self, number: int) -> dict[str, str]:
        """Return what the requests up to this one are read from, by name."""
        return {request.name: request.source for request in self.requests[:number]}

    def _forgotten(self, request: Request) -> dict[str, Any]:
        """Return the options that name what a request forgets."""
        if request.is_benchmark:
            return {"benchmark": request.source, "data": self.config.data.data, "forget": None, "retain": None}
        return {"benchmark": None, "data": None, "forget": request.source}

    def objects(self, number: int) -> Given:
        """Return what of the run of a request is in memory."""
        rows = self.given.data
        own = {"forget": rows[name]} if (name := self.requests[number - 1].name) in rows else {}
        return Given(method=self.given.method, bound_model=self.given.bound_model, data={**rows, **own})

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Return what a sequence that goes on must have in common with what was begun, as JSON holds it."""
        named = self.config.model
        model = Path(named.model)
        hashes = file_hashes([model]) if model.is_dir() else {}
        files = {str(Path(name).relative_to(model)): found for name, found in hashes.items()}
        return {
            "options": computed(self.config) | {"tokenizer": named.tokenizer},
            "requests": [dict(record) for record in self.records],
            "kept": dict(self.kept),
            "model": files or {"name": named.model, "revision": named.model_revision},
        }


def _content(rows: Any) -> str:
    """Return a hash of what is kept."""
    return Arrived(Request("", ""), rows).content


def _refuse_unfit(config: SequenceConfig) -> None:
    """Raise InputError for options that a sequence cannot have."""
    if config.checkpoints.resume_from_checkpoint is not None:
        raise InputError("--resume_from_checkpoint is for one run, and a sequence goes on by itself; leave it out.")
    if config.adapter.use_peft and not config.adapter.merge:
        raise InputError(
            "--use_peft leaves an adapter behind, and each request starts from the whole model of the one before; give "
            "--merge as well."
        )
    if config.bound.retention in ("kl", "hidden") and config.bound.stated is not None:
        raise InputError(
            f"--retention {config.bound.retention} compares with the model before a request, and the bound of a "
            "sequence is that of the first model; leave it out."
        )


def _refuse_within(config: SequenceConfig, requests: Sequence[Request]) -> None:
    """Raise InputError where something that is read lies in the folder of the sequence, which may be replaced."""
    data, root = config.data, Path(config.run.output_dir).resolve()
    kept = data.retain.values() if isinstance(data.retain, dict) else [data.retain]
    named = [config.model.model, config.model.tokenizer, config.bound.bound_model, data.data, *kept]
    for name in [*named, *(request.source for request in requests), *(data.measure or {}).values()]:
        if name is not None and Path(name).exists() and Path(name).resolve().is_relative_to(root):
            raise InputError(
                f"--output_dir {config.run.output_dir} holds {name}, which the sequence reads; give another folder."
            )


def _refuse_names(requests: tuple[Request, ...], taken: list[str]) -> None:
    for request in requests:
        if request.name in taken:
            raise InputError(
                f"a request is called '{request.name}', as something that is kept or measured; give it another name, "
                "as in --requests NAME=FILE."
            )
