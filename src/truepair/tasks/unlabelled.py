"""Mines any pairs without a label: candidates by neighbour search, signals, and the order of the shipped prior."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from truepair import __version__
from truepair.data.left_out import SKIPPED, LeftOut
from truepair.data.splits import DataConfig, build_tables
from truepair.data.table import PairTable
from truepair.engine.distributed.processes import own_device
from truepair.engine.logs.progress import counting
from truepair.errors import ConfigError, DataError
from truepair.evaluation.truth import Truth
from truepair.files import writing_folder, writing_together
from truepair.judges.base import PROMPT
from truepair.methods.caches import cache_folder
from truepair.mining.candidates import CANDIDATES, MINED_SEAL, Candidates, has_answers
from truepair.mining.gallery import Gallery
from truepair.mining.graph import FLOOR
from truepair.mining.group_labels import (
    LABELS,
    GroupLabels,
    by_labels,
    groups_of_pictures,
    label_candidates,
    save_labels,
)
from truepair.mining.pictures import write_mining
from truepair.mining.prior import PRIOR, Prior
from truepair.mining.proposals import Proposals, propose
from truepair.mining.signals.encoded import Encoded
from truepair.mining.signals.families import (
    Family,
    agreement_family,
    compute_signals,
    picture_graph,
    usual_families,
)
from truepair.mining.signals.judges import asked_judge, open_asked, with_judge
from truepair.relations.ledger import Ledger
from truepair.relations.standing import Standing
from truepair.settings import Positive, check_settings
from truepair.tasks.encoding import EncodingConfig, encode_gallery

_CHEAP = ("captions", "hubness", "pictures", "learned_pictures", "across")
"""Families that are computed for all proposals, before the strongest are kept."""

_EACH, _MOST = 10, 1_000_000  # candidates of a picture or caption, and in all

_PARTNERS = 64

_TRUTH = ("group", "family")  # columns that state the known truth

_MEANS = (
    "what is kept of pictures is the mean of their states, for mining: a run with model.cache_images encodes them again"
)

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class UnlabelledConfig:
    """What is mined, and how much is kept.

    Attributes:
        encoding: what encodes pictures and captions.
        candidates: most cells that are kept; None for ten a picture or caption, and a million in all.
        top: so many of the most suspicious are shown, and counted where the truth is known.
        ask: judges whose opinions are signals, KIND:NAME each: an ITM head (albef, blip, blip2), the cosine of a dual
            encoder (dual), or the yes or no of a vision-language model (vlm), by folder or name.
        ask_most: so many of the strongest candidates each of them is asked about.
        ask_prompt: what a vision-language model is asked, with ``{caption}`` in it.
        group: a column of groups, such as article numbers: pictures of the same group match each other's captions, of
            two known groups they do not; the judge is fitted on that.

    Raises:
        ConfigError: a number out of range, or a judge that there is not.
    """

    encoding: EncodingConfig = field(default_factory=EncodingConfig)
    candidates: Positive | None = None
    top: Positive = 500
    ask: tuple[str, ...] = ()
    ask_most: Positive = 10_000
    ask_prompt: str = PROMPT
    group: str | None = None

    def __post_init__(self) -> None:
        check_settings(self)
        for number, word in enumerate(self.ask):
            asked_judge(word, self.ask_prompt)
            if word in self.ask[:number]:
                raise ConfigError(f"the judge {word} is to be asked twice; name it once")


@dataclass(frozen=True)
class Mined:
    """What was mined.

    Attributes:
        candidates: the most suspicious first.
        table: the pairs whose picture could be read.
        verdicts: what the known truth says of the most suspicious, words of ``Verdict``; None where none is stated.
        left_out: what was left out, cut or merged.
    """

    candidates: Candidates
    table: PairTable
    verdicts: NDArray[np.str_] | None
    left_out: LeftOut


def mine_unlabelled(data: DataConfig, config: UnlabelledConfig, folder: Path, say: Say) -> Mined:
    """Find the cells of a training set that may match though nobody declared them, and write them into a folder.

    Nothing is known of any cell, so no precision is stated. A folder that people have answered about keeps their
    answers and its ledger.

    Args:
        data: the pairs; their training split is mined.
        config: how.
        folder: where candidates and ledger go.
        say: prints a line.

    Raises:
        DataError: the pairs cannot be read, or nothing is left to propose.
        ConfigError: people have answered about other pairs in this folder.
    """
    left_out = LeftOut(say, folder / SKIPPED)
    tables = build_tables(data)
    for line in tables.describe():
        if line != tables.lacking:  # it is about training runs
            say(line)
    left_out.rows(tables.train)
    if config.group is not None:
        groups_of_pictures(Gallery.of_table(tables.train), config.group)  # what is wrong with it, before the long work
    encoded = encode_gallery(tables.train, config.encoding, say, left_out=left_out)
    if encoded.images is not None and config.encoding.reads_frozen:
        say(_MEANS)
    groups = None if config.group is None else groups_of_pictures(encoded.gallery, config.group)
    families, lacking = usual_families(encoded)
    for line in lacking:
        say(line)
    candidates, proposals = mine_gallery(encoded, families, config.candidates, say)
    answered = _require_same_pairs(folder, candidates)
    candidates = _ask(candidates, encoded.gallery.table, config, say)
    standing = Standing(judge=f"prior:{PRIOR.fingerprint[:12]}")
    labels = None
    if groups is not None and config.group is not None:
        labels = label_candidates(candidates, groups, config.group)
        candidates, labels, standing = _learn(candidates, labels, standing, say)
    facts = {
        "version": __version__,
        "rows": len(tables.train),
        "left_out": list(encoded.left_out),
        "pictures": len(encoded.gallery),
        "captions": len(encoded.gallery.texts),
        "proposals": len(proposals.pictures),
        "candidates": len(candidates),
        "recall": proposals.recall,
        "signals": list(candidates.names),
        "ask": list(config.ask),
        "ask_most": config.ask_most,
        "ask_prompt": config.ask_prompt,
        "encoding": asdict(config.encoding),
        "group": config.group,
        "labels": standing.labels,
        "prior": asdict(PRIOR) | {"fingerprint": PRIOR.fingerprint},
        "fingerprint": candidates.fingerprint,
    }
    _tell(candidates, encoded, say)
    _write(candidates, labels, data, facts, folder)
    if answered:
        say(f"{folder} holds answers of people, which stay, and so does its ledger: truepair review {folder} goes on")
    else:
        _record(candidates, folder / "ledger", standing)
        known = f"nobody but column '{config.group}'" if standing.labels else "nobody"
        ends = "" if standing.labels else " and training converts nothing"
        say(
            f"{known} has said of any pair whether it matches, so no precision is stated{ends}; "
            f"next: truepair review {folder}"
        )
    learned = config.group in _TRUTH  # what the judge was fitted on proves nothing
    verdicts = None if learned else _verdicts(candidates, encoded, config.top, say)
    return Mined(candidates, encoded.gallery.table, verdicts, left_out)


def mine_gallery(
    encoded: Encoded, families: list[Family], limit: int | None, say: Say, prior: Prior = PRIOR
) -> tuple[Candidates, Proposals]:
    """Candidates of a gallery in the order of a prior.

    Args:
        encoded: the gallery.
        families: signals; those that cost little choose which proposals are kept.
        limit: most candidates; None for the usual number.
        say: prints a line on what is left out.
        prior: orders them.

    Raises:
        DataError: every cell is declared.
    """
    gallery = encoded.gallery
    proposals = propose(encoded)
    for name, recall in proposals.recall.items():
        if recall < 1:
            say(f"neighbour search among {name} finds {recall:.0%} of the nearest, measured on some")
    pictures, captions = proposals.pictures, proposals.captions
    if not len(pictures):
        raise DataError(f"{gallery.table.name} declares every caption of every picture; there is nothing to mine")
    cheap = [family for family in families if family.name in _CHEAP]
    signals, names = compute_signals(pictures, captions, cheap)
    most = limit or min(_EACH * max(len(gallery), len(gallery.texts)), _MOST)
    if len(pictures) > most:
        order = np.argsort(-prior.log_odds(signals, names), kind="stable")
        kept = np.sort(order[:most])
        say(f"{len(pictures) - most:,} of {len(pictures):,} proposed cells are left out: the weakest by the prior")
        pictures, captions, signals = pictures[kept], captions[kept], signals[kept]
    dear, more = compute_signals(pictures, captions, [family for family in families if family.name not in _CHEAP])
    signals, names = np.concatenate([signals, dear], axis=1), names + more
    graph = picture_graph(encoded, pictures, captions, prior.log_odds(signals, names)).strongest(_PARTNERS, FLOOR)
    agreement, more = compute_signals(pictures, captions, [agreement_family(encoded, graph)])
    signals, names = np.concatenate([signals, agreement], axis=1), names + more
    log_odds = prior.log_odds(signals, names)
    return Candidates.of_gallery(gallery, pictures, captions, signals, names, log_odds), proposals


def _ask(candidates: Candidates, table: PairTable, config: UnlabelledConfig, say: Say) -> Candidates:
    """Candidates with the opinions of the judges that are to be asked."""
    count = min(config.ask_most, len(candidates))
    for word in config.ask:
        stated = asked_judge(word, config.ask_prompt)
        judge = open_asked(stated, table, own_device())
        folder = cache_folder(config.encoding.cache_folder)
        with counting(judge.name) as show:
            check = config.encoding.cache_check
            candidates, new = with_judge(candidates, stated, judge, table, config.ask_most, folder, show, check=check)
        rest = f"; the other {len(candidates) - count:,} have no such signal" if len(candidates) > count else ""
        known = f" and had been about {count - new:,} before" if count > new else ""
        say(f"{judge.name} was asked about {new:,} of the {count:,} strongest candidates{known}{rest}")
    if config.ask:
        say("a judge fitted on answers reads what they say; the order before anyone has answered does not")
    return candidates


def _require_same_pairs(folder: Path, candidates: Candidates) -> bool:
    """Whether people have answered about the pairs of a folder.

    Raises:
        ConfigError: about those of another source.
    """
    if not has_answers(folder) or not (folder / CANDIDATES).is_file():
        return has_answers(folder)
    before = Candidates.load(folder)
    same = list(before.texts) == list(candidates.texts) and np.array_equal(
        before.image_ids.values, candidates.image_ids.values
    )
    if not same:
        raise ConfigError(f"{folder} holds people's answers about other pairs; give another --run-folder")
    return True


def _learn(
    candidates: Candidates, labels: GroupLabels, standing: Standing, say: Say
) -> tuple[Candidates, GroupLabels, Standing]:
    """Candidates, their labels, and what they stand on once the judge is fitted on labels."""
    count, matches = len(labels.cells), int(labels.matches.sum())
    if not count:
        say(f"no candidate has a known '{labels.column}' on both sides, so nothing is learned from it")
        return candidates, labels, standing
    candidates, labels, fit = by_labels(candidates, labels)
    fitted = f"a judge was fitted on {fit.judge.answers:,} of them"
    say(f"by column '{labels.column}', {matches:,} candidates match and {count - matches:,} do not; {fitted}")
    return candidates, labels, Standing(judge=f"grouped:{fit.judge.fingerprint[:12]}", labels=count)


def _write(
    candidates: Candidates, labels: GroupLabels | None, data: DataConfig, facts: dict[str, Any], folder: Path
) -> None:
    """Write what was mined, in place of that of an earlier call."""
    with writing_together(folder, MINED_SEAL, optional=[LABELS]) as aside:
        candidates.save(aside)
        write_mining(aside, data, facts)
        if labels is not None:
            save_labels(candidates, labels, aside)


def _record(candidates: Candidates, ledger_folder: Path, standing: Standing) -> None:
    """Write the scores; those of an earlier call stay until these stand."""
    probabilities = 1 / (1 + np.exp(-candidates.prior))
    with writing_folder(ledger_folder) as aside:
        with Ledger(aside) as ledger:
            candidates.record(ledger, probabilities.astype(np.float32), judge=standing.judge)
        replace(standing, candidates=candidates.fingerprint).save(aside)


def _tell(candidates: Candidates, encoded: Encoded, say: Say) -> None:
    gallery = encoded.gallery
    say(
        f"{len(candidates):,} undeclared cells of {len(gallery):,} pictures and {len(gallery.texts):,} captions may "
        f"match, the most suspicious first; {len(candidates.names)} signals of each"
    )


def _verdicts(candidates: Candidates, encoded: Encoded, top: int, say: Say) -> NDArray[np.str_] | None:
    """What the known truth says of the most suspicious; it is for evaluation alone."""
    table = encoded.gallery.table
    truth = Truth.from_table(table)
    if truth is None:
        return None
    rows = torch.from_numpy(candidates.rows[candidates.pictures[:top]])
    keys = torch.tensor([table.caption_key(candidates.texts[number]) for number in candidates.captions[:top]])
    verdicts = truth.verdicts(rows, keys)
    judged = int((verdicts != "unknown").sum())
    if judged:
        right = int((verdicts == "true").sum())
        say(f"by the known truth, which mining never saw, {right / judged:.0%} of the first {judged:,} match")
    return verdicts
