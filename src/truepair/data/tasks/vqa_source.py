"""Questions about images: files, tables, answer lists."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from datasets import Dataset

from truepair.data.formats.json import list_in, load_json
from truepair.data.table import PairTable
from truepair.data.tasks.base import TaskImagePaths, table_of_rows
from truepair.errors import ConfigError, DataError

_SCHEMA = pa.schema(
    [
        ("question_id", pa.int64()),
        ("image", pa.int64()),
        ("question", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("weight", pa.float32()),
        ("answer_type", pa.string()),
        ("question_type", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class VqaSource:
    """One file of questions, and what belongs to it.

    Attributes:
        questions: JSON file: the official questions (``v2_OpenEnded_mscoco_train2014_questions.json``), or a list of
            objects with image, question and answer, as the ALBEF line has them.
        annotations: JSON file of the official answers; absent where they are unknown, or stand in ``questions``.
        image_root: folder of the images.
        image_pattern: path of an image within it, of ``{subtype}`` (data_subtype of the file) and ``{id}``; for the
            official layout.
        answer_weight: what the answers of a question weigh together; ALBEF gives those of Visual Genome 0.5.
    """

    questions: str
    annotations: str | None = None
    image_root: str
    image_pattern: str = "{subtype}/COCO_{subtype}_{id:012d}.jpg"
    answer_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.answer_weight <= 0:
            raise ConfigError(f"answer_weight is {self.answer_weight}; give a positive number")
        try:
            self.image_pattern.format(subtype="x", id=1)
        except (KeyError, ValueError, IndexError):
            raise ConfigError(
                f"image_pattern is '{self.image_pattern}'; it may hold {{subtype}} and {{id:012d}}"
            ) from None


@dataclass(frozen=True)
class VqaTable:
    """Questions and the images they are about.

    Attributes:
        images: one row a distinct image.
        questions: columns question_id, image (row of ``images``), question, answers, weight, answer_type and
            question_type; answers are as people wrote them, types are empty where unknown.
    """

    images: PairTable
    questions: Dataset

    def __len__(self) -> int:
        return len(self.questions)


def open_vqa(sources: Sequence[VqaSource]) -> VqaTable:
    """Open questions; several sources, such as train, val and Visual Genome, become one table.

    Raises:
        DataError: a file cannot be read as questions or answers, they do not fit each other, or images are missing.
    """
    images = TaskImagePaths(
        " and ".join(Path(source.questions).name for source in sources) or "an empty list of sources"
    )
    numbers = itertools.count(1)
    rows = [row for source in sources for row in _questions(source, images, numbers)]
    found = VqaTable(images.table(), table_of_rows(rows, _SCHEMA))
    if len(set(found.questions["question_id"])) < len(rows):
        raise DataError(f"{images.what} has a question_id twice; each question needs one of its own")
    return found


def load_answer_list(path: str | Path) -> list[str]:
    """The answers to choose from: a JSON list of texts.

    Raises:
        DataError: the file holds no such list, or an answer twice.
    """
    answers = load_json(_existing(path))
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a.strip() for a in answers):
        raise DataError(f"{path} holds no JSON list of answers; give one text for each answer")
    if len(set(answers)) < len(answers):
        raise DataError(f"{path} has an answer twice; each may stand there once")
    return answers


class _Question(NamedTuple):
    """One question as its source states it; ``answers`` is empty where they are unknown."""

    question_id: int
    image: int
    question: str
    answers: list[str]
    weight: float
    answer_type: str
    question_type: str


def _questions(source: VqaSource, images: TaskImagePaths, numbers: Iterator[int]) -> Iterator[_Question]:
    path = _existing(source.questions)
    content = load_json(path)
    if isinstance(content, list):
        if source.annotations is not None:
            raise DataError(f"{path} is a list with answers of its own; leave annotations out")
        return _listed(content, source, path, images, numbers)
    return _official(content, source, path, images)


def _official(content: Any, source: VqaSource, path: Path, images: TaskImagePaths) -> Iterator[_Question]:
    """Questions in the layout of VQA v2."""
    answers = _annotations(source)
    subtype = content.get("data_subtype", "") if isinstance(content, dict) else ""
    root = Path(source.image_root).expanduser()
    for number, entry in enumerate(list_in(content, "questions", path), 1):
        where = f"{path.name} question {number}"
        question_id, image_id = _integer(entry, "question_id", where), _integer(entry, "image_id", where)
        own = {} if answers is None else answers.pop(question_id, None)
        if own is None:
            raise DataError(f"{where} (id {question_id}) has no annotation; are the two files of one split?")
        yield _Question(
            question_id,
            images.add(root, source.image_pattern.format(subtype=subtype, id=image_id)),
            _text(entry, "question", where),
            own.get("answers", []),
            source.answer_weight,
            own.get("answer_type", ""),
            own.get("question_type", ""),
        )
    if answers:
        raise DataError(f"{len(answers)} annotations answer no question of {path.name}; are the files of one split?")


def _annotations(source: VqaSource) -> dict[int, dict[str, Any]] | None:
    """Answers and types by question id; None where no file is named."""
    if source.annotations is None:
        return None
    path = _existing(source.annotations)
    found = {}
    for number, entry in enumerate(list_in(load_json(path), "annotations", path), 1):
        where = f"{path.name} annotation {number}"
        given = entry.get("answers")
        if not isinstance(given, list) or not given or not all(isinstance(answer, dict) for answer in given):
            raise DataError(f"{where} has no list of answers; repair it")
        found[_integer(entry, "question_id", where)] = {
            "answers": [_text(answer, "answer", where) for answer in given],
            "answer_type": str(entry.get("answer_type", "")),
            "question_type": str(entry.get("question_type", "")),
        }
    return found


def _listed(
    entries: list[Any], source: VqaSource, path: Path, images: TaskImagePaths, numbers: Iterator[int]
) -> Iterator[_Question]:
    """Questions in the lists of the ALBEF line; those without an id are numbered downwards from -1."""
    root = Path(source.image_root).expanduser()
    for number, entry in enumerate(entries, 1):
        where = f"{path.name} entry {number}"
        if not isinstance(entry, dict):
            raise DataError(f"{where} is not an object but {entry!r:.40}; repair or delete it")
        answer = entry.get("answer", [])
        answers = [answer] if isinstance(answer, str) else answer
        if not isinstance(answers, list) or not all(isinstance(each, str) for each in answers):
            raise DataError(f"{where}: answer is neither a text nor a list of texts; repair it")
        question_id = _integer(entry, "question_id", where) if "question_id" in entry else -next(numbers)
        image = images.add(root, _text(entry, "image", where))
        yield _Question(question_id, image, _text(entry, "question", where), answers, source.answer_weight, "", "")


def _existing(path: str | Path) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"there is no file {file}; check the path")
    return file


def _integer(entry: dict[str, Any], name: str, where: str) -> int:
    value = entry.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"{where}: {name} is not an integer but {value!r:.40}; repair it")
    return value


def _text(entry: dict[str, Any], name: str, where: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {name} is not a text but {value!r:.40}; repair it")
    return value
