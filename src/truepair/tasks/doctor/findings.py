"""What is looked for in a table, and what to do about it."""

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from truepair.data.caption_check import WARNED_CUT, WARNED_UNKNOWN, CaptionCheck, CaptionTokens
from truepair.data.tokens import Tokenization
from truepair.tasks.doctor.diagnosis import Example, Finding, Weight
from truepair.tasks.doctor.patient import Integers, Patient
from truepair.tasks.doctor.pictures import ANIMATED, CMYK, ROTATED, SIXTEEN_BIT
from truepair.tasks.doctor.same import Groups
from truepair.tasks.doctor.texts import NO_SCRIPT

SHOWN = 12
"""Examples of a finding, but for files that cannot be used: these are all listed."""

TINY, ELONGATED = 32, 3.0
"""Shorter side in pixels, and longer by shorter side, from which on a picture is told."""

_ROWS_SHOWN = 4  # pictures of an example

_OTHER_SCRIPT = 0.1  # of captions: a script that fewer are of is another one than usual

_KINDS = {
    CMYK: ("pictures are CMYK, as for print", "they are read, in other colours than programs for print show"),
    SIXTEEN_BIT: ("pictures have 16 bits a colour", "they are read as 8 bits"),
    ANIMATED: ("pictures are animated", "the first frame is read"),
    ROTATED: ("pictures are turned by their EXIF", "they are read as turned; other programs may not"),
}


def file_findings(patient: Patient) -> list[Finding]:
    """What is wrong with pictures as files."""
    facts, units = patient.facts, len(patient.unit_rows)
    missing = np.flatnonzero(patient.missing)
    findings = [
        Finding(
            "left_out",
            "things in the source are no usable pair",
            len(patient.table.skipped),
            0,
            "warning",
            "repair or delete them; they are in no figure below",
            "captions",
            [Example(f"{where}: {why}") for where, why in patient.table.skipped],
        ),
        Finding(
            "missing",
            "picture files are not there",
            len(missing),
            units,
            "error",
            "fetch them, correct image_root, or leave their rows out (--fix)",
            "pictures",
            [Example(files=(patient.files[unit],)) for unit in missing.tolist()],
        ),
    ]
    problems = {} if facts is None else facts.problems
    bad = [(int(patient.there[place]), why) for place, why in sorted(problems.items())]
    findings.append(
        Finding(
            "unreadable",
            "pictures cannot be read",
            None if facts is None else len(bad),
            units,
            "error",
            "fetch them again, or leave their rows out (--fix)",
            "pictures",
            [_unreadable(patient.files[unit], why) for unit, why in bad],
        )
    )
    kinds = {} if facts is None else facts.kinds
    for kind, (what, remedy) in _KINDS.items():
        findings.append(_pictures(patient, kind, what, kinds.get(kind), "note", remedy))
    short = None if facts is None else facts.decoded & (facts.sizes.min(axis=1) < TINY)
    long = None if facts is None else facts.sizes.max(axis=1) > ELONGATED * facts.sizes.min(axis=1).clip(1)
    blank = None if facts is None else facts.blank
    findings += [
        _pictures(
            patient, "blank", "pictures are of one colour", blank, "warning", "leave them out: they show nothing"
        ),
        _pictures(
            patient, "tiny", f"pictures are smaller than {TINY} pixels", short, "note", "they are enlarged, and blurred"
        ),
        _pictures(
            patient,
            "elongated",
            f"pictures are over {ELONGATED:g} times as long as wide, or as wide as long",
            long,
            "note",
            "they are squeezed into a square, or cropped",
        ),
    ]
    return findings


def same_findings(patient: Patient, contradiction: str) -> list[Finding]:
    """Pictures and captions that are the same, in one split and in several, and ids that contradict."""
    groups, table = patient.groups, patient.table
    units, ids = groups.distinct(patient.units), groups.distinct(_numbers(table.image_ids))
    several = np.flatnonzero((units > 1) | (ids > 1))
    leaks = np.flatnonzero(groups.distinct(patient.splits) > 1)
    splits = patient.splits[patient.caption_rows]
    texts = Groups(np.unique(patient.faults.keys[patient.coded], return_inverse=True)[1].astype(np.int64))
    spellings = np.flatnonzero(texts.distinct(patient.coded) > 1)
    shared = np.flatnonzero(texts.distinct(splits) > 1)
    of_ids = Groups(_numbers(table.image_ids))
    of_two = np.flatnonzero(of_ids.distinct(table.contents.shown[table.contents.number]) > 1)
    refused = [Example(contradiction)] if contradiction else []
    return [
        Finding(
            "contradicting_ids",
            "stated ids stand for several pictures or captions",
            len(of_two) + len(refused),
            0,
            "error",
            "repair them, or set derive_ids: all rows of an id count as one picture",
            "pictures",
            [*refused, *row_examples(patient, of_ids, of_two)][:SHOWN],
        ),
        Finding(
            "same_picture_groups",
            "pictures are there under several ids or files",
            len(several),
            len(groups),
            "warning",
            "one id and one file for each (--fix)",
            "pictures",
            row_examples(patient, groups, several),
        ),
        *_near(patient),
        Finding(
            "leaks",
            "pictures are in more than one split",
            len(leaks),
            len(groups),
            "error",
            "keep each in one split: figures on pictures that were trained on flatter (--fix keeps the test's)",
            "splits",
            row_examples(patient, groups, leaks, with_splits=True),
        ),
        Finding(
            "caption_leaks",
            "texts are in more than one split",
            len(shared),
            len(texts),
            "note",
            "short captions repeat by chance; long ones hint at pictures that leak",
            "splits",
            [Example(_text(patient, some)) for some in islice(texts.members(shared), SHOWN)],
        ),
        Finding(
            "same_caption_groups",
            "texts are spelled in several ways",
            len(spellings),
            len(texts),
            "note",
            f"they count as one text: in {'' if patient.table.cased else 'case and '}punctuation alone they differ",
            "captions",
            [
                Example(" | ".join(dict.fromkeys(patient.texts[text] for text in patient.coded[some].tolist())))
                for some in islice(texts.members(spellings), SHOWN)
            ],
        ),
    ]


