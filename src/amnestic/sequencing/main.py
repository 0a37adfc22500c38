"""The path of a sequence, top to bottom: check, meet one request after another, and tell after each."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import processes
from ..config import write_yaml
from ..defaults import configured
from ..errors import AmnesticError, InputError, Interrupted
from ..identity import changes
from ..inputs import Given
from ..progress import Progress
from ..reports.files import read_json, write_json
from ..reports.places import alone, refuse_foreign
from ..reports.render import render_report
from ..reports.results import read_results
from ..resuming import going_on
from ..run import run_unlearn
from ..storage import remove, writing
from .options import SequenceConfig
from .outcome import Met, Outcome
from .page import write_outcome
from .plan import Plan
from .requests import Request

CONFIG = "sequence.yaml"
"""The file that tells the folder of a sequence from any other, and goes on with it."""
IDENTITY = "plan/identity.json"
"""What a sequence that goes on must have in common with what was begun."""
OBJECTS = ("method", "measure", "bound_model")
"""Options that a Python caller may give as objects."""
WRITTEN = (CONFIG, "plan", "requests", "cache", "sequence.json", "sequence.md", "sequence.html")
"""What a sequence writes in its folder."""


def sequence(
    model: str | Path,
    *,
    requests: Any = None,
    retain: Any = None,
    output_dir: str | Path = "amnestic-sequence",
    progress: Progress | None = None,
    **options: Any,
) -> Outcome:
    """Make `model` forget one request after another, within the bound of the first model; ``amnestic sequence``.

    `requests` is a list of files, a folder of them, or a mapping of names to files or rows; `retain` and `options` are
    those of `unlearn`. The same call goes on where it was interrupted, and takes requests that were added. Raises
    InputError before the first step, RunError after it; bounds that are missed return with ``feasible`` False.
    """
    if not isinstance(model, str | Path):
        raise InputError(
            "the model of a sequence is a name, so that it can be loaded again; save it and give its folder."
        )
    rows: dict[str, Any] = {}
    if isinstance(requests, Mapping):
        rows = {name: found for name, found in requests.items() if not isinstance(found, str | Path)}
        given = {name: f"<{type(found).__name__} in memory>" for name, found in rows.items()}
        requests = [f"{name}={given.get(name, found)}" for name, found in requests.items()]
    own = {key: options.pop(key) for key in OBJECTS if key in options}
    objects, names = Given.split({"model": str(model), "retain": retain} | own)
    objects.data |= rows
    named = [] if requests is None else [requests] if isinstance(requests, str | Path) else requests
    mapping = {"output_dir": str(output_dir), "requests": [*map(str, named)]} | names
    return run_sequence(configured(SequenceConfig, mapping | options, "", "unlearning"), progress, objects)


def run_sequence(config: SequenceConfig, progress: Progress | None = None, given: Given | None = None) -> Outcome:
    """Do what `config` says, as far as it is not done in its folder; objects in `given` stand in for what it names."""
    processes.join(config.sharding.ddp_timeout)
    with processes.agreed():
        plan = Plan.of(config, given or Given())
        sequencing = Sequencing(plan, progress or Progress())
        sequencing.refuse_other()
    with alone(plan.root), sequencing.interruptible(), sequencing.withdrawn():
        return sequencing.run()


class Sequencing:
    """One execution of a sequence."""

    def __init__(self, plan: Plan, progress: Progress) -> None:
        """Look at nothing, and write nothing."""
        self.plan = plan
        self.progress = progress if processes.is_first() else Progress()
        self.outcome = Outcome(plan)

    def refuse_other(self) -> None:
        """Raise InputError where the folder holds something else, or a sequence that began otherwise."""
        if not processes.is_first():
            return
        root = self.plan.root
        refuse_foreign(root, CONFIG, "sequence")
        found = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
        if strange := [name for name in found if name not in WRITTEN and not name.startswith(".")]:
            raise InputError(f"--output_dir {root} holds '{strange[0]}', which no sequence wrote; give another folder.")
        if found and not self.plan.config.run.overwrite:
            _refuse_changed(root, _begun(root), self.plan.identity)

    def run(self) -> Outcome:
        """Meet every request that is not met, and tell the outcome after each."""
        with processes.agreed():
            self._open()
        for note in self.plan.notes:
            self.progress.note(note)
        for number, request in enumerate(self.plan.requests, start=1):
            folder = self.plan.folder(number)
            if not processes.from_first((folder / "results.json").is_file()):
                self.progress.report(f"request {number} of {len(self.plan.requests)}: {request.name}")
                with _naming(request):
                    run_unlearn(self.plan.unlearning(number), self.progress, self.plan.objects(number))
            with processes.agreed():
                results = self._tidied(number) if processes.is_first() else {}
            results = processes.from_first(results)
            self.outcome.met.append(Met(number, request, folder, results))
            self.progress.report(f"{request.name}: {results['verdict']} ({number} of {len(self.plan.requests)})")
            self._write()
        return self.outcome

    def _open(self) -> None:
        """Write what goes on with the sequence; with ``--overwrite`` what was there goes first."""
        if not processes.is_first():
            return
        root, config = self.plan.root, self.plan.config
        with writing(root):
            if config.run.overwrite:
                for name in reversed(WRITTEN):  # what tells the folder from others goes last, should this be killed
                    remove(root / name)
            (root / "plan").mkdir(exist_ok=True)
        write_yaml(replace(config, run=replace(config.run, overwrite=False)), root / CONFIG)
        write_json(root / IDENTITY, self.plan.identity)

    def _tidied(self, number: int) -> dict[str, Any]:
        """Return the results of a request that is met, and finish what a process that was killed left of its run."""
        folder = self.plan.folder(number)
        remove(folder / "checkpoints")
        if not (folder / "report.html").is_file():
            render_report(folder)
        if number > 1 and self.plan.config.data.keep_models == "last":
            remove(self.plan.folder(number - 1) / "model")
        return read_results(folder)

    def _write(self) -> None:
        with processes.agreed():
            if processes.is_first():
                write_outcome(self.outcome)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Say how the sequence goes on where it is interrupted; raises Interrupted."""
        try:
            yield
        except KeyboardInterrupt as error:
            done = f"{len(self.outcome.met)} of {len(self.plan.requests)} requests are met"
            raise Interrupted(f"interrupted. {done}; go on with {self._again}") from error

    @property
    def _again(self) -> str:
        """Return what goes on with the sequence."""
        if vars(self.plan.given) != vars(Given()):
            return "the same call."
        return going_on("sequence", self.plan.root / CONFIG, self.plan.config)

    @contextmanager
    def withdrawn(self) -> Iterator[None]:
        """Leave nothing behind where the first request turns out to be wrong input before anything was computed."""
        root = self.plan.root
        try:
            yield
        except InputError:
            if processes.is_first() and not any((root / "requests").glob("*/config.yaml")):
                for name in WRITTEN:
                    remove(root / name)
                with suppress(OSError):
                    root.rmdir()
            raise


