"""The rows a run trains on, validates on and tests on: splits, and groups of some size."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from truepair.data.contents import check_identity
from truepair.data.groups import few_of_each, followed_groups, rows_of_groups
from truepair.data.identity import contradictions, held_out, shared_pictures
from truepair.data.images import what_else
from truepair.data.open import open_pairs, source_config
from truepair.data.source import SourceConfig
from truepair.data.split_names import USUAL, split_of_word
from truepair.data.table import PairTable
from truepair.data.tokens import Tokenization, tells_case
from truepair.data.transforms import TransformConfig
from truepair.errors import ConfigError, DataError, nearest
from truepair.settings import Natural, PartShare, Share, SomeShare, check_settings

ROLES = {"train": "train", "validation": "val", "test": "test"}
"""Fields of ``DataConfig`` that name sources of one kind, and the split of their rows."""

_NAMED_FILES = 3  # missing files that are named

_ORIGINS = {
    "stated": "stated by rows",
    "named": "by names of files and folders",
    "given": "by {fields}",
    "none": "train where none is stated",
}
"""Where splits are from, in words; ``fields`` are those of ``DataConfig`` that say so."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the pairs come from.

    Attributes:
        sources: files, folders or hub names, concatenated; "sample" is the bundled sample. Instead of a name, the
            fields of ``SourceConfig`` say how a source is to be read. Splits are those that rows state, or else those
            that files and folders are named for.
        train: sources to train on, instead of ``sources``: all their rows, whatever splits they state.
        validation: sources for validation figures, all their rows; instead of the validation split of ``sources``.
        test: sources for the final figures, all their rows; instead of the test split of ``sources``.
        validation_share: share of the training pictures that validates where nothing else does; chosen by a hash of the
            picture, so that all rows of a picture are on one side.
        test_share: share of the training pictures that is tested on where nothing else is; chosen in the same way.
        train_split: split to train on; empty for all rows.
        validation_split: split for validation figures and for choosing how to combine scores; empty for none.
        test_split: split for the final figures; empty for none.
        captions: "draw" draws one of an image's captions per visit, "first" takes the first, "pairs" visits every one.
        min_group_size: keep only rows whose group has this many rows over all splits (needs a ``group`` column); 0 for
            all.
        max_group_size: keep only rows whose group has at most this many; 0 for all.
        groups: draw this many of the groups that are left; 0 for all.
        group_seed: which ones are drawn, and which share of them.
        other_groups: take all groups that the settings above leave out instead: clean pairs for judges and seed models,
            which then share no group with a run that is otherwise the same.
        group_share: keep only this share of the groups, chosen by a hash of their names.
        drawings: keep at most this many training rows of a group; 0 for all.
        unseen_share: share of the groups of a size that fits that no run trains on, whatever its seed, ``other_groups``
            included; the final figures are measured on all their rows as well.
        identity: which rows show one picture, in all splits: those of one image id ("id"), or also those of one file,
            whatever its path ("file"), or also those whose files are equal byte by byte ("bytes").
        transform: image size and augmentation.
        max_bad_fraction: largest share of unreadable images that a run puts up with, in each split; and of rows of a
            source that cannot be used, unless the source states ``max_skipped``.
    """

    sources: list[str | SourceConfig] | None = None
    train: list[str | SourceConfig] | None = None
    validation: list[str | SourceConfig] | None = None
    test: list[str | SourceConfig] | None = None
    validation_share: PartShare = 0.0
    test_share: PartShare = 0.0
    train_split: str = "train"
    validation_split: str = "val"
    test_split: str = "test"
    captions: str = "draw"
    min_group_size: Natural = 0
    max_group_size: Natural = 0
    groups: Natural = 0
    group_seed: int = 0
    other_groups: bool = False
    group_share: SomeShare = 1.0
    drawings: Natural = 0
    unseen_share: PartShare = 0.0
    identity: str = "bytes"
    transform: TransformConfig = field(default_factory=TransformConfig)
    max_bad_fraction: Share = 0.05

    def __post_init__(self) -> None:
        if self.captions not in ("draw", "first", "pairs"):
            raise ConfigError(f"data.captions is '{self.captions}'; give draw, first or pairs")
        check_identity(self.identity)
        check_settings(self, "data")
        for name in ("sources", *ROLES):
            if isinstance(getattr(self, name), str | SourceConfig):
                raise ConfigError(f"data.{name} is no list; give [{getattr(self, name)!r}]")
            if getattr(self, name) == []:
                raise ConfigError(f"data.{name} is empty; name at least one file, folder or hub name")
        if self.sources is not None and self.train is not None:
            raise ConfigError("data.sources and data.train both say what to train on; give one of them")

    def named(self, split: str) -> str:
        """The sources of a split as they were given, for titles."""
        fields = [role for role, word in ROLES.items() if word == split and getattr(self, role) is not None]
        sources = [source for name in fields or ("sources", *ROLES) for source in getattr(self, name) or ()]
        return ", ".join(source if isinstance(source, str) else source.source for source in sources)


@dataclass(frozen=True)
class Tables:
    """The pairs of a run, by split, and those of unseen groups; None where none are asked for, or none are there.

    Attributes:
        train: to train on.
        validation: for validation figures.
        test: for the final figures.
        unseen: pairs of groups that no run trains on.
        origin: where the splits are from, in words.
        notes: what was left out, ignored or looks wrong, a line each.
        lacking: a line on what a training run will miss; empty if nothing.
    """

    train: PairTable
    validation: PairTable | None
    test: PairTable | None
    unseen: PairTable | None = None
    origin: str = ""
    notes: tuple[str, ...] = ()
    lacking: str = ""

    def read_by(self, tokenization: Tokenization) -> Self:
        """The same pairs for a model: captions that differ in case alone are different if its tokenizer tells case."""
        cased = tells_case(tokenization)
        validation, test, unseen = (
            None if table is None else table.read_by_case(cased) for table in (self.validation, self.test, self.unseen)
        )
        return replace(self, train=self.train.read_by_case(cased), validation=validation, test=test, unseen=unseen)

    def describe(self) -> list[str]:
        """What is trained on, validated on and tested on, and who says so: lines for people, before a training run."""
        counts = {
            "train": self.train,
            "validate": self.validation,
            "test": self.test,
            "test unseen groups": self.unseen,
        }
        said = [f"{_size(table)} {verb}" for verb, table in counts.items() if table is not None and len(table)]
        first = f"pairs of {self.train.name}: {', '.join(said)} (splits: {self.origin})"
        return [first, *self.notes, *filter(None, [self.lacking])]


def open_sources(config: DataConfig) -> PairTable:
    """All rows of a recipe's sources; those of ``train``, ``validation`` and ``test`` are in the splits of these.

    Raises:
        ConfigError: none is named.
        DataError: a source cannot be read.
    """
    return _open(config)[0]


def open_chosen(config: DataConfig) -> tuple[PairTable, list[str]]:
    """All rows of the groups that a recipe takes, in all splits, and what is to be said of the choice.

    Raises:
        ConfigError: no source is named, or a field needs a ``group`` column that is not there.
        DataError: a source cannot be read.
    """
    table, notes = _open(config)
    choice, more = followed_groups(table, config)
    return table if choice is None else rows_of_groups(table, choice.chosen), notes + more


def build_tables(config: DataConfig, *, training: bool = True) -> Tables:
    """Open the sources and take their splits apart.

    Args:
        config: names them.
        training: there must be pairs to train on; otherwise ``train`` may be empty.

    Raises:
        DataError: a source cannot be read, or nothing is left to train on.
        ConfigError: no source is named, or a field needs a ``group`` column that is not there.
    """
    table, notes = _open(config)
    choice, group_notes = followed_groups(table, config)
    notes += group_notes
    unseen = None
    if choice is not None:
        unseen = rows_of_groups(table, choice.unseen) if choice.unseen else None
        table = rows_of_groups(table, choice.chosen)
    given = {role: split for role, split in ROLES.items() if getattr(config, role) is not None}
    origins = ", ".join(text for name, text in _ORIGINS.items() if name in table.split_origins)
    origin = origins.format(fields=", ".join(f"data.{role}" for role in given))
    words = {role: given.get(role, getattr(config, f"{role}_split")) for role in ROLES}
    train = _train(table, words["train"], given.values(), origin, training=training)
    validation, test = (part_of(table, words[role], f"data.{role}_split") for role in ("validation", "test"))
    parts = {"train": train, "validation": validation, "test": test, "unseen": unseen}
    missing = list[tuple[str, str]]()
    for name, part in parts.items():
        if part is not None:
            parts[name], lines = _with_pictures(part, name, config.max_bad_fraction, missing)
            notes += lines
    train, validation, test, unseen = parts["train"] or train, parts["validation"], parts["test"], parts["unseen"]
    train = train.also_skipped(missing)
    if words["train"]:
        notes += _unused(table, words)
    notes += _absent(table, words)
    for name, held in (("validation", validation), ("test", test)):
        shared = 0 if held is None else shared_pictures(held, train)
        if shared:
            notes.append(f"{shared:,} {name} pairs are of pictures that are trained on, which flatters the figures")
    if config.test_share and test is not None:
        notes.append("data.test_share is not needed: there are pairs to test on")
    elif config.test_share:
        train, test = _hold_out(train, "test", config.test_share)
        notes.append("the pairs to test on are held out of the training pairs, by data.test_share")
    if config.validation_share and validation is not None:
        notes.append("data.validation_share is not needed: there are pairs that validate")
    elif config.validation_share:
        train, validation = _hold_out(train, "validation", config.validation_share)
        notes.append("the pairs that validate are held out of the training pairs, by data.validation_share")
    if config.drawings:
        train = few_of_each(train, config.drawings, config.group_seed)
    if config.captions == "pairs":
        train = train.as_pairs()
    return Tables(train, validation, test, unseen, origin, tuple(notes), _lacking(words, validation, test))


def _open(config: DataConfig) -> tuple[PairTable, list[str]]:
    """All rows, and what is to be said of them."""
    if config.sources is None and config.train is None:
        raise ConfigError(
            "name the pairs to train on: a file, a folder or a name on the hub after the recipe, or by --data.sources "
            "or --data.train; 'sample' is the bundled sample"
        )
    given = {split for role, split in ROLES.items() if getattr(config, role) is not None}
    notes: list[str] = []
    trained, held = list[PairTable](), list[PairTable]()
    for role, source in _sources(config):
        table = _opened(config, role, source)
        if role == "sources":
            table, lines = _without(table, given)
        else:
            table, lines = _assigned(table, role, source)
        (trained if role in ("sources", "train") else held).append(table)
        notes += lines
    # A ledger that was mined without the held-out sources holds the ids of the others, which therefore stay.
    whole = PairTable.concat([PairTable.concat(trained), *held], keep_first=True)
    return whole, notes + contradictions(whole)


def _opened(config: DataConfig, role: str, source: SourceConfig, *, captionless: bool = False) -> PairTable:
    """All rows of a source that a field names.

    Raises:
        DataError: it cannot be read; the field is named.
    """
    try:
        return open_pairs(source, identity=config.identity, captionless=captionless)
    except DataError as error:
        raise DataError(f"data.{role}: {error}") from error


def open_held(config: DataConfig, role: str, *, captionless: bool = False) -> tuple[PairTable, list[str]]:
    """What ``config.validation`` or ``config.test`` names, without all else, and what is to be said of it.

    Ids of a single source stay as it states them.

    Args:
        config: names it.
        role: "validation" or "test".
        captionless: pictures without captions are rows, too.

    Raises:
        DataError: a source cannot be read, or too many pictures are missing.
    """
    tables, notes = list[PairTable](), list[str]()
    for _, source in _distinct([(role, _limited(source_config(one), config)) for one in getattr(config, role)], ()):
        table, lines = _assigned(_opened(config, role, source, captionless=captionless), role, source)
        tables.append(table)
        notes += lines
    whole, missing = PairTable.concat(tables), list[tuple[str, str]]()
    found, lines = _with_pictures(whole, role, config.max_bad_fraction, missing)
    return found.also_skipped(missing), [*notes, *contradictions(whole), *lines]


def _sources(config: DataConfig) -> list[tuple[str, SourceConfig]]:
    """All sources, each after the field that names it, with names of their own, as tables need them.

    Those to train on come first; what they are called, and so their ids, does not hang on the others.
    """
    found = [
        [(role, _limited(source_config(source), config)) for role in roles for source in getattr(config, role) or ()]
        for roles in (("sources", "train"), ("validation", "test"))
    ]
    trained = _distinct(found[0], ())
    return [*trained, *_distinct(found[1], [source.title for _, source in trained])]


def _limited(source: SourceConfig, config: DataConfig) -> SourceConfig:
    """A source with the limit of bad rows that is the recipe's for bad pictures, unless it states its own."""
    return source if source.max_skipped is not None else replace(source, max_skipped=config.max_bad_fraction)


