import json
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.review.mined import mined_folder
from truepair.cli.main import main
from truepair.errors import ConfigError, DataError
from truepair.relations.ledger import read_ledger
from truepair.relations.standing import Standing
from truepair.review.answers import Answer
from truepair.review.session import ReviewSession


def say_truth(session: ReviewSession, truth: dict[str, bool], person: str, count: int) -> list[str]:
    """Answer so many questions by the truth; returns why each was asked."""
    whys = []
    for _ in range(count):
        question = session.ask(person)
        assert question is not None
        session.answer(person, question.key, "yes" if truth[question.key] else "no", seconds=2.0)
        whys.append(question.why)
    return whys


def certified(session: ReviewSession, truth: dict[str, bool], precision: float) -> dict:
    session.certify(precision)
    while (state := session.state("Ann")["certificate"])["held"] is None:
        assert set(say_truth(session, truth, "Ann", 1)) == {"sample"}
    return state


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def truth(folder: Path) -> dict[str, bool]:
    return mined_folder(folder, pictures=500, per=60)


def test_thirty_by_rank_then_three_quarters_uncertain(folder: Path, truth: dict[str, bool]) -> None:
    with ReviewSession(folder) as session:
        whys = say_truth(session, truth, "Ann", 70)
    assert set(whys[:30]) == {"rank"}
    assert whys[30:].count("uncertain") == pytest.approx(30, abs=4)


def test_the_same_answers_lead_to_the_same_questions(tmp_path: Path) -> None:
    asked = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        truth = mined_folder(tmp_path / name)
        with ReviewSession(tmp_path / name, seed=3) as session:
            keys = []
            for _ in range(45):
                question = session.ask("Ann")
                assert question is not None and question == session.ask("Ann")
                keys.append(question.key)
                session.answer("Ann", question.key, "yes" if truth[question.key] else "no")
        asked.append(keys)
    assert asked[0] == asked[1] and len(set(asked[0])) == 45


def test_a_restart_goes_on_and_asks_nothing_twice(folder: Path, truth: dict[str, bool]) -> None:
    seen = []
    for _ in range(4):
        with ReviewSession(folder) as session:
            for _ in range(9):
                question = session.ask("Ann")
                assert question is not None
                seen.append(question.key)
                session.answer("Ann", question.key, "unsure")
    assert len(set(seen)) == 36


def test_two_people_are_not_asked_the_same_but_now_and_then_on_purpose(folder: Path, truth: dict[str, bool]) -> None:
    with ReviewSession(folder) as session:
        say_truth(session, truth, "Ann", 20)
        first, second = session.ask("Ann"), session.ask("Bob")
        assert first is not None and second is not None and first.key != second.key
        whys = say_truth(session, truth, "Bob", 36)
        assert [place for place, why in enumerate(whys) if why == "again"] == [11, 23, 35]
        both = session.state("Bob")["agreement"]
        assert (both["pairs"], both["agreed"]) == (3, 3)


def test_questions_ahead_are_others(folder: Path, truth: dict[str, bool]) -> None:
    with ReviewSession(folder) as session:
        keys: list[str] = []
        for _ in range(25):
            question = session.ask("Ann", keys)
            assert question is not None
            keys.append(question.key)
        assert len(set(keys)) == 25
        again = session.ask("Ann", keys[1:])
        assert again is not None and again.key == keys[0]


def test_many_threads_lose_and_double_nothing(folder: Path, truth: dict[str, bool]) -> None:
    with ReviewSession(folder) as session:
        people = [f"person {number}" for number in range(4)]
        threads = [threading.Thread(target=say_truth, args=(session, truth, one, 30)) for one in people]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        state = session.state("person 0")
        assert {name: sum(kinds.values()) for name, kinds in state["people"].items()} == dict.fromkeys(people, 30)
    lines = (folder / "answers.jsonl").read_text().splitlines()
    said = {(line["person"], line["image_id"], line["caption_id"]) for line in map(json.loads, lines)}
    assert len(lines) == len(said) == 120


def test_undo_asks_again_and_an_answer_twice_is_one(folder: Path, truth: dict[str, bool]) -> None:
    with ReviewSession(folder) as session:
        assert session.undo("Ann") is None
        first = session.ask("Ann")
        assert first is not None
        session.answer("Ann", first.key, "yes")
        session.answer("Ann", first.key, "yes")
        assert session.state("Ann")["answers"]["yes"] == 1
        say_truth(session, truth, "Bob", 1)
        back = session.undo("Ann")
        assert back is not None and back.key == first.key
        assert session.ask("Ann") == back
        session.answer("Ann", first.key, "no")
        assert session.state("Ann")["people"]["Ann"] == {"no": 1}


def test_wrong_words_are_one_line(folder: Path, truth: dict[str, bool]) -> None:
    with ReviewSession(folder) as session:
        key = next(iter(truth))
        with pytest.raises(DataError, match="'maybe' is no answer; give one of yes, no, unsure, skip, same_picture"):
            session.answer("Ann", key, "maybe")
        for bad in ("0-0", "7", "1-", "-1-2", "999999-1", "1-99999999"):
            with pytest.raises(DataError, match="there is no candidate"):
                session.answer("Ann", bad, "yes")
        with pytest.raises(ConfigError, match="nobody has answered yet"):
            session.certify(0.9)
        with pytest.raises(ConfigError, match="nobody has said yes or no"):
            session.finish()
        with pytest.raises(ConfigError, match="another truepair review has"):
            ReviewSession(folder)


