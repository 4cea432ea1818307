"""Numbers, gains and shares as the page of a study writes them."""

from collections.abc import Sequence
from typing import NamedTuple

from truepair.tasks.study.statistics import FEWEST, PairedDifference, RecoveredShare


class TextCell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: its figure.
        small: its interval or spread; empty where there is none.
    """

    text: str
    small: str = ""


_DASH = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"


NOTHING = TextCell(_DASH)


def number(value: float, digits: int = 1) -> str:
    """A number with a proper minus; nothing rounds to a negative zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", _MINUS)


def signed(value: float, digits: int = 1) -> str:
    """A number that always shows its sign; zero has none."""
    text = number(value, digits)
    return text if text.startswith(_MINUS) or not float(text) else f"+{text}"


def span(low: float, high: float, digits: int = 1) -> str:
    """An interval."""
    return f"{number(low, digits)} to {number(high, digits)}"


def gain_cell(gain: PairedDifference | None) -> TextCell:
    """A paired difference and its interval; few runs have none."""
    if gain is None:
        return NOTHING
    few = gain.cells < FEWEST
    return TextCell(signed(gain.mean), counted(gain.cells, "run") if few else span(gain.low, gain.high))


def gain_words(gain: PairedDifference) -> str:
    """A paired difference within a sentence."""
    text, small = gain_cell(gain)
    return f"{text} points ({small})"


def share_cell(share: RecoveredShare | None) -> TextCell:
    """A share in per cent and its interval; few runs have none."""
    if share is None:
        return NOTHING
    few = share.cells < FEWEST
    small = counted(share.cells, "run") if few else span(100 * share.low, 100 * share.high, 0)
    return TextCell(f"{number(100 * share.value, 0)} %", small)


def share_words(share: RecoveredShare) -> str:
    """A share within a sentence."""
    text, small = share_cell(share)
    return f"{text} ({small})"


def percent_cell(value: float | None) -> TextCell:
    """A figure that is in per cent already."""
    return NOTHING if value is None else TextCell(f"{number(value)} %")


def plain_cell(value: float | None) -> TextCell:
    """A figure without a unit."""
    return NOTHING if value is None else TextCell(number(value, 2))


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def counted(count: int, thing: str, things: str = "") -> str:
    """A count and its noun."""
    return f"{count:,} {thing if count == 1 else things or thing + 's'}"
