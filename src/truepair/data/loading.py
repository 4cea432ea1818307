"""Batches that other processes read: they are waited for a second at a time, and none that is lost is waited for."""

import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch._C import _remove_worker_pids
from torch.utils.data import DataLoader, get_worker_info

from truepair.errors import DataError, TruepairError, message_of

_Batch = TypeVar("_Batch")

DATA_TIMEOUT = 1800.0
"""Seconds that a batch is waited for where nothing else is said."""

STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
"""What asks a run to stop: a scheduler, Ctrl-C, a terminal that is closed."""

SMALL = 64 * 1024
"""Bytes of a tensor that a training batch has from its process as an array, not in shared memory."""

_AHEAD = 2  # batches that each process reads ahead, as torch has it

_PATIENCE = 2.0  # seconds that a process has to end
_UNTIL_KNOWN = 60.0  # seconds that the system has, busy as it may be, to count a dead process as ended

_SHARED_MEMORY = Path("/dev/shm")

_REMEDY = (
    "give fewer loading processes (loop.workers or --workers; 0 needs no shared memory), a smaller loop.batch_size, or "
    "more shared memory (docker run --shm-size 8g, or --ipc host)"
)

_REMEDY_OF_MEMORY = "lower loop.workers or loop.batch_size"

Poll = Callable[[float], None]
"""Called about once a second with the seconds that a batch has been waited for; what it raises ends the wait."""


class BatchReader(Generic[_Batch]):
    """Reads batches, in processes of their own where there are to be some; to be closed after use.

    Torch alone would wait for ever for a process that hangs, for one that was killed while it handed over a batch, and
    for a batch that found no room in shared memory. So a thread waits for the processes, and the caller for the thread.

    Args:
        dataset: where samples come from.
        collate: makes a batch of samples.
        workers: loading processes; 0 for this one.
        timeout: seconds that a batch is waited for; 0 for ever. A batch that this process reads has no limit.
        options: further ones of a ``DataLoader``.
    """

    def __init__(
        self, dataset: Any, collate: Callable[[Any], _Batch], *, workers: int, timeout: float, **options: Any
    ) -> None:
        self.workers = workers
        self.timeout = timeout
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            collate_fn=_Delivered(collate) if workers else collate,
            num_workers=workers,
            worker_init_fn=ignore_stop_signals,
            **options,
        )
        self._batches: Any = None
        self._asked: SimpleQueue[bool] = SimpleQueue()
        self._answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    @property
    def started(self) -> bool:
        """Whether :meth:`start` has been called."""
        return self._batches is not None

    def start(self) -> None:
        """Begin to read what the sampler names now; the processes of a former call go on if they are to persist.

        Raises:
            DataError: the system does not let processes start.
        """
        first = not self.started
        try:
            with _signals_held():
                self._batches = iter(self._loader)
        except OSError as error:
            raise DataError(
                f"no {self.workers} loading processes can be started ({error.strerror or error}); give fewer "
                "(loop.workers or --workers; 0 needs none)"
            ) from error
        if first and self.workers:
            _disown(self._batches)
            threading.Thread(target=self._wait_for_processes, daemon=True).start()

    def next(self, poll: Poll | None = None) -> _Batch | None:
        """The next batch; None after the last.

        Raises:
            DataError: a process was killed, has no room for its batch, or needed too long for it.
        """
        try:
            batch: _Batch = self._awaited(poll) if self.workers else next(self._batches)
        except StopIteration:
            return None
        except TruepairError as error:
            raise type(error)(message_of(error)) from error
        except MemoryError as error:
            raise DataError(f"memory ran out while a batch was read; {_REMEDY_OF_MEMORY}") from error
        return batch

    def close(self) -> None:
        """End the processes; one that hangs, or waits for this one, would keep the program from ending."""
        batches, self._batches = self._batches, None
        end = getattr(batches, "_shutdown_workers", None)
        if end is None:
            return
        self._asked.put(False)
        processes = list(batches._workers)

        def kill() -> None:
            """Processes heed no other signal."""
            for process in processes:
                process.kill()

        killer = threading.Timer(_PATIENCE, kill)
        killer.daemon = True
        killer.start()
        try:
            end()
        finally:
            killer.cancel()
            kill()

    def _wait_for_processes(self) -> None:
        """What the thread does: fetch a batch when one is asked for; if it waits for ever, it ends with the program."""
        while self._asked.get():
            try:
                self._answers.put((next(self._batches), None))
            except BaseException as error:
                self._answers.put((None, error))

    def _awaited(self, poll: Poll | None) -> Any:
        """The next batch of the processes.

        Raises:
            StopIteration: there is none.
            DataError: see :meth:`next`.
        """
        began = time.monotonic()
        self._asked.put(True)
        while True:
            try:
                batch, error = self._answers.get(timeout=1.0)
            except Empty:
                self._require_alive()
            else:
                if error is None:
                    return batch
                if isinstance(error, RuntimeError | OSError | EOFError):
                    self._raise_known(error)
                raise error
            waited = time.monotonic() - began
            if poll is not None:
                poll(waited)
            if 0 < self.timeout <= waited:
                raise DataError(
                    f"the loading processes have had no batch for {waited:,.0f} s: where the pictures lie does not "
                    "answer, or is too slow; look there, or raise loop.data_timeout"
                )

    def _raise_known(self, error: Exception) -> None:
        """Raise what torch, or a connection to a process, says of its end as one line.

        Raises:
            DataError: a process was killed, or files cannot be opened for want of handles.
        """
        if "Too many open files" in str(error):
            raise DataError(
                "the loading processes need more open files than the system allows; raise the limit (ulimit -n 65536) "
                "or lower loop.workers"
            ) from error
        if "DataLoader worker" in str(error):
            self._require_alive()
            raise DataError(f"a loading process has ended of itself; {_REMEDY_OF_MEMORY}") from error
        if isinstance(error, EOFError | ConnectionError):  # what a dead process had ready, nobody can fetch any more
            end = time.monotonic() + _UNTIL_KNOWN
            while time.monotonic() < end and all(process.exitcode is None for process in self._batches._workers):
                time.sleep(0.01)  # its connections close before the system counts it as ended
            self._require_alive()

    def _require_alive(self) -> None:
        """Say which end a process has found.

        Raises:
            DataError: one was killed.
        """
        killed = [-process.exitcode for process in self._batches._workers if (process.exitcode or 0) < 0]
        if signal.SIGBUS in killed:
            raise DataError(f"a loading process was killed: {no_room()}")
        if killed:
            name = signal.Signals(killed[0]).name
            raise DataError(
                f"a loading process was killed ({name}), most often for want of memory; {_REMEDY_OF_MEMORY}"
            )