def _distinct(found: Sequence[tuple[str, SourceConfig]], taken: Sequence[str]) -> list[tuple[str, SourceConfig]]:
    """Sources of one name told apart by their folders, and those that are still alike by the fields that name them."""
    names = [source.title for _, source in found]
    folders = [source.path.parent.name if source.name is None else "" for _, source in found]
    repeats = Counter([*taken, *names])
    names = [
        f"{folder}/{name}" if folder and repeats[name] > 1 else name
        for folder, name in zip(folders, names, strict=True)
    ]
    repeats = Counter([*taken, *names])
    names = [f"{name} ({role})" if repeats[name] > 1 else name for (role, _), name in zip(found, names, strict=True)]
    return [(role, replace(source, name=name)) for (role, source), name in zip(found, names, strict=True)]


def _without(table: PairTable, splits: set[str]) -> tuple[PairTable, list[str]]:
    """The rows of a source that are in no split which another field gives, and what is to be said of the others."""
    replaced = {name: count for name, count in table.splits.items() if name in splits}
    if not replaced:
        return table, []
    kept = np.flatnonzero([split not in splits for split in table.values("split")])
    fields = " and ".join(f"data.{role}" for role, split in ROLES.items() if split in replaced)
    return table.select(kept), [f"{table.name}: not used, since {fields} is given: {_counts(replaced)}"]


