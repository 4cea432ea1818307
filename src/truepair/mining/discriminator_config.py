"""Which judge a run asks, and how."""

from dataclasses import dataclass

from truepair.errors import ConfigError

_VIEWS = ("plain", "batch")


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Which con-D a run asks, and how.

    Attributes:
        checkpoint: folder of the judge (kinds blip and dual: or a name on the hub).
        kind: "albef" (ITM head of a truepair model), "blip" (``BlipForImageTextRetrieval``), "dual" (similarity of a
            dual encoder), "evidence" (what the two pairs of a candidate have in common).
        view: what an albef judge reads: "plain" images, through its own preprocessing; or the "batch" as it is,
            augmentation included, as in the MAFA program. The other kinds always read plain images.
        memory: ask once per (image, caption). None does so where a verdict depends on nothing else; crops of the batch
            have a verdict each, and are remembered only if this is true.
        memory_limit: most verdicts to hold, 12 bytes each, also in every checkpoint; None for all.
        calibration: kind dual: JSON file of its calibration; None takes ``calibration.json`` in the checkpoint.
        pairs_at_once: pairs that are read together.
        least_coverage: warn when a smaller share of known pairs passes the upper threshold.
    """

    checkpoint: str
    kind: str = "albef"
    view: str = "plain"
    memory: bool | None = None
    memory_limit: int | None = 50_000_000
    calibration: str | None = None
    pairs_at_once: int = 1024
    least_coverage: float = 0.2

    def __post_init__(self) -> None:
        if self.view not in _VIEWS:
            raise ConfigError(f"ecm.discriminator.view is '{self.view}'; give {' or '.join(_VIEWS)}")
        if self.view == "batch" and self.kind != "albef":
            raise ConfigError(f"ecm.discriminator.view is batch, which kind '{self.kind}' cannot read; set it to plain")
        if self.pairs_at_once < 1:
            raise ConfigError(f"ecm.discriminator.pairs_at_once is {self.pairs_at_once}; give at least 1")
        if not 0.0 <= self.least_coverage <= 1.0:
            raise ConfigError(f"ecm.discriminator.least_coverage is {self.least_coverage}; give a share from 0 to 1")
