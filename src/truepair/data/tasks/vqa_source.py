"""Questions about images: files, tables, answer lists."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from datasets import Dataset

from truepair.data.formats.json import list_in, load_json
from truepair.data.formats.record import Skips
from truepair.data.table import PairTable
from truepair.data.tasks.base import (
    MissingImageError,
    TaskImagePaths,
    existing,
    first_of,
    first_repeated,
    read_entries,
    require_enough,
    table_of_rows,
    unwrapped,
)
from truepair.errors import ConfigError, DataError
from truepair.randomness import stable_hash
from truepair.relations.text import UNSTATED
from truepair.settings import Rate, check_settings

_COCO_PATTERN = "{subtype}/COCO_{subtype}_{id:012d}.jpg"

_PLAIN_PATTERN = "{id}.jpg"  # of images that lists and GQA name by their id alone

_IMAGE = ("image", "image_path", "img_path", "img", "file_name", "filename", "path")

_IMAGE_ID = ("image_id", "imageId", "img_id")

_QUESTION = ("question", "sent")

_PEOPLE = 10  # whose answers VQA v2 has of each question

_QUESTION_ID = ("question_id", "questionId", "qid", "id")

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
        questions: JSON file: the official questions (``v2_OpenEnded_mscoco_train2014_questions.json``); a list, or JSON
            Lines, of objects with image, question and answer, as the ALBEF line has them, or with ``img_id``, ``sent``
            and ``label``, as LXMERT has them; or GQA's object of them.
        annotations: JSON file of the official answers; absent where they are unknown, or stand in ``questions``.
        image_root: folder of the images.
        image_pattern: path of an image within it, of ``{subtype}`` (data_subtype of the file) and ``{id}``, where
            images are named by ids; the default is that of the official layout, and ``{id}.jpg`` in the others.
        allow_outside_root: accept image paths that leave ``image_root``; only for files you trust.
        answer_weight: what the answers of a question weigh together; ALBEF gives those of Visual Genome 0.5.
    """

    questions: str
    annotations: str | None = None
    image_root: str
    image_pattern: str = _COCO_PATTERN
    allow_outside_root: bool = False
    answer_weight: Rate = 1.0

    def __post_init__(self) -> None:
        check_settings(self)
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
            question_type; answers are as people wrote them, ``UNSTATED`` where the source leaves them out, types are
            empty where unknown.
        stated_ids: what the source calls questions whose ids are texts, by the numbers that stand for them.
        skipped: place and reason of what was left out.
        unreadable: rows of images that cannot be read; no question is about them.
    """

    images: PairTable
    questions: Dataset
    stated_ids: Mapping[int, str] = field(default_factory=dict)
    skipped: tuple[tuple[str, str], ...] = ()
    unreadable: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def rows(self) -> Dataset:
        """The questions."""
        return self.questions

    def without(self, unreadable: Iterable[int]) -> "VqaTable":
        """The questions about the other images.

        Args:
            unreadable: rows of images.
        """
        lost = frozenset(unreadable)
        kept = [row for row, image in enumerate(self.questions["image"]) if image not in lost]
        return replace(self, questions=self.questions.select(kept), unreadable=lost)

    def answered(self) -> "VqaTable":
        """The questions whose answers are known."""
        known = [row for row, answers in enumerate(self.questions["answers"]) if answers]
        return self if len(known) == len(self) else replace(self, questions=self.questions.select(known))


def open_vqa(sources: Sequence[VqaSource]) -> VqaTable:
    """Open questions; several sources, such as train, val and Visual Genome, become one table.

    An entry whose image is missing is left out and listed, and so is one of a list or of GQA that cannot be used. The
    official files are refused where one does not fit the other.

    Raises:
        DataError: a file or most of it cannot be read as questions or answers, they do not fit each other, an image
            path leaves its root, or more than a few images are missing.
    """
    images = TaskImagePaths(
        " and ".join(Path(source.questions).name for source in sources) or "an empty list of sources"
    )
    ids = _Ids()
    rows: list[_Question] = []
    skipped: list[tuple[str, str]] = []
    for source in sources:
        skips = Skips()
        own = list(_questions(source, images, ids, skips))
        images.require_enough()
        require_enough(skips, len(own), Path(source.questions).name)
        rows += own
        skipped += skips.entries
    found = VqaTable(images.table(), table_of_rows(rows, _SCHEMA), ids.stated, tuple(skipped))
    twice = first_repeated(row.question_id for row in rows)
    if twice is not None:
        name = ids.stated.get(twice, twice)
        raise DataError(f"{images.what} has a question_id twice, {name}; each question needs one of its own")
    return found


def load_answer_list(path: str | Path) -> list[str]:
    """The answers to choose from: a JSON list of texts.

    Raises:
        DataError: the file holds no such list, or an answer twice.
    """
    stated = load_json(existing(path))
    try:
        answers = [_answer(one) for one in stated] if isinstance(stated, list) else []
    except ValueError:
        answers = []
    if not answers:
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


class _Ids:
    """Numbers of questions.

    Attributes:
        stated: the texts that some of them stand for.
    """

    def __init__(self) -> None:
        self.stated: dict[int, str] = {}
        self._fresh = itertools.count(1)

    def number(self, stated: Any) -> int:
        """The number of a stated id; ids that are texts become numbers, missing ones are counted downwards from -1.

        Raises:
            ValueError: it is neither a whole number nor a text.
        """
        if stated is None:
            return -next(self._fresh)
        if isinstance(stated, float) and stated.is_integer():
            return int(stated)
        if isinstance(stated, int) and not isinstance(stated, bool):
            return stated
        if not isinstance(stated, str) or not stated.strip():
            raise ValueError(f"question_id is not an integer but {stated!r:.40}; repair it")
        plain = stated.isascii() and stated.isdigit() and str(int(stated)) == stated and len(stated) < 19
        number = int(stated) if plain else stable_hash("question", stated)
        self.stated[number] = stated
        return number


def _questions(source: VqaSource, images: TaskImagePaths, ids: _Ids, skips: Skips) -> Iterator[_Question]:
    path = existing(source.questions)
    content, part = read_entries(path)
    if part == "line" and not any(isinstance(entry, dict) for entry in content):
        load_json(path)  # says what is wrong with it
    if isinstance(content, dict) and isinstance(content.get("question"), str):
        content, part = [content], "line"  # the only one of JSON Lines
    content = unwrapped(content)
    if isinstance(content, list):
        listed = [(f"{path.name} {part} {number}", entry) for number, entry in enumerate(content, 1)]
    elif _is_gqa(content):
        listed = [
            (f"{path.name} question {name}", {"question_id": name, **entry} if isinstance(entry, dict) else entry)
            for name, entry in content.items()
        ]
    else:
        return _official(content, source, path, images, ids, skips)
    if source.annotations is not None:
        raise DataError(f"{path} is a list with answers of its own; leave annotations out")
    return _listed(listed, source, images, ids, skips)


def _is_gqa(content: Any) -> bool:
    """Whether a file is GQA's object: questions by their ids."""
    if not isinstance(content, dict) or isinstance(content.get("questions"), list):
        return False
    return any(isinstance(entry, dict) and "question" in entry for entry in content.values())


