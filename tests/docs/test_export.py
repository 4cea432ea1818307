"""docs/export.md names what there is."""

import re
from pathlib import Path

from truepair.cli.export import OF_VERDICTS, VERDICTS
from truepair.tasks.export.known import WORDS

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "export.md").read_text(encoding="utf-8")


def test_formats_options_and_verdicts_are_those_of_the_command() -> None:
    assert set(re.findall(r"--format ([\w-]+)", TEXT)) == set(VERDICTS)
    stated = set(re.findall(r"^truepair export .* --(\w+) \S+", TEXT, re.MULTILINE)) | set(
        re.findall(r"`--(\w+)", TEXT)
    )
    assert stated - {"format"} == set(OF_VERDICTS)
    assert set(re.findall(r"^\| (?:a )?(\w+) \| (?!if)", TEXT, re.MULTILINE)) == set(WORDS.values())


def test_links_and_programs_are_there() -> None:
    assert "(export.md)" in (DOCS / "mining.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((\w+\.md)\)", TEXT):
        assert (DOCS / target).is_file()
    for program in re.findall(r"`(examples/\w+\.py)`", TEXT):
        assert (DOCS.parent / program).is_file()
