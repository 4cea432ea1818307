"""The one door to the terminal: what is shown is text, and nothing that is shown can stop a run.

A terminal may be lost, a pipe have no reader, the disk under a redirection be full. The run goes on then, and its log
holds what was not shown. Names of files and captions are other people's text: they are no markup and no format, and a
control character in them is seen, not obeyed.
"""

import contextlib
import errno
import io
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.text import Text

_GONE = (errno.EPIPE, errno.EIO)  # the reader or the terminal, and nobody misses what was shown

# Control characters, marks that turn the direction of writing, separators of lines, what has no width, half a character
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ud800-\udfff]"
)


def visible(text: str, *, keep: str = "") -> str:
    r"""Text with an escape such as ``\x1b`` in place of each character that a terminal would obey or not show.

    Args:
        text: any.
        keep: such characters that stay.
    """
    return _HIDDEN.sub(lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], text)


def console(*, errors: bool = False) -> "Console":
    """A console that takes text for text, and outlives its stream.

    Args:
        errors: stderr instead of stdout.
    """
    from rich.console import Console

    class Screen(Console):
        """Shows what is hidden in any text. A ``str`` is one line; a ``Text`` may have several, they are ours."""

        def render_str(self, text: str, **options: Any) -> "Text":
            """A text without markup."""
            return super().render_str(visible(text), **options)

        def render(self, renderable: "RenderableType", options: "ConsoleOptions | None" = None) -> "Iterable[Segment]":
            """The parts of anything that is printed, those that steer the terminal as they are."""
            for segment in super().render(renderable, options):
                yield segment if segment.control else segment._replace(text=visible(segment.text, keep="\n"))

    stream = sys.stderr if errors else sys.stdout
    return Screen(file=None if stream is None else unfailing(stream), stderr=errors, markup=False, emoji=False)


def say(line: str) -> None:
    """Print a line on stderr as it is: a path is not broken."""
    console(errors=True).print(line, highlight=False, soft_wrap=True)


def show(what: "RenderableType") -> None:
    """Print a table or a line on stdout."""
    console().print(what)


def unfailing(stream: TextIO) -> TextIO:
    """The same stream, but for errors: a character that it cannot encode is escaped, a refused write is dropped.

    Args:
        stream: of a file; any other is returned as it is.
    """
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # Python leaves the buffer out where it is told to
    if not isinstance(raw, io.FileIO):
        return stream
    with contextlib.suppress(OSError, ValueError):  # what is left in it of before
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Unfailing(raw, stream)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=True,
    )


@contextmanager
def unfailing_streams() -> Iterator[None]:
    """Make what anybody prints inside unable to fail, and say at the end if it was lost on a full disk."""
    _open_closed()
    before, formatted = (sys.stdout, sys.stderr), warnings.formatwarning
    sys.stdout, sys.stderr = unfailing(sys.stdout), unfailing(sys.stderr)
    warnings.formatwarning = _format_warning
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
        if isinstance(raw, _Unfailing) and raw.refusal is not None and raw.refusal.errno not in _GONE:
            say(f"truepair: not all of what was printed could be written: {raw.refusal.strerror}")
        (sys.stdout, sys.stderr), warnings.formatwarning = before, formatted


class _Unfailing(io.RawIOBase):
    """Writes to a file until it refuses; what it refuses is dropped, and the next is tried again.

    Args:
        raw: the file.
        owner: closes the file when nobody holds it any more, so it is held.

    Attributes:
        refusal: the first one.
    """

    def __init__(self, raw: io.FileIO, owner: object) -> None:
        self._raw = raw
        self._owner = owner
        self.refusal: OSError | None = None

    def writable(self) -> bool:
        """It is."""
        return True

    def isatty(self) -> bool:
        """Whether the file is a terminal."""
        return self._raw.isatty()

    def fileno(self) -> int:
        """The number of the file."""
        return self._raw.fileno()

    def write(self, data: Any) -> int:
        """Write bytes; they count as written, whatever the file says."""
        rest = memoryview(data).cast("B")
        count = len(rest)
        try:
            while len(rest):
                written = self._raw.write(rest)
                if written is None:  # full for now, and another program has set it not to wait
                    os.set_blocking(self.fileno(), True)
                else:
                    rest = rest[written:]
        except OSError as refusal:
            self.refusal = self.refusal or refusal
        except ValueError:  # somebody has closed it
            self.refusal = self.refusal or OSError(errno.EBADF, os.strerror(errno.EBADF))
        return count


def _open_closed() -> None:
    """Open stdin, stdout and stderr where they are closed: a data file would get the number, and what libraries print.

    The lowest free number is the next that is opened.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as one line, without the code that gave it."""
    return f"{visible(str(message))} ({category.__name__}, {visible(filename)}:{lineno})\n"