def _official(
    content: Any, source: VqaSource, path: Path, images: TaskImagePaths, ids: _Ids, skips: Skips
) -> Iterator[_Question]:
    """Questions in the layout of VQA v2."""
    answers = _annotations(source, ids)
    subtype = content.get("data_subtype", "") if isinstance(content, dict) else ""
    root = Path(source.image_root).expanduser()
    for number, entry in enumerate(list_in(content, "questions", path), 1):
        where = f"{path.name} question {number}"
        question_id = _question_id(entry, ids, where)
        image_id = first_of(entry, _IMAGE_ID)
        if not _is_name(image_id):
            raise DataError(f"{where}: image_id is not an integer but {image_id!r:.40}; repair it")
        own = {} if answers is None else answers.pop(question_id, None)
        if own is None:
            raise DataError(f"{where} (id {question_id}) has no annotation; are the two files of one split?")
        try:
            image = images.add(root, _path_of(source, image_id, subtype), outside=source.allow_outside_root)
        except MissingImageError as error:
            skips.row(where, str(error))
            continue
        yield _Question(
            question_id,
            image,
            _text(entry, "question", where),
            own.get("answers", []),
            source.answer_weight,
            own.get("answer_type", ""),
            own.get("question_type", ""),
        )
    if answers:
        raise DataError(f"{len(answers)} annotations answer no question of {path.name}; are the files of one split?")


def _annotations(source: VqaSource, ids: _Ids) -> dict[int, dict[str, Any]] | None:
    """Answers and types by question id; None where no file is named."""
    if source.annotations is None:
        return None
    path = existing(source.annotations)
    found = {}
    for number, entry in enumerate(list_in(load_json(path), "annotations", path), 1):
        where = f"{path.name} annotation {number}"
        given = entry.get("answers")
        if not isinstance(given, list) or not given or not all(isinstance(answer, dict) for answer in given):
            raise DataError(f"{where} has no list of answers; repair it")
        found[_question_id(entry, ids, where)] = {
            "answers": [_official_answer(answer, where) for answer in given],
            "answer_type": str(entry.get("answer_type", "")),
            "question_type": str(entry.get("question_type", "")),
        }
    return found


def _listed(
    entries: list[tuple[str, Any]], source: VqaSource, images: TaskImagePaths, ids: _Ids, skips: Skips
) -> Iterator[_Question]:
    """Questions in the lists of the ALBEF line, or in GQA's object; those without an id are numbered downwards."""
    root = Path(source.image_root).expanduser()
    for where, entry in entries:
        if entry is None:
            continue  # an empty line
        try:
            path, question = _listed_image(entry, source), _listed_question(entry)
            answers = _listed_answers(entry, where, skips)
            question_id = ids.number(first_of(entry, _QUESTION_ID))
            image = images.add(root, path, outside=source.allow_outside_root)
        except ValueError as error:
            skips.row(where, str(error))
            continue
        types = entry.get("types")
        kind = types.get("structural", "") if isinstance(types, dict) else entry.get("question_type", "")
        yield _Question(
            question_id,
            image,
            question,
            answers,
            source.answer_weight,
            str(entry.get("answer_type") or ""),
            str(kind or ""),
        )


