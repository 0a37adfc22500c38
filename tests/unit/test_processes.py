"""What a process knows of the others: from a launcher's variables, and when it is alone."""

import signal

import pytest
import torch

from amnestic import cli, launch, processes
from amnestic.errors import InputError, RunError
from amnestic.interruption import Interruption

LAUNCHED = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}


@pytest.fixture
def launched(monkeypatch):
    """As torchrun starts the fourth of eight processes, the second on its machine."""
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_a_launcher_tells_number_size_and_place(launched):
    assert (launch.size(), launch.rank(), launch.local_rank(), launch.address()) == (8, 3, 1, "node0:29500")


def test_without_a_launcher_there_is_one_process(monkeypatch):
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    assert (launch.size(), launch.rank(), launch.local_rank()) == (1, 0, 0)


def test_a_rank_left_by_something_else_means_nothing_alone(monkeypatch):
    monkeypatch.setenv("RANK", "5")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert launch.rank() == 0


@pytest.mark.parametrize("name", ["RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_what_a_launcher_left_out_is_named(launched, name):
    launched.delenv(name)
    with pytest.raises(InputError, match=f"WORLD_SIZE is 8, and {name} is not set; start several processes with torch"):
        launch.address()


def test_a_size_that_is_no_number_is_refused(launched):
    launched.setenv("WORLD_SIZE", "two")
    with pytest.raises(InputError, match="variable WORLD_SIZE is 'two'; expected the number that a launcher sets"):
        launch.size()


def test_the_command_line_tells_of_a_size_that_is_no_number(launched, capsys):
    launched.setenv("WORLD_SIZE", "two")
    arguments = ["finetune", "--model", "m", "--data", "d", "--output_dir", "o"]
    assert cli.main(arguments) == cli.WRONG_INPUT
    assert "error: the variable WORLD_SIZE is 'two'; expected the number that a launcher" in capsys.readouterr().err


@pytest.mark.parametrize(("local_rank", "told"), [("0", "error: process 3: "), ("1", "")])
def test_wrong_input_is_told_once_a_machine(launched, capsys, tmp_path, local_rank, told):
    """A file may be absent on one machine alone, whose processes are not the first."""
    launched.setenv("LOCAL_RANK", local_rank)
    assert cli.main(["finetune", "--config", str(tmp_path / "absent.yaml")]) == cli.WRONG_INPUT
    found = capsys.readouterr().err
    assert found.startswith(told)
    assert ("absent.yaml" in found) == bool(told)


def test_alone_everything_is_what_it_was():
    values = torch.tensor([1.0, 2.0])
    assert processes.summed(values) is values
    assert (processes.count(), processes.rank(), processes.is_first()) == (1, 0, True)
    assert processes.from_first({"a": 1}) == {"a": 1}
    assert processes.gathered("x") == ["x"]
    assert [processes.own(together) for together in processes.rounds([4, 5, 6])] == [4, 5, 6]
    processes.join(1.0)
    assert processes.count() == 1


@pytest.mark.parametrize("error", [InputError("a"), RunError("b"), ValueError("c")])
def test_alone_an_error_comes_through_as_it_is(error):
    with pytest.raises(type(error)) as raised, processes.agreed():
        raise error
    assert raised.value is error


def test_an_error_of_torch_is_no_lost_process_where_there_is_none():
    with pytest.raises(RuntimeError, match="connection closed by gloo"), processes.loss_explained(str):
        raise RuntimeError("connection closed by gloo")


def test_rounds_give_each_process_equally_many(monkeypatch):
    """Five items over two processes: three rounds, of which the second process has nothing in the last."""
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "rank", lambda: 1)
    rounds = processes.rounds([10, 11, 12, 13, 14])
    assert [list(together) for together in rounds] == [[10, 11], [12, 13], [14]]
    assert [processes.own(together) for together in rounds] == [11, 13, None]


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_second_signal_ends_a_lone_process_and_not_one_of_several(is_shared):
    """A launcher passes on a Ctrl-C that the terminal has sent to its processes already."""
    interruption = Interruption(is_shared)
    with interruption.caught(), interruption.deferred():
        signal.raise_signal(signal.SIGINT)
        assert interruption.is_requested != is_shared
        interruption.agree()
        assert interruption.is_requested
        if is_shared:
            signal.raise_signal(signal.SIGTERM)
        else:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
