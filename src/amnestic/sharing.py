"""What a run tells the world beyond its own files: trackers, the model card, and the Hub."""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .config import FinetuneConfig, UnlearnConfig
from .data.sources import source_files
from .disclosure import command_line, disclosed, public_name
from .hub.publication import Publication
from .progress import Progress
from .reports.card import Origin, base_metadata, model_card
from .reports.files import read_json, write_text
from .reports.run_folder import RunFolder
from .trackers.base import TrackedRun
from .trackers.tracking import Tracking, trackers

Config = UnlearnConfig | FinetuneConfig


class Sharing:
    """The trackers and the repository of one run, if it has any, and its model card, which every run has."""

    def __init__(self, config: Config, folder: RunFolder, progress: Progress) -> None:
        """Check what can be checked at once; raises InputError for a missing library, or where nobody is logged in."""
        self._folder = folder
        self._progress = progress
        is_here = folder.is_written_here
        named = trackers(config.tracking) if is_here else []
        self.tracking = Tracking(named, progress.note, config.tracking.logging_dir, config.training.logging_steps)
        self.publication = Publication(config.hub) if config.hub.push_to_hub and is_here else None
        if config.hub.hub_model_id and not config.hub.push_to_hub:
            progress.note("--hub_model_id was given without --push_to_hub: nothing will be uploaded.")

    def prepare(self) -> None:
        """Make sure, before anything is measured, that the model can be uploaded; raises InputError where it cannot."""
        if self.publication:
            self.publication.prepare()

    def open(self, config: Config, sources: Mapping[str, str], steps_done: int) -> None:
        """Start the trackers of the run whose folder was opened; a run that goes on after `steps_done` keeps its id.

        `sources` are the names of the data by split. What the card tells of them is found out now: a file that is
        moved away during the run would else look like a name of the Hub.
        """
        if not self._folder.is_written_here:
            return
        self._origin = _origin(config, sources, read_json(self._folder.path / "environment.json")["sha256"])
        if not self.tracking.is_used:
            return
        folder = self._folder.path / "tracking"
        path = folder / "run.json"
        resumed = path.is_file()
        known = str(read_json(path)["id"]) if resumed else uuid.uuid4().hex[:12]
        folder.mkdir(exist_ok=True)
        self._folder.write("tracking/run.json", {"id": known})
        run = TrackedRun(
            id=known,
            name=config.tracking.run_name or f"amnestic-{known}",
            project=config.tracking.project,
            folder=folder,
            config=self._origin.options,
            steps_done=steps_done,
            resumed=resumed,
        )
        self.tracking.open(run)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Tell the trackers where the context ends with an error, that of the run."""
        try:
            yield
        except BaseException as error:
            interrupted = 130 if isinstance(error, KeyboardInterrupt) else 1
            self.tracking.close({}, getattr(error, "exit_status", interrupted))
            raise

    def notes(self, config: Config, status: str) -> list[str]:
        """Return what a user should know of the upload before it begins."""
        if self.publication is None or not self._is_withheld(config, status):
            return []
        by_hand = self.publication.by_hand(self._folder.path / "model")
        note = f"the bound is not held: the model was not uploaded to {self.publication.repo_id}; --push_infeasible "
        return [f"{note}uploads such a model too, and by hand: {by_hand}"]

    def write_card(self, results: Mapping[str, Any]) -> None:
        """Write the model card: before results.json, by which the run has ended and nobody comes back to it."""
        packages = read_json(self._folder.path / "environment.json")["packages"]
        write_text(self._folder.path / "model" / "README.md", model_card(results, self._origin, packages))

    def finish(self, config: Config, results: dict[str, Any]) -> dict[str, Any]:
        """End the trackers, upload the model, and return the results, with where it is now.

        Raises RunError where the upload fails.
        """
        model = self._folder.path / "model"
        infeasible = results["status"] == "infeasible"
        self.tracking.close(results, exit_status=3 if infeasible else 0)
        for note in self.notes(config, results["status"]):
            self._progress.note(note)
        if self.publication is None or self._is_withheld(config, results["status"]):
            return results
        self._progress.start(f"upload the model to {self.publication.repo_id}", 1)
        address = self.publication.upload(model, f"{results['command']} with amnestic: {results['status']}")
        self._progress.advance()
        self._progress.stop()
        self._progress.note(f"the model was uploaded to {address}")
        results = results | {"uploaded_to": address}
        self._folder.write("results.json", results)
        return results

    def _is_withheld(self, config: Config, status: str) -> bool:
        return status == "infeasible" and not getattr(config.hub, "push_infeasible", True)


def _origin(config: Config, sources: Mapping[str, str], hashes: Mapping[str, str]) -> Origin:
    from_scratch = getattr(config.model, "from_scratch", False)
    return Origin(
        base_model=None if from_scratch else public_name(config.model.model),
        from_scratch=from_scratch,
        sources={split: public_name(source) for split, source in sources.items()},
        hashes={split: _known(hashes, source) for split, source in sources.items()},
        metadata={} if from_scratch else base_metadata(_base_folder(config)),
        options=disclosed(config),
        command=command_line(config, "unlearn" if isinstance(config, UnlearnConfig) else "finetune"),
    )


def _known(hashes: Mapping[str, str], source: str) -> list[str]:
    """Return the hashes of the local files that `source` names, without the names."""
    if source.startswith("<") or public_name(source):
        return []
    return [hashes[str(path)] for path in source_files(source) if str(path) in hashes]


def _base_folder(config: Config) -> Path | None:
    """Return the folder of the base model: on this disk, or in the cache of the Hub where its card was loaded."""
    from huggingface_hub import try_to_load_from_cache

    if public_name(config.model.model) is None:
        return Path(config.model.model)
    cached = try_to_load_from_cache(config.model.model, "README.md", revision=config.model.model_revision)
    return Path(cached).parent if isinstance(cached, str) else None
