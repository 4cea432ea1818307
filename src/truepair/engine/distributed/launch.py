"""What torchrun or accelerate said to this process when they started it; read without importing torch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from truepair.errors import ConfigError, TruepairError

_LOST = ("gloo/", "NCCL", "store->", "DistStoreError", "DistBackendError", "DistNetworkError")


def is_first_process() -> bool:
    """Whether this is the only process of a run, or the first of several that torchrun or accelerate started."""
    return os.environ.get("RANK", "0") == "0"


def started_processes() -> int:
    """How many processes torchrun or accelerate started for this command, this one included."""
    return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ and "WORLD_SIZE" in os.environ else 1


def require_one_process(command: str) -> None:
    """Refuse a command that computes in one process where several do the same, each into the files of the others.

    Args:
        command: as it is called, such as "truepair embed".

    Raises:
        ConfigError: several processes were started.
    """
    count = started_processes()
    if count > 1:
        raise ConfigError(
            f"{command} computes in one process, and {count} were started; call it without torchrun or accelerate "
            "(or unset RANK and WORLD_SIZE, if nobody started others)"
        )


@contextmanager
def telling_lost_processes() -> Iterator[None]:
    """Say in one line that another process of the run has ended, in place of what the library says of its connection.

    Raises:
        TruepairError: a process waited for another one that is gone.
    """
    try:
        yield
    except RuntimeError as error:
        told = f"{type(error).__name__}: {error}"
        if started_processes() == 1 or not any(sign in told for sign in _LOST):
            raise
        raise TruepairError(
            f"process {os.environ['RANK']} of {started_processes()} lost the connection to another one, which has "
            "ended: see what that one said; the same command goes on from the last checkpoint, and with "
            "--max-restarts torchrun gives it by itself"
        ) from error
