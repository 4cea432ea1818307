"""Both data sets, made of a part of the bundled sample, read by the readers of the official layouts."""

import hashlib
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.makers import photos
from truepair.data.open import open_pairs
from truepair.data.sample_tasks import write_sample_nlvr2, write_sample_vqa
from truepair.data.sample_tasks.vqa import IMAGE_PATTERN
from truepair.data.table import PairTable
from truepair.data.tasks.nlvr2 import Nlvr2Source, Nlvr2Table, open_nlvr2
from truepair.data.tasks.vqa_source import VqaSource, VqaTable, load_answer_list, open_vqa
from truepair.errors import DataError
from truepair.evaluation.vqa import TextBaseline, vqa_accuracy
from truepair.relations.text import normalise_caption


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> PairTable:
    """All drawings of every tenth concept, and the validation drawings of the others."""
    table = open_pairs("sample", cache_dir=tmp_path_factory.mktemp("cache"))
    groups = sorted(set(table.values("group")))[::10]
    rows = zip(table.values("group"), table.values("split"), strict=True)
    return table.select([row for row, (group, split) in enumerate(rows) if group in groups or split == "val"])


@pytest.fixture(scope="module")
def folder(sample: PairTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tasks")
    write_sample_vqa(sample, out / "vqa")
    write_sample_nlvr2(sample, out / "nlvr2", train_sets=12, dev_sets=5, test_sets=8)
    return out


def vqa(folder: Path, subtype: str) -> VqaTable:
    source = VqaSource(
        questions=str(folder / "vqa" / f"v2_OpenEnded_mscoco_{subtype}_questions.json"),
        annotations=str(folder / "vqa" / f"v2_mscoco_{subtype}_annotations.json"),
        image_root=str(folder / "vqa"),
        image_pattern=IMAGE_PATTERN,
    )
    return open_vqa([source])


def nlvr2(folder: Path, name: str) -> Nlvr2Table:
    statements = folder / "nlvr2" / f"{name}.json"
    return open_nlvr2([Nlvr2Source(statements=str(statements), image_root=str(folder / "nlvr2" / "images"))])


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_call_writes_the_same(sample: PairTable, folder: Path, tmp_path: Path) -> None:
    write_sample_vqa(sample, tmp_path / "vqa")
    write_sample_nlvr2(sample, tmp_path / "nlvr2", train_sets=12, dev_sets=5, test_sets=8)
    assert digest(tmp_path) == digest(folder)


@pytest.fixture(scope="module")
def drawn(sample: PairTable) -> dict[str, dict[bytes, dict[str, Any]]]:
    """For each split, what the sample says of a drawing, by its pixels."""
    parts = {split: sample.split(split) for split in ("train", "val", "test")}
    said = {split: part.rows.remove_columns("image").to_list() for split, part in parts.items()}
    return {
        split: {part.image(row).tobytes(): said[split][row] for row in reversed(range(len(part)))}
        for split, part in parts.items()
    }


def shown(drawings: dict[bytes, dict[str, Any]], images: PairTable) -> list[dict[str, Any]]:
    """For each image that was written, what the sample says of the drawing that it is a copy of."""
    return [drawings[images.image(image).tobytes()] for image in range(len(images))]


@pytest.mark.parametrize(("subtype", "split"), [("train2014", "train"), ("val2014", "val"), ("test2015", "test")])
def test_questions_are_answered_truly(
    drawn: dict[str, dict[bytes, dict[str, Any]]], folder: Path, subtype: str, split: str
) -> None:
    table = vqa(folder, subtype)
    drawings = shown(drawn[split], table.images)
    kinds = Counter(table.questions["question_type"])
    assert set(kinds) == {"does this show", "which", "what kind of thing", "what is this called"}
    for question in table.questions:
        row = drawings[question["image"]]
        names = [normalise_caption(name) for name in row["names"]]
        about = question["question"].removeprefix("Does this show ").rstrip("?")
        answer = question["answers"][0]
        assert len(question["answers"]) == 10
        if question["question_type"] == "does this show":
            assert answer == ("yes" if about in names else "no")
        elif question["question_type"] == "which":
            wrong = (set(about.split(" or ")) - {answer}) or {answer}
            assert answer in names and not wrong & set(names) and answer in about
        elif question["question_type"] == "what kind of thing":
            assert answer == normalise_caption(row["category"])
        else:
            assert set(question["answers"]) <= set(names) and answer == names[0]


def test_without_looking_closed_questions_are_a_coin_toss(folder: Path) -> None:
    train, test = vqa(folder, "train2014").questions, vqa(folder, "test2015").questions
    by_text: dict[str, Counter[str]] = defaultdict(Counter)
    for question in test:
        if question["question_type"] in ("does this show", "which"):
            by_text[question["question"]][question["answers"][0]] += 1
    assert by_text and all(len(set(counts.values())) == 1 and len(counts) == 2 for counts in by_text.values())
    baseline = TextBaseline(train["question"], [answers[0] for answers in train["answers"]])
    predictions = dict(zip(test["question_id"], baseline.answer(test["question"]), strict=True))
    types = dict(zip(test["question_id"], test["question_type"], strict=True))
    answers = dict(zip(test["question_id"], test["answers"], strict=True))
    found = vqa_accuracy(predictions, answers, question_types=types).by_question_type
    assert found["does this show"] == 0.5 and found["which"] <= 0.5
    kinds = Counter(q["answers"][0] for q in test if q["question_type"] == "what kind of thing")
    assert len(set(kinds.values())) == 1 and found["what kind of thing"] == pytest.approx(1 / len(kinds))
    assert found["what is this called"] < 0.1


def test_answer_list_covers_the_frequent_answers(folder: Path) -> None:
    answers = load_answer_list(folder / "vqa" / "answer_list.json")
    assert {"yes", "no", "food drink"} <= set(answers) and answers == sorted(answers)


@pytest.mark.parametrize(("name", "split", "sets"), [("train", "train", 12), ("dev", "val", 5), ("test1", "test", 8)])
def test_statements_are_what_they_say(
    drawn: dict[str, dict[bytes, dict[str, Any]]], folder: Path, name: str, split: str, sets: int
) -> None:
    table = nlvr2(folder, name)
    drawings = shown(drawn[split], table.images)
    assert len(table) == 20 * sets
    truths: dict[tuple[str, str], list[int]] = defaultdict(list)
    for statement in table.statements:
        left, right = (drawings[statement[side]] for side in ("left", "right"))
        names = [[normalise_caption(n) for n in row["names"] if "," not in n] for row in (left, right)]
        text, truth = statement["sentence"].rstrip("."), bool(statement["label"])
        if text.startswith("The left picture shows "):
            assert truth == (text.removeprefix("The left picture shows ") in names[0])
        elif text.startswith("The right picture shows "):
            assert truth == (text.removeprefix("The right picture shows ") in names[1])
        elif text.startswith("One picture shows "):
            first, second = text.removeprefix("One picture shows ").split(" and the other shows ")
            one_way = first in names[0] and second in names[1]
            assert truth == (one_way or (first in names[1] and second in names[0]))
        elif text.startswith("One of the pictures shows "):
            about = text.removeprefix("One of the pictures shows ")
            assert truth == (about in names[0] or about in names[1])
        else:
            kind = text.removeprefix("Both pictures are of the kind ")
            assert truth == all(normalise_caption(row["category"]) == kind for row in (left, right))
        file, number, _, sentence = statement["identifier"].split("-")
        truths[number, sentence].append(statement["label"])
        assert file == name
    assert all(sorted(labels) == [0, 0, 1, 1] for labels in truths.values()), "whoever does not look tosses a coin"
    assert np.mean(list(table.statements["label"])) == 0.5


def test_other_data_is_refused(tmp_path: Path) -> None:
    table = open_pairs(photos(tmp_path, 3))
    with pytest.raises(DataError, match="has no column category; questions are made of the bundled sample alone"):
        write_sample_vqa(table, tmp_path / "out")
