"""The snippets of README and docs that need no training run."""

import ast
import dataclasses
import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


def test_the_data_snippet_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(code) == 1
    names: dict[str, object] = {}
    exec(code[0], names)
    assert "5627" in capsys.readouterr().out
    assert names["sample"]["pixel_values"].shape == (3, 64, 64)  # type: ignore[index]


def test_every_format_is_in_the_table() -> None:
    from truepair.data.open import READERS

    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    for name in READERS:
        assert f"| `{name}` |" in text, name


def test_every_option_of_a_source_is_in_the_table_with_its_default() -> None:
    from truepair.data.source import SourceConfig

    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \| (must be given|`[^`]+`) \| .+ \|$", text, re.MULTILINE)
    fields = dataclasses.fields(SourceConfig)
    required = dataclasses.MISSING
    expected = [(one.name, "must be given" if one.default is required else one.default) for one in fields]
    assert [(name, ast.literal_eval(word.strip("`")) if "`" in word else word) for name, word in listed] == expected


def _layouts() -> list[tuple[str, list[str]]]:
    """File and lines of each row of the table of lists."""
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").partition("## Layouts")[2].partition("## Splits")[0]
    rows = re.findall(r"^\| `([^`]+)` \| (`.+`) \| [^`|]+.*\|$", text.partition("Files and folders")[0], re.MULTILINE)
    unescaped = ((name, lines.replace("\\|", "|").replace("⇥", "\t")) for name, lines in rows)
    return [(name, [line.strip("`") for line in lines.split("<br>")]) for name, lines in unescaped]


@pytest.mark.parametrize(("name", "lines"), _layouts(), ids=[name for name, _ in _layouts()])
def test_the_examples_of_layouts_are_read(tmp_path: Path, name: str, lines: list[str]) -> None:
    from truepair.data import open_pairs

    for letter in "abc":
        Image.new("RGB", (4, 4)).save(tmp_path / f"{letter}.jpg")
    (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")

    table = open_pairs(tmp_path / name, cache_dir=tmp_path / "cache")

    assert len(lines) == 3
    stated = sum(line.count(".jpg") for line in lines)
    assert len(table) == stated and table.skipped == []
    assert all("dog" in caption.lower() or "hello" in caption for caption in table.rows[0]["captions"][:1])


def test_every_layout_has_three_lines() -> None:
    assert len(_layouts()) == 12


@pytest.mark.parametrize("page", ["README.md", "docs/data.md", "docs/objectives.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", text):
        path = target[0] or target[1]
        if not path.startswith("http"):
            assert ((ROOT / page).parent / path).exists(), path
