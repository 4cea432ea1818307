"""How many of the strongest suspected false negatives are true matches."""

from collections.abc import Sequence
from dataclasses import dataclass

from truepair.errors import ConfigError


@dataclass(frozen=True)
class SuspectPrecision:
    """Precision among the first places of a ranking of suspects.

    Attributes:
        depth: places asked for; fewer are looked at if the ranking is shorter.
        judged: suspects among them whose truth is known.
        true: judged suspects that are true matches.
    """

    depth: int
    judged: int
    true: int

    @property
    def value(self) -> float | None:
        """Share of true matches among the judged suspects; None if none is judged."""
        return self.true / self.judged if self.judged else None


def precision_at(flags: Sequence[bool | None], depths: Sequence[int] = (50, 200)) -> list[SuspectPrecision]:
    """Precision of a ranking of suspected false negatives at several depths.

    Args:
        flags: for each suspect, strongest first: is it a true match? None where nobody knows, or where it is a
            near-match to be left out of strict scores; such a suspect takes its place but is not judged.
        depths: numbers of places.

    Raises:
        ConfigError: if a depth is not positive.
    """
    if min(depths, default=1) < 1:
        raise ConfigError(f"precision at {min(depths)} suspects is not defined; use depths of 1 or more")
    tops = [[flag for flag in flags[:depth] if flag is not None] for depth in depths]
    return [SuspectPrecision(depth, len(top), sum(top)) for depth, top in zip(depths, tops, strict=True)]
