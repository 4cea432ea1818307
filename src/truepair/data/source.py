"""Where image-text pairs come from, and how to read them."""

import codecs
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from datasets import config as datasets_config

from truepair.checked import CHECKS
from truepair.errors import ConfigError
from truepair.settings import Positive, Share, check_settings

_CHOICES = {
    "caption_lines": ("several", "one", None),
    "key_split": ("first", "last"),
    "repeats": ("keep", "merge"),
    "on_bad": ("skip", "error"),
    "cache_check": CHECKS,
}

_MOST_SKIPPED = 0.05  # of the rows, where nobody says otherwise


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One source of image-text pairs.

    Attributes:
        source: "sample" (bundled), the path of a file or folder, a pattern of shards ("cc3m-{000..331}.tar"), or the
            name of a data set on the hub ("owner/name" or "owner/name:configuration").
        format: "auto" tells it by name and content; or its name, one of those that docs/data.md lists.
        name: name of the table; by default that of the source.
        split: keep this split alone; "train+restval" keeps both.
        image_root: folder that image paths start from; by default the folder of the file, or ``images`` in it.
        strip_prefix: beginning to take off image paths first, such as "/export/share/datasets/".
        allow_outside_root: accept image paths that leave ``image_root``. Only for files you trust.
        image_column: column of the image or its path; detected by default.
        caption_column: column of the caption or captions; detected by default. In tars and folders, the ending of the
            file that holds them, such as "alt.txt", or a field of ``.json``.
        caption_lines: the lines of a text are "several" captions, or "one"; by default several in a text file beside an
            image or in a tar, and in a column ``txt``, and one in other cells and fields.
        key_split: members of a tar belong together whose names are equal up to the "first" dot, as WebDataset has it,
            or the "last".
        delimiter: separator of a delimited file, one character or "tab"; detected by default, and the tab in ``.tsv``.
        columns: names of the columns of a delimited file without a header line.
        quoting: whether quotes in a delimited file are syntax; by default not in ``.tsv``, and not between tabs, where
            they are taken off whole cells below a header line.
        encoding: of the text of a source; by default UTF-8, or UTF-16 or UTF-32 where a file is so by its first bytes.
        derive_ids: ignore the ids of the source and derive them from paths and texts.
        repeats: rows that share an image id: "keep" leaves them, "merge" makes one row of them, with all captions.
        labels: the text of an image is the name of its class: a column ``label``, or the folder that the image lies in.
        on_bad: a row whose captions cannot be used is left out and listed ("skip"), or is an error ("error").
        max_skipped: largest share of rows that may be left out; by default ``data.max_bad_fraction``, or 0.05 where
            there is none. Unless it is 0, one row always may.
        max_caption_length: characters of the longest caption that is taken.
        cache_dir: where the Arrow files go; by default ``truepair`` in the cache of the ``datasets`` library.
        cache_check: whether the source has changed since it was read is told by "times", sizes and times of change of
            its files, or by all their "bytes", which are then read each time.
    """

    source: str
    format: str = "auto"
    name: str | None = None
    split: str | None = None
    image_root: str | None = None
    strip_prefix: str = ""
    allow_outside_root: bool = False
    image_column: str | None = None
    caption_column: str | None = None
    caption_lines: str | None = None
    key_split: str = "first"
    delimiter: str | None = None
    columns: tuple[str, ...] | None = None
    quoting: bool | None = None
    encoding: str | None = None
    derive_ids: bool = False
    repeats: str = "keep"
    labels: bool = False
    on_bad: str = "skip"
    max_skipped: Share | None = None
    max_caption_length: Positive = 10_000
    cache_dir: str | None = None
    cache_check: str = "times"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} is '{getattr(self, name)}'; give {' or '.join(filter(None, choices))}")
        try:
            codecs.lookup(self.encoding or "utf-8")
        except LookupError:
            raise ConfigError(f"there is no encoding '{self.encoding}'; give one such as utf-16 or latin-1") from None
        if self.delimiter is not None and len(self.delimiter) != 1 and self.delimiter not in ("\\t", "tab"):
            raise ConfigError(f"delimiter is '{self.delimiter}'; give one character, or tab")
        check_settings(self)

    @property
    def most_skipped(self) -> float:
        """Largest share of rows that may be left out."""
        return _MOST_SKIPPED if self.max_skipped is None else self.max_skipped

    @cached_property  # formats ask for it row by row
    def path(self) -> Path:
        """The source as a path, with ``~`` filled in."""
        return Path(self.source).expanduser()

    @property
    def title(self) -> str:
        """Name of the table."""
        return self.name or self.path.stem or self.source

    @property
    def cache_folder(self) -> Path:
        """Folder of the Arrow files."""
        if self.cache_dir is not None:
            return Path(self.cache_dir).expanduser()
        return Path(datasets_config.HF_DATASETS_CACHE) / "truepair"
