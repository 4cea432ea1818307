"""A rule as a recipe states it: typed by its detector and its action, with a line for whatever does not exist."""

from pathlib import Path
from typing import Any

import pytest
import torch

from truepair.errors import ConfigError
from truepair.relations.actions import Relabel, Smooth
from truepair.relations.detectors import GuideSimilarity, Judged, Recorded, Signals
from truepair.relations.ledger import Ledger
from truepair.relations.pairs import PairSet
from truepair.relations.rules import ACTIONS, DETECTORS, Rule, apply_rules, field_types
from truepair.relations.zones import Zone, Zones


def test_fields_go_to_the_detector_and_to_the_action() -> None:
    rule = Rule.of({"detector": "guide", "margin": 1, "compare": "texts", "action": "smooth", "share": 0.3})
    assert rule == Rule(GuideSimilarity(1.0, "absolute", "texts"), Smooth(0.3))
    assert Rule.of({"detector": "judge", "zone": "doubtful", "low": 0.1, "action": "relabel"}) == Rule(
        Judged("doubtful", 0.1, 0.8), Relabel()
    )


@pytest.mark.parametrize("name", DETECTORS)
def test_a_rule_written_out_is_read_back(name: str) -> None:
    open_fields = {"ledger": "runs/x", "low": 0.2, "high": 0.7, "by": "people"}  # of a rule that states all it may
    rule = Rule.of({"detector": name, "action": "relabel"} | (open_fields if name == "recorded" else {}))
    assert Rule.of(rule.stated()) == rule and set(rule.stated()) >= {
        "detector",
        "action",
        *field_types(DETECTORS[name]),
    }


def test_what_a_rule_leaves_open_stays_open() -> None:
    rule = Rule.of({"detector": "recorded", "ledger": "runs/x", "action": "relabel", "low": None})
    assert rule.stated() == {"detector": "recorded", "action": "relabel", "zone": "match", "ledger": "runs/x"}
    assert (rule.detector.zones.low, rule.detector.zones.high) == (0.1, 0.5)


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"detector": "same_image", "rate": 0.5, "action": "mask"}, "has no field 'rate'; they have none"),
        ({"detector": "guide", "margn": 0.5, "action": "mask"}, r"no field 'margn' \(did you mean 'margin'\?\)"),
        ({"detector": "gide", "action": "mask"}, r"no detector 'gide' \(did you mean 'guide'\?\)"),
        ({"detector": "guide", "action": "maks"}, r"no action 'maks' \(did you mean 'mask'\?\)"),
        ({"detector": "con_d", "action": "mask"}, "it is called 'judge' now"),
        ({"detector": "judge", "action": "swap"}, "it is called 'skip' now"),
        (
            {"detector": "recorded", "ledger": "x", "ledger_actions": ["relabel"], "action": "mask"},
            "zone, low and high",
        ),
        ({"detector": "recorded", "action": "mask"}, "needs ledger"),
        ({"detector": "judge", "low": "much", "action": "mask"}, "low is 'much', which is no number"),
        ({"detector": "judge", "low": True, "action": "mask"}, "low is True, which is no number"),
        ({"detector": "recorded", "ledger": 3, "action": "mask"}, "ledger is 3, which is no text"),
        ({"detector": "judge", "zone": "matches", "action": "mask"}, "give one of match, doubtful, negative"),
        ({"detector": "judge", "low": 0.9, "action": "mask"}, "low <= high"),
        ({"action": "mask"}, "lacks its detector"),
        ({"detector": "guide"}, "lacks its action"),
        ("guide", "a group of fields"),
    ],
)
def test_what_does_not_exist_is_one_line(stated: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        Rule.of(stated)
    assert "\n" not in str(raised.value)


def test_every_detector_and_action_has_a_name_of_its_own() -> None:
    assert all(kind.name == name for name, kind in {**DETECTORS, **ACTIONS}.items())


def test_only_what_a_rule_reads_is_computed() -> None:
    asked: list[str] = []

    def signal(name: str) -> Any:
        asked.append(name)
        return (torch.eye(3), torch.eye(3)) if name != "judged" else PairSet.diagonal(3, 3)

    sources = {name: (lambda name=name: signal(name)) for name in ("guide", "momentum", "weights", "judged")}
    rules = [Rule.of({"detector": "guide", "margin": margin, "action": "mask"}) for margin in (0.1, 0.2)]
    apply_rules(rules, Signals(torch.arange(3), torch.arange(3), **sources))
    assert asked == ["guide"]  # and once for both rules


def test_zones_share_their_ends() -> None:
    values = torch.tensor([0.0, 0.1, 0.3, 0.5, 1.0])
    judged = PairSet(torch.arange(5), torch.tensor([1, 2, 3, 4, 0]), values, (5, 5))
    signals = Signals(torch.arange(5), torch.arange(5), judged=judged)
    found = {zone: Judged(zone, 0.1, 0.5).find(signals).values.tolist() for zone in ("negative", "doubtful", "match")}
    assert found == {"negative": [0.0], "doubtful": pytest.approx([0.1, 0.3]), "match": [0.5, 1.0]}
    assert Zones(0.1, 0.5).of(values.double()).tolist() == [Zone.NEGATIVE, *[Zone.DOUBTFUL] * 2, *[Zone.MATCH] * 2]


def test_rules_of_one_ledger_share_its_index_until_it_changes(tmp_path: Path) -> None:
    def record(image: int) -> None:
        with Ledger(tmp_path) as ledger:
            ledger.record(torch.tensor([image]), torch.tensor([1]), torch.tensor([0.9]), judge="mined:a")

    record(1)
    one, other = (Recorded(zone, ledger=str(tmp_path)) for zone in ("match", "doubtful"))
    assert one.verdicts is other.verdicts and len(one.verdicts) == 1
    record(2)
    assert len(Recorded("match", ledger=str(tmp_path)).verdicts) == 2
