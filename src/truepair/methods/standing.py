"""What a run makes of a mined ledger, by what its verdicts stand on: a certificate, answers, or nothing.

A rule of detector ``recorded`` that states neither ``low`` nor ``high`` leaves it to the ledger's ``standing.json``:

==========================  ============================================================================================
a certificate               its threshold is ``high``; a rule that relabels does so if the stated precision is at least
                            ``RELABEL_FROM``, else it smooths
answers, no certificate     the usual zones; what would be relabelled is smoothed
nothing judged              a rule that relabels is refused, unless ``relations.unjudged``: then as with answers
no ``standing.json``        the usual zones, as stated: a run's ledger, or one mined by a judge of clean groups
==========================  ============================================================================================

In the first three, what people said comes first: a yes is a match, a no is a negative whatever later rules say.

Relabelling beats masking from a precision of about 0.6 on, and smoothing by a calibrated probability is as good as the
better of both at every precision (``experiments/exchange.py``, docs/mining.md).
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from truepair.engine.state.checkpoint import MANIFEST, find_damage, has_begun, seal, sums_of
from truepair.errors import ConfigError, DataError
from truepair.files import writing_folder
from truepair.methods.rules import RelationsConfig
from truepair.methods.student import Say
from truepair.relations.actions import Keep, Relabel, Smooth
from truepair.relations.detectors import Recorded
from truepair.relations.rules import Rule
from truepair.relations.standing import STANDING_FILE, Standing

RELABEL_FROM = 0.6
"""Least precision at which relabelling suspected matches beats masking them."""

HEARD = "heard"
"""Folder of a run: copies of the mined ledgers it began with, since reviewing writes them anew."""


@dataclass(frozen=True)
class Heard:
    """The rules of a run, with what ledgers say written into them.

    Attributes:
        relations: of the recipe, with thresholds and actions; mined ledgers are the run's own copies.
        standings: ledger, as the recipe names it -> what it stands on, for those that say.
        names: folder of each copy -> the ledger, as the recipe names it.
    """

    relations: RelationsConfig
    standings: Mapping[str, Standing]
    names: Mapping[str, str]

    def place(self, ledger: str) -> str:
        """Where a ledger is read: the run's copy, or the folder that the recipe names."""
        return next((copy for copy, name in self.names.items() if name == ledger), ledger)


def rules_by_standing(rule: Rule, standing: Standing) -> list[Rule]:
    """What becomes of a rule that leaves its thresholds to the ledger; see the table of the module.

    Args:
        rule: of detector ``recorded``.
        standing: of its ledger.
    """
    found = rule.detector
    assert isinstance(found, Recorded)
    certificate = standing.certificate
    zones, action = found.usual, rule.action
    if certificate is not None:
        zones = replace(zones, low=min(zones.low, certificate.threshold), high=certificate.threshold)
    if isinstance(action, Relabel) and (certificate is None or certificate.precision < RELABEL_FROM):
        action = Smooth(share=1.0)
    judged = replace(found, low=zones.low, high=zones.high, by="judges")
    if found.zone != "match":
        return [Rule(judged, action)]
    people = replace(found, low=0.25, high=0.75, by="people")  # they say 0 or 1; between, they could not tell
    return [Rule(people, Relabel()), Rule(replace(people, zone="negative"), Keep()), Rule(judged, action)]


def hear(
    relations: RelationsConfig, run_folder: Path, say: Say, *, also: Sequence[str] = (), first: bool = True
) -> Heard:
    """Read what the ledgers of a run stand on, say it, and keep them in the run folder; a run goes on with those.

    Args:
        relations: of the recipe.
        run_folder: a run that has begun goes on with the copies there.
        say: prints a line.
        also: ledgers that no rule names, but something else in the recipe.
        first: this is the only process of the run, or the first of several; the others call this after it.

    Raises:
        ConfigError: nobody has judged any pair of a ledger that a rule relabels by, or it is another ledger than the
            run began with.
        DataError: a standing is damaged.
    """
    begun = has_begun(run_folder)
    for ledger, copy in _copies(relations, run_folder, also).items():
        if begun and first:
            _mend(Path(ledger), copy, say)
        now, then = _standing(Path(ledger)), _standing(copy)
        if begun and then is None and now is not None:
            raise ConfigError(
                f"{ledger} has been mined or reviewed anew since the run in {run_folder} began; give another "
                "--run-folder"
            )
        if begun and then is not None and now != then:
            changed = "it is gone" if now is None else f"now: {now.sentence()}"
            say(
                f"{ledger} has changed since this run began, and the run goes on with what it began with ({changed}); "
                "for a run with the new verdicts give another --run-folder"
            )
        if not begun and now is not None:
            _require_judged(relations, ledger, now)
        if not begun and first:
            shutil.rmtree(copy, ignore_errors=True)
            if now is not None:
                _copy(Path(ledger), copy)
    heard = read_heard(relations, run_folder, also=also)
    for ledger, standing in heard.standings.items():
        say(f"{ledger}: {standing.sentence()}")
        if any(_is_open(rule, ledger) and isinstance(rule.action, Relabel) for rule in relations.built):
            say(f"{ledger}: {_treatment(ledger, standing)}")
    return heard


