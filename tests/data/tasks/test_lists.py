"""Lists of statements and questions as other programs ship them, and those that people make themselves."""

import codecs
import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.makers import noise, put, put_json, put_jsonl
from truepair.data.tasks.nlvr2 import Nlvr2Source, Nlvr2Table, open_nlvr2
from truepair.data.tasks.vqa import VqaDataset
from truepair.data.tasks.vqa_source import VqaSource, VqaTable, load_answer_list, open_vqa
from truepair.errors import DataError
from truepair.evaluation.nlvr2 import nlvr2_metrics
from truepair.evaluation.vqa import answer_accuracy, write_vqa_results

PAIR = ["train/18/a-img0.png", "train/18/a-img1.png"]
OTHER = ["dev-0-0-img0.png", "dev-0-0-img1.png"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, name in enumerate((*PAIR, *OTHER)):
        put(tmp_path / "images" / name, noise(number))
    for name in ("1.jpg", "2354786.jpg", "n161313.jpg"):
        put(tmp_path / "images" / name, noise(1))
    return tmp_path / "images"


def statements(root: Path, file: Path, **fields: Any) -> Nlvr2Table:
    return open_nlvr2([Nlvr2Source(statements=str(file), image_root=str(root), **fields)])


def questions(root: Path, file: Path, **fields: Any) -> VqaTable:
    return open_vqa([VqaSource(questions=str(file), image_root=str(root), **fields)])


ALBEF = [
    {"sentence": "Both show a dog.", "label": "True", "images": PAIR},
    {"sentence": "Both show a dog.", "label": "False", "images": OTHER},
    {"sentence": "One shows a cat.", "label": "False", "images": PAIR},
]


@pytest.mark.parametrize("lines", [False, True], ids=["list", "lines"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_statements_of_the_albef_line(root: Path, lines: bool, encoding: str) -> None:
    text = "\r\n".join(map(json.dumps, ALBEF)) if lines else json.dumps(ALBEF)
    file = root.parent / "nlvr_train.json"
    file.write_bytes(text.encode(encoding))
    assert encoding == "utf-8" or file.read_bytes().startswith((codecs.BOM_UTF8, codecs.BOM_UTF16))
    table = statements(root, file)
    assert list(table.statements["label"]) == [1, 0, 0]
    assert list(table.statements["left"]) == [0, 2, 0] and list(table.statements["right"]) == [1, 3, 1]
    assert table.images.rows[0]["image"]["path"].endswith("images/train/18/a-img0.png")
    assert len(set(table.statements["identifier"])) == 3 and not table.skipped


@pytest.mark.parametrize(
    ("stated", "label"),
    [("True", 1), ("False", 0), (True, 1), (False, 0), (1, 1), (0, 0), ("1", 1), ("false", 0), (1.0, 1), (None, -1)],
)
def test_labels_of_every_kind(root: Path, stated: Any, label: int) -> None:
    file = put_json(root.parent / "x.json", [{**ALBEF[0], "label": stated}])
    assert list(statements(root, file).statements["label"]) == [label]


@pytest.mark.parametrize("sides", [("left_img", "right_img"), ("left_image", "right_image"), ("image_0", "image_1")])
def test_marvls_statements_and_their_like(root: Path, sides: tuple[str, str]) -> None:
    entry = {"concept": "39-Panda", "language": "sw", "caption": "Picha zote", "chapter": "Animal", "id": "sw-0"}
    lines = [{**entry, **dict(zip(sides, OTHER, strict=True)), "label": False}]
    table = statements(root, put_jsonl(root.parent / "marvl-sw.jsonl", lines))
    assert table.statements[0] == {"identifier": "sw-0", "left": 0, "right": 1, "sentence": "Picha zote", "label": 0}


def test_a_bad_statement_is_left_out_and_listed(root: Path) -> None:
    bad = [{"sentence": "x", "label": "maybe", "images": PAIR}, {"sentence": "x", "images": PAIR[:1]}]
    table = statements(root, put_json(root.parent / "x.json", [*ALBEF, *bad]))
    assert len(table) == 3 and [where for where, _ in table.skipped] == ["x.json entry 4", "x.json entry 5"]
    assert "label is 'maybe'; it must be True or False, 1 or 0" in table.skipped[0][1]
    with pytest.raises(DataError, match=r"2 of 2 entries of y\.json cannot be used; the first: y\.json entry 1 has"):
        statements(root, put_json(root.parent / "y.json", bad))
    lines = root.parent / "z.json"
    lines.write_text("\n".join([*map(json.dumps, ALBEF), "{", ""]))
    assert statements(root, lines).skipped[0][0] == "z.json line 4"


def test_statements_of_one_text_are_one_sentence() -> None:
    right, sentences = {"a": True, "b": False, "c": True}, {"a": "one", "b": "one", "c": "two"}
    metrics = nlvr2_metrics(right, dict.fromkeys(right, True), sentences)
    assert (metrics.sentences, metrics.consistency) == (2, 0.5)


@pytest.mark.parametrize("stated", ["../outside.png", "{outside}", "a/../../outside.png"])
def test_paths_leave_the_root_when_that_is_allowed(root: Path, stated: str) -> None:
    outside = put(root.parent / "outside.png", noise(9))
    path = stated.format(outside=outside)
    lists = {
        statements: put_json(root.parent / "n.json", [{"sentence": "x", "label": 1, "images": [path, PAIR[0]]}]),
        questions: put_json(root.parent / "q.json", [{"image": path, "question": "x?", "answer": "y"}]),
    }
    for read, file in lists.items():
        with pytest.raises(DataError, match=r"image path .*outside\.png leaves image_root .*set allow_outside_root"):
            read(root, file)
        table = read(root, file, allow_outside_root=True)
        assert Path(table.images.rows[0]["image"]["path"]) == outside
    inside = put_json(root.parent / "i.json", [{"image": str(root / "1.jpg"), "question": "x?", "answer": "y"}])
    beside = put_json(root.parent / "b.json", [{"image": "./1.jpg", "question": "x?", "answer": "y"}])
    plain = put_json(root.parent / "p.json", [{"image": "1.jpg", "question": "x?", "answer": "y"}])
    ids = [questions(root, file).images.image_ids.tolist() for file in (inside, beside, plain)]
    assert ids[0] == ids[1] == ids[2]  # one picture, whatever its path is spelled like


def test_ids_that_are_texts_are_written_as_they_were_stated(root: Path, tmp_path: Path) -> None:
    names = ["17", "007", "q-é", 5, 6.0]
    entries = [{"question_id": name, "image": "1.jpg", "question": "x?", "answer": "y"} for name in names]
    table = questions(root, put_json(root.parent / "own.json", entries))
    assert table.questions["question_id"][0] == 17 and table.questions["question_id"][3:] == [5, 6]
    write_vqa_results(dict.fromkeys(table.questions["question_id"], "y"), tmp_path / "r.json", table.stated_ids)
    written = [entry["question_id"] for entry in json.loads((tmp_path / "r.json").read_text())]
    assert sorted(map(str, written)) == sorted(["17", "007", "q-é", "5", "6"]) and 5 in written


LXMERT = {"answer_type": "other", "question_type": "what", "sent": "What is it?", "question_id": 9000}


def test_lxmerts_questions(root: Path) -> None:
    put(root / "COCO_val2014_000000000009.jpg", noise(1))
    labels = [{"net": 1}, {"net": 1, "web": 0.3}, {"a": 0.3, "b": 0.6, "c": 0.9}, {"a": 1.0, "b": 1.0}, {}, None]
    image = {"img_id": "COCO_val2014_000000000009"}
    entries = [{**LXMERT, **image, "question_id": n, "label": label} for n, label in enumerate(labels)]
    del entries[-1]["label"]
    table = questions(root, put_json(root.parent / "minival.json", entries))
    answers = table.questions["answers"][:]
    for label, given in zip(labels[:4], answers, strict=False):
        assert label is not None
        assert {answer: round(answer_accuracy(answer, given), 6) for answer in label} == label
        assert len(given) == 10 and answer_accuracy("other", given) == 0
    assert answers[4:] == [[], []] and len(table.answered()) == 4
    assert table.questions["question"][0] == "What is it?" and table.questions["answer_type"][0] == "other"
    samples = VqaDataset(table.answered(), None)
    assert samples[1].answers == ["net", "web"] and samples[1].weights == [0.9, 0.1]
    assert samples[2].answers == ["c", "b", "a"] and samples[2].weights == pytest.approx([0.3, 0.2, 0.1])
    bad = [*entries[:3], {**LXMERT, **image, "label": {"net": 3}}, {**LXMERT, "label": {"net": 1}}]
    table = questions(root, put_json(root.parent / "bad.json", bad))
    assert table.skipped[0] == ("bad.json entry 4", "score of the answer 'net' is 3; it must be from 0 to 1")
    assert "names no image" in table.skipped[1][1]


def test_missing_images_are_looked_for_at_once(root: Path) -> None:
    asked = [{"image": "1.jpg", "question": f"x{n}?", "answer": "y"} for n in range(5)]
    gone = {"image": "gone.jpg", "question": "x?", "answer": "y"}
    table = questions(root, put_json(root.parent / "q.json", [*asked, gone]))
    assert len(table) == 5 and table.skipped == (("q.json entry 6", f"its image {root / 'gone.jpg'} is missing"),)
    more = [*asked, gone, {**gone, "image": "lost.jpg"}]
    with pytest.raises(DataError, match=r"2 of 3 images of m\.json are missing, over the limit of 5%, .*gone\.jpg"):
        questions(root, put_json(root.parent / "m.json", more))
    stated = [*ALBEF, {**ALBEF[0], "images": [PAIR[0], "gone.png"]}]
    found = statements(root, put_json(root.parent / "s.json", stated))
    assert len(found) == 3 and found.skipped == (("s.json entry 4", f"its image {root / 'gone.png'} is missing"),)


def test_a_list_within_an_object_is_read(root: Path) -> None:
    asked = {"image_id": "1", "question": "x?", "answers": ["y"] * 10, "question_id": 5}
    assert len(questions(root, put_json(root.parent / "textvqa.json", {"dataset_type": "val", "data": [asked]}))) == 1
    assert len(statements(root, put_json(root.parent / "own.json", {"data": ALBEF}))) == 3


def test_lxmerts_statements(root: Path) -> None:
    put(root / "dev" / "dev-0-0-img0.png", noise(1))
    put(root / "dev" / "dev-0-0-img1.png", noise(2))
    names = {"img0": "dev-0-0-img0", "img1": "dev-0-0-img1", "uid": "nlvr2_dev_0"}
    entry = {"identifier": "dev-0-0-0", "label": 1, "sent": "Both show dogs.", **names}
    table = statements(root, put_json(root.parent / "valid.json", [entry]))
    assert table.statements[0]["sentence"] == "Both show dogs." and table.statements[0]["label"] == 1
    assert table.images.rows[0]["image"]["path"].endswith("images/dev/dev-0-0-img0.png")


def test_gqas_object(root: Path) -> None:
    of = {"entailed": [], "equivalent": ["02930152"], "isBalanced": True, "semanticStr": "select: sky->query"}
    content = {
        "02930152": {**of, "imageId": "2354786", "question": "Is the sky dark?", "answer": "yes", "fullAnswer": "Yes."},
        "07333408": {**of, "imageId": "n161313", "question": "What is on the wall?", "answer": "pipe"},
    }
    content["02930152"]["types"] = {"detailed": "verifyAttr", "semantic": "global", "structural": "verify"}
    table = questions(root, put_json(root.parent / "val_balanced_questions.json", content))
    assert table.questions["answers"][:] == [["yes"], ["pipe"]] and table.questions["question_type"][0] == "verify"
    assert sorted(table.stated_ids.values()) == ["02930152", "07333408"]
    assert [Path(row["image"]["path"]).name for row in table.images.rows] == ["2354786.jpg", "n161313.jpg"]


@pytest.mark.parametrize(
    ("stated", "read"),
    [
        (2, ["2"]),
        (2.0, ["2"]),
        (2.5, ["2.5"]),
        (True, ["yes"]),
        (["net", 3, "net"], ["net", "3", "net"]),
        ([{"answer": "net", "answer_id": 1}, {"answer": 4}], ["net", "4"]),
        (["net", ""], ["net"]),
        (None, []),
        ([], []),
    ],
)
def test_answers_of_every_type(root: Path, stated: Any, read: list[str]) -> None:
    file = put_json(root.parent / "own.json", [{"image": "1.jpg", "question": "x?", "answer": stated}])
    assert questions(root, file).questions["answers"][0] == read


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"answer": ""}, "answer is neither a text nor a number but ''"),
        ({"answer": {"a": 1}}, "answer is neither a text nor a number"),
        ({"question": None}, "has no question but None"),
        ({"image": None}, "names no image but None"),
        ({"question_id": [1]}, "question_id is not an integer but [1]"),
        (7, "is not an object but 7"),
    ],
)
@pytest.mark.parametrize("lines", [False, True], ids=["list", "lines"])
def test_one_bad_question_is_left_out_and_listed(root: Path, bad: Any, why: str, lines: bool) -> None:
    good = {"image": "1.jpg", "question": "x?", "answer": "y"}
    entries = [good, {**good, **bad} if isinstance(bad, dict) else bad, good]
    file = (put_jsonl if lines else put_json)(root.parent / "own.json", entries)
    table = questions(root, file)
    assert len(table) == 2 and len(table.skipped) == 1
    assert table.skipped[0][0] == f"own.json {'line' if lines else 'entry'} 2" and why in table.skipped[0][1]
    with pytest.raises(DataError, match=r"1 of 1 entries of bad\.json cannot be used; the first: bad\.json entry 1"):
        questions(root, put_json(root.parent / "bad.json", [entries[1]]))


def test_a_file_that_is_no_json_is_named(root: Path) -> None:
    file = put(root.parent / "own.json", "[{")
    with pytest.raises(DataError, match=r"own\.json is not JSON"):
        questions(root, file)


def test_numbers_in_a_list_of_answers(tmp_path: Path) -> None:
    assert load_answer_list(put_json(tmp_path / "a.json", ["net", 2])) == ["net", "2"]
