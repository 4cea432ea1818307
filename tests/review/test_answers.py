import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truepair.errors import ConfigError, DataError
from truepair.review.answers import KINDS, Answer, AnswerLog, line_of, standing
from truepair.review.exchange import read_answers, write_answers

WRITER = """
import sys
from pathlib import Path
from truepair.review.answers import Answer, AnswerLog, line_of
log = AnswerLog(Path(sys.argv[1]), print)
for number in range(10**6):
    log.append([line_of(Answer(time="t", person="Ann", image_id=number, caption_id=1, answer="yes", note="x" * 200))])
    print(number, flush=True)
"""


def answer(person: str = "Ann", image_id: int = 1, said: str = "yes", **more: object) -> Answer:
    stated = {"time": "2026-01-01", "person": person, "image_id": image_id, "caption_id": 2, "answer": said}
    return Answer.of(stated | {"other_id": 9} | more)


def reopened(folder: Path) -> tuple[list[Answer], list[str]]:
    said: list[str] = []
    log = AnswerLog(folder, said.append)
    log.close()
    return [Answer.of(line) for line in log.lines], said


def test_a_killed_process_loses_no_answer_that_it_took(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) == 40:
            writer.send_signal(signal.SIGKILL)
            break
    rest = writer.stdout.read().split()
    writer.wait()
    taken = int(rest[-1]) if rest else 40
    kept, _ = reopened(tmp_path)
    assert [one.image_id for one in kept[: taken + 1]] == list(range(taken + 1))


@settings(max_examples=30)
@given(cut=st.integers(1, 400), count=st.integers(1, 4))
def test_a_half_written_last_line_is_cut_off_and_said(cut: int, count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = AnswerLog(folder, print)
        log.append([line_of(answer(image_id=number, note="é🐕")) for number in range(count)])
        log.close()
        whole = log.file.read_bytes()
        log.file.write_bytes(whole[: max(len(whole) - cut, 0)])
        left = whole[: max(len(whole) - cut, 0)].count(b"\n")
        kept, said = reopened(folder)
        assert [one.image_id for one in kept] == list(range(left))
        ends_well = not (data := whole[: max(len(whole) - cut, 0)]) or data.endswith(b"\n")
        assert said == [] if ends_well else "was only half-written; it is cut off" in said[0]
        log = AnswerLog(folder, print)
        log.append([line_of(answer(image_id=77))])
        log.close()
        assert [one.image_id for one in reopened(folder)[0]] == [*range(left), 77]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text(json.dumps(line_of(answer())) + "\nnot json\n")
    with pytest.raises(DataError, match=r"line 2, is damaged .*; mend or remove it"):
        AnswerLog(tmp_path, print)
    (tmp_path / "answers.jsonl").write_text("")
    AnswerLog(tmp_path, print).close()  # the lock was given back


def test_one_process_at_a_time(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path, print)
    with pytest.raises(ConfigError, match=r"another truepair review has .* open; several people can use its page"):
        AnswerLog(tmp_path, print)
    log.close()
    AnswerLog(tmp_path, print).close()


ANSWERS = st.lists(
    st.tuples(st.sampled_from(["Ann", "Bob"]), st.integers(0, 3), st.sampled_from([*KINDS, "undo"])), max_size=30
)


@given(said=ANSWERS)
def test_the_latest_of_each_person_counts(said: list[tuple[str, int, str]]) -> None:
    found = standing([answer(*one) for one in said], lambda one: one.image_id)
    slow = {}
    for person in ("Ann", "Bob"):
        for image in range(4):
            own = [kind for who, which, kind in said if (who, which) == (person, image)]
            if own and own[-1] != "undo":
                slow[person, image] = own[-1]
    assert {place: one.answer for place, one in found.items()} == slow
    last = [max(n for n, one in enumerate(said) if one[:2] == place) for place in found]
    assert last == sorted(last)


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).filter(str.strip)
NOTES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=20)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "json"])
@settings(max_examples=30)
@given(
    rows=st.lists(
        st.tuples(NAMES, st.integers(-(2**62), 2**62), st.sampled_from(KINDS), NOTES, st.none() | st.floats(0, 1)),
        min_size=1,
        max_size=5,
    )
)
def test_what_is_written_is_read(suffix: str, rows: list[tuple[str, int, str, str, float | None]]) -> None:
    answers = [
        answer(person, image, kind, note=note, probability=chance, seconds=chance, text=note, why="rank")
        for person, image, kind, note, chance in rows
    ]
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / f"a.{suffix}"
        write_answers(file, answers)
        read = read_answers(file)
    assert (read.answers, read.left_out) == (answers, 0)
