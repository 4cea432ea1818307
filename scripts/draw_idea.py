#!/usr/bin/env python3
"""Draw docs/idea.svg, the picture at the top of the README, from six training pairs of the bundled sample.

Usage: draw_idea.py [OUT]   (needs truepair)
"""

import base64
import sys
from pathlib import Path
from xml.sax.saxutils import escape

from truepair.data.open import open_pairs
from truepair.data.table import PairTable

PATHS = [
    "fxemoji/1F419",
    "noto/1F6B2",
    "noto-v1/1F680",
    "twemoji/1F419",
    "noto-v1/26BD",
    "emojione/1F6B2",
]
CELL, LEFT, TOP = 64, 92, 132
COLOURS = {"declared": "#1a7f37", "false negative": "#d4a72c", "negative": "#8c959f"}


def find_rows(table: PairTable) -> list[int]:
    """Rows of the six pairs, by the names of their pictures."""
    stems = [str(image["path"]).rsplit(".", 1)[0] for image in table.rows["image"]]
    return [stems.index(path) for path in PATHS]


def draw(table: PairTable) -> str:
    """The batch as a matrix: which cells a trainer is told are matches, and which truly are."""
    rows = [table.rows[row] for row in find_rows(table)]
    side = CELL * len(rows)
    parts = []
    for place, row in enumerate(rows):
        at = CELL * place
        picture = base64.b64encode(row["image"]["bytes"]).decode("ascii")
        parts.append(
            f'<image x="{LEFT - 60}" y="{TOP + at + 6}" width="52" height="52" '
            f'href="data:image/webp;base64,{picture}"/>'
        )
        words = row["captions"][0].split(", ")
        text = ", ".join(words[:2]) + (", …" if len(words) > 2 else "")
        x, y = LEFT + at + CELL / 2, TOP - 10
        parts.append(f'<text transform="translate({x} {y}) rotate(-35)">“{escape(text)}”</text>')
        for other, column in enumerate(rows):
            same = row["group"] == column["group"]
            kind = "declared" if place == other else "false negative" if same else "negative"
            parts.append(_cell(LEFT + CELL * other, TOP + at, kind))
    width, height = LEFT + side + 150, TOP + side + 96
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="15" fill="#57606a" role="img" '
        'aria-label="A batch of six pictures and six captions. Only the diagonal is declared a match, but four further '
        'cells are matches too.">' + "".join(parts) + _legend(TOP + side + 28) + "</svg>\n"
    )


def _cell(x: int, y: int, kind: str) -> str:
    opacity = {"declared": 0.9, "false negative": 0.95, "negative": 0.22}[kind]
    mark = {"declared": "✓", "false negative": "✓?", "negative": ""}[kind]
    box = (
        f'<rect x="{x + 2}" y="{y + 2}" width="{CELL - 4}" height="{CELL - 4}" rx="8" '
        f'fill="{COLOURS[kind]}" fill-opacity="{opacity}"/>'
    )
    middle = f'x="{x + CELL / 2}" y="{y + CELL / 2 + 8}"'
    ink = "#fff" if kind == "declared" else "#1f2328"
    return box + f'<text {middle} text-anchor="middle" font-size="22" font-weight="700" fill="{ink}">{mark}</text>'


def _legend(y: int) -> str:
    lines = {
        "declared": "declared pair: the only match a trainer is told of",
        "false negative": "false negative: true too, but pushed apart; truepair finds it",
        "negative": "negative",
    }
    return "".join(
        f'<rect x="{LEFT}" y="{y + 24 * row - 13}" width="16" height="16" rx="4" fill="{COLOURS[kind]}"/>'
        f'<text x="{LEFT + 26}" y="{y + 24 * row}">{text}</text>'
        for row, (kind, text) in enumerate(lines.items())
    )


def main() -> None:
    """Write the picture."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "docs" / "idea.svg"
    out.write_text(draw(open_pairs("sample")), encoding="utf-8")


if __name__ == "__main__":
    main()