def test_the_judge_learns_and_says_how_well(folder: Path, truth: dict[str, bool]) -> None:
    with ReviewSession(folder) as session:
        assert session.state("Ann")["average_precision"] is None
        say_truth(session, truth, "Ann", 120)
        session._refit_all()
        session._worker.submit(int).result()
        state = session.state("Ann")
    found = state["average_precision"]
    assert found["answers"] == 120 and found["low"] < found["value"] < found["high"]
    assert found["value"] > 0.6
    assert state["more"]["average_precision"] >= found["value"]
    assert [each["precision"] for each in state["expected"]] == [0.8, 0.9, 0.95]
    pairs = [each["pairs"] for each in state["expected"]]
    assert pairs == sorted(pairs, reverse=True) and pairs[0] > 50
    assert state["pairs_a_minute"] == 30 and state["seconds_left"] == 160
    assert list(state["signal_reliability"]) == ["itm/probability", "itm/probability, as it says"]
    assert all(each["low"] <= each["observed"] <= each["high"] for each in state["reliability"])
    json.dumps(state)


def test_a_certificate_holds_and_binds_the_ledger_to_its_judge(folder: Path, truth: dict[str, bool]) -> None:
    said: list[str] = []
    with ReviewSession(folder, say=said.append) as session:
        say_truth(session, truth, "Ann", 200)
        state = certified(session, truth, 0.8)
        assert state["held"] and "at least 80% match" in state["sentence"]
        standing = session.finish()
        certificate = standing.certificate
        assert certificate is not None and certificate.judge == standing.judge and certificate.people == ("Ann",)
        say_truth(session, truth, "Ann", 20)
        later = session.finish()
        assert later.judge == standing.judge and later.certificate == certificate
        assert later.answers == standing.answers + 20
        assert any("the ledger keeps the judge that was certified" in line for line in said)
    loaded = Standing.load(folder / "ledger")
    assert loaded == later
    table = read_ledger(folder / "ledger")
    names = set(table["judge"].to_pylist())
    assert names == {standing.judge, "person:Ann"}  # what the prior said is gone
    scores = table.filter(np.array(table["judge"].to_pylist()) == standing.judge)
    strong = scores["probability"].to_numpy() >= np.float32(certificate.threshold)
    per_cell = 2  # ids of each picture
    assert int(strong.sum()) >= certificate.pairs * per_cell
    assert scores["probability"].to_numpy().min() >= 0.1
    people = table.filter(np.array(table["judge"].to_pylist()) == "person:Ann")
    assert set(people["probability"].to_pylist()) == {0.0, 1.0}


def test_a_sample_survives_a_restart(folder: Path, truth: dict[str, bool]) -> None:
    with ReviewSession(folder) as session:
        say_truth(session, truth, "Ann", 150)
        session.certify(0.8)
        say_truth(session, truth, "Ann", 5)
        before = session.ask("Ann")
        with pytest.raises(ConfigError, match=r"is being asked, .* pairs of it are left; answer those first"):
            session.certify(0.8)
    with ReviewSession(folder) as session:
        assert session.ask("Ann") == before
        assert session.state("Ann")["certificate"]["asked"] == 5


def test_a_sample_that_misses_gets_no_certificate_and_the_next_attempt_is_counted(
    folder: Path, truth: dict[str, bool]
) -> None:
    with ReviewSession(folder) as session:
        say_truth(session, truth, "Ann", 150)
        session.certify(0.8)
        while session.state("Ann")["certificate"]["held"] is None:
            question = session.ask("Ann")
            assert question is not None
            session.answer("Ann", question.key, "unsure")
        state = session.state("Ann")["certificate"]
        assert state["held"] is False and "no certificate for 80%" in state["sentence"]
        assert session.finish().certificate is None
        session.certify(0.8)
        assert session.state("Ann")["certificate"]["attempt"] == 2


