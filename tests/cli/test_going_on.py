"""The same command goes on with a stopped run: with what it began with, whatever became of the files in its folder."""

import csv
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.tasks.own_pairs import save_clip, write_list
from truepair.cli.main import main
from truepair.data.open import open_pairs
from truepair.data.pixels import decoder_name
from truepair.engine.state.lock import LOCK
from truepair.relations.ledger import Ledger
from truepair.relations.standing import Standing

JUDGE = "reviewed:0123456789ab"
WORDS = ["train", "clip", "pairs.csv", "mined.yaml", "--model.checkpoint", "clip", "--loop.cpu", "true"]
WORDS += ["--loop.batch_size", "4", "--loop.workers", "0", "--loop.epochs", "3", "--loop.keep_checkpoints", "9"]
WORDS += ["--loop.log_every", "1", "--loop.best_figure", "t2i_r@1", "--run-folder", "run"]
WORDS += ["--sampler.kind", "grit", "--sampler.queue_size", "16", "--sampler.search_space", "8"]
RULES = """relations: {rules: [{detector: same_image, action: relabel},
  {detector: recorded, ledger: mined, zone: match, action: relabel},
  {detector: recorded, ledger: plain, zone: match, action: relabel}]}"""


Made = tuple[Path, dict[str, object]]


def mine(folder: Path, probability: float, *, standing: bool) -> None:
    """Verdicts on every third pair of pictures and captions."""
    table = open_pairs("pairs.csv")
    ids = [numbers[0] for numbers in table.values("caption_ids")]
    cells = [(i, j) for i in range(len(table)) for j in range(len(table)) if i != j and (i + j) % 3 == 0]
    shutil.rmtree(folder, ignore_errors=True)
    with Ledger(folder, rows_per_part=300) as ledger:
        images = torch.tensor([int(table.image_ids[i]) for i, _ in cells])
        captions = torch.tensor([ids[j] for _, j in cells])
        for part in range(0, len(cells), 300):
            chosen = slice(part, part + 300)
            ledger.record(
                images[chosen], captions[chosen], torch.full_like(images[chosen], 1) * probability, judge=JUDGE
            )
    if standing:
        Standing(judge=JUDGE, answers=20).save(folder)


def ended(run: Path) -> dict[str, object]:
    """What a run leaves that damage of its folder must not change."""
    weights = load_file(run / "model/model.safetensors")
    return {
        "log": (run / "log.jsonl").read_bytes(),
        "weights": {name: value.tolist() for name, value in weights.items()},
    }


