"""What becomes of loading processes that are killed, hang, or have no room for their batches."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data._utils import signal_handling

from truepair.data import loading
from truepair.data.images import BadImageError
from truepair.data.loading import BatchReader, _signals_held, read_batches, require_room
from truepair.errors import DataError

LARGE = 100_000  # bytes of a sample: more than goes without shared memory


class Samples:
    """Large samples; one of them does something."""

    def __init__(self, what: str = "", at: int = 5) -> None:
        self.what = what
        self.at = at

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        if index == self.at:
            if self.what in ("SIGKILL", "SIGBUS"):
                os.kill(os.getpid(), signal.Signals[self.what])
            elif self.what == "hangs":
                time.sleep(600)
            elif self.what == "memory":
                raise MemoryError
            elif self.what == "bad":
                raise BadImageError("image 5 is empty (0 bytes); fetch it again or leave it out")
        return torch.full((LARGE,), index, dtype=torch.uint8)


def collate(samples: Sequence[Tensor]) -> list[Tensor]:
    return list(samples)


@pytest.fixture(params=[False, True], ids=["", "after a loader of torch's own"])
def handler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without, and with the handler of SIGCHLD that any loader of torch's leaves behind, which raises anywhere."""
    former = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if request.param:
        monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)
        signal_handling._set_SIGCHLD_handler()
        assert callable(signal.getsignal(signal.SIGCHLD))
    yield
    signal.signal(signal.SIGCHLD, former)


def read(what: str, *, workers: int = 2, timeout: float = 300) -> Iterator[list[Tensor]]:
    return read_batches(Samples(what), collate, workers=workers, timeout=timeout, batch_size=2)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_all_batches_come_in_order(workers: int) -> None:
    found = [int(sample[0]) for batch in read("", workers=workers) for sample in batch]
    assert found == list(range(8))


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("SIGKILL", r"a loading process was killed \(SIGKILL\), most often for want of memory; lower loop.workers or "),
        ("SIGBUS", "a loading process was killed: shared memory .*has too little room; give fewer loading processes"),
        ("memory", "memory ran out while a batch was read; lower loop.workers or loop.batch_size"),
        ("bad", "^image 5 is empty"),
    ],
)
@pytest.mark.usefixtures("handler")
def test_what_goes_wrong_in_a_process_is_one_line(what: str, line: str) -> None:
    with pytest.raises(DataError, match=line) as found:
        list(read(what))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("ready", [True, False])
def test_a_batch_that_died_with_its_process_is_one_line(ready: bool) -> None:
    reader = BatchReader(Samples("" if ready else "hangs", at=0), collate, workers=1, timeout=0, batch_size=2)
    with closing(reader), pytest.raises(DataError, match=r"^a loading process was killed \(SIGKILL\), most often for"):
        reader.start()
        process = reader._batches._workers[0]
        if ready:  # in the queue, with tensors that are still to be fetched from the process
            assert reader._batches._worker_result_queue._reader.poll(300)
        process.kill()
        process.join(240)
        reader.next()


@pytest.mark.parametrize("error", [EOFError(), ConnectionRefusedError(111, "Connection refused")])
def test_a_process_that_is_not_yet_counted_as_ended_is_waited_for(error: Exception) -> None:
    reader = BatchReader(Samples("hangs", at=0), collate, workers=1, timeout=0, batch_size=2)
    with closing(reader), pytest.raises(DataError, match="killed"):
        reader.start()
        threading.Timer(0.2, reader._batches._workers[0].kill).start()
        reader._raise_known(error)


@pytest.mark.usefixtures("handler")
def test_a_process_that_hangs_is_not_waited_for_for_ever() -> None:
    with pytest.raises(DataError, match=r"had no batch for \d+ s: .*raise loop.data_timeout"):
        list(read("hangs", timeout=2))


@pytest.mark.usefixtures("handler")
def test_who_waits_may_leave_and_leaves_no_process_behind() -> None:
    class LeavesError(BaseException):
        """Of who waits."""

    def leave(seconds: float) -> None:
        raise LeavesError

    reader = BatchReader(Samples("hangs", at=0), collate, workers=1, timeout=0, batch_size=2)
    with closing(reader), pytest.raises(LeavesError):
        reader.start()
        process = reader._batches._workers[0]
        reader.next(leave)
    process.join(240)
    assert not process.is_alive()


def test_a_batch_without_room_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensor: Tensor) -> Tensor:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(Tensor, "share_memory_", full)
    with pytest.raises(DataError, match=r"a loading process cannot hand over its batch: shared memory .*--shm-size 8g"):
        list(read(""))
    assert len(list(read("", workers=0))) == 4


def test_room_is_looked_at_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loading, "_SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(loading, "_free_room", lambda: 64_000_000)
    require_room(8_000_000, 100, 4)
    require_room(80_000_000, 100, 0)
    require_room(60_000_000, 1, 4)
    with pytest.raises(
        DataError, match=r"^4 loading processes need 72.0 MB for their batches: shared memory .*64.0 MB"
    ):
        require_room(9_000_000, 100, 4)


def test_a_signal_waits_while_processes_start() -> None:
    reached = False
    former = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt), _signals_held():
            signal.raise_signal(signal.SIGINT)
            reached = True
        assert reached and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, former)


def test_batches_are_read_in_another_thread_too() -> None:
    found = list[int]()
    thread = threading.Thread(target=lambda: found.extend(len(batch) for batch in read("")))
    thread.start()
    thread.join(120)
    assert found == [2, 2, 2, 2]