def read_heard(relations: RelationsConfig, run_folder: Path, *, also: Sequence[str] = ()) -> Heard:
    """The rules of a run that has heard its ledgers.

    Raises:
        DataError: a standing in the run folder is damaged.
    """
    copies = _copies(relations, run_folder, also)
    said = {ledger: _standing(copy) for ledger, copy in copies.items()}
    standings = {ledger: standing for ledger, standing in said.items() if standing is not None}
    rules: list[Rule] = []
    for rule in relations.built:
        detector = rule.detector
        standing = standings.get(detector.ledger) if isinstance(detector, Recorded) else None
        if not isinstance(detector, Recorded) or standing is None:
            rules.append(rule)
            continue
        own = Rule(replace(detector, ledger=str(copies[detector.ledger])), rule.action)
        rules += rules_by_standing(own, standing) if _is_open(rule, detector.ledger) else [own]
    distinct = list(dict.fromkeys(rules))
    names = {str(copies[ledger]): ledger for ledger in standings}
    return Heard(replace(relations, rules=[rule.stated() for rule in distinct]), standings, names)


def _treatment(ledger: str, standing: Standing) -> str:
    """What becomes of the suspects that a rule would relabel."""
    certificate = standing.certificate
    if certificate is not None and certificate.precision >= RELABEL_FROM:
        return f"from {certificate.threshold:.3g} on its pairs are matches"
    shares = "its judge's suspects get a share of the target, as large as they are probable"
    review = f"'truepair review {Path(ledger).parent}'"
    if certificate is not None:
        return f"{shares}: below a precision of {RELABEL_FROM:.0%} matches do less good"
    if not standing.judged:
        return f"{shares}, and none becomes a match (--unjudged); {review} makes a judge of some answers"
    return f"{shares}; matches are those that people found; {review} with --precision makes a certificate"


def _require_judged(relations: RelationsConfig, ledger: str, standing: Standing) -> None:
    """Refuse to make matches of what nobody has looked at.

    Raises:
        ConfigError: a rule would.
    """
    converts = any(_is_open(rule, ledger) and isinstance(rule.action, Relabel) for rule in relations.built)
    if converts and not standing.judged and not relations.unjudged:
        raise ConfigError(
            f"nobody has judged any pair of {ledger}, so none becomes a match: answer some in 'truepair review "
            f"{Path(ledger).parent}', or give --unjudged to go on with shares of the target alone"
        )


def _is_open(rule: Rule, ledger: str) -> bool:
    """Whether a rule leaves its thresholds to a ledger."""
    found = rule.detector
    return isinstance(found, Recorded) and found.ledger == ledger and found.low is None and found.high is None


def _copies(relations: RelationsConfig, run_folder: Path, also: Sequence[str]) -> dict[str, Path]:
    """Every ledger that rules or others name -> where the run keeps it, if it says what it stands on."""
    named = [found.ledger for found in relations.detectors if isinstance(found, Recorded)]
    ledgers = dict.fromkeys([*named, *also])
    return {ledger: run_folder / HEARD / str(number) for number, ledger in enumerate(ledgers, start=1)}


def _standing(ledger: Path) -> Standing | None:
    return Standing.load(ledger) if ledger.is_dir() else None


def _copy(ledger: Path, copy: Path) -> None:
    """Copy the verdicts and what they stand on, with their sums.

    Raises:
        DataError: the disk refuses.
    """
    with writing_folder(copy) as aside:
        for file in [*ledger.glob("verdicts-*.parquet"), ledger / STANDING_FILE]:
            shutil.copy2(file, aside)
        seal(aside)


def _mend(ledger: Path, copy: Path, say: Say) -> None:
    """Copy a ledger anew if the run's copy is damaged, and the ledger is still what it was.

    Raises:
        DataError: it is damaged, and the ledger is another one by now.
    """
    if not (copy / MANIFEST).is_file():  # of an older version, or there is no copy
        return
    damage = find_damage(copy)
    if damage is None:
        return
    aside = copy.with_name(f".{copy.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    if (ledger / STANDING_FILE).is_file():
        _copy(ledger, aside)
    same = aside.is_dir() and (
        (aside / MANIFEST).read_bytes() == (copy / MANIFEST).read_bytes()
        or sums_of(aside) == sums_of(copy)  # the manifest alone is damaged
    )
    if not same:
        shutil.rmtree(aside, ignore_errors=True)
        raise DataError(
            f"{copy}, the run's copy of {ledger}, is damaged ({damage}), and {ledger} has changed since; restore one "
            "of both, or give another --run-folder"
        )
    shutil.rmtree(copy)
    aside.rename(copy)
    say(f"{copy}, the run's copy of {ledger}, was damaged ({damage}), and has been copied anew")