@pytest.fixture(scope="module")
def made(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """A folder with pairs, a model, ledgers, and a run that was killed in its last epoch; and what it would leave."""
    folder, before = tmp_path_factory.mktemp("made"), Path.cwd()
    os.chdir(folder)
    write_list(squares, folder / "pairs.csv")
    save_clip(folder / "clip")
    Path("mined.yaml").write_text(RULES)
    mine(Path("mined"), 0.9, standing=True)
    mine(Path("plain"), 0.8, standing=False)
    main(WORDS)
    whole = ended(Path("run"))
    shutil.rmtree("run/model")
    shutil.rmtree(max(Path("run/checkpoints").iterdir()))
    os.chdir(before)
    yield folder, whole


@pytest.fixture
def stopped(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, which is the working directory."""
    shutil.copytree(made[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return Path("run")


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that the command ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main([*WORDS, *words])
    assert left.value.code == 2
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    return printed[printed.index("truepair: ") :].strip()


def change_rows(change: Callable[[dict[str, list[list[str]]]], object]) -> None:
    """Change the rows (picture, caption, split) of the pairs, which are given by split."""
    with Path("pairs.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    change({split: [row for row in rows if row[2] == split] for split in ("train", "val", "test")})
    with Path("pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])


def swap_captions(rows: dict[str, list[list[str]]]) -> None:
    one, other = rows["train"][0], rows["train"][-1]
    one[1], other[1] = other[1], one[1]


def paint_over(rows: dict[str, list[list[str]]]) -> None:
    shutil.copy(rows["test"][0][0], rows["train"][0][0])


def validate_otherwise(rows: dict[str, list[list[str]]]) -> None:
    rows["val"][0][1] += " indeed"


CHANGES: dict[str, tuple[Callable[[], object], str]] = {
    "captions": (lambda: change_rows(swap_captions), "captions of the training pairs"),
    "a picture": (lambda: change_rows(paint_over), "pictures of the training pairs"),
    "what the best is chosen by": (lambda: change_rows(validate_otherwise), "captions of the validation pairs"),
    "the model": (lambda: save_clip(Path("clip"), seed=1), "the model clip"),
    "a ledger": (lambda: mine(Path("plain"), 0.7, standing=False), "the ledger plain"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_inputs_are_refused_by_name_unless_they_are_accepted(
    stopped: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, name = CHANGES[change]
    make()
    line = refusal(capsys)
    assert "\n" not in line and name in line
    assert "not what the run in run began with; give another --run-folder, bring back what it began with, or" in line
    assert not (stopped / "model").exists()
    main([*WORDS, "--loop.accept_changes", "true"])
    assert f"{name}" in (printed := capsys.readouterr().err) and "it goes on with what is there now" in printed
    assert (stopped / "model").exists()


def test_another_decoder_is_refused_by_name_unless_it_is_accepted(
    stopped: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("truepair.tasks.pretraining.decoder_name", lambda: "another 1.0")
    difference = f"the decoder of pictures (another 1.0, then {decoder_name()}): not what the run in run began with; "
    assert f"{difference}give another --run-folder" in refusal(capsys)
    main([*WORDS, "--loop.accept_changes", "true"])
    printed = capsys.readouterr().err
    assert f"the decoder of pictures is {decoder_name()}" in printed
    assert f"{difference}it goes on with what is there now" in printed
    assert (stopped / "model").exists()


def test_other_settings_are_refused_though_the_recipe_is_gone(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stopped / "recipe.yaml").unlink()
    line = refusal(capsys, "--objectives.itc.smoothing", "0.5")
    assert "run holds a run with objectives.itc.smoothing 0.0, now it is 0.5; give another --run-folder" in line


def test_a_checkpoint_of_an_older_version_goes_on_with_a_line(
    stopped: Path, made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = max((stopped / "checkpoints").iterdir())
    state = json.loads((newest / "state.json").read_text())
    del state["identity"]
    (newest / "state.json").write_text(json.dumps(state))
    seal_anew(newest)
    main(WORDS)
    assert "is of a version that did not note what a run reads" in capsys.readouterr().err
    assert ended(stopped) == made[1]


def seal_anew(folder: Path) -> None:
    from truepair.engine.state.checkpoint import seal

    (folder / "manifest.json").unlink()
    seal(folder)


def test_a_users_copy_of_a_checkpoint_is_left_alone(
    stopped: Path, made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = max((stopped / "checkpoints").iterdir())
    copies = [newest.with_name(f"{newest.name}-old"), newest.with_name("step-mine"), newest.with_name(".step-mine")]
    for copy in copies:
        shutil.copytree(newest, copy)
    main([*WORDS, "--loop.keep_checkpoints", "1"])
    assert all(copy.is_dir() for copy in copies)
    assert ended(stopped) == made[1]


FILES = ["recipe.yaml", "log.jsonl", "timing.jsonl", "ledger/verdicts-*", "heard/1/verdicts-*", "heard/1/standing.json"]
FILES += ["heard/1/manifest.json", "plans/plan-*", "checkpoints/*/state.json", "checkpoints/*/model.safetensors"]
HARMED = [(name, ("a bit", "emptied", "cut")[number % 3]) for number, name in enumerate([*FILES, *FILES[:3]])]


@pytest.mark.parametrize(("name", "harm"), HARMED)
def test_a_damaged_folder_ends_in_one_line_or_in_the_same_run(
    stopped: Path, made: Made, name: str, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(f"{name} {harm}")
    file = chance.choice(sorted(stopped.glob(name)))
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
    file.write_bytes({"a bit": flipped, "emptied": b"", "cut": whole[: chance.randrange(len(whole))]}[harm])
    capsys.readouterr()
    try:
        main(WORDS)
    except SystemExit as left:
        assert left.code == 2
        printed = capsys.readouterr().err
        assert "Traceback" not in printed and printed.count("truepair: ") == 1
        assert "\n" not in printed[printed.index("truepair: ") :].strip()
        assert name.startswith("plans")  # what a run only tells, and what it can restore, never stops it
    else:
        assert ended(stopped) == made[1]


def test_a_second_run_in_the_folder_is_refused_before_it_writes(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(stopped)
    endless = ["--loop.epochs", "9999", "--loop.checkpoint_every", "99999", "--loop.evaluate_every", "0"]
    code = "from truepair.cli.main import main; main()"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", code, *WORDS, *endless], **quiet) as first:
        while not (stopped / "recipe.yaml").exists():
            assert first.poll() is None
            time.sleep(0.05)
        recipe = (stopped / "recipe.yaml").read_bytes()
        line = refusal(capsys, "--loop.seed", "7")
        first.kill()
    assert line.startswith(f"truepair: run is in use by process {first.pid} on ") and "\n" not in line
    assert (stopped / "recipe.yaml").read_bytes() == recipe
    assert (stopped / LOCK).exists()
    main(WORDS)
    assert f"run was in use by process {first.pid} on " in capsys.readouterr().err
    assert not (stopped / LOCK).exists()


@pytest.mark.parametrize("stated", ["data: []", "data: 3", "data: null", "loop: ''", "data: {transform: []}"])
def test_a_group_of_fields_that_is_none_is_refused(
    stopped: Path, stated: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mined.yaml").write_text(stated)
    line = refusal(capsys)
    assert line.startswith("truepair: mined.yaml: ")
    assert line.endswith(" is no group of fields; state its fields, or leave it out")
