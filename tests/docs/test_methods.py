"""docs/methods.md and the help of a recipe list what rules and judges may be."""

import re
from dataclasses import fields
from pathlib import Path

from truepair.judges.base import JudgeConfig
from truepair.judges.open import JUDGES
from truepair.methods.rules import RelationsConfig
from truepair.relations import ACTIONS, DETECTORS

TEXT = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
ROWS = {
    name: row for row in re.findall(r"^\| `.*$", TEXT, flags=re.M) for name in re.findall(r"`(\w+)`", row.split("|")[1])
}


def test_every_detector_and_action_has_a_row_with_its_fields() -> None:
    for name, kind in (DETECTORS | ACTIONS).items():
        assert name in ROWS, f"docs/methods.md has no row of {name}"
        for field in fields(kind):  # type: ignore[arg-type]
            assert f"`{field.name}`" in ROWS[name], f"docs/methods.md: the row of {name} does not name {field.name}"


def test_the_help_names_every_detector_action_and_judge() -> None:
    for config, names in ((RelationsConfig, [*DETECTORS, *ACTIONS]), (JudgeConfig, JUDGES)):
        words = set(re.findall(r"\w+", config.__doc__ or ""))
        assert set(names) <= words, f"the help of {config.__name__} does not name {set(names) - words}"
