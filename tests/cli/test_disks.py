"""Disks that refuse: full or read-only, in every command that writes. One line, and nothing half-written is left."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import BertConfig, BertModel

from tests.cli.test_commands import MODEL
from tests.tasks.export.mined import mined, write_pairs
from tests.tasks.own_pairs import CAPTIONS, save_clip, write_list
from truepair.cli.main import main
from truepair.data.tokens import train_wordpiece
from truepair.mining.candidates import Candidates
from truepair.relations.ledger import read_ledger

REFUSALS = {"full": "No space left on device", "read-only": "Read-only file system"}


@pytest.fixture(scope="module")
def good(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What commands read: pairs, a model, a run, vectors, a mined folder with answers, a study."""
    folder = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        write_list(squares, folder / "pairs.csv")
        tokenizer = train_wordpiece([*CAPTIONS, "a b c d e"], 80, min_frequency=1)
        sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
        BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=40, **sizes)).save_pretrained("bert")
        tokenizer.save_pretrained("bert")
        save_clip(folder / "clip")
        recipe = {
            "data": {
                "sources": [str(squares / "pairs.jsonl")],
                "validation_split": "test",
                "transform": {"size": 16, "rand_augment_ops": 0},
            },
            "text": {"vocab_size": 100, "max_length": 10},
            "model": {"options": MODEL},
            "loop": {"epochs": 1, "batch_size": 8, "workers": 0, "cpu": True},
        }
        Path("r.yaml").write_text(json.dumps(recipe))
        frozen = {"freeze_image": True, "freeze_text": True, "cache_images": True, "cache_captions": True}
        model = {"options": MODEL, **frozen, "cache_folder": str(folder / "states")}
        objectives = {"itm": {"weight": 0.0}, "mlm": {"weight": 0.0}}
        Path("j.yaml").write_text(json.dumps(recipe | {"model": model, "objectives": objectives}))
        main(["judge", "j.yaml", "--run-folder", "judge"])
        main(["train", "r.yaml", "--run-folder", "run"])
        main(["embed", "clip", "pairs.csv", "--output", "vectors.parquet"])
        Path("more").mkdir()
        mined(write_pairs(folder / "more"), folder / "mined")
        study = {"title": "One", "recipes": ["r.yaml"], "arms": {"one": {}}, "reference": "one"}
        Path("s.yaml").write_text(json.dumps(study))
        cells = Candidates.load(Path("mined"))
        ids = [
            (cells.image_ids[cells.pictures[place]][0], cells.caption_ids[cells.captions[place]][0]) for place in (0, 1)
        ]
        lines = [f"2026-01-01T00:00:00Z,anna,{image},{caption},yes" for image, caption in ids]
        Path("answers.csv").write_text("\n".join(["time,person,image_id,caption_id,answer", *lines]))
    return folder


@pytest.fixture(params=list(REFUSALS))
def disk(request: pytest.FixtureRequest, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small disk with a run and a mined folder on it, then full or read-only; its file ``state`` says which."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    monkeypatch.chdir(good)
    monkeypatch.setenv("XDG_CACHE_HOME", str(good / "cache"))
    try:
        shutil.copytree(good / "run", place / "run")
        shutil.copytree(good / "mined", place / "mined")
        (place / "state").write_text(REFUSALS[request.param])
        if request.param == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        else:
            with (place / "filler").open("wb", buffering=0) as file:
                try:
                    while file.write(bytes(1 << 12)):
                        pass
                except OSError:
                    pass
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


MINE = ["--model", "clip", "--text-encoder", "bert", "--candidates", "50"]

COMMANDS = {
    "train": ["train", "r.yaml", "--run-folder", "DISK/new"],
    "train --report": ["train", "r.yaml", "--report", "--run-folder", "DISK/run"],
    "finetune": ["finetune", "retrieval", "r.yaml", "--model.checkpoint", "run/model", "--run-folder", "DISK/new"],
    "evaluate": ["evaluate", "clip", "--data", "pairs.csv", "--output", "DISK/new/figures.json"],
    "mine": ["mine", "pairs.csv", *MINE, "--run-folder", "DISK/new"],
    "mine again": ["mine", "more/pairs.csv", *MINE, "--run-folder", "DISK/mined"],
    "mine --judge": [
        "mine",
        "j.yaml",
        "--judge",
        "judge",
        "--low",
        "0.1",
        "--high",
        "0.4",
        "--run-folder",
        "DISK/mined",
    ],
    "judge": ["judge", "j.yaml", "--run-folder", "DISK/judge"],
    "review": ["review", "DISK/mined", "--answers", "answers.csv"],
    "doctor --json": ["doctor", "pairs.csv", "--json", "DISK/found.json"],
    "doctor --page": ["doctor", "pairs.csv", "--page", "DISK/new/page.html"],
    "doctor --fix": ["doctor", "pairs.csv", "--fix", "DISK/clean.jsonl"],
    "study": ["study", "s.yaml", "--folder", "DISK/study", "--workers", "1"],
    "embed": ["embed", "clip", "pairs.csv", "--output", "DISK/vectors.parquet"],
    "embed .npy": ["embed", "clip", "pairs.csv", "--output", "DISK/new/vectors.npy"],
    "search": ["search", "clip", "vectors.parquet", "a red square", "--page", "DISK/page.html"],
    "export": ["export", "mined", "DISK/out", "--format", "pairs"],
}


LOGS = ("log.jsonl", "timing.jsonl", "said.txt", "answers.jsonl", ".lock")  # begin with nothing, and grow


def files_of(disk: Path) -> dict[str, bytes]:
    return {str(path.relative_to(disk)): path.read_bytes() for path in disk.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_refusal_is_one_line(command: str, disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_of(disk)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([word.replace("DISK", str(disk)) for word in COMMANDS[command]])
    assert stopped.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("truepair: ") and before["state"].decode() in last
    assert str(disk) in last
    after = files_of(disk)
    assert [name for name, data in after.items() if not data and not name.endswith(LOGS)] == []
    assert {name: after.get(name) for name in before} == before


@pytest.mark.parametrize("disk", ["full"], indirect=True)
@pytest.mark.parametrize("free", [8, 20, 48, 120])
@pytest.mark.parametrize(
    "command", ["train --report", "mine", "mine again", "mine --judge", "judge", "review", "study", "export"]
)
def test_a_disk_that_is_full_on_the_way(
    command: str, free: int, good: Path, disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.truncate(disk / "filler", (disk / "filler").stat().st_size - free * 1024)
    former = Candidates.load(disk / "mined"), read_ledger(disk / "mined" / "ledger")
    capsys.readouterr()
    status = 0
    try:
        main([word.replace("DISK", str(disk)) for word in COMMANDS[command]])
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    lines = capsys.readouterr().err.splitlines()
    assert status == 0 or (lines[-1].startswith("truepair: ") and "No space left on device" in lines[-1])
    assert [name for name, data in files_of(disk).items() if not data and not name.endswith(LOGS)] == []
    if status:
        assert Candidates.load(disk / "mined").fingerprint == former[0].fingerprint
        assert len(read_ledger(disk / "mined" / "ledger")) == len(former[1])