def caption_findings(patient: Patient) -> list[Finding]:
    """What is wrong with captions as texts."""
    faults, coded, count = patient.faults, patient.coded, len(patient.coded)
    pictures = patient.groups.numbers[patient.caption_rows]  # [S]
    _, keys = np.unique(faults.keys[coded], return_inverse=True)
    cells, times = np.unique(np.stack([pictures, keys]), axis=1, return_counts=True)
    within = int((times - 1).sum())
    owners = np.bincount(cells[1], minlength=int(keys.max(initial=-1)) + 1)  # pictures of each text
    repeated = owners[keys] > 1
    names = faults.script_names
    scripts = np.bincount(faults.scripts[coded], minlength=len(names))
    usual = [number for number, of in enumerate(scripts) if of > _OTHER_SCRIPT * count and names[number] != NO_SCRIPT]
    usually = ", ".join(names[number] for number in usual) or "none"
    other = ~np.isin(faults.scripts[coded], usual)
    frequent = np.argsort(-owners, kind="stable")[:SHOWN]
    first = {int(key): int(coded[np.flatnonzero(keys == key)[0]]) for key in frequent if owners[key] > 1}
    return [
        Finding(
            "captions_repeated",
            "captions are those of other pictures, too",
            int(repeated.sum()),
            count,
            "note",
            "each is a false negative wherever two of its pictures meet; truepair treats them as matches",
            "captions",
            [Example(f"{patient.texts[text]} ({owners[key]:,} pictures)") for key, text in first.items()],
        ),
        Finding(
            "captions_repeated_within",
            "captions repeat another one of their picture",
            within,
            count,
            "note",
            "they weigh double (--fix leaves them out)",
            "captions",
        ),
        _captions(
            patient,
            "captions_generic",
            "captions say nothing of their picture: file names, numbers, 'untitled'",
            patient.generic,
            "warning",
            "leave them out (--fix)",
        ),
        _captions(
            patient,
            "captions_mojibake",
            "captions were read in a wrong encoding, or hold HTML code",
            faults.mojibake[coded],
            "warning",
            "name the encoding of the file, or let --fix mend them",
        ),
        _captions(
            patient,
            "captions_control",
            "captions hold control characters",
            faults.control[coded],
            "warning",
            "--fix takes them out",
        ),
        _captions(
            patient,
            "captions_other_script",
            f"captions are in another script than usual ({usually}), or have no letters",
            other,
            "note",
            "check that the tokenizer and the text encoder know it",
        ),
    ]


def token_findings(
    patient: Patient, tokenization: Tokenization, length: int, progress: Callable[[int, int], None]
) -> tuple[list[Finding], float]:
    """What the tokenizer loses, and the share of unknown words among all tokens."""
    found = CaptionTokens.of(tokenization, length, patient.texts, progress)
    check = CaptionCheck.of(found, patient.stated, length)
    coded = patient.coded
    serious: Weight = "warning"
    findings = [
        _captions(
            patient,
            "captions_cut",
            f"captions have more than {length} tokens, and lose their end",
            found.cut[coded],
            serious if check.cut >= WARNED_CUT * check.captions else "note",
            "raise max_length, or shorten them",
        ),
        _captions(
            patient,
            "captions_unknown",
            f"captions hold words that the tokenizer does not know ({check.unknown_share:.1%} of all tokens)",
            (found.unknown > 0)[coded],
            serious if check.unknown_share >= WARNED_UNKNOWN else "note",
            "take a tokenizer that knows them: one trained on your captions, or that of a model of their language",
        ),
        _captions(
            patient,
            "captions_equal_after_cutting",
            "captions differ from another one, and are the same tokens to the model",
            found.equal[coded],
            "warning",
            "raise max_length; where words are unknown, take another tokenizer",
            order=found.sharing[coded],
        ),
        Finding(
            "captions_equal_without_cutting",
            "of these are the same though nothing was cut: their words are unknown, or spelled alike",
            check.equal_uncut,
            check.captions,
            "note",
            "take another tokenizer",
            "captions",
        ),
    ]
    return findings, check.unknown_share


