"""Checkpoints and candidates of two processes: the tensors that one process would have, and any number reads them.

The gradients of these steps are given, not computed, so that what is restored can be held to the last bit.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amnestic import processes
from amnestic.constraints.bound import Bound, Probe, Sums
from amnestic.constraints.multiplier import Bounded
from amnestic.errors import AmnesticError
from amnestic.interruption import Interruption
from amnestic.model.load import digest, load, round_to_saved, save, spread
from amnestic.model.options import ModelOptions, ShardingOptions
from amnestic.model.sharding import whole
from amnestic.training.candidates import Candidates
from amnestic.training.checkpoint import Checkpoints, Training, found_in, read_state
from amnestic.training.optimizer import Optimizer
from amnestic.training.options import CheckpointOptions, TrainingOptions

FSDP, OFFLOADED = {"fsdp": True}, {"fsdp": True, "fsdp_offload_params": True}
HOW = {"one": (1, None), "two": (2, None), "sharded": (2, FSDP), "offloaded": (2, OFFLOADED)}


@dataclass(frozen=True)
class Case:
    """A model, what of it is trained, by which optimiser, and how its weights are held."""

    model: str
    dtype: str = "float32"
    optim: str = "adamw_torch"
    frozen: bool = False
    sharding: dict[str, Any] | None = None


def loaded_of(case: Case) -> Any:
    """The model, with two weights more: one with less rows than there are processes, and one of an odd length."""
    loaded = load(ModelOptions(model=case.model, dtype=case.dtype, device="cpu"))
    for name, shape in (("row", (1, 6)), ("odd", (5,))):
        value = torch.arange(1.0, 1 + np.prod(shape)).view(shape).to(loaded.model.dtype)
        loaded.model.register_parameter(name, torch.nn.Parameter(value))
    if case.frozen:
        for name, parameter in loaded.model.named_parameters():
            parameter.requires_grad_("layers.1" in name or name == "row")
    if case.sharding is not None:
        spread(loaded, ShardingOptions(**case.sharding), torch.device("cpu"))
    return loaded


def training_of(case: Case) -> Training:
    """A run that has not taken a step."""
    model = loaded_of(case).model
    options = TrainingOptions(optim=case.optim, learning_rate=0.01, max_grad_norm=0)
    return Training(model, Optimizer(model.parameters(), options), [Bounded(rate=2.0, initial=3.0).start(0.1, 1)])


def move(training: Training, steps: int) -> None:
    """Take steps with gradients that follow from the step alone; a frozen layer's are left out."""
    for _ in range(steps):
        generator = torch.Generator().manual_seed(training.step)
        for parameter, master in zip(training.weights.values(), training.optimizer.masters, strict=True):
            gradient = torch.randn(parameter.shape, generator=generator).to(master.dtype)
            if isinstance(master, torch.distributed.tensor.DTensor):
                master.grad = torch.distributed.tensor.distribute_tensor(
                    gradient, master.device_mesh, master.placements
                )
            else:
                master.grad = gradient / processes.count()  # they are summed over the processes
        training.optimizer.step()
        training.multipliers[0].update(torch.tensor(0.5 + training.step), torch.tensor(True))
        training.step += 1


def state_of(training: Training) -> dict[str, torch.Tensor]:
    """Everything that moves, whole."""
    tensors = dict(training.model.named_parameters()) | training.moving
    return {name: whole(tensor.detach()).clone() for name, tensor in tensors.items()} | {
        "multiplier": training.multipliers[0].value.clone()
    }


def checkpoints_of(folder: str, source: Path | None = None, limit: int = 1) -> Checkpoints:
    return Checkpoints(Path(folder), CheckpointOptions(save_total_limit=limit), {}, Interruption(), source)


def written(case: Case, folder: str, steps: int = 2) -> dict[str, torch.Tensor]:
    """Take steps, write a checkpoint, and return the state that it holds."""
    training = training_of(case)
    move(training, steps)
    checkpoints_of(folder).write(training, is_last=False)
    return state_of(training)


def restored(case: Case, folder: str, steps: int = 0) -> dict[str, torch.Tensor]:
    """Go on from the newest checkpoint by some steps."""
    training = training_of(case)
    checkpoints_of(folder, found_in(Path(folder))[0]).restore(training)
    move(training, steps)
    return state_of(training)


