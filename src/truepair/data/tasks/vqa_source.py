"""Questions about images: files, tables, answer lists."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
from truepair.data.tasks.vqa_entries import (
    Choices,
    answer_text,
    is_aokvqa,
    listed_answers,
    listed_choices,
    listed_question,
)
from truepair.data.tasks.vqa_images import COCO_PATTERN, QuestionImages
from truepair.errors import ConfigError, DataError
from truepair.randomness import stable_hash
from truepair.relations.text import UNSTATED
from truepair.settings import Rate, check_settings

_IMAGE = ("image", "image_path", "img_path", "img", "file_name", "filename", "path")

_IMAGE_ID = ("image_id", "imageId", "img_id")

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
        questions: JSON file: the official questions of VQA v2 or OK-VQA
            (``v2_OpenEnded_mscoco_train2014_questions.json``); A-OKVQA's list (``aokvqa_v1p0_train.json``); a list, or
            JSON Lines, of objects with image, question and answer, as the ALBEF line has them, or with ``img_id``,
            ``sent`` and ``label``, as LXMERT has them; or GQA's object of them.
        annotations: JSON file of the official answers; absent where they are unknown, or stand in ``questions``.
        answer_field: which answers of OK-VQA's annotations count: "answer", stemmed, which its evaluation scores; or
            "raw_answer", as people wrote them.
        image_root: folder of the images.
        image_pattern: path of an image within it, of ``{subtype}`` (data_subtype of the file; ``val2017`` of A-OKVQA's
            split val) and ``{id}``, where images are named by ids. By default that of the official files, and where
            COCO's photographs lie in another of its layouts, such as ``train2017/{id:012d}.jpg``, they are found
            there; ``{id}.jpg`` in other lists.
        allow_outside_root: accept image paths that leave ``image_root``; only for files you trust.
        answer_weight: what the answers of a question weigh together; ALBEF gives those of Visual Genome 0.5.
    """

    questions: str
    annotations: str | None = None
    answer_field: Literal["answer", "raw_answer"] = "answer"
    image_root: str
    image_pattern: str = COCO_PATTERN
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
        choices: those of the questions that ask among some, by question_id: of A-OKVQA.
        stated_ids: what the source calls questions whose ids are texts, by the numbers that stand for them.
        notes: what is to be said of the sources, a line each.
        skipped: place and reason of what was left out.
        unreadable: rows of images that cannot be read; no question is about them.
    """

    images: PairTable
    questions: Dataset
    choices: Mapping[int, Choices] = field(default_factory=dict)
    stated_ids: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
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
    choices: dict[int, Choices] = {}
    notes: list[str] = []
    skipped: list[tuple[str, str]] = []
    for source in sources:
        reader = _SourceReader(source, images, ids)
        own = list(reader.questions())
        images.require_enough()
        require_enough(reader.skips, len(own), reader.path.name)
        rows += own
        choices |= reader.choices
        notes += reader.notes()
        skipped += reader.skips.entries
    found = VqaTable(
        images.table(), table_of_rows(rows, _SCHEMA), choices, ids.stated, tuple(notes), skipped=tuple(skipped)
    )
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
        answers = [answer_text(one) for one in stated] if isinstance(stated, list) else []
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


class _SourceReader:
    """Reads the questions of one source.

    Args:
        source: which.
        rows: collects the images of all sources.
        ids: numbers of the questions of all sources.

    Attributes:
        path: of its questions.
        skips: what is left out.
        choices: of the questions that ask among some, by question id.
    """

    def __init__(self, source: VqaSource, rows: TaskImagePaths, ids: _Ids) -> None:
        self.path = existing(source.questions)
        self.skips = Skips()
        self.choices: dict[int, Choices] = {}
        self._source = source
        self._ids = ids
        outside = source.allow_outside_root
        self._images = QuestionImages(source.image_root, source.image_pattern, outside=outside, rows=rows)
        self._stems = False  # whether the annotations have answers as people wrote them, too

    def questions(self) -> Iterator[_Question]:
        """The questions, in order.

        Raises:
            DataError: the files cannot be read as such, or do not fit each other.
        """
        path = self.path
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
            return self._official(content)
        if self._source.annotations is not None:
            raise DataError(f"{path} is a list with answers of its own; leave annotations out")
        return self._listed(listed)

    def notes(self) -> list[str]:
        """What is to be said of the source when its questions are read."""
        found = [
            f"{self.path.name}: {count:,} images lie as {layout} below {self._source.image_root}"
            for layout, count in self._images.elsewhere.items()
        ]
        if self._stems:
            name = self._source.answer_field
            which = "stemmed, as OK-VQA's evaluation scores them" if name == "answer" else "as people wrote them"
            found.append(f"{self.path.name}: answers are those under '{name}', {which}")
        return found

    def _official(self, content: Any) -> Iterator[_Question]:
        """Questions in the layout of VQA v2."""
        source, name = self._source, self.path.name
        answers = self._annotations()
        subtype = str(content.get("data_subtype") or "") if isinstance(content, dict) else ""
        seen: set[int] = set()
        for number, entry in enumerate(list_in(content, "questions", self.path), 1):
            where = f"{name} question {number}"
            question_id = _question_id(entry, self._ids, where)
            image_id = first_of(entry, _IMAGE_ID)
            if not _is_name(image_id):
                raise DataError(f"{where}: image_id is not an integer but {image_id!r:.40}; repair it")
            if question_id in seen:
                raise DataError(f"{name} has a question_id twice, {question_id}; each question needs one of its own")
            seen.add(question_id)
            own = {} if answers is None else answers.pop(question_id, None)
            if own is None:
                raise DataError(f"{where} (id {question_id}) has no annotation; are the two files of one split?")
            try:
                image = self._images.of_question(image_id, subtype)
            except MissingImageError as error:
                self.skips.row(where, str(error))
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
            raise DataError(f"{len(answers)} annotations answer no question of {name}; are the files of one split?")

    def _annotations(self) -> dict[int, dict[str, Any]] | None:
        """Answers and types by question id; None where no file is named."""
        if self._source.annotations is None:
            return None
        path = existing(self._source.annotations)
        content = load_json(path)
        entries = list_in(content, "annotations", path)
        types = content.get("question_types")  # OK-VQA: {"one": "Vehicles and Transportation"}
        names = types if isinstance(types, dict) else {}
        found: dict[int, dict[str, Any]] = {}
        for number, entry in enumerate(entries, 1):
            where = f"{path.name} annotation {number}"
            given = entry.get("answers")
            if not isinstance(given, list) or not given or not all(isinstance(answer, dict | str) for answer in given):
                raise DataError(f"{where} has no list of answers, texts or objects with 'answer'; repair it")
            given = [{"answer": answer} if isinstance(answer, str) else answer for answer in given]
            question_id = _question_id(entry, self._ids, where)
            if question_id in found:
                raise DataError(f"{where} is the second of question {question_id}; leave one of them")
            kind = str(entry.get("question_type", ""))
            found[question_id] = {
                "answers": self._answers(given, where),
                "answer_type": str(entry.get("answer_type", "")),
                "question_type": str(names.get(kind, kind)),
            }
            self._stems = self._stems or "raw_answer" in given[0]
        return found

    def _answers(self, given: list[dict[str, Any]], where: str) -> list[str]:
        """What people answered; an empty answer is `UNSTATED`, and of nothing but such there is none."""
        name = self._source.answer_field
        answers = [_official_answer(answer, name, where) for answer in given]
        empty = answers.count(UNSTATED)
        if empty:
            self.skips.part(where, f"{empty} of {len(answers)} answers are empty, and agree with no other")
        return answers if empty < len(answers) else []

    def _listed(self, entries: list[tuple[str, Any]]) -> Iterator[_Question]:
        """Questions in lists, or in GQA's object; those without an id are numbered downwards."""
        asks_among = any(is_aokvqa(entry) for _, entry in entries)
        for where, entry in entries:
            if entry is None:
                continue  # an empty line
            try:
                _require_object(entry)
                question = listed_question(entry)
                choices = listed_choices(entry) if asks_among else None
                answers = listed_answers(entry, where, self.skips)
                question_id = self._ids.number(first_of(entry, _QUESTION_ID))
                image = self._listed_image(entry, asks_among)
            except ValueError as error:
                self.skips.row(where, str(error))
                continue
            if choices is not None:
                self.choices[question_id] = choices
            types = entry.get("types")
            kind = types.get("structural", "") if isinstance(types, dict) else entry.get("question_type", "")
            yield _Question(
                question_id,
                image,
                question,
                answers,
                self._source.answer_weight,
                str(entry.get("answer_type") or ""),
                str(kind or ""),
            )

    def _listed_image(self, entry: Mapping[str, Any], aokvqa: bool) -> int:
        """The row of the image of an entry.

        Raises:
            ValueError: it names none, or there is no such file.
        """
        stated, image_id = first_of(entry, _IMAGE), first_of(entry, _IMAGE_ID)
        if isinstance(stated, str) and stated.strip():
            return self._images.at(stated)
        if stated is not None or not _is_name(image_id):
            raise ValueError(f"names no image but {stated!r:.40}; repair it")
        if not aokvqa:
            return self._images.of_list(image_id)
        split = entry.get("split")
        return self._images.of_aokvqa(image_id, split if split in ("train", "val", "test") else "")


