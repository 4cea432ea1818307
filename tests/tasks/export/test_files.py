"""Exports read by those they are for: sentence-transformers, open_clip, pandas and duckdb."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from PIL import Image

from tests.tasks.export.mined import CERTIFICATE, COLOURS, JUDGE, mined, verdict, write_pairs
from tests.tasks.own_pairs import save_clip
from truepair.cli.export import VERDICTS
from truepair.cli.main import main
from truepair.data.open import open_pairs
from truepair.mining.candidates import Candidates
from truepair.relations.ledger import Ledger
from truepair.tasks.export.files import KINDS, ExportConfig, export_verdicts, open_verdicts

Cells = dict[tuple[str, str], str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("mined")
    mined(write_pairs(place), place / "mined")
    return place


def exported(folder: Path, kind: str, *words: object) -> Path:
    """What the real command writes."""
    out = folder / "-".join(["out", kind, *map(str, words)])
    main(["export", str(folder / "mined"), str(out), "--format", kind, *map(str, words)])
    return out


def kinds(folder: Path) -> Cells:
    """What holds of each picture's file and each caption, worked out from the candidates."""
    candidates = Candidates.load(folder / "mined")
    found: Cells = {}
    for place, (picture, caption) in enumerate(zip(candidates.pictures, candidates.captions, strict=True)):
        probability = 1 / (1 + np.exp(-float(candidates.prior[place])))
        word = "match" if probability > 0.8 else "doubtful" if probability > 0.1 else "negative"
        word = {0: "negative", 1: "match", len(candidates) - 1: "match"}.get(place, word)  # what anna said
        found[str(candidates.paths[picture]), candidates.texts[caption]] = word
    for picture, captions in enumerate(candidates.own[number] for number in range(len(candidates.own))):
        found |= {(str(candidates.paths[picture]), candidates.texts[caption]): "declared" for caption in captions}
    return found


def rows(out: Path) -> list[dict[str, str]]:
    """The rows of a training set, the file in place of the picture."""
    read = pq.read_table(out / "train.parquet").to_pylist()
    return [row | {"anchor": row["anchor"]["path"]} for row in read]


def test_the_hand_made_set_has_cells_of_all_kinds(folder: Path) -> None:
    words = list(kinds(folder).values())
    assert {word: words.count(word) for word in words} == {"declared": 12, "match": 36, "doubtful": 32, "negative": 64}


