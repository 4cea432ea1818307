"""Ledgers of earlier runs and of people: what they say of the training pairs, if they are about them at all."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.methods.steps import Composition, ecm, info, pairs, verdicts
from truepair.errors import ConfigError, DataError
from truepair.methods.rules import RelationsConfig, RuleSet
from truepair.relations.ledger import Ledger, read_verdicts

IMAGES, CAPTIONS = np.array([3, 1, 2]), np.array([10, 11, 12, 13])
BATCH = pairs(list(range(8)))


def record(folder: Path, cells: list[tuple[int, int]], probability: float, judge: str = "mined:a") -> None:
    with Ledger(folder) as ledger:
        images, captions = torch.tensor(cells).T
        ledger.record(images, captions, torch.full((len(cells),), probability), judge=judge)


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    record(tmp_path, [(1, 10), (2, 13), (9, 10)], 0.9)
    record(tmp_path, [(1, 11), (1, 99)], 0.3)
    return str(tmp_path)


def rule(ledger: str | Path, zone: str = "match", action: str = "relabel", **fields: Any) -> dict[str, Any]:
    return {"detector": "recorded", "ledger": str(ledger), "zone": zone, "action": action, **fields}


def rules(*stated: dict[str, Any]) -> RuleSet:
    return RuleSet(RelationsConfig(rules=[{"detector": "same_image", "action": "relabel"}, *stated]))


@pytest.mark.parametrize(
    ("stated", "counts"),
    [
        ([{}], "2 to relabel"),
        ([{}, {"zone": "doubtful", "action": "smooth"}], "2 to relabel, 1 to smooth"),
        ([{"high": 0.95}], "0 to relabel"),
        ([{"high": 0.2}], "3 to relabel"),
    ],
)
def test_how_many_verdicts_count_is_said(ledger: str, stated: list[dict[str, Any]], counts: str) -> None:
    said = rules(*(rule(ledger, **fields) for fields in stated)).about(IMAGES, CAPTIONS)
    assert said == [f"{ledger}: 3 of 5 verdicts are about training pairs: {counts}"]


def test_without_a_ledger_nothing_is_said() -> None:
    assert rules().about(IMAGES, CAPTIONS) == []


@pytest.mark.parametrize(("images", "captions"), [(IMAGES + 100, CAPTIONS), (IMAGES, CAPTIONS + 100)])
def test_the_ledger_of_other_data_is_refused(ledger: str, images: np.ndarray, captions: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="none of its 5 verdicts is about a training pair"):
        rules(rule(ledger)).about(images, captions)


def test_a_rule_that_does_not_exist_is_named_by_its_place(ledger: str) -> None:
    with pytest.raises(ConfigError, match=r"relations\.rules\[1\]: .* no field 'ledger_actions' any more"):
        RelationsConfig(rules=[rule(ledger), rule(ledger, ledger_actions=["relabel"])])
    with pytest.raises(DataError, match="no ledger"):
        rules(rule(Path(ledger) / "nowhere"))


def test_the_run_notes_once_what_it_heard_of_a_ledger(tmp_path: Path) -> None:
    record(tmp_path / "mined", [(0, 3), (2, 5), (4, 4), (1, 99)], 0.9)
    own = Ledger(tmp_path / "own")
    step = Composition(relations=RelationsConfig(rules=[rule(tmp_path / "mined")]), ledger=own).build()
    for epoch in range(3):
        step(BATCH, info(10 * epoch, epoch=epoch))
    step.close()
    noted = [(row["image_id"], row["caption_id"], row["judge"]) for row in read_verdicts(tmp_path / "own").to_pylist()]
    assert noted == [(0, 3, "mined:a"), (2, 5, "mined:a")]  # of undeclared pairs that met, and of no own pair
    assert step.epoch_figures(0)["relations/recorded/relabel"] == 3 * 2


@pytest.mark.parametrize("ask", ["hardest", "all"])
def test_a_person_overrides_the_judge_of_the_batch(tmp_path: Path, ask: str) -> None:
    scores = verdicts()
    cells = [(image, text) for image in range(8) for text in range(8) if image != text]
    judged = [cell for cell in cells if scores[cell] >= 0.8]
    said_no, said_yes = judged[::2], [cell for cell in cells if scores[cell] < 0.5][::3]
    record(tmp_path / "people", said_no, 0.0, judge="person:ann")
    record(tmp_path / "people", said_yes, 1.0, judge="person:ann")
    nothing = rule(tmp_path / "people", zone="negative", action="keep", low=0.0)  # reads the ledger, finds no cell
    own = Ledger(tmp_path / "own")
    step = Composition(relations=RelationsConfig(rules=[nothing]), ecm=ecm(ask=ask), ledger=own).build()
    heard: list[set[tuple[int, int]]] = []
    adding = step.rules.extra_matches
    step.rules.extra_matches = lambda relations, *rest: (
        heard.append(  # type: ignore[method-assign]
            set(zip(relations.matches().rows.tolist(), relations.matches().columns.tolist(), strict=True))
        )
        or adding(relations, *rest)
    )
    step(BATCH, info())
    step.close()
    if ask == "all":
        assert heard[0] == (set(judged) - set(said_no)) | set(said_yes)
    figures = step.epoch_figures(0)
    assert figures["relations/recorded/keep"] == 0
    written = {
        (row["image_id"], row["caption_id"]): row["probability"]
        for row in read_verdicts(tmp_path / "own").to_pylist()
        if row["judge"].startswith("judge:")
    }
    assert written  # what the judge said stands there as it said it
    assert all(value == pytest.approx(float(scores[cell])) for cell, value in written.items())
