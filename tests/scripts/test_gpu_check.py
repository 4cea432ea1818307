"""The check of a GPU machine, on one without: its figures in tiny, and which packages it asks for."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import gpu_check
import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "scripts/gpu_check.sh"


def check(*arguments: str, out: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the script with this Python."""
    environment = {**os.environ, "PYTHON": sys.executable, "OUT": "" if out is None else str(out)}
    return subprocess.run(["bash", SCRIPT, *arguments], env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_tiny_figures_are_a_table_of_both_sides(tmp_path: Path) -> None:
    done = check("figures", "--tiny", "--seconds", "250", out=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Tests marked `gpu`: not run." in done.stdout
    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith(("| CLIP", "| MAFA"))]
    sides = {(row[0], row[1], row[3]) for row in rows}
    assert len(rows) == 18 and len(sides) == 9
    assert {side for _, side, _ in sides} == {"truepair", "open_clip", "textbook"}
    assert all(float(row[4].replace(",", "")) > 0 and float(row[6]) > 0 for row in rows)
    work = {(row[0], row[1]): float(row[6]) for row in rows}
    # Both sides do the same CLIP; the textbook asks its judge in each step, and repeats more.
    assert work["CLIP ViT-B/16", "truepair"] == pytest.approx(work["CLIP ViT-B/16", "open_clip"], rel=0.05)
    assert work["MAFA tiny", "truepair"] < work["MAFA tiny", "textbook"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_that_figures_are_missing() -> None:
    done = check("figures")
    assert (done.returncode, done.stdout) == (0, "no figures: there is no GPU here\n"), done.stderr


def test_figures_past_their_time_are_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "arms", lambda *_: [gpu_check.Arm("M", "S", (gpu_check.Mode("whole"),), print)])
    monkeypatch.setattr(gpu_check, "gflop_per_pair", lambda _: 2.0)
    size = gpu_check.Sizes({}, {}, "tiny", (8,), 2)
    rows = list(gpu_check.table(size, torch.device("cpu"), 1.0, until=0.0))
    assert rows[2] == "| M | S | 8 | whole | no time left | | 2 | |"


def test_a_lack_of_memory_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(pairs: int, mode: gpu_check.Mode) -> gpu_check.Trained:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu_check, "arms", lambda *_: [gpu_check.Arm("M", "S", (gpu_check.Mode("whole"),), too_large)])
    monkeypatch.setattr(gpu_check, "gflop_per_pair", lambda _: 2.0)
    size = gpu_check.Sizes({}, {}, "tiny", (8,), 2)
    rows = list(gpu_check.table(size, torch.device("cpu"), 1.0, until=float("inf")))
    assert rows[2] == "| M | S | 8 | whole | out of memory | | 2 | |"


@pytest.mark.parametrize(
    ("card", "peak"),
    [
        ("NVIDIA H200", 989.0),
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA GeForce RTX 4090", 165.0),
    ],
)
def test_known_cards_have_their_makers_peak(monkeypatch: pytest.MonkeyPatch, card: str, peak: float) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: card)
    assert gpu_check.peak_of(torch.device("cuda")) == (peak, "data sheet")


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_check.missing() == []
    there = importlib.metadata.distribution

    def without_jsonargparse(name: str) -> importlib.metadata.Distribution:
        """The installed ones but one."""
        if name == "jsonargparse":
            raise importlib.metadata.PackageNotFoundError(name)
        return there(name)

    monkeypatch.setattr(importlib.metadata, "distribution", without_jsonargparse)
    assert gpu_check.missing() == ["jsonargparse"]


def test_wheels_are_those_that_a_gpu_machine_has_not() -> None:
    wheels = gpu_check.needed(gpu_check.own_needs()) - gpu_check.needed(gpu_check.ITS_OWN)
    assert {"jsonargparse", "docstring-parser", "datasets", "dill", "open-clip-torch", "faiss-cpu"} <= wheels
    assert not {"torch", "numpy", "transformers", "triton"} & wheels and "sphinx" not in wheels