def on(pool: Any, how: str, function: Any, case: Case, *arguments: Any) -> list[Any]:
    """What `function` returns, on each of the processes of `how`."""
    count, sharding = HOW[how]
    case = replace(case, sharding=sharding)
    return [function(case, *arguments)] if count == 1 else pool.run(function, case, *arguments)


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == expected[name].dtype, name
        assert torch.equal(value, expected[name]), name


MODELS = {
    "float32, untied, some frozen": ({"tied": False}, {"frozen": True}),
    "bfloat16 with masters, tied": ({"spare_rows": 1}, {"dtype": "bfloat16"}),
    "momentum": ({}, {"optim": "sgd"}),
}
MOVES = {
    "float32, untied, some frozen": ["two to one", "one to sharded", "sharded to two"],
    "bfloat16 with masters, tied": ["one to two", "two to sharded", "sharded to one", "sharded to offloaded"],
    "momentum": ["two to two", "sharded to sharded", "offloaded to one"],
}


@pytest.mark.parametrize(("kind", "move_"), [(kind, move_) for kind, moves in MOVES.items() for move_ in moves])
def test_what_is_restored_is_what_was_written(pool, tiny_model, tmp_path, kind, move_):
    """Bit for bit, each weight, master, moment and multiplier; then a step that equals one without a checkpoint."""
    before, after = move_.split(" to ")
    shape, options = MODELS[kind]
    case, folder = Case(str(tiny_model(**shape)), **options), str(tmp_path / "checkpoints")
    expected = training_of(case)
    move(expected, 2)
    for held in on(pool, before, written, case, folder):
        same(held, state_of(expected))
    for found in on(pool, after, restored, case, folder):
        same(found, state_of(expected))
    move(expected, 1)
    for found in on(pool, after, restored, case, folder, 1):
        for name, value in state_of(expected).items():
            torch.testing.assert_close(found[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_each_process_writes_its_part(pool, tiny_model, tmp_path):
    """The files together are no larger than those of one process, but for their headers: nothing comes twice."""
    case = Case(str(tiny_model(tied=False)))
    sizes = {}
    for how in ("one", "two", "sharded"):
        on(pool, how, written, case, str(tmp_path / how))
        (folder,) = found_in(tmp_path / how)
        files = read_state(folder)["files"]
        assert {Path(name).parts[0] for name in files} == {"weights", "optimizer", "state.safetensors"}
        sizes[how] = [files[name] for name in files if name.startswith("optimizer")]
    assert [len(sizes[how]) for how in ("one", "two", "sharded")] == [1, 2, 2]
    for how in ("two", "sharded"):
        assert sum(sizes[how]) < 1.15 * sum(sizes["one"])
        assert max(sizes[how]) < 0.6 * sum(sizes["one"])


def outcome(function: Any, *arguments: Any) -> str:
    """The sentence of the error that a function raises on this process."""
    try:
        function(*arguments)
    except AmnesticError as error:
        return f"{type(error).__name__} {error.is_shared} {error}"
    return "nothing"


def refusing(case: Case, folder: str) -> str:
    return outcome(restored, case, folder)


@pytest.mark.parametrize("how", ["two", "sharded"])
def test_a_damaged_part_is_refused_by_all(pool, tiny_model, tmp_path, how):
    """Its size is right, and its header is not."""
    case, folder = Case(str(tiny_model())), tmp_path / "checkpoints"
    on(pool, how, written, case, str(folder))
    path = next((folder / "checkpoint-2" / "optimizer").glob("shard-00002*"))
    path.write_bytes(b"\xff" * path.stat().st_size)
    found = on(pool, how, refusing, case, str(folder))
    assert len({*found}) == 1
    assert found[0].startswith(f"InputError True {folder}/checkpoint-2 is damaged (")
    assert found[0].endswith("); give an earlier checkpoint.")


def unreadable(case: Case, folder: str) -> str:
    """Let the files of the moments be unreadable for the second process alone."""
    from amnestic.training import tensor_files

    reader = tensor_files.HuggingFaceStorageReader
    plain = reader.read_metadata

    def refused(self: Any) -> Any:
        if processes.rank() == 1 and "optimizer" in str(self.path):
            raise OSError(5, "Input/output error")
        return plain(self)

    reader.read_metadata = refused
    try:
        return outcome(restored, case, folder)
    finally:
        reader.read_metadata = plain


def test_what_one_process_cannot_read_all_refuse(pool, tiny_model, tmp_path):
    case, folder = Case(str(tiny_model())), tmp_path / "checkpoints"
    on(pool, "sharded", written, case, str(folder))
    found = on(pool, "sharded", unreadable, case, str(folder))
    assert len({*found}) == 1
    assert "checkpoint-2 is damaged (" in found[0]
    assert "Input/output error" in found[0]


def without_room(case: Case, folder: str, number: int, file: str) -> str:
    """Write a second checkpoint, in the `file` of which one process finds the disk full."""
    from amnestic.training import checkpoint, tensor_files

    training = training_of(case)
    move(training, 2)
    checkpoints = checkpoints_of(folder, limit=2)
    checkpoints.write(training, is_last=False)
    move(training, 2)
    writer, save_file = tensor_files.HuggingFaceStorageWriter, checkpoint.save_file
    plain = writer.write_data

    def refused(self: Any, *arguments: Any) -> Any:
        if processes.rank() == number and Path(self.path).name == file:
            raise OSError(28, "No space left on device")
        return plain(self, *arguments)

    def refused_file(tensors: Any, path: Path) -> None:
        if Path(path).stem == file:
            raise OSError(28, "No space left on device")
        save_file(tensors, path)

    writer.write_data, checkpoint.save_file = refused, refused_file
    try:
        return outcome(checkpoints.write, training, False)
    finally:
        writer.write_data, checkpoint.save_file = plain, save_file


@pytest.mark.parametrize(("number", "file"), [(0, "optimizer"), (1, "weights"), (0, "state")])
def test_a_full_disk_on_one_process_ends_the_writing_of_all(pool, tiny_model, tmp_path, number, file):
    case, folder = Case(str(tiny_model())), tmp_path / "checkpoints"
    found = on(pool, "sharded", without_room, case, str(folder), number, file)
    sentence = f"RunError True cannot write {folder}/checkpoint-4: No space left on device."
    assert found == [sentence] * 2
    assert [path.name for path in folder.iterdir()] == ["checkpoint-2"]
    assert restored(case, str(folder)).keys() == state_of(training_of(case)).keys() | {
        f"{name}/{key}" for name in training_of(case).weights for key in ("exp_avg", "exp_avg_sq", "step")
    }


def unable_to_remove(case: Case, folder: str) -> str:
    """Write two checkpoints, and find that the first cannot be removed."""
    from amnestic.training import checkpoint

    training = training_of(case)
    checkpoints = checkpoints_of(folder)
    move(training, 1)
    checkpoints.write(training, is_last=False)
    move(training, 1)
    remove = checkpoint.remove

    def refused(path: Path) -> None:
        raise OSError(1, "Operation not permitted")

    checkpoint.remove = refused
    try:
        return outcome(checkpoints.write, training, False)
    finally:
        checkpoint.remove = remove


def test_a_checkpoint_that_cannot_be_removed_ends_all(pool, tiny_model, tmp_path):
    case, folder = Case(str(tiny_model())), tmp_path / "checkpoints"
    found = on(pool, "two", unable_to_remove, case, str(folder))
    assert found == [f"RunError True cannot write {folder}: Operation not permitted."] * 2


def dying(case: Case, folder: str) -> None:
    """Write one checkpoint, and let the second process end without a word while it writes the next."""
    from amnestic.training import tensor_files

    training = training_of(case)
    move(training, 2)
    checkpoints = checkpoints_of(folder)
    checkpoints.write(training, is_last=False)
    move(training, 2)
    if processes.rank() == 1:
        tensor_files.HuggingFaceStorageWriter.write_data = lambda *_: os._exit(9)
    checkpoints.write(training, is_last=False)


def test_a_process_that_dies_while_it_writes_leaves_the_checkpoint_before(pool, tiny_model, tmp_path):
    case, folder = Case(str(tiny_model()), dtype="bfloat16"), tmp_path / "checkpoints"
    with pytest.raises(AssertionError, match=r"^process [01]:"):
        on(pool, "sharded", dying, case, str(folder))
    assert [path.name for path in found_in(folder)] == ["checkpoint-2"]
    expected = training_of(case)
    move(expected, 2)
    same(restored(case, str(folder)), state_of(expected))


# The weights that are kept, and those that are saved

MEASURED = [(2.0, 0.1), (1.0, 0.1), (3.0, 0.1)]
"""The second is the best."""


def probe(loss: float) -> Sums:
    return Sums(np.array([loss]), np.array([1]))


def candidates_of(case: Case, folder: str) -> Candidates:
    found = iter([(forget, {"retain": probe(loss)}) for forget, loss in MEASURED])
    held = {"retain": Probe(Bound("bound", 0.5), probe(0.1), whole_split=False)}
    return Candidates(loaded_of(case), held, lambda: next(found), Path(folder))


def weights_of(candidates: Candidates) -> dict[str, torch.Tensor]:
    return {name: whole(value.detach()).clone() for name, value in candidates.loaded.model.named_parameters()}


def kept(case: Case, folder: str) -> dict[str, torch.Tensor]:
    """Measure three candidates, and take the best one back."""
    candidates = candidates_of(case, folder)
    for step in (1, 2, 3):
        shift(candidates, step)
        candidates.add(step, step)
    assert candidates.restore().step == 2
    return weights_of(candidates)


def shift(candidates: Candidates, step: int) -> None:
    with torch.no_grad():
        for parameter in candidates.loaded.model.parameters():
            parameter.add_(step / 512)


def resumed(case: Case, folder: str, source: str) -> dict[str, torch.Tensor]:
    """Take up the best candidate of another run."""
    first = candidates_of(case, folder)
    states = [{"step": 7, "epoch": 1.0, "forget_loss": 1.0, "reached": {"retain": HELD}}]
    first.resume(states, Path(source))
    assert first.restore().step == 7
    return weights_of(first)


HELD = {"reached": 0.1, "upper_limit": 0.1, "holds": True, "violation": -0.4}


@pytest.mark.parametrize(
    ("how", "tied", "saved"),
    [("two", True, "bfloat16"), ("sharded", True, "bfloat16"), ("offloaded", False, "float32")],
)
def test_the_best_candidate_comes_back_on_all(pool, tiny_model, tmp_path, how, tied, saved):
    """In the precision that it is saved in, as in one process; and another number of processes takes it up."""
    case = Case(str(tiny_model(tied=tied, dtype=saved)))
    expected = kept(case, str(tmp_path / "alone"))
    for found in on(pool, how, kept, case, str(tmp_path / "run")):
        same(found, expected)
    same(resumed(case, str(tmp_path / "again"), str(tmp_path / "run" / "candidate")), expected)
    for found in on(pool, how, resumed, case, str(tmp_path / "third"), str(tmp_path / "alone" / "candidate")):
        same(found, expected)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["candidate"]


def saved(case: Case, folder: str) -> str:
    """Save a model, moved by a little, and return its digest."""
    loaded = load(ModelOptions(model=case.model, dtype=case.dtype, device="cpu"))
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.add_(1 / 512)
    if case.sharding is not None:
        spread(loaded, ShardingOptions(**case.sharding), torch.device("cpu"))
    before = digest(loaded)
    round_to_saved(loaded)
    assert digest(loaded) == before
    save(loaded, Path(folder))
    return before


@pytest.mark.parametrize(
    ("how", "tied", "dtype"),
    [
        ("two", True, "bfloat16"),
        ("sharded", True, "bfloat16"),
        ("sharded", False, "float32"),
        ("offloaded", True, "float32"),
    ],
)
def test_a_spread_model_is_saved_as_a_whole_one_is(pool, tiny_model, tmp_path, how, tied, dtype):
    """Byte for byte, and with the digest of the whole model."""
    case = Case(str(tiny_model(tied=tied, dtype=dtype, spare_rows=1)))
    expected = saved(case, str(tmp_path / "alone"))
    assert on(pool, how, saved, case, str(tmp_path / "run")) == [expected] * 2
    names = sorted(path.name for path in (tmp_path / "alone").iterdir())
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == names
    for name in names:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name
