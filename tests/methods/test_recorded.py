"""Ledgers of earlier runs: what they say of the training pairs, and whether they are about them at all."""

from pathlib import Path

import numpy as np
import pytest
import torch

from truepair.errors import ConfigError
from truepair.methods.rules import RelationsConfig, Relator, RuleConfig
from truepair.relations.ledger import Ledger

IMAGES, CAPTIONS = np.array([3, 1, 2]), np.array([10, 11, 12, 13])


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    with Ledger(tmp_path) as written:
        for action, images, captions in (("relabel", [1, 2, 9], [10, 13, 10]), ("swap", [1, 1], [11, 99])):
            scores = torch.full((len(images),), 0.9)
            written.record(
                torch.tensor(images), torch.tensor(captions), scores, detector="judge", action=action, epoch=0
            )
    return str(tmp_path)


def relator(ledger: str, *actions: str) -> Relator:
    same, recorded = (
        {"detector": "same_image", "action": "relabel"},
        RuleConfig(detector="recorded", action="relabel", ledger=ledger, ledger_actions=list(actions)),
    )
    return Relator(RelationsConfig(rules=[same, recorded]))


@pytest.mark.parametrize(
    ("actions", "said"),
    [
        ((), "3 of 5 verdicts are about"),
        (("relabel",), "2 of 3 verdicts of action relabel are about"),
        (("swap", "relabel"), "3 of 5 verdicts of action swap or relabel are about"),
        (("mask",), "0 of 0 verdicts of action mask are about"),  # a judge may find nothing
    ],
)
def test_how_many_verdicts_count_is_said(ledger: str, actions: tuple[str, ...], said: str) -> None:
    assert relator(ledger, *actions).recorded(IMAGES, CAPTIONS) == [f"{ledger}: {said} training pairs"]


def test_without_a_ledger_nothing_is_said() -> None:
    assert Relator(RelationsConfig()).recorded(IMAGES, CAPTIONS) == []


@pytest.mark.parametrize(("images", "captions"), [(IMAGES + 100, CAPTIONS), (IMAGES, CAPTIONS + 100)])
def test_the_ledger_of_other_data_is_refused(ledger: str, images: np.ndarray, captions: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="none of its 5 verdicts is about a training pair"):
        relator(ledger).recorded(images, captions)


def test_a_misspelt_action_is_named(ledger: str) -> None:
    with pytest.raises(ConfigError, match="ledger_actions has 'relable'; give some of keep, mask, relabel"):
        relator(ledger, "relable")


def test_a_verdict_that_a_pair_does_not_match_counts_only_if_asked_for(tmp_path: Path) -> None:
    with Ledger(tmp_path) as written:
        for caption, action in ((1, "keep"), (2, "swap")):
            cell = torch.tensor([0]), torch.tensor([caption]), torch.full((1,), 0.4)
            written.record(*cell, detector="judge", action=action, epoch=0)
    images, captions = np.array([0]), np.array([1, 2])
    assert relator(str(tmp_path)).recorded(images, captions)[0].split(": ")[1].startswith("1 of 1 verdicts")
    assert "1 of 1 verdicts of action keep" in relator(str(tmp_path), "keep").recorded(images, captions)[0]
