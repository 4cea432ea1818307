"""The script that checks recordings of the official programs, on the recording that is in the repository."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests import golden

RECORDINGS = Path(__file__).parents[2] / "data" / "golden"
RECORDING = RECORDINGS / "albef_step_1"


def test_the_recorded_step_is_reproduced() -> None:
    checks = golden.check(RECORDING)
    assert len(checks) >= 63
    assert [str(check) for check in checks if not check.passed] == []


def test_the_script_tells_a_wrong_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "wrong"
    shutil.copytree(RECORDING, wrong)
    record = json.loads((wrong / "expected.json").read_text())
    record["expected"]["epoch1"]["loss_itc"] *= 1.001
    (wrong / "expected.json").write_text(json.dumps(record))
    assert golden.main([str(wrong)]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if "FAIL" in line]
    assert ["epoch 1: loss_itc" in line for line in failed] == [True, True]  # by its parts, and by the whole step


def test_a_folder_without_a_recording_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert golden.main([str(tmp_path), str(RECORDING)]) == 2  # and the other one is still checked
    out = capsys.readouterr().out
    assert "expected.json" in out
    assert "63 checks, 0 failed" in out


def test_a_recorded_walk_is_checked_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert golden.main([str(RECORDINGS / "grit_order_1_64.safetensors")]) == 0
    assert "PASS" in capsys.readouterr().out


def test_errors_are_relative_and_nothing_slips_through() -> None:
    recorded = torch.tensor([100.0, 1.0])
    assert golden.compare("x", recorded + torch.tensor([0.0, 0.009]), recorded).passed
    assert not golden.compare("x", recorded + torch.tensor([0.0, 0.02]), recorded).passed
    assert not golden.compare("x", recorded * torch.nan, recorded).passed
    assert not golden.compare("x", recorded[:1], recorded).passed
    assert not golden.compare_ids("x", torch.tensor([1, 2]), torch.tensor([1, 3])).passed