def _begun(root: Path) -> dict[str, Any]:
    """Return what the sequence in a folder began with, and those of its requests alone whose runs have begun.

    One that was wrong input when its turn came can so be given anew, or left out. Raises InputError for a folder that
    lacks what tells; it is empty where the sequence was killed before it wrote anything else.
    """
    runs = [path.parent.name for path in (root / "requests").glob("*/config.yaml")]
    if not runs and not (root / IDENTITY).is_file():
        return {}
    found = read_json(root / IDENTITY) if (root / IDENTITY).is_file() else {}
    if found.keys() != {"options", "requests", "kept", "model"}:
        raise InputError(
            f"{root} is damaged: no sound {IDENTITY} tells what its requests were; give --overwrite to start anew, or "
            "another --output_dir."
        )
    records = enumerate(found["requests"], start=1)
    return found | {"requests": [record for number, record in records if f"{number}-{record['name']}" in runs]}


def _refuse_changed(root: Path, began: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise InputError, naming the first difference, where a sequence began with something else."""
    if not began:
        return
    advice = "give --overwrite to start anew, or another --output_dir"
    if found := changes(own["options"], began["options"]):
        raise InputError(f"{root} is a sequence with other options: {'; '.join(found)}; {advice}.")
    if began["model"] != own["model"]:
        raise InputError(f"--model is not the one that the sequence in {root} began with; {advice}.")
    for name, content in began["kept"].items():
        if own["kept"].get(name) != content:
            raise InputError(f"the rows of {name} are not those that the sequence in {root} began with; {advice}.")
    if len(own["requests"]) < len(began["requests"]):
        names = ", ".join(record["name"] for record in began["requests"])
        raise InputError(f"the sequence in {root} has the requests {names}, and fewer were given; {advice}.")
    for number, (earlier, now) in enumerate(zip(began["requests"], own["requests"], strict=False), start=1):
        if (earlier["name"], earlier["content"]) != (now["name"], now["content"]):
            what = "has other rows now" if earlier["name"] == now["name"] else f"was '{earlier['name']}'"
            raise InputError(
                f"request {number} of the sequence in {root}, '{now['name']}', {what}; add requests behind those that "
                f"were given, or {advice}."
            )


@contextmanager
def _naming(request: Request) -> Iterator[None]:
    """Let an error of a run say whose it is: where nothing else is written, nobody knows how far the sequence came."""
    try:
        yield
    except AmnesticError as error:
        error.args = (f"request '{request.name}': {error}",)
        raise