def _listed_image(entry: Any, source: VqaSource) -> str:
    """The path of the image of an entry.

    Raises:
        ValueError: it names none, or is no object.
    """
    if isinstance(entry, ValueError):
        raise ValueError(f"is not JSON ({entry}); repair or delete it")
    if not isinstance(entry, dict):
        raise ValueError(f"is not an object but {entry!r:.40}; repair or delete it")
    stated, image_id = first_of(entry, _IMAGE), first_of(entry, _IMAGE_ID)
    if isinstance(stated, str) and stated.strip():
        return stated
    if stated is not None or not _is_name(image_id):
        raise ValueError(f"names no image but {stated!r:.40}; repair it")
    return _path_of(source, image_id, "", plain=True)


def _listed_question(entry: Mapping[str, Any]) -> str:
    question = first_of(entry, _QUESTION)
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"has no question but {question!r:.40}; repair it")
    return question


def _listed_answers(entry: Mapping[str, Any], where: str, skips: Skips) -> list[str]:
    """The answers of an entry; none where it states none.

    Raises:
        ValueError: it states some, and none means anything.
    """
    stated = first_of(entry, ("answer", "answers"))
    if stated is None and isinstance(entry.get("label"), dict):
        return _scored_answers(entry["label"])
    if stated is None or stated == []:
        return []
    found, reasons = [], []
    for one in stated if isinstance(stated, list) else [stated]:
        try:
            found.append(_answer(one))
        except ValueError as error:
            reasons.append(str(error))
    if not found:
        raise ValueError(reasons[0])
    for reason in reasons:
        skips.part(where, reason)
    return found


def _scored_answers(scores: Mapping[str, Any]) -> list[str]:
    """Ten people's answers with the scores that LXMERT states: of each as many as its accuracy stands for.

    One, two or three of ten give an answer a score of 0.3, 0.6 and 0.9; four and more give it 1. Answers that the file
    leaves out, since they are rare, are ``UNSTATED``.

    Raises:
        ValueError: a score is none, or an answer is empty.
    """
    counts: dict[str, int] = {}
    for answer, score in scores.items():
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
            raise ValueError(f"score of the answer '{answer:.40}' is {score!r:.40}; it must be from 0 to 1")
        counts[_answer(answer)] = 4 if score > 0.95 else round(score / 0.3)
    sure = [answer for answer, count in counts.items() if count == 4]
    left = _PEOPLE - sum(counts.values())
    for number in range(left if sure else 0):
        counts[sure[number % len(sure)]] += 1
    found = [answer for answer, count in counts.items() for _ in range(count)]
    return [*found, *[UNSTATED] * (_PEOPLE - len(found))] if found else []


def _answer(stated: Any) -> str:
    """An answer as text: numbers as JSON writes them but without ".0", true and false as "yes" and "no".

    Raises:
        ValueError: it is none of these, or empty.
    """
    if isinstance(stated, dict):
        stated = stated.get("answer")
    if isinstance(stated, bool):
        return "yes" if stated else "no"
    if isinstance(stated, int | float) and math.isfinite(stated):
        return str(int(stated)) if float(stated).is_integer() else str(stated)
    if not isinstance(stated, str) or not stated.strip():
        raise ValueError(f"answer is neither a text nor a number but {stated!r:.40}; repair it")
    return stated


def _is_name(image_id: Any) -> bool:
    """Whether an image can be named by it."""
    return not isinstance(image_id, bool) and (
        isinstance(image_id, int) or (isinstance(image_id, str) and bool(image_id.strip()))
    )


def _path_of(source: VqaSource, image_id: int | str, subtype: str, *, plain: bool = False) -> str:
    """The path of an image that is named by its id alone."""
    pattern = _PLAIN_PATTERN if plain and source.image_pattern == _COCO_PATTERN else source.image_pattern
    try:
        return pattern.format(subtype=subtype, id=image_id)
    except ValueError:  # the pattern wants a number
        if not str(image_id).isdecimal():
            raise DataError(f"image_pattern is '{pattern}', and an image is called {image_id}; give another") from None
        return pattern.format(subtype=subtype, id=int(image_id))


def _question_id(entry: Mapping[str, Any], ids: _Ids, where: str) -> int:
    """The number of a question of the official layout, which must have an id."""
    stated = entry.get("question_id")
    try:
        if stated is None:
            raise ValueError("question_id is not an integer but None; repair it")
        return ids.number(stated)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None


def _official_answer(answer: Mapping[str, Any], where: str) -> str:
    if answer.get("answer") is None or answer["answer"] == "":
        raise DataError(f"{where}: answer is not a text but {answer.get('answer')!r:.40}; repair it")
    try:
        return _answer(answer)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None


def _text(entry: dict[str, Any], name: str, where: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {name} is not a text but {value!r:.40}; repair it")
    return value
