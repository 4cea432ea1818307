"""`truepair study` from end to end on made-up squares: runs, resumption, failures, and what is gathered."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.reports.study.made_up import DETECTORS
from tests.tasks.test_mining import recipe_of
from truepair.cli.main import main
from truepair.engine.logs.log import read_log

SAME = [{"detector": name, "action": "relabel"} for name in ("same_image", "same_caption")]


def study_of(squares: Path, folder: Path, **changes: Any) -> Path:
    """A study file beside its recipe: three arms, two kinds of data."""
    recipe_of(squares, folder)
    recorded = {"detector": "recorded", "ledger": "{mined}/ledger", "zone": "match", "action": "relabel"}
    values = {
        "title": "Squares",
        "recipes": ["squares.yaml"],
        "fields": {
            "loop.batch_size": 4,
            "evaluation.rerank": 0,
            "loop.save": False,
            "loop.evaluate_every": 0,
            "model.cache_sources": True,
            "model.pool_images": True,
        },
        "data": {"all": {}, "few": {"data.groups": 2, "data.unseen_share": 0.1}},
        "prepare": {
            "judge": {"command": "judge"},
            "mined": {"command": "mine", "judge": "{judge}", "low": 0.1, "high": 0.4},
        },
        "reference": "InfoNCE",
        "ceiling": "oracle",
        "arms": {
            "InfoNCE": {},
            "oracle": {"fields": {"relations.rules": [*SAME, {"detector": "same_group", "action": "relabel"}]}},
            "mined": {"fields": {"relations.rules": [*SAME, recorded]}, "data": ["all"]},
        },
        **changes,
    }
    path = folder / "study.yaml"
    path.write_text(json.dumps(values))  # JSON is YAML
    return path


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / "results.parquet").to_pylist()
    return rows


def results_of(folder: Path) -> dict[Path, float]:
    return {path: path.stat().st_mtime for path in folder.rglob("result.json")}


def test_a_study_is_run_once_and_gathered(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = str(study_of(squares, tmp_path))
    main(["study", file, "--folder", "out", "--workers", "1", "--only", "InfoNCE"])
    assert len(rows_of(tmp_path / "out")) == 3
    main(["study", file, "--folder", "out", "--workers", "1"])
    rows = rows_of(tmp_path / "out")
    keys = {(row["arm"], row["data"], row["test"]) for row in rows}
    unseen = {(arm, "few", test) for arm in ("InfoNCE", "oracle") for test in ("held_out", "unseen")}
    assert keys == unseen | {(arm, "all", "held_out") for arm in ("InfoNCE", "oracle", "mined")}
    assert len(rows) == len(keys)
    for row in rows:
        assert row["study"] == "study" and row["pairs"] > 0 and row["seconds"] > 0
        figures = [row[name] for name in ("i2t_r1", "i2t_map_r", "t2i_r1", "t2i_map_r")]
        assert row["retrieval_score"] == pytest.approx(sum(figures) / 4) and 0 <= row["naive"] <= 100
        assert (row["conversion_recall"] is None) == (row["arm"] != "mined")
    curves = pq.read_table(tmp_path / "out" / "curves.parquet").to_pylist()
    assert {"mi_positive", "false_negative_rate"} <= {curve["name"] for curve in curves}
    assert {curve["epoch"] for curve in curves} == {1}
    assert (tmp_path / "out" / "study.html").exists()
    assert not list((tmp_path / "out" / "cells").rglob("model"))

    done = results_of(tmp_path / "out")
    lost = next(path for path in done if "oracle" in path.parts)
    lost.unlink()
    main(["study", file, "--folder", "out", "--workers", "1"])
    again = results_of(tmp_path / "out")
    assert {path for path in again if again[path] != done[path]} == {lost}
    capsys.readouterr()
    main(["study", file, "--folder", "out", "--list"])
    listed = capsys.readouterr().err
    assert listed.count("done: ") == 7 and "to do" not in listed

    # Detectors of another place, which is looked for before anything is trained.
    named = ["study", str(study_of(squares, tmp_path, detectors="people.json")), "--folder", "out"]
    with pytest.raises(SystemExit):
        main(named)
    assert "detectors: there is no file" in capsys.readouterr().err
    (tmp_path / "people.json").write_text(json.dumps(DETECTORS))
    main(named)
    assert DETECTORS["detectors"][0]["name"] in (tmp_path / "out" / "study.html").read_text()
    assert results_of(tmp_path / "out") == again


def test_another_definition_in_the_folder_is_one_line(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    only = ["--folder", "out", "--workers", "1", "--only", "InfoNCE"]
    main(["study", str(study_of(squares, tmp_path, data={"all": {}})), *only])
    pairs = rows_of(tmp_path / "out")[0]["pairs"]
    changed = study_of(squares, tmp_path, data={"all": {"data.drawings": 2}})
    with pytest.raises(SystemExit):
        main(["study", str(changed), *only])
    assert "holds a run of another definition; give --redo" in capsys.readouterr().err
    assert [row["pairs"] for row in rows_of(tmp_path / "out")] == [pairs]
    main(["study", str(changed), "--folder", "out", "--list"])
    assert capsys.readouterr().err.startswith("changed: ")
    main(["study", str(changed), *only, "--redo"])
    assert [row["pairs"] < pairs for row in rows_of(tmp_path / "out")] == [True]


def test_a_run_that_fails_takes_only_its_own_with_it(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    impossible = {"judge": {"command": "judge", "fields": {"data.min_group_size": 99}}}
    mined = {"mined": {"command": "mine", "judge": "{judge}"}}
    file = str(study_of(squares, tmp_path, prepare={**impossible, **mined}))
    with pytest.raises(SystemExit):
        main(["study", file, "--folder", "out", "--workers", "2"])
    said = " ".join(capsys.readouterr().err.split())
    assert "3 of 7 runs failed; the first, prepared/all/0/judge: " in said
    assert "failed: all/0/mined/0: all/0/mined, which it needs, failed" in said
    assert {row["arm"] for row in rows_of(tmp_path / "out")} == {"InfoNCE", "oracle"}


def test_half_a_run_of_another_definition_is_begun_anew(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    only = ["--folder", "out", "--workers", "1", "--only", "InfoNCE"]
    fields = {"loop.batch_size": 4, "evaluation.rerank": 0, "model.pool_images": True, "loop.epochs": 2}

    def losses() -> list[float]:
        """Of the only run."""
        logs = (tmp_path / "out" / "cells").rglob("log.jsonl")
        (log,) = (log for log in logs if "checkpoints" not in log.parts)
        return [record["loss"] for record in read_log(log) if record["kind"] == "step"]

    def half_done(file: Path) -> None:
        """Do the run, then lose its result and its second epoch."""
        main(["study", str(file), *only])
        (folder,) = (tmp_path / "out" / "cells").rglob("checkpoints")
        (folder.parent / "result.json").unlink()
        shutil.rmtree(max(folder.iterdir()))

    plain = study_of(squares, tmp_path, data={"all": {}}, fields=fields)
    main(["study", str(plain), *only])
    wanted = losses()
    shutil.rmtree(tmp_path / "out")
    smoothed = study_of(squares, tmp_path, data={"all": {}}, fields={**fields, "objectives.itc.smoothing": 0.9})
    half_done(smoothed)
    plain = study_of(squares, tmp_path, data={"all": {}}, fields=fields)
    main(["study", str(plain), *only])
    assert losses() == wanted
    half_done(plain)
    main(["study", str(plain), *only])
    assert losses() == wanted


def test_hard_batches_hear_of_a_mined_ledger_and_the_page_shows_what_is_learned(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    grit = {"sampler.kind": "grit", "loop.epochs": 3, "data.validation_split": "test"}
    below = {"below": 0.4, "ledger": "{mined}/ledger"}
    arms = {
        "InfoNCE": {},
        "FALCON": {"fields": {**grit, "sampler.hardness.learned.held_out": 8}},
        "below": {"fields": {**grit, "sampler.hardness": below}},
        "communities": {"fields": {**grit, "sampler.kind": "communities", "sampler.hardness": below}},
    }
    file = str(study_of(squares, tmp_path, data={"all": {}}, arms=arms, ceiling=""))
    main(["study", file, "--folder", "out", "--workers", "1"])
    assert {row["arm"] for row in rows_of(tmp_path / "out")} == set(arms)
    curves = pq.read_table(tmp_path / "out" / "curves.parquet").to_pylist()
    learned = [curve for curve in curves if curve["name"] == "hardness_quantile"]
    assert {(curve["arm"], curve["epoch"]) for curve in learned} == {("FALCON", 2), ("FALCON", 3)}
    page = (tmp_path / "out" / "study.html").read_text(encoding="utf-8")
    assert "hardness is learned; its mean quantile goes in FALCON from 0." in page
    assert "Learned hardness: mean quantile, and the range of its runs, all" in page
    for name in ("below", "communities"):
        (said,) = (tmp_path / "out" / "cells").glob(f"*/*/{name}/*/said.txt")
        assert "hard batches keep them apart (sampler.hardness.below)" in " ".join(said.read_text().split())
