"""The program of docs/use.md runs as it stands there, and its tables name every option and column."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image

from tests.models.folders import save_clip
from truepair.tasks.embedding import EmbedConfig
from truepair.tasks.vectors import COLUMNS

PAGE = Path(__file__).parents[2] / "docs" / "use.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    save_clip(tmp_path / "runs" / "clip" / "model")
    (tmp_path / "photos").mkdir()
    for name, colour in (("a", "white"), ("b", "red")):
        Image.new("RGB", (20, 16), colour).save(tmp_path / "photos" / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    programs = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len(programs) == 1
    exec(compile(programs[0], PAGE.name, "exec"), {})
    assert "photos/" in capsys.readouterr().out


def test_every_option_and_column_is_in_the_tables() -> None:
    for field in fields(EmbedConfig):
        assert field.name == "data" or f"`--{field.name}" in TEXT, field.name
    for column in [*COLUMNS.names, "vector"]:
        assert re.search(rf"^\|[^|]*`{column}`", TEXT, flags=re.MULTILINE), column
