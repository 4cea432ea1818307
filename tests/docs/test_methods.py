"""docs/methods.md lists what rules may say."""

import re
from dataclasses import fields
from pathlib import Path

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
