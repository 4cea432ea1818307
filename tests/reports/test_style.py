import re
from importlib.resources import files

import pytest

CSS = files("truepair.reports").joinpath("templates/report.css").read_text(encoding="utf-8")


def palette(block):
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))


def luminance(colour):
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first, second):
    """WCAG 2 contrast ratio."""
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


LIGHT, DARK = CSS.split("prefers-color-scheme: dark")[0], CSS.split("prefers-color-scheme: dark")[1].split("* {")[0]


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_can_be_read(scheme):
    colours = palette(scheme)
    for ground in ("paper", "card"):
        for text in ("ink", "muted", "own", "true", "near", "wrong", "accent"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        for line in range(1, 7):
            assert contrast(colours[f"series-{line}"], colours[ground]) >= 3, (line, ground)


def test_both_schemes_define_the_same_colours():
    assert palette(LIGHT).keys() == palette(DARK).keys()
    used = set(re.findall(r"var\(--([\w-]+)\)", CSS)) - {"sans", "serif"}
    assert used <= palette(LIGHT).keys()
