"""The store of frozen states: whole or absent, resumable, safe among processes."""

import json
import multiprocessing
import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from truepair.checked import read_checked_json, write_checked_json
from truepair.errors import CheckpointError, DataError, MadeAgain
from truepair.models.encoders import frozen
from truepair.models.encoders.frozen import FrozenStates, StateBlock

ROWS, SHAPE = 50, (3, 4)


def truth() -> Tensor:
    return torch.randn(ROWS, *SHAPE, generator=torch.Generator().manual_seed(0))


class Compute:
    """Yields the truth in blocks, counts the rows it was asked for, and may fail on the way."""

    def __init__(self, fail_at: int | None = None, pause: float = 0.0) -> None:
        self.fail_at = fail_at
        self.pause = pause
        self.starts: list[int] = []

    def __call__(self, start: int) -> Iterator[StateBlock]:
        self.starts.append(start)
        for begin in range(start, ROWS, 7):
            if self.fail_at is not None and begin >= self.fail_at:
                raise KeyboardInterrupt
            time.sleep(self.pause)
            reasons = [f"row {row} is damaged" if row == 20 else "" for row in range(begin, min(begin + 7, ROWS))]
            yield StateBlock(truth()[begin : begin + 7], reasons)


def build(folder: Path, compute: Compute, key: str = "k" * 32) -> FrozenStates:
    return FrozenStates.open_or_compute(folder, key, ROWS, SHAPE, compute)


def expect_truth(states: FrozenStates) -> None:
    assert len(states) == ROWS and states.nbytes == ROWS * 12 * 2
    assert torch.equal(states[slice(0, ROWS)], truth().half().float())
    assert states.unreadable == {20: "row 20 is damaged"}


def test_states_come_back_as_float16_holds_them(tmp_path: Path) -> None:
    states = build(tmp_path, Compute())
    expect_truth(states)
    rows = torch.tensor([49, 0, 0, 7])
    assert torch.equal(states[rows], truth().half().float()[rows]) and states[rows].dtype == torch.float32
    assert torch.equal(states.gather([3, 2], torch.float16), truth().half()[[3, 2]])
    torch.testing.assert_close(states[rows], truth()[rows], atol=1e-3, rtol=1e-3)
    with pytest.raises(IndexError):
        states[[ROWS]]


def test_what_is_gathered_may_be_changed(tmp_path: Path) -> None:
    states = build(tmp_path, Compute())
    for dtype in (torch.float32, torch.float16):
        states.gather(slice(0, 5), dtype).zero_()
        states.gather([0, 1], dtype).zero_()
    expect_truth(states)
    expect_truth(build(tmp_path, Compute()))


def test_second_opening_computes_nothing(tmp_path: Path) -> None:
    build(tmp_path, Compute())
    again = Compute()
    expect_truth(build(tmp_path, again))
    assert again.starts == []


def test_another_key_is_another_cache(tmp_path: Path) -> None:
    build(tmp_path, Compute())
    other = Compute()
    build(tmp_path, other, key="l" * 32)
    assert other.starts == [0]


@pytest.mark.parametrize("fail_at", [0, 14, 49])
def test_interrupted_build_is_no_cache_and_goes_on_later(fail_at: int, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, Compute(fail_at))
    assert not [path for path in tmp_path.iterdir() if path.is_dir() and not path.name.endswith(".partial")]
    rest = Compute()
    expect_truth(build(tmp_path, rest))
    assert rest.starts == [fail_at]


