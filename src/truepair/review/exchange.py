"""Answers from and to other programs: JSONL, CSV, and the JSON of Label Studio."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from truepair.errors import ConfigError, DataError
from truepair.files import write_text
from truepair.review.answers import KINDS, Answer, line_of, now

SUFFIXES = (".jsonl", ".csv", ".json")
"""JSONL as the log has it, CSV with a header, and Label Studio's JSON."""

_CHOICE = "match"
"""Name of the choice in Label Studio: ``<Choices name="match" toName="image">`` with the kinds of answers."""


@dataclass(frozen=True)
class Read:
    """What a file held.

    Attributes:
        answers: in the order of the file.
        left_out: how many lines or tasks are no answers.
    """

    answers: list[Answer]
    left_out: int


def read_answers(file: Path) -> Read:
    """Read answers by the suffix of their file.

    A line of another kind, an undo, an annotation that was cancelled and a task that nobody answered are left out and
    counted.

    Raises:
        ConfigError: an unknown suffix.
        DataError: the file cannot be read, or holds no answer at all.
    """
    _check(file)
    try:
        text = file.read_text(encoding="utf-8-sig")
        stated = {".jsonl": _jsonl, ".csv": _csv, ".json": _tasks}[file.suffix.lower()](text)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error
    except (ValueError, csv.Error, RecursionError) as error:
        raise DataError(f"{file} is no {file.suffix.lower()} file of answers ({error})") from error
    answers, first = [], ""
    for one in stated:
        try:
            if not isinstance(one, dict) or one.get("kind", "answer") != "answer" or one.get("answer") == "undo":
                raise DataError("it is of another kind")
            answers.append(Answer.of({"time": now()} | {name: value for name, value in one.items() if value != ""}))
        except DataError as error:
            first = first or str(error)
    if not answers:
        raise DataError(f"{file} holds no answers" + (f"; its first line: {first}" if first else ""))
    return Read(answers, len(stated) - len(answers))


def write_answers(file: Path, answers: Sequence[Answer]) -> None:
    """Write answers by the suffix of the file.

    Raises:
        ConfigError: an unknown suffix.
        DataError: the disk refuses.
    """
    _check(file)
    if file.suffix.lower() == ".jsonl":
        text = "".join(json.dumps(line_of(answer), ensure_ascii=False) + "\n" for answer in answers)
    elif file.suffix.lower() == ".csv":
        opened = io.StringIO()
        writer = csv.DictWriter(opened, [each.name for each in fields(Answer)])
        writer.writeheader()
        writer.writerows(asdict(answer) for answer in answers)
        text = opened.getvalue()
    else:
        text = json.dumps(_as_tasks(answers), indent=1, ensure_ascii=False)
    write_text(file, text)


def _check(file: Path) -> None:
    if file.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{file} is no file of answers by its name; it ends in one of {', '.join(SUFFIXES)}")


def _jsonl(text: str) -> list[Any]:
    found: list[Any] = []
    for line in text.split("\n"):
        if line.strip():
            try:
                found.append(json.loads(line))
            except ValueError:
                found.append(None)  # counted
    return found


def _csv(text: str) -> list[Any]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def _tasks(text: str) -> list[Any]:
    """One item for each annotation of each task; None for a task without any."""
    tasks = json.loads(text)
    if not isinstance(tasks, list):
        raise ValueError("Label Studio's JSON is a list of tasks")
    found: list[Any] = []
    for task in tasks:
        annotations = task.get("annotations") if isinstance(task, dict) else None
        found += [_of_annotation(task, one) for one in annotations] if annotations else [None]
    return found


def _of_annotation(task: dict[str, Any], annotation: Any) -> dict[str, Any] | None:
    if not isinstance(annotation, dict) or annotation.get("was_cancelled"):
        return None
    data = task.get("data")
    told = dict(data) if isinstance(data, dict) else {}
    answer, note = None, ""
    for part in annotation.get("result") or []:
        value = part.get("value") if isinstance(part, dict) else None
        if not isinstance(value, dict):
            continue
        if value.get("choices"):
            answer = str(value["choices"][0]).strip().lower().replace(" ", "_")
        elif value.get("text"):
            note = value["text"] if isinstance(value["text"], str) else "\n".join(value["text"])
    if answer not in KINDS:
        return None
    by = annotation.get("completed_by")
    person = by.get("email") or by.get("id") if isinstance(by, dict) else by
    stated = {
        "person": str(told.get("person") or person or "label studio"),
        "answer": answer,
        "note": note,
        "seconds": annotation.get("lead_time"),
        "time": annotation.get("created_at") or now(),
    }
    return {name: value for name, value in told.items() if name in _DATA} | stated


_DATA = ("image_id", "caption_id", "other_id", "picture", "caption", "text", "image", "why", "probability")


def _as_tasks(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """A task for each answer: Label Studio knows people by its own accounts, so that the name goes with the data."""
    tasks = []
    for number, answer in enumerate(answers, start=1):
        stated = asdict(answer)
        choice = {"from_name": _CHOICE, "to_name": "image", "type": "choices", "value": {"choices": [answer.answer]}}
        result: list[dict[str, Any]] = [choice]
        if answer.note:
            note = {"from_name": "note", "to_name": "image", "type": "textarea", "value": {"text": [answer.note]}}
            result.append(note)
        tasks.append(
            {
                "id": number,
                "data": {name: stated[name] for name in _DATA if stated[name] is not None} | {"person": answer.person},
                "annotations": [{"result": result, "lead_time": answer.seconds, "created_at": answer.time}],
            }
        )
    return tasks
