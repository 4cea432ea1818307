"""What a run makes of a mined ledger: by a certificate, by answers, and where nobody has judged anything."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truepair.errors import ConfigError, DataError
from truepair.methods.rules import RelationsConfig
from truepair.methods.standing import RELABEL_FROM, Heard, hear, read_heard, rules_by_standing
from truepair.relations.detectors import Recorded, Signals
from truepair.relations.ledger import Ledger, open_index
from truepair.relations.rules import Rule, apply_rules
from truepair.relations.standing import Certificate, Standing

CERTIFICATE = Certificate(
    precision=0.9, confidence=0.95, threshold=0.8, pairs=3412, asked=64, matched=63, lower=0.92, judge="reviewed:a"
)
SENTENCE = "of the 3,412 pairs above 0.8, at least 90% match (95% confidence; 63 of 64 of a random sample)"
ANSWERED = Standing(judge="reviewed:a", answers=200)

# Image and caption, judge, probability; the ids of a batch of eight are 0 to 7.
VERDICTS = [
    (0, 1, "reviewed:a", 0.9),
    (1, 2, "reviewed:a", 0.6),
    (2, 3, "reviewed:a", 0.2),
    (3, 4, "reviewed:a", 0.05),
    (4, 5, "prior:b", 0.99),  # a judge that does not count
    (5, 6, "reviewed:a", 0.1),
    (5, 6, "person:anna", 1.0),
    (6, 7, "reviewed:a", 0.95),
    (6, 7, "person:anna", 0.0),
    (7, 0, "reviewed:a", 0.95),
    (7, 0, "person:anna", 0.5),  # she could not tell
]


def mined(folder: Path, standing: Standing | None) -> str:
    """The folder of a ledger with these verdicts."""
    shutil.rmtree(folder, ignore_errors=True)
    with Ledger(folder) as ledger:
        for image, caption, judge, probability in VERDICTS:
            ids = torch.tensor([image]), torch.tensor([caption])
            ledger.record(*ids, torch.tensor([probability]), judge=judge)
    if standing is not None:
        standing.save(folder)
    return str(folder)


def relations(ledger: str, **fields: Any) -> RelationsConfig:
    """The rules of recipe ``mined``."""
    stated = {"detector": "recorded", "ledger": ledger}
    match = {**stated, "zone": "match", "action": "relabel"}
    return RelationsConfig(rules=[match, {**stated, "zone": "doubtful", "action": "smooth", "share": 1.0}], **fields)


def begin(folder: Path, standing: Standing | None, **fields: Any) -> tuple[Heard, list[str]]:
    said: list[str] = []
    return hear(relations(mined(folder / "mined/ledger", standing), **fields), folder / "run", said.append), said


def shares(config: RelationsConfig) -> dict[tuple[int, int], float]:
    """Undeclared cells of a batch of the ids 0 to 7 that get a share of the target, as an own pair gets 1."""
    batch = torch.arange(8)
    found = apply_rules(config.built, Signals(batch, batch)).positives("i2t")
    cells = zip(found.rows.tolist(), found.columns.tolist(), found.values.tolist(), strict=True)
    return {(row, column): round(share, 3) for row, column, share in cells if row != column}


PEOPLES = {(5, 6): 1.0}
SMOOTHED = {(0, 1): 0.9, (1, 2): 0.6, (2, 3): 0.2, **PEOPLES}


@pytest.mark.parametrize(
    ("standing", "expected"),
    [
        (replace(ANSWERED, certificate=CERTIFICATE), SMOOTHED | {(0, 1): 1.0}),
        (replace(ANSWERED, certificate=replace(CERTIFICATE, threshold=0.5)), SMOOTHED | {(0, 1): 1.0, (1, 2): 1.0}),
        (replace(ANSWERED, certificate=replace(CERTIFICATE, threshold=0.04)),
         dict.fromkeys(SMOOTHED, 1.0) | {(3, 4): 1.0}),
        (replace(ANSWERED, certificate=replace(CERTIFICATE, precision=RELABEL_FROM - 0.1)), SMOOTHED),
        (ANSWERED, SMOOTHED),
        (replace(ANSWERED, answers=0, labels=50), SMOOTHED),
        (None, {(0, 1): 1.0, (1, 2): 1.0, (2, 3): 0.2, (4, 5): 1.0, (5, 6): 1.0, (7, 0): 1.0}),
    ],
    ids=["certified", "its threshold", "below the usual zones", "low precision", "answers", "groups", "as before"],
)  # fmt: skip
def test_what_suspects_become_follows_from_what_they_stand_on(
    tmp_path: Path, standing: Standing | None, expected: dict[tuple[int, int], float]
) -> None:
    heard, _ = begin(tmp_path, standing)
    assert shares(heard.relations) == expected


def test_without_any_answer_only_the_unjudged_go_on(tmp_path: Path) -> None:
    unjudged = replace(ANSWERED, answers=0)
    with pytest.raises(ConfigError) as error:
        begin(tmp_path, unjudged)
    ledger = tmp_path / "mined/ledger"
    assert str(error.value) == (
        f"nobody has judged any pair of {ledger}, so none becomes a match: answer some in 'truepair review "
        f"{tmp_path / 'mined'}', or give --unjudged to go on with shares of the target alone"
    )
    heard, said = begin(tmp_path, unjudged, unjudged=True)
    assert shares(heard.relations) == SMOOTHED
    assert said[0] == f"{ledger}: no precision stated: nobody has judged any of its pairs"
    assert "none becomes a match (--unjudged)" in said[1]


def test_a_rule_that_converts_nothing_needs_no_answer(tmp_path: Path) -> None:
    ledger = mined(tmp_path / "mined/ledger", replace(ANSWERED, answers=0))
    config = RelationsConfig(rules=[{"detector": "recorded", "ledger": ledger, "action": "mask"}])
    heard = hear(config, tmp_path / "run", lambda _: None)
    masked = apply_rules(heard.relations.built, Signals(torch.arange(8), torch.arange(8))).weights("i2t")
    assert {*zip(masked.rows.tolist(), masked.columns.tolist(), strict=True)} == {(0, 1), (1, 2)}


def test_stated_thresholds_are_the_users(tmp_path: Path) -> None:
    ledger = mined(tmp_path / "ledger", replace(ANSWERED, answers=0))
    stated = {"detector": "recorded", "ledger": ledger, "high": 0.55, "action": "relabel"}
    heard = hear(RelationsConfig(rules=[stated]), tmp_path / "run", lambda _: None)
    assert shares(heard.relations) == {(0, 1): 1.0, (1, 2): 1.0, (5, 6): 1.0}


def test_the_sentence_is_said_first(tmp_path: Path) -> None:
    _, said = begin(tmp_path, replace(ANSWERED, certificate=CERTIFICATE))
    ledger = tmp_path / "mined/ledger"
    assert said == [f"{ledger}: {SENTENCE}", f"{ledger}: from 0.8 on its pairs are matches"]
    _, said = begin(tmp_path, ANSWERED)
    assert said[0].endswith("no precision stated: its judge was fitted on 200 answers, and no random sample was judged")
    assert "matches are those that people found" in said[1] and "--precision" in said[1]


def test_a_run_goes_on_with_what_it_began_with(tmp_path: Path) -> None:
    began, _ = begin(tmp_path, replace(ANSWERED, certificate=CERTIFICATE))
    (tmp_path / "run/checkpoints/step-00000001").mkdir(parents=True)
    VERDICTS.append((0, 2, "reviewed:a", 0.99))
    try:
        heard, said = begin(tmp_path, replace(ANSWERED, answers=300))
        assert heard == began and shares(heard.relations) == SMOOTHED | {(0, 1): 1.0}
        assert "has changed since this run began" in said[0] and "fitted on 300 answers" in said[0]
        assert "--run-folder" in said[0] and said[1].endswith(SENTENCE)
        shutil.rmtree(tmp_path / "mined")
        said.clear()
        assert hear(relations(str(tmp_path / "mined/ledger")), tmp_path / "run", said.append) == began
        assert "it is gone" in said[0]
        shutil.rmtree(tmp_path / "run/checkpoints")  # a run that left nothing begins anew
        heard, said = begin(tmp_path, replace(ANSWERED, answers=300))
        assert shares(heard.relations) == SMOOTHED | {(0, 2): 0.99}
    finally:
        VERDICTS.pop()


def test_a_ledger_mined_anew_under_a_run_is_refused(tmp_path: Path) -> None:
    begin(tmp_path, None)
    (tmp_path / "run/model").mkdir(parents=True)
    with pytest.raises(ConfigError, match="mined or reviewed anew since the run in"):
        begin(tmp_path, ANSWERED)


def test_a_standing_of_other_verdicts_is_refused(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.record(torch.tensor([1]), torch.tensor([2]), torch.tensor([0.9]), judge="prior:b")
    ANSWERED.save(tmp_path)
    with pytest.raises(DataError, match=r"no verdict of reviewed:a, whom its standing.json names; run truepair review"):
        open_index(tmp_path)
    ledger.clear()  # mined anew, by a judge of clean groups say
    ledger.record(torch.tensor([1]), torch.tensor([2]), torch.tensor([0.9]), judge="mined:c")
    ledger.flush()
    assert Standing.load(tmp_path) is None and len(open_index(tmp_path)) == 1


def test_what_it_heard_can_be_read_again(tmp_path: Path) -> None:
    standing = replace(ANSWERED, certificate=CERTIFICATE)
    heard, _ = begin(tmp_path, standing)
    ledger = str(tmp_path / "mined/ledger")
    again = read_heard(relations(ledger), tmp_path / "run")
    assert again == heard and again.standings == {ledger: standing}
    assert again.names == {str(tmp_path / "run/heard/1"): ledger}
    assert json.loads((tmp_path / "run/heard/1/standing.json").read_text())["certificate"]["asked"] == 64


@given(
    precision=st.floats(0, 1), threshold=st.floats(0, 1), probability=st.floats(0, 1),
    answers=st.integers(0, 3), certified=st.booleans(),
)  # fmt: skip
def test_only_certified_pairs_and_those_of_people_become_matches(
    precision: float, threshold: float, probability: float, answers: int, certified: bool
) -> None:
    certificate = replace(CERTIFICATE, precision=precision, threshold=threshold) if certified else None
    standing = Standing(judge="reviewed:a", answers=answers, certificate=certificate)
    rules = rules_by_standing(Rule.of({"detector": "recorded", "ledger": "x", "action": "relabel"}), standing)
    value = torch.tensor([probability], dtype=torch.float64)
    by = {}
    for rule in rules:
        assert isinstance(rule.detector, Recorded) and rule.detector.by is not None
        if rule.detector.contains(value):
            by.setdefault(rule.detector.by, rule.action.name)
    expected = "relabel" if probability >= 0.75 else "keep" if probability < 0.25 else None
    assert by.get("people") == expected
    relabels = certified and precision >= RELABEL_FROM and probability >= threshold
    assert (by.get("judges") == "relabel") == relabels
