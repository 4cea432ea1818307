"""How the processes of a run meet: a name of their attempt, one place that opens the group, and who goes first."""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore

import truepair
from tests.engine.processes import run_ranks, threads_of_group
from truepair.cli.main import COMMANDS, main
from truepair.engine.distributed.launch import is_first_process, started_processes
from truepair.engine.distributed.processes import (
    agree_on_name,
    first_process_first,
    join_processes,
    leave_processes,
    own_device,
)
from truepair.errors import ConfigError


def attempt(store: HashStore, order: list[int]) -> set[str]:
    """The names that processes agree on who come in an order."""
    with ThreadPoolExecutor(len(order)) as pool:
        return {one.result() for one in [pool.submit(agree_on_name, store, rank, len(order)) for rank in order]}


def test_each_attempt_agrees_on_a_name_of_its_own_in_the_same_store() -> None:
    store = HashStore()
    found = [attempt(store, order) for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1])]
    assert [len(names) for names in found] == [1] * 4
    assert len(set.union(*found)) == 4


def test_a_process_that_came_and_died_is_not_waited_for_in_the_next_attempt() -> None:
    store = HashStore()
    with pytest.raises(ConfigError, match=r"^process 0 of 2 waited 0\.01 minutes for the others; see what they said"):
        agree_on_name(store, 0, 2, timedelta(seconds=0.6))
    with pytest.raises(ConfigError, match=r"^process 1 of 2 waited 0\.01 minutes"):
        agree_on_name(store, 1, 2, timedelta(seconds=0.6))  # the name of the dead one is never confirmed
    assert len(attempt(store, [1, 0])) == 1


def test_the_group_is_opened_in_one_place() -> None:
    root = Path(truepair.__file__).parent
    opens = re.compile(r"\b(PartialState|init_process_group|Accelerator)\(")
    found = {path.name for path in root.rglob("*.py") if opens.search(path.read_text(encoding="utf-8"))}
    assert found == {"processes.py", "accelerator.py"}  # the latter joins the processes before its Accelerator


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)


def test_a_process_knows_who_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")  # of the machine: nobody said which this is
    assert is_first_process() and started_processes() == 1
    monkeypatch.setenv("RANK", "1")
    assert not is_first_process() and started_processes() == 4


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"train", "pretrain", "finetune"}))
def test_a_command_of_one_process_refuses_several(
    name: str, second_of_two: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([name, "model", "pairs.csv"])
    assert stopped.value.code == 2
    said = f"truepair: truepair {name} computes in one process, and 2 were started; call it without torchrun"
    assert capsys.readouterr().err.startswith(said)


def test_processes_that_cannot_exchange_are_refused(second_of_two: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"^2 processes were started, and there are no GPUs .*; add --loop\.cpu true"):
        join_processes(cpu=False)


def test_a_device_is_found_without_the_others(second_of_two: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert own_device() == torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    assert own_device() == torch.device("cuda", 1)
    assert own_device(cpu=True) == torch.device("cpu")
    assert not dist.is_initialized()


@dataclass(frozen=True)
class Turn:
    """Processes that write down when it is their turn; all may be at fault."""

    file: Path
    fails: bool = False

    def go(self) -> None:
        """Take turns."""
        state = join_processes(cpu=True)
        with first_process_first(state):
            with self.file.open("a") as opened:
                opened.write(str(state.process_index))
            if self.fails:
                raise SystemExit(2)


@pytest.mark.parametrize("fails", [False, True])
def test_the_first_goes_first_and_a_mistake_ends_all_alike(fails: bool, tmp_path: Path) -> None:
    turn = Turn(tmp_path / "turns", fails)
    assert run_ranks([turn] * 2) == [2 * fails] * 2
    assert (tmp_path / "turns").read_text() == "01"


class Parting:
    """Processes that exchange something and part."""

    def go(self) -> None:
        """Exchange, part."""
        state = join_processes(cpu=True)
        wrapped = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 1))
        wrapped(torch.ones(3, 2)).sum().backward()
        wrapped.itself = [wrapped]  # as a hook does that refers to what it hangs on
        assert threads_of_group()
        del wrapped, state
        leave_processes()
        assert not dist.is_initialized() and not threads_of_group()
        leave_processes()


def test_no_thread_outlives_the_group() -> None:
    assert run_ranks([Parting()] * 2) == [0, 0]