def _assigned(table: PairTable, role: str, source: SourceConfig) -> tuple[PairTable, list[str]]:
    """All rows of a source in the split of the field that names it, and a line where they are of others."""
    split = ROLES[role]
    says = source.split is None and bool(table.split_origins & {"stated", "named"})
    notes = []
    if says and table.splits.keys() != {split}:
        notes.append(
            f"data.{role} takes all {len(table):,} pairs of {table.name}, whatever their splits: "
            f"{_counts(table.splits)}; to go by these, give --data.sources {source.source}"
        )
    return table.with_split(split), notes


def _train(table: PairTable, split: str, given: Iterable[str], origin: str, *, training: bool) -> PairTable:
    """The rows to train on: of a split, or of several; or, of an empty one, all that no other field gives.

    Raises:
        DataError: there are none, and nothing can be trained.
    """
    if not split:
        return _without(table, set(given))[0]
    there = _words(split) & table.splits.keys()
    train = part_of(table, split, "data.train_split") if there else None
    if train is None and not training:
        return table.select([])
    if train is None:
        hint = "; to train on all rows of a file, whatever their split: --data.train FILE" if split == "train" else ""
        raise DataError(f"{table.name} has no split '{split}'; it has {_counts(table.splits)} (splits: {origin}){hint}")
    return train


