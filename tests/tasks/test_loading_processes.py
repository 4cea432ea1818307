"""The real command on JPEGs: whatever reads them, and wherever, they are the same pixels, and it says what decodes."""

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.data.makers import encoded, put, put_jsonl
from tests.data.odd_images import picture
from tests.methods.test_chance import WORDS
from truepair.cli.main import main
from truepair.data.pixels import decoder_name

SIZE = 96  # a batch of such pictures has more bytes than are handed over without shared memory


def photographs(folder: Path) -> Path:
    """Sixteen JPEGs of several sizes, one of which is damaged."""
    entries = []
    for number in range(16):
        data = encoded(picture((100 + 9 * number, 120)), "JPEG", quality=80 + number)
        put(folder / f"{number}.jpg", data[:1500] if number == 3 else data)
        entries.append({"image": f"{number}.jpg", "caption": f"picture {number}"})
    return put_jsonl(folder / "pairs.jsonl", entries)


def test_loading_processes_make_the_same_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = photographs(tmp_path)
    found = []
    for workers in ("0", "2"):
        run = tmp_path / f"with {workers}"
        words = ["train", "scratch", str(pairs), *WORDS, "--data.transform.size", str(SIZE), "--loop.epochs", "2"]
        main([*words, "--loop.log_every", "1", "--loop.workers", workers, "--run-folder", str(run)])
        told = capsys.readouterr().err
        assert f"the decoder of pictures is {decoder_name()}" in told
        assert "image file is truncated" in " ".join(told.split())
        losses = [record.get("loss") for record in map(json.loads, (run / "log.jsonl").read_text().splitlines())]
        weights = load_file(run / "model/model.safetensors")
        found.append((losses, {name: value.tobytes() for name, value in weights.items()}))
    assert found[0] == found[1] and sum(loss is not None for loss in found[0][0]) >= 2