def read_batches(
    dataset: Any, collate: Callable[[Any], _Batch], *, workers: int, timeout: float = DATA_TIMEOUT, **options: Any
) -> Iterator[_Batch]:
    """Yield all batches of a data set; the processes end with the iteration.

    Args:
        dataset: where samples come from.
        collate: makes a batch of samples.
        workers: loading processes; 0 for this one.
        timeout: seconds that a batch is waited for.
        options: further ones of a ``DataLoader``.

    Raises:
        DataError: as for :meth:`BatchReader.next`.
    """
    reader = BatchReader(dataset, collate, workers=workers, timeout=timeout, **options)
    try:
        reader.start()
        while (batch := reader.next()) is not None:
            yield batch
    finally:
        reader.close()


def ignore_stop_signals(worker: int) -> None:
    """Let a loading process outlive a signal to the whole process group; it ends with the main process.

    Args:
        worker: number of the process; a DataLoader's ``worker_init_fn`` gets it.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def require_room(batch_bytes: int, batches: int, workers: int) -> None:
    """Refuse to start loading processes whose batches do not fit into shared memory.

    Args:
        batch_bytes: of a batch that lie in shared memory.
        batches: how many there are to read.
        workers: loading processes.

    Raises:
        DataError: there is too little room.
    """
    if not workers or not _SHARED_MEMORY.is_dir():  # elsewhere it is no folder, and a process says what is missing
        return
    needed = batch_bytes * min(batches, _AHEAD * workers)
    if needed > _free_room():
        raise DataError(f"{workers} loading processes need {needed / 1e6:,.1f} MB for their batches: {no_room()}")


def no_room() -> str:
    """What is said where shared memory is too small, with its remedy."""
    free = f" ({_SHARED_MEMORY}, {_free_room() / 1e6:,.1f} MB free)" if _SHARED_MEMORY.is_dir() else ""
    return f"shared memory{free} has too little room; {_REMEDY}"


def _free_room() -> int:
    return shutil.disk_usage(_SHARED_MEMORY).free


def room_for(*shape: int) -> Tensor:
    """A float32 tensor to be filled; in a loading process in shared memory, where its batch is to be anyway.

    Raises:
        DataError: there is no room for it.
    """
    needed = math.prod(shape) * torch.float32.itemsize  # bytes
    if get_worker_info() is None or needed <= SMALL:
        return torch.empty(shape)
    with _room_enough():
        memory = torch.UntypedStorage._new_shared(needed)
    return torch.empty(0).set_(memory).resize_(shape)


@contextmanager
def _room_enough() -> Iterator[None]:
    """What goes into shared memory.

    Raises:
        DataError: there is no room for it.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        raise DataError(f"a loading process cannot hand over its batch: {no_room()}") from error


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """All tensors of a batch: of a data class, a mapping, a list, or of parts of such kinds."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        yield from tensors_in(list(batch.values()))
    elif isinstance(batch, list | tuple):
        for part in batch:
            yield from tensors_in(part)
    elif hasattr(batch, "__dataclass_fields__"):
        yield from tensors_in(vars(batch))


class _Delivered:
    """A batch whose tensors lie in shared memory already.

    Left to the queue between processes, one for which there is no room is dropped behind the back of whoever waits.

    Args:
        collate: makes a batch of samples.
    """

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: Any) -> Any:
        """Make a batch of samples.

        Raises:
            DataError: there is no room for it.
        """
        batch = self.collate(samples)
        with _room_enough():
            for tensor in tensors_in(batch):
                if tensor.nbytes:
                    tensor.share_memory_()
        return batch


def _disown(batches: Any) -> None:
    """Leave processes out of what torch's handler of SIGCHLD looks after.

    It raises wherever the program is, and stays for all loaders once anybody's loader has set it.
    """
    if batches._worker_pids_set:
        _remove_worker_pids(id(batches))
        batches._worker_pids_set = False


@contextmanager
def _signals_held() -> Iterator[None]:
    """Processes start, and a signal waits until they have: Python drops what a handler raises while one forks.

    A process that dies is seen by who waits for its batch, and not, as torch has it, wherever the program is.
    """
    if threading.current_thread() is not threading.main_thread():  # where no handler is ever called
        yield
        return
    came: list[int] = []
    former: dict[int, Any] = {
        number: signal.signal(number, lambda number, frame: came.append(number)) for number in STOP_SIGNALS
    }
    if hasattr(signal, "SIGCHLD"):
        former[signal.SIGCHLD] = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler or signal.SIG_DFL)
        for number in came:
            signal.raise_signal(number)