def part_of(table: PairTable, split: str, field: str = "validation_split") -> PairTable | None:
    """A split, or several, if it is asked for and there.

    Of several, usual names that are not there are passed by, such as "restval" outside COCO.

    Args:
        table: all rows.
        split: its name, or several as "val+test"; empty for none.
        field: what names it, for messages.

    Raises:
        DataError: it is none of the table's, and none of the usual names, which may be missing.
    """
    there = table.splits
    unknown = min((word for word in _words(split) if word not in there and word not in USUAL), default=None)
    if unknown is not None:
        raise DataError(
            f"{field}: {table.name} has no split '{unknown}'{nearest(unknown, there)}; it has {_counts(there)}: give "
            "one of these, or '' for none"
        )
    found = sorted(_words(split) & there.keys())
    return table.split("+".join(found)) if found else None


def _with_pictures(
    table: PairTable, name: str, most: float, missing: list[tuple[str, str]]
) -> tuple[PairTable, list[str]]:
    """The rows of a split whose pictures are there, and a line on the others.

    Args:
        table: the rows.
        name: of the split.
        most: the largest share of pictures that may be left out.
        missing: takes (where, why) of each file that is not there.

    Raises:
        DataError: there are more.
    """
    there = table.contents.there[table.contents.number]  # [N]
    if there.all():
        return table, []
    files = table.select(np.flatnonzero(~there)).missing_files()
    absent, total = len(np.unique(table.pictures[~there])), int(table.pictures.max()) + 1
    others = "" if len(files) <= _NAMED_FILES else f" and {len(files) - _NAMED_FILES:,} more files"
    shown = f"{', '.join(files[:_NAMED_FILES])}{others}"
    said = f"{absent:,} of {total:,} pictures of {table.name} ({name}) are missing: {shown}"
    if absent == total or absent > max(1, most * total):  # one is always put up with
        raise DataError(
            f"{said}; the limit is {most:.1%}: check image_root, fetch the files, or raise data.max_bad_fraction"
        )
    missing += [(path, f"the picture {_state_of(path)} ({name})") for path in files]
    return table.select(np.flatnonzero(there)), [f"left out: {said}"]