def test_a_data_set_of_sentence_transformers_has_the_declared_pairs_and_the_matches(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = exported(folder, "sentence-transformers")
    told = capsys.readouterr().err
    assert f"matches are certified, or people said yes to them: {CERTIFICATE.sentence()}" in told
    assert "48 rows (anchor, positive): 12 declared, 36 matches; 32 doubtful ones are left out, and kept apart" in told
    of = kinds(folder)
    assert {(row["anchor"], row["positive"]) for row in rows(out)} == {
        cell for cell, word in of.items() if word in ("declared", "match")
    }
    data = Dataset.from_parquet(str(out / "train.parquet"), cache_dir=str(folder / "cache"))
    assert data.column_names == ["anchor", "positive"] and data[0]["anchor"].size == (16, 16)
    record = json.loads((out / "export.json").read_text())
    assert record["rows"] == 48 and record["certificate"]["threshold"] == 0.8 and len(record["said"]) == 2


def test_hard_negatives_are_the_likeliest_of_those_that_do_not_match(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = exported(folder, "sentence-transformers", "--negatives", 3)
    told, of = capsys.readouterr().err, kinds(folder)
    assert "144 hard negatives of" in told and "none is declared, a match or doubtful" in told
    found = rows(out)
    assert len(found) == 48
    candidates = Candidates.load(folder / "mined")
    score = {
        (str(candidates.paths[p]), candidates.texts[c]): prior
        for p, c, prior in zip(candidates.pictures, candidates.captions, candidates.prior, strict=True)
    }
    for row in found:
        wrong = [caption for (file, caption), word in of.items() if file == row["anchor"] and word == "negative"]
        hardest = sorted(wrong, key=lambda caption: -score[row["anchor"], caption])[:3]
        assert [row[f"negative_{number}"] for number in (1, 2, 3)] == hardest
    refused = next(cell for cell, word in of.items() if word == "negative" and score[cell] > 0)
    assert all(row["negative_1"] == refused[1] for row in found if row["anchor"] == refused[0])  # the hardest of all


@pytest.mark.parametrize("negatives", [0, 2])
def test_the_sampler_of_sentence_transformers_lets_no_known_match_meet(folder: Path, negatives: int) -> None:
    sampler = pytest.importorskip("sentence_transformers.base.sampler")
    out, of = exported(folder, "sentence-transformers", "--negatives", negatives), kinds(folder)
    found = rows(out)

    class Groups:
        column_names = ()
        ids = pq.read_table(out / "groups.parquet")["group"].to_pylist()

        def __len__(self) -> int:
            return len(self.ids)

        def __getitem__(self, row: int) -> dict[int, int]:
            return dict(enumerate(self.ids[row]))

    def clashes(batches: list[list[int]]) -> int:
        """How often a caption of a row is declared for the picture of another row of its batch, or may match it."""
        number = 0
        for batch in batches:
            for one in batch:
                for other in batch:
                    captions = [text for name, text in found[other].items() if name != "anchor"]
                    number += one != other and any(of[found[one]["anchor"], text] != "negative" for text in captions)
        return number

    settings = {"batch_size": 3, "drop_last": False, "valid_label_columns": ["label"]}
    data = Dataset.from_parquet(str(out / "train.parquet"), cache_dir=str(folder / "cache"))
    batches = [
        batch
        for epoch in range(5)
        for batch in sampler.NoDuplicatesBatchSampler(Groups(), **settings, generator=torch.Generator(), seed=epoch)
    ]
    assert {row for batch in batches for row in batch} == set(range(48))
    assert max(map(len, batches)) > 1 and clashes(batches) == 0
    plain = sampler.NoDuplicatesBatchSampler(data, **settings, generator=torch.Generator(), seed=0)
    assert clashes(list(plain)) > 0  # equal values alone do not know the matches


def test_captions_that_sentence_transformers_would_open_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    modality = pytest.importorskip("sentence_transformers.base.modality")
    pairs = write_pairs(tmp_path)
    media = [
        "https://example.org/a.jpg",
        "data:image/png;base64,AAAA",
        str(tmp_path / "red-0.png"),
        "https://youtu.be/a",
    ]
    texts = [*media, "see https://example.org/a.jpg", "https://example.org/", "nothing.png", "x" * 5000 + ".png"]
    lines = [("image", "caption"), *((f"red-{number % 4}.png", text) for number, text in enumerate(texts))]
    with pairs.open("w", newline="") as opened:
        csv.writer(opened).writerows(lines)
    folder, _ = mined(pairs, tmp_path / "mined", certificate=None)
    export_verdicts(
        open_verdicts(folder, None, print), "sentence-transformers", tmp_path / "out", ExportConfig(), print
    )
    assert "pairs are left out: sentence-transformers would open their captions" in capsys.readouterr().out
    kept = {row["positive"] for row in rows(tmp_path / "out")}
    assert kept == {text for text in texts if modality.infer_modality(text) == "text"} == set(texts) - set(media)


def read_by_open_clip(file: Path) -> Any:
    """The data set that open_clip's trainer makes of a CSV by default; a picture is its size, a caption itself."""
    data = pytest.importorskip("open_clip_train.data", reason="needs open_clip and webdataset, of truepair[dev]")
    from open_clip_train.params import parse_args

    words = parse_args(["--train-data", str(file), "--dataset-type", "csv", "--workers", "0"])
    words.distributed = False
    made = data.get_csv_dataset(words, lambda image: image.size, is_train=True, tokenizer=lambda texts: texts)
    return made.dataloader.dataset


def test_open_clips_own_reader_reads_the_csv(folder: Path) -> None:
    out, of = exported(folder, "open_clip"), kinds(folder)
    read = read_by_open_clip(out / "pairs.csv")
    assert ((16, 16), "red square number 0") in {read[number] for number in range(len(read))}
    cells = [(file, read[number][1]) for number, file in enumerate(read.images)]
    assert set(cells) == {cell for cell, word in of.items() if word in ("declared", "match")}
    groups = [set(str(group).split()) for group in pd.read_csv(out / "pairs.csv", sep="\t")["group"]]
    for (file, caption), ours in zip(cells, groups, strict=True):
        for (other, further), theirs in zip(cells, groups, strict=True):
            apart = of[file, further] != "negative" or of[other, caption] != "negative"
            assert bool(ours & theirs) == apart


def test_captions_that_pandas_reads_as_something_else_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = write_pairs(tmp_path)
    texts = ["NA", "null", 'he said "no"', "two\nlines", "a\ttab", "7", "ünï", "carriage\rreturn", "=1+1", "'"]
    lines = [("image", "caption"), *((f"red-{number % 4}.png", text) for number, text in enumerate(texts))]
    with pairs.open("w", newline="") as opened:
        csv.writer(opened).writerows(lines)
    folder, made = mined(pairs, tmp_path / "mined", certificate=None)
    export_verdicts(open_verdicts(folder, None, print), "open_clip", tmp_path / "out", ExportConfig(), print)
    told = capsys.readouterr().out
    assert "pairs are left out: pandas, with which open_clip reads them, takes their captions for missing" in told
    read = read_by_open_clip(tmp_path / "out" / "pairs.csv")
    assert set(read.captions) == set(made.texts) - {"NA", "null"}
    (tmp_path / "numbers").mkdir()
    pairs.write_text("image,caption\nred-0.png,007\nred-1.png,8\nred-2.png,9\n")
    folder, _ = mined(pairs, tmp_path / "numbers" / "mined", certificate=None)
    export_verdicts(open_verdicts(folder, None, print), "open_clip", tmp_path / "out", ExportConfig(), print)
    read = read_by_open_clip(tmp_path / "out" / "pairs.csv")
    assert set(map(str, read.captions)) <= {"8", "9"} and len(read) > 0


def test_pandas_and_duckdb_read_all_pairs(folder: Path) -> None:
    out, of = exported(folder, "pairs"), kinds(folder)
    frames = [pd.read_parquet(out / "pairs.parquet"), pd.read_csv(out / "pairs.csv")]
    for frame in frames:
        assert list(frame.columns) == ["image", "caption", "probability", "judge", "verdict", "certified"]
        assert dict(zip(zip(frame["image"], frame["caption"], strict=True), frame["verdict"], strict=True)) == of
    for kind in ("parquet", "csv"):
        counted = duckdb.sql(f"select verdict, certified, count(*) from '{out}/pairs.{kind}' group by all").fetchall()
        found = {(verdict, bool(certified)): number for verdict, certified, number in counted}
        assert found == {
            ("declared", False): 12,
            ("match", True): 34,  # all within a colour but two that anna spoke of
            ("match", False): 2,
            ("doubtful", False): 32,
            ("negative", False): 64,
        }
    said = frames[0][frames[0]["judge"] == "person:anna"]
    assert sorted(said["probability"]) == [0, 1, 1] and set(said["verdict"]) == {"match", "negative"}
    assert frames[0][frames[0]["verdict"] == "declared"]["judge"].isna().all()


def test_without_a_certificate_the_matches_are_what_people_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mined(folder / "pairs.csv", tmp_path / "mined", certificate=None)
    out = exported(tmp_path, "sentence-transformers")
    assert "there is no certificate, so matches are what people said yes to, alone" in capsys.readouterr().err
    assert len(rows(out)) == 12 + 2
    assert len(rows(exported(tmp_path, "sentence-transformers", "--high", "0.25"))) == 12 + 36 + 32
    assert "--high 0.25: matches are by reviewed:0123456789ab, on no certificate" in capsys.readouterr().err


def test_what_any_judge_takes_for_a_match_is_no_negative(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    candidates, of = Candidates.load(tmp_path / "mined"), kinds(tmp_path)
    out = exported(tmp_path, "sentence-transformers", "--negatives", 1)
    row = next(
        row for row in rows(out) if "red-" in row["anchor"] and "red" not in row["negative_1"]
    )  # nobody was asked
    picture = [str(path) for path in candidates.paths].index(row["anchor"])
    caption = list(candidates.texts).index(row["negative_1"])
    assert of[row["anchor"], row["negative_1"]] == "negative"
    ids = int(candidates.image_ids[picture][0]), int(candidates.caption_ids[caption][0])
    verdict(tmp_path / "mined" / "ledger", *ids, 0.7, "another")
    found = rows(exported(tmp_path, "sentence-transformers", "--negatives", 1))
    assert (row["anchor"], row["negative_1"]) not in {(row["anchor"], row["negative_1"]) for row in found}


def test_pictures_in_a_table_are_written_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = write_pairs(tmp_path)
    table = open_pairs(pairs)
    embedded = [
        {"bytes": (tmp_path / f"{name}-{k}.png").read_bytes(), "path": None} for name in COLOURS for k in range(4)
    ]
    captions = [captions[0] for captions in table.values("captions")]
    Dataset.from_dict({"image": embedded, "caption": captions}).to_parquet(tmp_path / "pairs.parquet")
    mined(tmp_path / "pairs.parquet", tmp_path / "mined")
    first = exported(tmp_path, "open_clip")
    (tmp_path / "moved").mkdir()
    (tmp_path / "pairs.parquet").rename(tmp_path / "moved" / "pairs.parquet")
    with pytest.raises(SystemExit):
        main(["export", str(tmp_path / "mined"), str(tmp_path / "none"), "--format", "open_clip"])
    assert "pairs.parquet, which cannot be read any more" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    out = tmp_path / "out"
    words = ["--format", "open_clip", "--data", str(tmp_path / "moved" / "pairs.parquet")]
    main(["export", str(tmp_path / "mined"), str(out), *words])
    assert f"12 pictures that are no files of their own are written to {out / 'pictures'}" in capsys.readouterr().err
    read = pd.read_csv(out / "pairs.csv", sep="\t")
    assert len(set(read["filepath"])) == 12 and all(Path(file).suffix == ".png" for file in read["filepath"])
    assert len(pd.read_csv(first / "pairs.csv", sep="\t")) == len(read)
    own = read[read["title"] == "green square number 2"]["filepath"]
    assert any(np.array_equal(Image.open(file), Image.open(tmp_path / "green-2.png")) for file in own)


def test_any_ledger_is_exported_with_its_source(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = open_pairs(folder / "pairs.csv")
    with Ledger(tmp_path / "verdicts") as ledger:
        captions = torch.tensor([ids[0] for ids in table.values("caption_ids")]).roll(1)
        ledger.record(torch.tensor(table.image_ids), captions, torch.linspace(0.5, 0.95, 12), judge="mine")
    words = ["--format", "sentence-transformers", "--data", str(folder / "pairs.csv"), "--high", "0.8"]
    main(["export", str(tmp_path / "verdicts"), str(tmp_path / "out"), *words])
    assert "16 rows (anchor, positive): 12 declared, 4 matches; 8 doubtful" in capsys.readouterr().err


def test_drops_are_said(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    candidates = Candidates.load(tmp_path / "mined")
    ledger = tmp_path / "mined" / "ledger"
    own = int(candidates.image_ids[0][0]), int(candidates.caption_ids[candidates.own[0][0]][0])
    verdict(ledger, *own, 0.0, "person:ben")
    verdict(
        ledger,
        int(candidates.image_ids[candidates.pictures[1]][0]),
        int(candidates.caption_ids[candidates.captions[1]][0]),
        0.0,
        "person:ben",
    )
    verdict(ledger, 1, 2, 0.5, JUDGE)
    Path(str(candidates.paths[5])).unlink()
    exported(tmp_path, "sentence-transformers", "--negatives", 7)
    told = capsys.readouterr().err
    for line in (
        "1 declared pairs that people refused are left out",
        "of 1 pairs some said yes and some no: they are doubtful",
        "1 verdicts are left out: they are about nothing of this source",
        "pairs are left out: the files of their pictures are missing",
        "pairs are left out: fewer than 7 captions are known not to match their pictures",
    ):
        assert line in told, line


def test_the_command_knows_all_kinds() -> None:
    assert tuple(KINDS) == VERDICTS


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["MINED", "OUT"], "holds verdicts; say for whom: --format sentence-transformers, open_clip, pairs"),
        (
            ["MINED", "OUT", "--format", "pairs", "--negatives", "2"],
            "--negatives is for --format sentence-transformers",
        ),
        (["MINED", "PAIRS", "--format", "pairs"], "is there, and is no former export; give another folder"),
        (
            ["clip", "OUT", "--high", "0.5"],
            "--high is about verdicts; say for whom: --format sentence-transformers, op",
        ),
        (
            ["clip", "OUT", "--format", "pairs"],
            "clip is no mined folder; give the source of its pairs: --data pairs.csv",
        ),
        (
            ["MINED", "OUT", "--format", "pairs", "--low", "0.9"],
            "needs 0 < low <= high <= 1, but low is 0.9 and high 0.8",
        ),
        (["MINED", "OUT", "--format", "sentence-transformers", "--negatives", "-1"], "give 0 or more"),
        (["MINED", "OUT", "--format", "sentence-transformers", "--negatives", "99"], "ask for fewer --negatives"),
    ],
)
def test_mistakes_are_named(
    folder: Path, tmp_path: Path, words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"MINED": folder / "mined", "PAIRS": folder, "OUT": tmp_path / "out"}
    with pytest.raises(SystemExit):
        main(["export", *(str(places.get(word, word)) for word in words)])
    assert line in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_trainer_of_sentence_transformers_takes_a_step_on_it(folder: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers 6")
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    out = exported(folder, "sentence-transformers", "--negatives", 2)
    model = library.SentenceTransformer(str(save_clip(tmp_path / "clip")))
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    data = Dataset.from_parquet(str(out / "train.parquet"), cache_dir=str(tmp_path / "cache"))
    arguments = library.SentenceTransformerTrainingArguments(
        str(tmp_path / "run"), max_steps=1, per_device_train_batch_size=4, report_to="none", use_cpu=True
    )
    loss = MultipleNegativesRankingLoss(model)
    library.SentenceTransformerTrainer(model, arguments, train_dataset=data, loss=loss).train()
    assert any(not torch.equal(before[name], weight) for name, weight in model.named_parameters())
