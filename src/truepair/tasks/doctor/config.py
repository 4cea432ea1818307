"""What the doctor examines, and how sources are opened that other commands refuse."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from truepair.data.open import source_config
from truepair.data.splits import ROLES, DataConfig, open_sources
from truepair.data.table import PairTable
from truepair.errors import ConfigError, DataError
from truepair.settings import Natural, Positive, SomeShare, check_settings


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """What is examined, and by what.

    Attributes:
        data: the pairs, as a training run opens them; the words of the command are ``data.sources``.
        pictures: open the pictures; without, files are only looked for, and lists of millions of rows take a minute.
        model: any dual encoder, by folder or name: its tokenizer reads the captions, and it looks for nearly equal
            pictures, for captions that do not fit, and for false negatives.
        tokenizer: folder or name of the tokenizer that reads the captions, without ``model``; "minilm" is that of
            truepair[small].
        max_length: most tokens of a caption; 0 for what training takes: the model's own, else 25.
        batch: pairs of a batch, whose false negatives are counted.
        near: with ``model``: pictures whose features have at least this cosine are nearly equal.
        mined: folder of ``truepair mine``, whose judge's probabilities estimate the false negatives of a batch.
        workers: threads that open pictures; None for one a core.

    Raises:
        ConfigError: a number out of range.
    """

    data: DataConfig = field(default_factory=DataConfig)
    pictures: bool = True
    model: str | None = None
    tokenizer: str = "minilm"
    max_length: Natural = 0
    batch: int = 256
    near: SomeShare = 0.97
    mined: str | None = None
    workers: Positive | None = None

    def __post_init__(self) -> None:
        check_settings(self)
        if self.batch < 2:
            raise ConfigError(f"batch is {self.batch}; give 2 or more")
        if self.model is not None and not self.pictures:
            raise ConfigError("without pictures there is nothing for a model to compare; drop one of both")


@dataclass(frozen=True)
class Opened:
    """A source as the doctor opens it: whatever can be read is.

    Attributes:
        table: the pairs.
        contradiction: why its stated ids could not be used; empty where they could.
    """

    table: PairTable
    contradiction: str


def open_source(data: DataConfig, say: Callable[[str], None]) -> Opened:
    """Open sources, however much of them has to be left out; ids that contradict each other are derived anew.

    Raises:
        DataError: a source cannot be read at all.
        ConfigError: none is named.
    """
    refusals = []
    ways: list[dict[str, Any]] = [{}, {"max_skipped": 1.0}, {"max_skipped": 1.0, "derive_ids": True}]
    for options in ways:
        try:
            table = open_sources(_with_options(data, **options))
            break
        except DataError as error:
            refusals.append(error)
    else:
        raise refusals[0]
    contradiction = str(refusals[1]) if len(refusals) == 2 else ""
    if contradiction:
        say(f"the stated ids contradict each other and are not used: {contradiction}")
    return Opened(table, contradiction)


def _with_options(data: DataConfig, **options: Any) -> DataConfig:
    """The same sources, read with other options."""
    changed: dict[str, Any] = {
        name: [source_config(source, **options) for source in getattr(data, name)]
        for name in ("sources", *ROLES)
        if getattr(data, name) is not None
    }
    return replace(data, **changed)


def named_sources(data: DataConfig) -> tuple[str, ...]:
    """The sources as they were given."""
    given = [source for name in ("sources", *ROLES) for source in getattr(data, name) or ()]
    return tuple(source if isinstance(source, str) else source.source for source in given)