def test_rows_after_the_last_record_are_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process leaves rows that no record speaks of."""
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, Compute(14))
    file = next(tmp_path.glob("*.partial")) / frozen.STATES
    with file.open("ab") as stream:
        stream.write(b"x" * 100)
    rest = Compute()
    expect_truth(build(tmp_path, rest))
    assert rest.starts == [14]


@pytest.mark.parametrize("damage", ["flip", "shorten", "no record", "bad record"])
def test_partial_file_that_is_not_as_recorded_is_dropped(damage: str, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, Compute(14))
    partial = next(tmp_path.glob("*.partial"))
    spoil(partial / frozen.STATES, partial / "progress.json", damage)
    rest = Compute()
    expect_truth(build(tmp_path, rest))
    assert rest.starts == [0]


@pytest.mark.parametrize("damage", ["flip", "shorten", "no record", "bad record"])
def test_damaged_cache_is_named_and_computed_again(damage: str, tmp_path: Path) -> None:
    path = build(tmp_path, Compute()).path
    spoil(path / frozen.STATES, path / frozen.CACHE_MANIFEST, damage)
    with pytest.raises(CheckpointError, match="damaged"):
        FrozenStates.open(path)
    again = Compute()
    with pytest.warns(MadeAgain, match=f"{path.name} is damaged.*computed again"):
        expect_truth(build(tmp_path, again))
    assert again.starts == [0]


def spoil(states: Path, record: Path, damage: str) -> None:
    data = bytearray(states.read_bytes())
    if damage == "flip":
        data[30] ^= 1
        states.write_bytes(data)
    elif damage == "shorten":
        states.write_bytes(data[:-2])
    elif damage == "no record":
        record.unlink()
    else:
        record.write_text("{", encoding="utf-8")


def test_cache_of_something_else_is_refused(tmp_path: Path) -> None:
    path = build(tmp_path, Compute()).path
    with pytest.raises(CheckpointError, match="something else"):
        FrozenStates.open(path, "l" * 32)
    manifest = read_checked_json(path / frozen.CACHE_MANIFEST)
    write_checked_json(path / frozen.CACHE_MANIFEST, {**manifest, "format": 0})
    with pytest.raises(CheckpointError, match="another version"):
        FrozenStates.open(path)
    (path / frozen.CACHE_MANIFEST).write_text(json.dumps({**manifest, "format": 1}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="earlier version"):
        FrozenStates.open(path)
    with pytest.warns(MadeAgain, match=r"^cache .* is of an earlier version of this package, and is computed again$"):
        expect_truth(build(tmp_path, Compute()))


def test_states_that_float16_cannot_hold(tmp_path: Path) -> None:
    for value in (1e6, float("nan")):
        with pytest.raises(DataError, match="float16"):
            FrozenStates.open_or_compute(
                tmp_path, "k", 1, (1,), lambda start, value=value: iter([StateBlock(torch.tensor([[value]]))])
            )


def test_disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="does not fit"):
        FrozenStates.open_or_compute(tmp_path, "k", 10**12, (1000,), lambda start: iter([]))


def test_compute_that_stops_early_publishes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="5 of 6 rows"):
        FrozenStates.open_or_compute(tmp_path, "k", 6, (2,), lambda start: iter([StateBlock(torch.zeros(5, 2))]))
    assert not (tmp_path / "states-k").exists()


def test_no_rows(tmp_path: Path) -> None:
    states = FrozenStates.open_or_compute(tmp_path, "k", 0, (2,), lambda start: iter([]))
    assert len(states) == 0 and states[[]].shape == (0, 2)


def test_progress_counts_up_to_all_rows(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    FrozenStates.open_or_compute(
        tmp_path, "k", ROWS, SHAPE, Compute(), progress=lambda done, rows: calls.append((done, rows))
    )
    assert calls == [(min(done, ROWS), ROWS) for done in range(7, ROWS + 7, 7)]


def test_pickled_states_are_the_file_not_a_copy(tmp_path: Path) -> None:
    states = build(tmp_path, Compute())
    pickled = pickle.dumps(states)
    assert len(pickled) < 1000
    expect_truth(pickle.loads(pickled))  # noqa: S301


def _build_in_process(folder: Path, computed: "multiprocessing.Queue[int]") -> None:
    compute = Compute(pause=0.02)
    expect_truth(build(folder, compute))
    computed.put(len(compute.starts))


def test_two_processes_build_one_cache(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    computed = context.Queue()
    processes = [context.Process(target=_build_in_process, args=(tmp_path, computed)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(computed.get(timeout=60) for _ in processes) == [0, 1]
    expect_truth(build(tmp_path, Compute()))


def _build_forever(folder: Path) -> None:
    build(folder, Compute(pause=1000))


def test_killed_builder_leaves_no_lock_behind(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_build_forever, args=(tmp_path,))
    process.start()
    while not list(tmp_path.glob("*.partial")):
        time.sleep(0.01)
    process.kill()
    process.join()
    expect_truth(build(tmp_path, Compute()))