def test_same_picture_counts_for_all_captions_of_both(folder: Path, truth: dict[str, bool]) -> None:
    with ReviewSession(folder) as session:
        question = session.ask("Ann")
        assert question is not None
        session.answer("Ann", question.key, "same_picture")
        session.finish()
        picture, owner = question.picture, question.owner
        ids = session.candidates.image_ids, session.candidates.caption_ids
    said = read_ledger(folder / "ledger")
    said = said.filter(np.array(said["judge"].to_pylist()) == "person:Ann")
    cells = set(zip(said["image_id"].to_pylist(), said["caption_id"].to_pylist(), strict=True))
    expected = {
        (image, caption)
        for one, other in ((picture, owner), (owner, picture))
        for image in ids[0][one].tolist()
        for caption in ids[1][other].tolist()  # each picture's one caption has its number
    }
    assert cells == expected


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "json"])
def test_answers_move_to_another_mine_of_the_same_data(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    truth = mined_folder(tmp_path / "a")
    file = tmp_path / f"answers.{suffix}"
    with ReviewSession(tmp_path / "a") as session:
        say_truth(session, truth, "Ann", 25)
        question = session.ask("Bob")
        assert question is not None
        session.answer("Bob", question.key, "same_picture", note='a "note", in\ntwo lines', seconds=3.5)
        session.export_answers(file)
        before = session.state("Ann")
        answers = list(session._answers.values())
    mined_folder(tmp_path / "b", per=25, seed=1)  # other candidates, the same pictures and captions
    with ReviewSession(tmp_path / "b") as session:
        assert session.import_answers(file) == f"26 answers were taken from {file}"
        assert "26 were here already, or older" in session.import_answers(file)
        after = session.state("Ann")
        moved = list(session._answers.values())
    assert (after["answers"], after["people"]) == (before["answers"], before["people"])
    assert moved == answers


def test_imports_say_what_they_leave_out(folder: Path, truth: dict[str, bool], tmp_path: Path) -> None:
    good = {"person": "Eve", "image_id": 1, "caption_id": 10_003, "answer": "no", "time": "2026-01-01"}
    file = tmp_path / "some.jsonl"
    file.write_text("\n".join([json.dumps(good), json.dumps(good | {"image_id": 10**9}), "{}", "not json"]))
    with ReviewSession(folder) as session:
        said = session.import_answers(file)
        assert "1 answers were taken" in said and "1 are about pairs that were not mined here" in said
        assert "2 lines are no answers" in said
        file.write_text(json.dumps(good | {"text": "another caption", "time": "2027-01-01"}))
        with pytest.raises(DataError, match=r"some.jsonl, answer 1: caption 10003 is 'caption 3' here, and 'another"):
            session.import_answers(file)
        for name, text, says in (
            ("none.jsonl", "{}", "holds no answers; its first line"),
            ("bad.json", "{", "is no .json file of answers"),
            ("list.json", "{}", "Label Studio's JSON is a list of tasks"),
        ):
            (tmp_path / name).write_text(text)
            with pytest.raises(DataError, match=says):
                session.import_answers(tmp_path / name)
        with pytest.raises(ConfigError, match=r"ends in one of .jsonl, .csv, .json"):
            session.export_answers(tmp_path / "answers.txt")
        with pytest.raises(DataError, match="cannot be read"):
            session.import_answers(tmp_path / "absent.csv")


def test_label_studio_annotations_of_people_there(folder: Path, truth: dict[str, bool], tmp_path: Path) -> None:
    data = {"image": "1.png", "text": "caption 3", "image_id": 2, "caption_id": 10_003}
    choice = {"type": "choices", "from_name": "match", "to_name": "image", "value": {"choices": ["Same picture"]}}
    tasks = [
        {"data": data, "annotations": [{"completed_by": {"email": "eve@example.org"}, "result": [choice]}]},
        {"data": data | {"other_id": 7}, "annotations": [{"completed_by": 4, "lead_time": 2.5, "result": [choice]}]},
        {"data": data, "annotations": [{"was_cancelled": True, "result": []}]},
        {"data": data, "annotations": []},
    ]
    file = tmp_path / "tasks.json"
    file.write_text(json.dumps(tasks))
    with ReviewSession(folder) as session:
        said = session.import_answers(file)
        assert "1 answers were taken" in said and "3 lines are no answers" in said  # the first names no other picture
        assert session.state("")["people"] == {"4": {"same_picture": 1}}


def test_the_command_replays_a_file_with_its_certificate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    truth = mined_folder(tmp_path / "a", pictures=500, per=60)
    mined_folder(tmp_path / "b", pictures=500, per=60)
    with ReviewSession(tmp_path / "a") as session:
        say_truth(session, truth, "Ann", 200)
        state = certified(session, truth, 0.8)
        session.export_answers(tmp_path / "said.jsonl")
        standing = session.finish()
    main(["review", str(tmp_path / "b"), "--answers", str(tmp_path / "said.jsonl"), "--precision", "0.8"])
    said = capsys.readouterr().err
    assert state["sentence"] in said and "average precision on held-back answers" in said
    assert "expected at a precision of 90%" in said
    again = Standing.load(tmp_path / "b" / "ledger")
    assert again is not None and again.judge == standing.judge


def test_the_command_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, says in (
        (["--seed", "1"], "give the folder that truepair mine wrote"),
        ([str(tmp_path)], "holds no candidates"),
        ([str(tmp_path), "--precision", "90"], "give a share between 0 and 1, such as 0.9"),
    ):
        with pytest.raises(SystemExit):
            main(["review", *words])
        assert says in capsys.readouterr().err


def test_an_answer_states_what_it_must() -> None:
    good = {"time": "2026-01-01", "person": "Ann", "image_id": 1, "caption_id": 2, "answer": "yes"}
    assert Answer.of(good | {"unknown": 3}).match is True
    for wrong in ({"answer": "maybe"}, {"person": " "}, {"image_id": "x"}, {"answer": "same_picture"}):
        with pytest.raises(DataError):
            Answer.of(good | wrong)
