from collections import Counter
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from emoji_sample.dealing import assign_splits, concept_split, deal_captions, fraction
from hypothesis import given, settings
from hypothesis import strategies as st

GROUPS = [f"{number:X}" for number in range(0x1F300, 0x1F300 + 2000)]
VENDORS = ["emojione", "fluent-emoji", "fluent-emoji-flat", "fxemoji", "noto", "noto-v1", "twemoji"]

groups = st.sampled_from(GROUPS)
vendors = st.lists(st.sampled_from(VENDORS), min_size=6, unique=True)
captions = st.lists(st.text(min_size=1), min_size=1, max_size=5, unique=True)


@given(groups, vendors, captions)
@settings(max_examples=100)
def test_every_drawing_gets_a_caption_and_every_caption_its_share(group, vendors, captions):
    dealt = deal_captions(group, vendors, captions)
    assert dealt.keys() == set(vendors)
    times = Counter(dealt.values())
    assert times.keys() == set(captions)
    assert max(times.values()) - min(times.values()) <= 1


@given(groups, vendors, captions, st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_the_order_of_the_vendors_does_not_matter(group, vendors, captions, random):
    shuffled = random.sample(vendors, len(vendors))
    assert deal_captions(group, shuffled, captions) == deal_captions(group, vendors, captions)
    assert assign_splits(group, shuffled) == assign_splits(group, vendors)


@given(groups, vendors)
@settings(max_examples=100)
def test_one_drawing_is_test_and_at_most_one_is_val(group, vendors):
    splits = assign_splits(group, vendors)
    assert splits.keys() == set(vendors)
    times = Counter(splits.values())
    assert times["test"] == 1
    assert times["val"] <= 1
    assert times["train"] == len(vendors) - 1 - times["val"]


def test_no_vendor_is_favoured():
    firsts = Counter(
        min(deal_captions(group, VENDORS, VENDORS).items(), key=lambda pair: pair[1])[0] for group in GROUPS
    )
    tests = Counter(
        vendor for group in GROUPS for vendor, split in assign_splits(group, VENDORS).items() if split == "test"
    )
    for times in (firsts, tests):
        assert all(0.11 < times[vendor] / len(GROUPS) < 0.18 for vendor in VENDORS)  # 1/7 = 0.143


def test_caption_and_split_are_independent():
    both = sum(
        deal_captions(group, VENDORS, ["first", "second"])[vendor] == "first"
        for group in GROUPS
        for vendor, split in assign_splits(group, VENDORS).items()
        if split == "test"
    )
    assert 0.45 < both / len(GROUPS) < 0.55


def test_shares_of_concepts():
    splits = Counter(concept_split(group) for group in GROUPS)
    assert splits["train"] / len(GROUPS) == pytest.approx(0.8, abs=0.03)
    assert splits["val"] / len(GROUPS) == pytest.approx(0.1, abs=0.03)
    assert splits["test"] / len(GROUPS) == pytest.approx(0.1, abs=0.03)
    validated = sum("val" in assign_splits(group, VENDORS).values() for group in GROUPS)
    assert validated / len(GROUPS) == pytest.approx(0.25, abs=0.03)


def test_fraction_tells_its_keys_apart():
    assert fraction("ab", "c") != fraction("a", "bc")
    assert 0 <= fraction("ab") < 1


def test_the_committed_sample_was_dealt_by_these_rules():
    path = Path(__file__).parents[2] / "src" / "truepair" / "data" / "sample" / "emoji.parquet"
    rows = pq.read_table(path, columns=["group", "vendor", "split", "split_concept"]).to_pylist()
    dealt = {
        group: {row["vendor"]: row["split"] for row in drawn} for group, drawn in groupby(rows, itemgetter("group"))
    }
    assert dealt == {group: assign_splits(group, splits) for group, splits in dealt.items()}
    assert all(row["split_concept"] == concept_split(row["group"]) for row in rows)
