"""What a step makes of relations and of a judge, against a textbook that reads one pair after the other."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.methods import by_hand
from tests.methods.steps import HALF_MASKED, Composition, ecm, info, pairs, remembering, verdicts
from truepair.errors import ConfigError
from truepair.methods import step as fused
from truepair.methods.rules import RelationsConfig
from truepair.methods.step import ItcConfig, ItmConfig, MlmConfig, ObjectivesConfig, PretrainStep
from truepair.objectives.itm import MatchingPairs
from truepair.relations.ledger import Ledger, read_ledger, read_verdicts

HALF = MlmConfig(masking=HALF_MASKED)
OBJECTIVES = ObjectivesConfig(mlm=HALF)
NO_RULES = RelationsConfig(rules=[])
# Images 0 and 3 stand twice, and one caption is said of two images.
BATCH = pairs([0, 1, 2, 3, 4, 5, 3, 0], [0, 1, 2, 3, 4, 1, 6, 7])
SAME_IMAGE = {(0, 7), (7, 0), (3, 6), (6, 3)}
SAME_CAPTION = {(1, 5), (5, 1)}
DISTINCT = pairs(list(range(8)))
LOW, HIGH = 0.5, 0.8

Cells = set[by_hand.Cell]


class Spy:
    """Notes the pairs that ITM reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pairs: list[tuple[int, int, int]] = []
        original = fused.itm

        def itm(encoded: object, model: object, pairs: MatchingPairs, *rest: object) -> Tensor:
            rows = zip(pairs.images.tolist(), pairs.texts.tolist(), pairs.labels.tolist(), strict=True)
            self.pairs = [row for row, valid in zip(rows, pairs.valid.tolist(), strict=True) if valid]
            return original(encoded, model, pairs, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(fused, "itm", itm)

    def of_label(self, label: int) -> list[by_hand.Cell]:
        return sorted((image, text) for image, text, given in self.pairs if given == label)


def losses_of(step: PretrainStep, epoch: int = 0, batch: object = BATCH) -> dict[str, float]:
    return {name: float(loss.detach()) for name, loss in step(batch, info(epoch * 10, epoch=epoch)).losses.items()}


def own(batch: object = BATCH) -> list[by_hand.Cell]:
    return [(row, row) for row in range(8)]


def check(
    step: PretrainStep,
    batch: object,
    *,
    itc: float,
    matches: list[by_hand.Cell],
    others: list[by_hand.Cell],
    read: Cells,
) -> None:
    """The losses of a step are those of these ITM pairs and these further MLM rows."""
    model, losses = step.model, losses_of(step, batch=batch)
    assert losses["itc"] == pytest.approx(itc, rel=1e-6)
    assert losses["itm"] == pytest.approx(by_hand.itm(model, batch, matches, others), rel=1e-6)
    rows = by_hand.readings(batch, read, step.seed)
    assert losses["mlm"] == pytest.approx(by_hand.mlm(model, batch, step.masker, rows), rel=1e-6)
    assert losses["loss"] == pytest.approx(losses["itc"] + losses["itm"] + losses["mlm"])


def test_pairs_of_one_image_or_caption_are_matches() -> None:
    step = Composition(OBJECTIVES, RelationsConfig(extra_rows=1.0)).build()
    found, matches = by_hand.features(step.model, BATCH), SAME_IMAGE | SAME_CAPTION
    texts, images = by_hand.ranking(found, matches)
    negatives = [(row, texts[row][0]) for row in range(8)] + [(images[row][0], row) for row in range(8)]
    check(
        step,
        BATCH,
        itc=by_hand.symmetric_itc(found, float(step.model.temperature.detach()), matches),
        matches=own() + sorted(SAME_IMAGE),  # one caption on two images is read with either image already
        others=negatives,
        read=SAME_IMAGE,
    )


def test_smoothing_spreads_a_share_of_the_target_from_its_epoch_on() -> None:
    itc = ItcConfig(smoothing=0.3, smoothing_start_epoch=1)
    step = Composition(replace(OBJECTIVES, itc=itc), NO_RULES).build()
    found, temperature = by_hand.features(step.model, DISTINCT), float(step.model.temperature.detach())
    assert losses_of(step, 0, DISTINCT)["itc"] == pytest.approx(by_hand.symmetric_itc(found, temperature), rel=1e-6)
    smooth = {a: {c: 0.7 * (a == c) + 0.3 / 8 for c in range(8)} for a in range(8)}
    sides = (by_hand.itc(a, c, temperature, smooth) for a, c in (found, found[::-1]))
    assert losses_of(step, 1, DISTINCT)["itc"] == pytest.approx(sum(sides) / 2, rel=1e-6)


def judged_by_hand(step: PretrainStep) -> tuple[Cells, list[by_hand.Cell]]:
    """MAFA's mining with a judged second-hardest: conversions, and the negatives that ITM reads."""
    scores, found = verdicts(), by_hand.features(step.model, DISTINCT)
    texts, images = by_hand.ranking(found, ())
    converted, negatives = set(), []
    for row in range(8):
        for candidates in ([(row, text) for text in texts[row]], [(image, row) for image in images[row]]):
            for cell in candidates[:2]:
                if scores[cell] < LOW:
                    negatives.append(cell)
                    break
                if scores[cell] >= HIGH:
                    converted.add(cell)
                    break
    return converted, negatives


def test_what_the_judge_takes_for_a_match_is_one_everywhere() -> None:
    step = Composition(OBJECTIVES, NO_RULES, ecm()).build()
    converted, negatives = judged_by_hand(step)
    assert len(converted) >= 2 and len(negatives) >= 8
    found, temperature = by_hand.features(step.model, DISTINCT), float(step.model.temperature.detach())
    check(
        step,
        DISTINCT,
        itc=by_hand.symmetric_itc(found, temperature, converted),
        matches=own() + sorted(converted),
        others=negatives,
        read=converted,
    )


def test_a_conversion_is_one_sided_only_if_both_rules_say_so() -> None:
    relations = replace(NO_RULES, symmetric=False)
    two_sided = Composition(OBJECTIVES, NO_RULES, ecm()).build()
    assert losses_of(Composition(OBJECTIVES, relations, ecm()).build(), 0, DISTINCT) == losses_of(
        two_sided, 0, DISTINCT
    )
    step = Composition(OBJECTIVES, relations, ecm(symmetric=False, judge_second=False)).build()
    scores, found = verdicts(), by_hand.features(step.model, DISTINCT)
    texts, images = by_hand.ranking(found, ())
    by_image = {(i, texts[i][0]) for i in range(8) if scores[i, texts[i][0]] >= HIGH}
    by_text = {(images[t][0], t) for t in range(8) if scores[images[t][0], t] >= HIGH}
    assert by_image != by_text
    temperature = float(step.model.temperature.detach())
    i2t = by_hand.itc(found.images, found.texts, temperature, by_hand.multi_hot(8, by_image))
    t2i = by_hand.itc(found.texts, found.images, temperature, by_hand.multi_hot(8, by_text, of_texts=True))
    assert losses_of(step, 0, DISTINCT)["itc"] == pytest.approx((i2t + t2i) / 2, rel=1e-6)


@pytest.mark.parametrize("mask_doubtful", [False, True])
def test_all_pairs_judged(mask_doubtful: bool) -> None:
    relations = RelationsConfig(rules=[], extra_rows=100)
    step = Composition(OBJECTIVES, relations, ecm(ask="all", mask_doubtful=mask_doubtful)).build()
    others = [(i, t) for i in range(8) for t in range(8) if i != t]
    scores = verdicts()
    above, between = ({cell for cell in others if low <= scores[cell] < high} for low, high in ((HIGH, 2), (LOW, HIGH)))
    found = by_hand.features(step.model, DISTINCT)
    texts, images = by_hand.ranking(found, above | between)
    negatives = [(i, texts[i][0]) for i in range(8) if texts[i]] + [(images[t][0], t) for t in range(8) if images[t]]
    check(
        step,
        DISTINCT,
        itc=by_hand.symmetric_itc(
            found, float(step.model.temperature.detach()), above, between if mask_doubtful else ()
        ),
        matches=own() + sorted(above),
        others=negatives,
        read=above,
    )


def test_rules_say_what_becomes_of_the_judges_verdicts() -> None:
    rule = {"detector": "judge", "action": "mask", "high": 0.6}
    step = Composition(OBJECTIVES, RelationsConfig(rules=[rule]), ecm(ask="rules")).build()
    left_out = {(i, t) for i in range(8) for t in range(8) if i != t and verdicts()[i, t] >= 0.6}
    found = by_hand.features(step.model, DISTINCT)
    texts, images = by_hand.ranking(found, left_out)
    check(
        step,
        DISTINCT,
        itc=by_hand.symmetric_itc(found, float(step.model.temperature.detach()), (), left_out),
        matches=own(),
        others=[(row, texts[row][0]) for row in range(8)] + [(images[row][0], row) for row in range(8)],
        read=set(),
    )
    with pytest.raises(ConfigError, match="detector 'judge' needs the signal 'judged'"):
        losses_of(Composition(OBJECTIVES, RelationsConfig(rules=[rule])).build())


def test_a_match_is_never_a_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    for sampling in ("top1", "multinomial"):
        for judge in ("hardest", "all"):
            itm = ItmConfig(sampling=sampling, hard_fraction=0.5)
            relations = RelationsConfig(extra_rows=100)
            step = Composition(replace(OBJECTIVES, itm=itm), relations, ecm(ask=judge, high=0.6)).build()
            losses_of(step)
            matches, negatives = spy.of_label(1), spy.of_label(0)
            assert len(set(matches)) == len(matches) and set(own()) | SAME_IMAGE <= set(matches)
            assert not set(negatives) & (set(matches) | SAME_CAPTION)


def test_further_matches_are_capped_by_lot(monkeypatch: pytest.MonkeyPatch) -> None:
    spy, drawn = Spy(monkeypatch), []
    step = Composition(OBJECTIVES).build()  # a quarter of a batch
    for number in (0, 1, 2, 3, 0):
        step(BATCH, info(number))
        drawn.append(set(spy.of_label(1)) - set(own()))
    assert all(len(cells) == 2 and cells <= SAME_IMAGE for cells in drawn)
    assert drawn[0] == drawn[4] and len(set(map(frozenset, drawn))) > 1


def test_objectives_begin_at_their_epochs_and_weigh_what_they_weigh() -> None:
    objectives = ObjectivesConfig(
        itc=ItcConfig(weight=0.5),
        itm=ItmConfig(weight=2.0, start_epoch=1),
        mlm=replace(HALF, weight=3.0, start_epoch=2),
    )
    step = Composition(objectives).build()
    assert set(losses_of(step, 0)) == {"loss", "itc", "temperature"}
    assert set(losses_of(step, 1)) == {"loss", "itc", "itm", "temperature"}
    losses = losses_of(step, 2)
    assert losses["loss"] == pytest.approx(0.5 * losses["itc"] + 2 * losses["itm"] + 3 * losses["mlm"])


def test_every_verdict_reaches_the_ledger_once_and_as_it_was_given(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    step = Composition(OBJECTIVES, ecm=ecm(), ledger=ledger).build()
    judge = step.ecm.own_judge.judge  # type: ignore[union-attr]
    step(DISTINCT, info(0))
    at_first = set(judge.asked)
    step(BATCH, info(0))  # a second batch of the same optimizer step
    step(BATCH, info(10, epoch=1))
    step.close()
    rows = read_verdicts(tmp_path).to_pylist()
    cells = [(row["image_id"], row["caption_id"]) for row in rows]
    assert len(set(cells)) == len(cells)  # a judge that remembers is written down once
    assert set(cells) == set(judge.asked) and len(judge.asked) == len(cells)
    for cell, row in zip(cells, rows, strict=True):
        assert row["judge"].startswith("judge:") and row["probability"] == pytest.approx(float(verdicts()[cell]))
        assert row["epoch"] == 0 or cell not in at_first
    assert set(rows[0]) == {"image_id", "caption_id", "judge", "probability", "epoch", "time"}  # and no action


def test_of_all_pairs_those_that_may_match_are_written_down(tmp_path: Path) -> None:
    step = Composition(OBJECTIVES, NO_RULES, ecm(ask="all"), ledger=Ledger(tmp_path)).build()
    losses_of(step, 0, DISTINCT)
    step.close()
    found = {(row["image_id"], row["caption_id"]): row["probability"] for row in read_ledger(tmp_path).to_pylist()}
    scores = verdicts()
    expected = {(i, t): float(scores[i, t]) for i in range(8) for t in range(8) if i != t and scores[i, t] >= LOW}
    assert found == pytest.approx(expected)


def test_a_run_that_begins_anew_leaves_nothing_of_a_dead_one(tmp_path: Path) -> None:
    dead = Composition(OBJECTIVES, ecm=ecm(), ledger=Ledger(tmp_path)).build()
    losses_of(dead)
    dead.close()
    assert list(tmp_path.glob("*.parquet"))
    anew = Composition(OBJECTIVES, NO_RULES, ledger=Ledger(tmp_path)).build()
    anew.begin()
    losses_of(anew)
    anew.close()
    assert not list(tmp_path.glob("*.parquet"))


def test_figures_of_an_epoch() -> None:
    judge = remembering(verdicts())
    step = Composition(OBJECTIVES, ecm=ecm(), judge=lambda: judge).build()
    for number in range(3):
        step(BATCH, info(number))
    figures = step.epoch_figures(0)
    assert figures["relations/same_image/relabel"] == 3 * len(SAME_IMAGE)
    assert figures["relations/same_caption/relabel"] == 3 * len(SAME_CAPTION)
    zones = sum(figures[f"ecm/{side}/{zone}"] for side in ("i2t", "t2i") for zone in ("below", "between", "above"))
    assert zones == 3 * 16
    asked = len(judge.judge.asked)  # type: ignore[attr-defined]
    assert figures["ecm/memory_misses"] == asked and figures["ecm/memory_hits"] >= 2 * asked
    again = step.epoch_figures(1)
    assert not any(again.values())


def test_features_are_those_of_the_batch_and_the_bounds_are_logged() -> None:
    step = Composition(OBJECTIVES).build()
    output, found = step(BATCH, info(0, logged=True)), by_hand.features(step.model, BATCH)
    torch.testing.assert_close(output.image_feature, found.images)
    torch.testing.assert_close(output.text_feature, found.texts)
    assert {"mi_positive", "mi_negative", "mi_bound"} <= set(output.losses)
    assert "mi_positive" not in step(BATCH, info(0)).losses


def test_figures_of_a_large_batch_are_those_of_every_kth_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Composition(OBJECTIVES).build()
    found = by_hand.features(step.model, DISTINCT)
    monkeypatch.setattr(fused, "_ANCHORS", 3)  # of 8 pairs: 0, 3 and 6
    logits = found.images @ found.texts.T / float(step.model.temperature.detach())
    ratios = logits - logits.logsumexp(dim=1, keepdim=True) + math.log(8)
    losses = step(DISTINCT, info(0, logged=True)).losses
    assert float(losses["mi_positive"]) == pytest.approx(float(ratios.diagonal()[::3].mean()), abs=1e-5)
    others = [float(ratios[row, [column for column in range(8) if column != row]].mean()) for row in (0, 3, 6)]
    assert float(losses["mi_negative"]) == pytest.approx(sum(others) / 3, abs=1e-5)
