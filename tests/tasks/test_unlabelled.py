"""`truepair mine` on pairs as users have them, with no labels: a list, JSON, several captions, tars, a broken file."""

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import BertConfig, BertModel

from tests.tasks.own_pairs import CAPTIONS, save_clip, write_list
from truepair.cli.main import main
from truepair.data.images import BadImageError
from truepair.data.tokens import train_wordpiece
from truepair.mining.candidates import Candidates
from truepair.mining.pictures import open_pictures, read_mining
from truepair.relations.ledger import read_ledger
from truepair.relations.standing import Standing


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that name a small CLIP, and a small text encoder of transformers."""
    folder = tmp_path_factory.mktemp("encoders")
    tokenizer = train_wordpiece([*CAPTIONS, "a b c d e"], 80, min_frequency=1)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    BertModel(config).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    return ["--model", str(save_clip(folder / "clip")), "--text-encoder", str(folder / "bert")]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_what_a_killed_call_left_is_not_mixed_with_what_was_there(
    squares: Path,
    tmp_path: Path,
    encoders: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pairs = write_list(squares, tmp_path / "pairs.csv")
    main(["mine", str(pairs), *encoders, "--candidates", "100"])
    former = read_ledger("runs/mined/ledger")
    replace, rename = Path.replace, Path.rename

    def killed_at(name: str) -> Callable[[Path, Path], Path]:
        def killed(self: Path, target: Path) -> Path:
            if Path(target) == Path("runs/mined", name) and ".partial" in str(self):
                raise KeyboardInterrupt
            return (rename if self.is_dir() else replace)(self, target)

        return killed

    for change, name, message in (
        ("replace", "candidates.parquet", "candidates.parquet is damaged, or of another call than the files beside it"),
        ("rename", "ledger", "ledger is of another call than the candidates beside it; run truepair mine again"),
    ):
        with monkeypatch.context() as patch, pytest.raises(SystemExit):
            patch.setattr(Path, change, killed_at(name))
            main(["mine", str(pairs), *encoders, "--candidates", "50"])
        for words in (
            ["review", "runs/mined", "--answers", "none.csv"],
            ["export", "runs/mined", "out", "--format", "pairs"],
        ):
            with pytest.raises(SystemExit):
                main(words)
            assert message in said(capsys)
    assert read_ledger("runs/mined/ledger") == former
    main(["mine", str(pairs), *encoders, "--candidates", "50"])
    assert len(read_ledger("runs/mined/ledger")) < len(former)
    main(["export", "runs/mined", "out", "--format", "pairs"])


def test_a_list_is_mined_without_labels_again_and_again(
    squares: Path, tmp_path: Path, encoders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = write_list(squares, tmp_path / "pairs.csv")
    main(["mine", str(pairs), *encoders, "--candidates", "100"])
    lines = said(capsys)
    assert "proposed cells are left out: the weakest by the prior" in lines
    assert "100 undeclared cells of 24 pictures and" in lines
    assert "no precision is stated" in lines and "next: truepair review runs/mined" in lines
    assert "known truth" not in lines
    found = Candidates.load(Path("runs/mined"))
    assert len(found) == 100 and bool((np.diff(found.prior) <= 0).all())
    assert {name.split("/")[0] for name in found.names} >= {"captions", "hubness", "alignment", "pictures", "across"}
    cells = pq.read_table("runs/mined/candidates.parquet")
    assert all(path.endswith(".png") for path in cells["image"].to_pylist())
    assert all(
        caption not in found.own[picture] for picture, caption in zip(found.pictures, found.captions, strict=True)
    )
    ledger, standing = read_ledger("runs/mined/ledger"), Standing.load(Path("runs/mined/ledger"))
    assert standing is not None and not standing.judged and standing.certificate is None
    assert set(ledger["judge"].to_pylist()) == {standing.judge} and standing.judge.startswith("prior:")
    page = Path("runs/mined/suspects.html").read_text()
    assert page.count('class="hit"') == 100 and "truepair review runs/mined" in page
    main(["mine", str(pairs), *encoders, "--candidates", "100"])
    assert read_ledger("runs/mined/ledger").drop(["time"]) == ledger.drop(["time"])
    assert Candidates.load(Path("runs/mined")).fingerprint == found.fingerprint
    pictures = open_pictures(Path("runs/mined"))
    assert len(pictures) == 24 and pictures.image(0).size == (16, 16)
    assert str(pictures.path(0)).endswith(".png")


def test_all_captions_of_a_picture_count_and_the_truth_is_for_evaluation(
    squares: Path, tmp_path: Path, encoders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in (squares / "pairs.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        shutil.copy(squares / row["image"], tmp_path)
        row["captions"] += [f"picture {number}", "a square"][: number % 3]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    main(["mine", "pairs.jsonl", *encoders, "--data.train_split", "", "--top", "20", "--run-folder", "runs/all"])
    assert "by the known truth, which mining never saw" in said(capsys)
    found = Candidates.load(Path("runs/all"))
    assert len(found.paths) == 48 and int(found.own.counts.max()) == 3
    asked = {found.texts[number] for number in found.captions}
    assert "picture 1" in asked and "picture 0" not in found.texts
    assert {"captions/mean", "captions/best margin"} <= set(found.names)
    facts = read_mining(Path("runs/all"))
    assert facts["pictures"] == 48 and facts["prior"]["provenance"] and facts["rows"] == 48
    page = Path("runs/all/suspects.html").read_text()
    assert page.count('class="hit"') == 20 and "not a match" in page


def test_pictures_in_tars_are_mined_and_reopened(squares: Path, tmp_path: Path, encoders: list[str]) -> None:
    with tarfile.open(tmp_path / "pairs.tar", "w") as tar:
        for row in map(json.loads, (squares / "pairs.jsonl").read_text().splitlines()[:12]):
            stem = row["image"].removesuffix(".png")
            (tmp_path / f"{stem}.txt").write_text(row["captions"][0])
            tar.add(squares / row["image"], f"{stem}.png")
            tar.add(tmp_path / f"{stem}.txt", f"{stem}.txt")
    main(["mine", "pairs.tar", *encoders])
    pictures = open_pictures(Path("runs/mined"))
    found = Candidates.load(Path("runs/mined"))
    assert pictures.path(0) is None and pictures.image(3).size == (16, 16)
    rows = {row["captions"][0]: row["image"] for row in map(json.loads, (squares / "pairs.jsonl").open())}
    assert found.texts[found.own[3][0]] in rows
    (tmp_path / "pairs.tar").unlink()
    with pytest.raises(BadImageError, match="cannot be read any more"):
        open_pictures(Path("runs/mined")).image(0)


def test_a_broken_picture_is_left_out_and_counted(
    squares: Path, tmp_path: Path, encoders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = write_list(squares, tmp_path / "pairs.csv")
    broken = pairs.read_text().splitlines()[2].split(",")[0]
    (tmp_path / broken).write_bytes(b"no picture")
    main(["mine", str(pairs), *encoders])
    told = "left out: 1 of 24 pictures of pairs (train) cannot be read"
    assert f"{told}; listed in runs/mined/skipped.jsonl" in said(capsys)
    (listed,) = [json.loads(line) for line in Path("runs/mined/skipped.jsonl").read_text().splitlines()]
    assert listed["file"] == str(tmp_path / broken) and told in Path("runs/mined/suspects.html").read_text()
    found = Candidates.load(Path("runs/mined"))
    assert len(found.paths) == 23 and not any(str(path).endswith(broken) for path in found.paths)
    assert len(read_mining(Path("runs/mined"))["left_out"]) == 1
    for path in tmp_path.glob("*.png"):
        path.write_bytes(path.name.encode())
    with pytest.raises(SystemExit):
        main(["mine", str(pairs), *encoders])
    assert "none of the 24 pictures of pairs (train) can be read" in said(capsys)


def test_peoples_answers_are_never_lost(
    squares: Path, tmp_path: Path, encoders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = write_list(squares, tmp_path / "pairs.csv")
    main(["mine", str(pairs), *encoders])
    (tmp_path / "runs/mined/answers.jsonl").write_text("{}\n")
    shutil.rmtree(tmp_path / "runs/mined/ledger")
    main(["mine", str(pairs), *encoders, "--candidates", "50"])
    assert "holds answers of people, which stay, and so does its ledger" in said(capsys)
    assert not (tmp_path / "runs/mined/ledger").exists()
    with pytest.raises(SystemExit):
        main(["mine", str(squares / "pairs.jsonl"), *encoders])
    assert "people's answers about other pairs; give another --run-folder" in said(capsys)


def test_mistakes_are_one_line(encoders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["nothing.csv"], "no such file or folder: nothing.csv"),
        (["--top", "9"], "give the pairs or a recipe first: truepair mine PAIRS"),
    ):
        with pytest.raises(SystemExit):
            main(["mine", *words])
        assert message in said(capsys)