def _unreadable(file: str, why: str) -> Example:
    """A file that cannot be read, and why, without its name again."""
    return Example(why.removeprefix(f"image {file} "), files=(file,))


def _near(patient: Patient) -> Iterator[Finding]:
    """Pictures that are nearly the same, in one split and in several."""
    nearly = patient.near_groups
    groups = patient.groups
    if nearly is None:
        near, leaks = np.zeros(0, np.int64), np.zeros(0, np.int64)
    else:
        near = np.flatnonzero(nearly.distinct(groups.numbers) > 1)
        leaks = near[nearly.distinct(patient.splits)[near] > 1]
        within = np.flatnonzero(groups.distinct(patient.splits) > 1)
        inside = set(nearly.numbers[np.isin(groups.numbers, within)].tolist())
        leaks = np.array([one for one in leaks.tolist() if one not in inside], np.int64)
    shown = nearly or groups
    yield Finding(
        "near_picture_groups",
        "groups of pictures are nearly the same: other sizes, formats or qualities",
        None if nearly is None else len(near),
        len(groups),
        "warning",
        "look at them; keep one of each group",
        "pictures",
        row_examples(patient, shown, near, labels=groups.numbers),
    )
    yield Finding(
        "near_leaks",
        "groups of nearly the same pictures are in more than one split, beside those that are the same",
        None if nearly is None else len(leaks),
        len(groups),
        "warning",
        "look at them; keep each group in one split",
        "splits",
        row_examples(patient, shown, leaks, with_splits=True, labels=groups.numbers),
    )


def _pictures(
    patient: Patient, key: str, what: str, found: NDArray[np.bool_] | None, weight: Weight, remedy: str
) -> Finding:
    """A finding on pictures that could be opened; ``found`` says which ones."""
    units = [] if found is None else patient.there[found].tolist()
    examples = [Example(files=(patient.files[unit],), rows=(int(patient.unit_rows[unit]),)) for unit in units[:SHOWN]]
    count = None if found is None else len(units)
    return Finding(key, what, count, len(patient.unit_rows), weight, remedy, "pictures", examples)


def _captions(
    patient: Patient,
    key: str,
    what: str,
    found: NDArray[np.bool_],
    weight: Weight,
    remedy: str,
    order: Integers | None = None,
) -> Finding:
    """A finding on stated captions; ``found`` says which ones [S], ``order`` which stand together."""
    places = np.flatnonzero(found)
    if order is not None:
        places = places[np.argsort(order[places], kind="stable")]
    some = dict(zip(patient.coded[places].tolist(), patient.caption_rows[places].tolist(), strict=True))
    examples = [
        Example(patient.texts[text], (row,), (patient.files[int(patient.units[row])],))
        for text, row in islice(some.items(), SHOWN)
    ]
    return Finding(key, what, len(places), len(found), weight, remedy, "captions", examples)


def row_examples(
    patient: Patient, groups: Groups, which: Integers, *, with_splits: bool = False, labels: Integers | None = None
) -> list[Example]:
    """The first of some groups of rows, each with its files.

    Args:
        patient: the table.
        groups: of rows.
        which: groups.
        with_splits: say which splits a group is in.
        labels: of rows; a row of each is shown. None shows one of each file and split.
    """
    examples = []
    for members in islice(groups.members(which), SHOWN):
        shown = np.stack([patient.units[members], patient.splits[members]]) if labels is None else labels[members]
        _, first = np.unique(shown, axis=-1, return_index=True)
        rows = members[np.sort(first)][:_ROWS_SHOWN]
        splits = sorted({patient.split_names[split] for split in patient.splits[members].tolist()})
        ids, units = (len(np.unique(own[members])) for own in (patient.table.image_ids, patient.units))
        text = " and ".join(splits) if with_splits else f"{ids} ids, {units} files"
        files = tuple(dict.fromkeys(patient.files[int(patient.units[row])] for row in rows))
        examples.append(Example(text, tuple(rows.tolist()), files))
    return examples


def _text(patient: Patient, places: Integers) -> str:
    """The text of a group of stated captions, and the splits it is in."""
    splits = patient.splits[patient.caption_rows[places]]
    names = sorted({patient.split_names[split] for split in splits.tolist()})
    return f"{patient.texts[int(patient.coded[places[0]])]} ({' and '.join(names)})"


def _numbers(labels: Integers) -> Integers:
    """Labels as numbers from 0 on."""
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)
