"""What people said: one line of a file for each answer, on the disk before anyone goes on."""

import json
import os
from collections.abc import Callable, Hashable, Iterable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from filelock import FileLock, Timeout

from truepair.errors import ConfigError, DataError
from truepair.files import one_line_errors, sync
from truepair.mining.candidates import ANSWERS_FILE

KINDS = ("yes", "no", "unsure", "skip", "same_picture")
"""What a person may answer to "is this caption true of this picture?"."""

_ADVICE = "free some space; no answer is taken until then"
_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer of one person.

    Attributes:
        time: when, as ISO 8601 in UTC.
        person: who.
        image_id: an id of the picture.
        caption_id: an id of the caption.
        answer: one of :data:`KINDS`, or "undo", which takes the person's answer on this pair back.
        other_id: an id of the picture that the caption was declared for; the two are one for "same_picture".
        picture: number of the picture when it was asked; ids count where they disagree. -1 where it is not known.
        caption: number of the caption.
        text: the caption.
        image: path of the picture.
        note: of the person.
        why: it was asked: "rank", "uncertain", "sample", "again".
        probability: of the judge at that time.
        seconds: that the person took.

    Raises:
        DataError: a field is missing, or says nothing that can be meant.
    """

    time: str
    person: str
    image_id: int
    caption_id: int
    answer: str
    other_id: int | None = None
    picture: int = -1
    caption: int = -1
    text: str = ""
    image: str = ""
    note: str = ""
    why: str = ""
    probability: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.answer not in (*KINDS, "undo"):
            raise DataError(f"'{self.answer}' is no answer; give one of {', '.join(KINDS)}")
        if not self.person.strip():
            raise DataError("an answer needs the name of a person")
        if self.answer == "same_picture" and self.other_id is None:
            raise DataError("same_picture needs other_id, an id of the other picture")

    @property
    def match(self) -> bool | None:
        """Whether the person says that the pair matches; None where it is left open."""
        return {"yes": True, "same_picture": True, "no": False}.get(self.answer)

    @classmethod
    def of(cls, stated: dict[str, Any]) -> "Answer":
        """Read one from the fields of a line.

        Raises:
            DataError: it is none.
        """
        try:
            known = {each.name: stated[each.name] for each in fields(cls) if stated.get(each.name) is not None}
            for name, kind in _TYPES.items():
                if name in known:
                    known[name] = kind(known[name])
            return cls(**known)
        except (TypeError, ValueError, AttributeError) as error:
            raise DataError(f"no answer ({error}); it needs time, person, image_id, caption_id and answer") from error


_TYPES: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("time", "person", "answer", "text", "image", "note", "why"), str),
    **dict.fromkeys(("image_id", "caption_id", "other_id", "picture", "caption"), int),
    **dict.fromkeys(("probability", "seconds"), float),
}


class AnswerLog:
    """The answers of a mined folder, ``answers.jsonl``: lines are appended and never changed.

    One process writes it at a time. A line that a killed process left half-written is cut off, and said.

    Args:
        folder: made by ``truepair mine``.
        say: prints a line.

    Raises:
        ConfigError: another process has it open.
        DataError: a line is damaged, or the disk refuses.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.file = folder / ANSWERS_FILE
        self._lock = FileLock(folder / "answers.lock")
        with one_line_errors(self.file, DataError, _ADVICE):
            try:
                self._lock.acquire(timeout=0)
            except Timeout as error:
                raise ConfigError(
                    f"another truepair review has {folder} open; several people can use its page, or end it first"
                ) from error
        try:
            self.lines = self._read(say)
            with one_line_errors(self.file, DataError, _ADVICE):
                self._opened: BinaryIO = self.file.open("ab", buffering=0)
                sync(folder)
        except BaseException:
            self._lock.release()
            raise

    def append(self, lines: Iterable[dict[str, Any]]) -> None:
        """Write lines; they are on the disk when it returns.

        Raises:
            DataError: the disk refuses; then none of them counts.
        """
        stated = list(lines)
        data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in stated).encode("utf-8", "surrogatepass")
        before = self.file.stat().st_size
        with one_line_errors(self.file, DataError, _ADVICE):
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[self._opened.write(rest) or 0 :]
                os.fsync(self._opened.fileno())
            except OSError:
                os.truncate(self.file, before)
                raise
        self.lines += stated

    def close(self) -> None:
        """Let others open it."""
        self._opened.close()
        self._lock.release()

    def _read(self, say: Callable[[str], None]) -> list[dict[str, Any]]:
        if not self.file.is_file():
            return []
        with one_line_errors(self.file, DataError, _ADVICE):
            data = self.file.read_bytes()
            whole, _, cut = data.rpartition(b"\n")
            if cut:
                say(f"the last line of {self.file} was only half-written; it is cut off ({len(cut)} bytes)")
                os.truncate(self.file, len(data) - len(cut))
        lines = []
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            try:
                stated = json.loads(line)
                if stated["kind"] == "answer":
                    Answer.of(stated)
            except (ValueError, TypeError, KeyError, DataError) as error:
                raise DataError(f"{self.file}, line {number}, is damaged ({error}); mend or remove it") from error
            lines.append(stated)
        return lines


def line_of(answer: Answer) -> dict[str, Any]:
    """An answer as a line of the file: what is not known is left out."""
    stated = {name: value for name, value in asdict(answer).items() if value is not None and value != ""}
    return {"kind": "answer", **stated}


def standing(answers: Iterable[Answer], key: Callable[[Answer], _Key]) -> dict[tuple[str, _Key], Answer]:
    """The answers that count: of each person on each pair the latest, unless it was taken back.

    Args:
        answers: in the order in which they were given.
        key: names the pair of an answer.

    Returns:
        In the order in which they were given.
    """
    found: dict[tuple[str, _Key], Answer] = {}
    for answer in answers:
        place = (answer.person, key(answer))
        found.pop(place, None)
        if answer.answer != "undo":
            found[place] = answer
    return found


def now() -> str:
    """The time, as answers state it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
