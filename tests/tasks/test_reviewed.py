"""A user's whole way by the real commands: mine, review with a server that is killed, and train on what was said."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow.compute as pc
import pytest

from tests.tasks.own_pairs import save_clip, write_list
from truepair.cli.main import main
from truepair.mining.candidates import Candidates
from truepair.relations.ledger import read_ledger
from truepair.relations.standing import Standing

COMMAND = [sys.executable, "-c", "from truepair.cli.main import main; main()", "review", "runs/mined", "--no-browser"]


class Review:
    """The command ``truepair review``, and calls to its server as the page makes them."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(COMMAND, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"(http://127\.0\.0\.1:\d+)/\?token=(\S+)", line):
                break
        else:
            raise AssertionError("the server did not start")
        headers = {"Authorization": f"Bearer {found[2]}"}
        self.client = httpx.Client(base_url=found[1], headers=headers, timeout=60, trust_env=False)
        self.name = self.state()["name"]

    def state(self) -> dict:
        return self._json(self.client.get("/api/state", params={"person": "Ada"}))

    def question(self) -> dict | None:
        return self._json(self.client.get("/api/next", params={"person": "Ada"}))["question"]

    def say(self, key: str, answer: str) -> None:
        said = {"person": "Ada", "key": key, "answer": answer, "name": self.name}
        self._json(self.client.post("/api/answer", json=said))

    def picture(self, number: int) -> bytes:
        return self.client.get(f"/api/picture/{number}").raise_for_status().content

    @staticmethod
    def _json(response: httpx.Response) -> dict:
        assert response.status_code == 200, response.text
        return response.json()


@pytest.fixture
def mined(squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with pairs.csv, a small CLIP, and what was mined of the pairs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    write_list(squares, tmp_path / "pairs.csv")
    save_clip(tmp_path / "clip")
    main(["mine", "pairs.csv", "--model", "clip"])
    yield tmp_path


def answer(review: Review, count: int) -> dict[str, str]:
    """Answer questions, every third with yes."""
    said = {}
    for number in range(count):
        question = review.question()
        assert question is not None and question["key"] not in said
        said[question["key"]] = "yes" if number % 3 == 0 else "no"
        review.say(question["key"], said[question["key"]])
    return said


TRAIN = ["train", "clip", "mined", "pairs.csv", "--model.checkpoint", "clip", "--loop.batch_size", "8"]
FAST = ["--loop.epochs", "1", "--loop.workers", "0", "--evaluation.rerank", "0"]


def test_pairs_are_mined_reviewed_and_trained_on(mined: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*TRAIN, *FAST])
    refused = capsys.readouterr().err
    assert "truepair review runs/mined" in " ".join(refused.split()) and "--unjudged" in refused

    review = Review()
    assert review.picture(0).startswith(b"\xff\xd8")  # a JPEG
    first = answer(review, 13)
    review.process.kill()
    review.process.communicate()

    review = Review()
    assert sum(review.state()["answers"].values()) == 13  # nothing was lost
    second = answer(review, 7)
    assert not set(first) & set(second)
    review.client.close()
    review.process.send_signal(signal.SIGINT)
    told = " ".join(review.process.communicate(timeout=120)[1].split())
    assert review.process.returncode == 0, told
    assert "20 pairs judged by people" in told and "next: truepair train clip PAIRS mined" in told

    standing = Standing.load(Path("runs/mined/ledger"))
    assert standing is not None and standing.answers == 20 and standing.certificate is None
    people = read_ledger("runs/mined/ledger")
    people = people.filter(pc.equal(people["judge"], "person:Ada"))
    candidates = Candidates.load(Path("runs/mined"))
    expected = {}
    for key, said in (first | second).items():
        picture, caption = map(int, key.split("-"))
        for image_id in candidates.image_ids[picture].tolist():
            for caption_id in candidates.caption_ids[caption].tolist():
                expected[image_id, caption_id] = float(said == "yes")
    columns = (people[name].to_pylist() for name in ("image_id", "caption_id", "probability"))
    assert {(image, caption): value for image, caption, value in zip(*columns, strict=True)} == expected

    main([*TRAIN, *FAST, "--run-folder", "runs/own"])
    assert "no precision stated: its judge was fitted on 20 answers" in " ".join(capsys.readouterr().err.split())
    assert "judged by eye" in Path("runs/own/model/README.md").read_text()


def test_answers_of_a_file_take_the_place_of_the_page(mined: Path, capsys: pytest.CaptureFixture[str]) -> None:
    candidates = Candidates.load(Path("runs/mined"))
    lines = []
    for number in range(24):
        picture, caption = int(candidates.pictures[number]), int(candidates.captions[number])
        lines.append(
            {
                "person": "Eve",
                "image_id": int(candidates.image_ids[picture][0]),
                "caption_id": int(candidates.caption_ids[caption][0]),
                "answer": "yes" if number < 8 else "no",
            }
        )
    lines.append({"person": "Eve", "image_id": 5, "caption_id": 5, "answer": "yes"})
    Path("said.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    main(["review", "runs/mined", "--answers", "said.jsonl"])
    told = " ".join(capsys.readouterr().err.split())
    assert "24 answers were taken from said.jsonl; 1 are about pairs that were not mined here" in told
    assert "8 yes, 16 no" in told and "average precision on held-back answers" in told
    assert "no precision is stated" in told
    standing = Standing.load(Path("runs/mined/ledger"))
    assert standing is not None and standing.answers == 24