def _require_object(entry: Any) -> None:
    """Raise a ValueError for an entry that is no object."""
    if isinstance(entry, ValueError):
        raise ValueError(f"is not JSON ({entry}); repair or delete it")
    if not isinstance(entry, dict):
        raise ValueError(f"is not an object but {entry!r:.40}; repair or delete it")


def _is_gqa(content: Any) -> bool:
    """Whether a file is GQA's object: questions by their ids."""
    if not isinstance(content, dict) or isinstance(content.get("questions"), list):
        return False
    return any(isinstance(entry, dict) and "question" in entry for entry in content.values())


def _is_name(image_id: Any) -> bool:
    """Whether an image can be named by it."""
    return not isinstance(image_id, bool) and (
        isinstance(image_id, int) or (isinstance(image_id, str) and bool(image_id.strip()))
    )


def _question_id(entry: Mapping[str, Any], ids: _Ids, where: str) -> int:
    """The number of a question of the official layout, which must have an id."""
    stated = entry.get("question_id")
    try:
        if stated is None:
            raise ValueError("question_id is not an integer but None; repair it")
        return ids.number(stated)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None


def _official_answer(answer: Mapping[str, Any], name: str, where: str) -> str:
    """One person's answer as text; `UNSTATED` for an empty one."""
    stated = answer.get(name)
    if isinstance(stated, str) and not stated.strip():
        return UNSTATED
    try:
        return answer_text(stated)
    except ValueError:
        raise DataError(f"{where}: {name} is not a text but {stated!r:.40}; repair it") from None


def _text(entry: dict[str, Any], name: str, where: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {name} is not a text but {value!r:.40}; repair it")
    return value