def _words(split: str) -> set[str]:
    """The splits that "train+restval" names."""
    return {split_of_word(word) for word in split.split("+") if word}


def _unused(table: PairTable, words: Mapping[str, str]) -> list[str]:
    """A line on the splits that nothing reads; those that are there to measure are not offered for training."""
    used = set().union(*map(_words, words.values()))
    idle = {name: count for name, count in table.splits.items() if name not in used}
    if not idle:
        return []
    more = [name for name in idle if name not in (ROLES["validation"], ROLES["test"])]
    advice = f"; to train on {', '.join(more)}, too: --data.train_split {'+'.join([words['train'], *more])}"
    return [f"not used: {_counts(idle)}{advice if more else ''}"]


def _absent(table: PairTable, words: Mapping[str, str]) -> list[str]:
    """A line on each field that names several splits of which only some are there."""
    lines = list[str]()
    for role, named in words.items():
        there, absent = _words(named) & table.splits.keys(), _words(named) - table.splits.keys()
        if there and absent:
            lines.append(
                f"data.{role}_split is '{named}', and {table.name} has no {', '.join(sorted(absent))}: it is "
                f"{', '.join(sorted(there))} alone"
            )
    return lines


def _hold_out(train: PairTable, role: str, share: float) -> tuple[PairTable, PairTable]:
    """Training rows, and those that validate or are tested on.

    Raises:
        ConfigError: one of both would be empty.
    """
    held = held_out(train, share, "held out" if role == "validation" else role)  # [N]
    if held.all() or not held.any():
        purpose = "training" if held.all() else role
        raise ConfigError(
            f"data.{role}_share {share} of the {len(train):,} training pairs of {train.name} leaves none for "
            f"{purpose}; give another share, or --data.{role} FILE"
        )
    return train.select(np.flatnonzero(~held)), train.select(np.flatnonzero(held))


def _lacking(words: Mapping[str, str], validation: PairTable | None, test: PairTable | None) -> str:
    """A line on what is asked for and not there: what follows, and how to give it; empty if all is there."""
    names, follows, gives = list[str](), list[str](), list[str]()
    if validation is None and words["validation"]:
        names.append("validation")
        follows.append("no best model can be told and the last is kept")
        gives.append("--data.validation FILE or --data.validation_share 0.05")
    if test is None and words["test"]:
        names.append("test")
        follows.append("there are no figures at the end")
        gives.append("--data.test FILE or --data.test_share 0.1")
    if not names:
        return ""
    return f"no {' or '.join(names)} pairs: {', and '.join(follows)}; give {', and '.join(gives)}"


def _size(table: PairTable) -> str:
    """Rows of a table, and captions where they are more, or there are none."""
    rows, captions = len(table), table.caption_count
    if bare := int((table.caption_counts == 0).sum()):
        return f"{rows:,} pictures without captions" if bare == rows else f"{rows:,} ({bare:,} without captions)"
    return f"{rows:,}" if captions == rows else f"{rows:,} (of {captions:,} captions)"


def _counts(splits: Mapping[str, int]) -> str:
    """Splits and their rows, as in "test (300), val (200)"."""
    return ", ".join(f"{name} ({count:,})" for name, count in splits.items())


def _state_of(path: str) -> str:
    """What is wrong with the file of a picture that is not there."""
    try:
        return f"is {what_else(path)}, not a file"
    except OSError:
        return "is missing"
