"""What a tokenizer loses of captions, against a reference that compares every two of them."""

import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from truepair.data.caption_check import CaptionCheck, CaptionTokens, check_captions, look_step
from truepair.data.tokens import OwnTokenization, load_tokenizer, train_wordpiece
from truepair.models.encoders.minilm import minilm_folder
from truepair.relations.text import caption_key

LENGTH = 6

WORDS = ["dog", "cat", "Dog", "snow", "🐶", "deep", "runs", "雪", "a"]


def words() -> OwnTokenization:
    return OwnTokenization(train_wordpiece(["a dog runs in deep snow", "a cat sits"] * 3), LENGTH)


def reference(tokenization: OwnTokenization, captions: list[str]) -> tuple[int, int, int, int]:
    """Captions that are cut, that hold unknown words, that are equal to another one, and those not by cutting."""
    read = [tokenization([caption])[0] for caption in captions]
    cut = [tokenization.lengths([caption])[0] > LENGTH for caption in captions]
    unknown = tokenization.tokenizer.unk_token_id
    equal = uncut = 0
    for row, one in enumerate(captions):
        same = [other for other in range(len(captions)) if read[other] == read[row]]
        if any(caption_key(captions[other]) != caption_key(one) for other in same):
            equal += 1
            uncut += not any(cut[other] for other in same)
    return sum(cut), sum(unknown in ids for ids in read), equal, uncut


@settings(max_examples=60)
@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8), max_size=9))
def test_counts_are_those_of_every_two_compared(texts: list[list[str]]) -> None:
    captions, tokenization = [" ".join(text) for text in texts], words()
    check, _ = check_captions(tokenization, LENGTH, captions)
    assert (check.cut, check.unknown, check.equal, check.equal_uncut) == reference(tokenization, captions)
    assert check.captions == check.among == len(captions)


def test_unknown_words_are_shares_of_words_not_of_signs() -> None:
    found, _ = check_captions(words(), LENGTH, ["🐶", "🐱", "a dog"])
    assert found.unknown == 2 and found.unknown_share == 0.5  # two of four tokens; [CLS] and [SEP] are no words
    assert found.equal == found.equal_uncut == 2


def test_captions_that_differ_beyond_the_cut_are_told_with_the_remedy() -> None:
    """The case of users: 64 captions that are equal in their first tokens."""
    tokenization = OwnTokenization(load_tokenizer(minilm_folder()), 16)
    captions = ["a dog runs in the deep white snow of the long winter and then sees " + str(n) for n in range(64)]
    lines = check_captions(tokenization, 16, captions)[0].lines(length="text.max_length", tokenizer="take another")
    assert lines == [
        "warning: 64 of 64 captions have more than 16 tokens, and lose their end; see text.max_length, or shorten them",
        "warning: 64 of 64 captions differ from another one, and are the same tokens to the model, which learns "
        "contradictions from them; raise text.max_length",
    ]


def test_captions_of_a_script_that_the_tokenizer_lacks_are_told() -> None:
    tokenization = OwnTokenization(load_tokenizer(minilm_folder()), 16)
    lines = check_captions(tokenization, 16, ["🐶🐶", "🐱 🐱", "a dog"] * 2)[0].lines(
        length="L", tokenizer="take another"
    )
    assert len(lines) == 1 and re.match(
        r"warning: 4 of 6 captions hold words that the tokenizer does not know, 60.0% of all tokens: .*; take another",
        lines[0],
    )


def test_nothing_is_said_where_nothing_is_lost_and_little_is_no_warning() -> None:
    tokenization = words()
    assert (
        check_captions(tokenization, LENGTH, ["a dog", "A dog", "a dog", "a cat"])[0].lines(length="L", tokenizer="T")
        == []
    )
    assert check_captions(tokenization, LENGTH, [])[0].lines(length="L", tokenizer="T") == []
    many = ["a dog"] * 99 + ["a dog runs in deep snow"]
    assert check_captions(tokenization, LENGTH, many)[0].lines(length="L", tokenizer="T", captions="questions") == [
        "1 of 100 questions have more than 6 tokens, and lose their end; see L, or shorten them"
    ]


def test_the_line_says_of_how_many_captions_some_were_looked_at() -> None:
    lines = check_captions(words(), LENGTH, ["a dog", "🐶"] * 5, 50)[0].lines(length="L", tokenizer="T")
    assert len(lines) == 1 and lines[0].startswith("warning: 5 of 10 captions looked at, of 50, hold words")


def test_places_of_captions_that_are_cut() -> None:
    long = "a dog runs in deep snow"
    assert check_captions(words(), LENGTH, ["a dog", long, "a cat", long])[1] == [1, 3]


def test_of_very_many_every_kth_is_looked_at() -> None:
    assert [look_step(count) for count in (0, 1, 100_000, 100_001, 1_000_000, 10_000_000)] == [1, 1, 1, 5, 40, 400]


def test_tokens_of_no_texts() -> None:
    found = CaptionTokens.of(words(), LENGTH, [])
    assert len(found.cut) == len(found.equal) == 0
    assert CaptionCheck.of(found, np.zeros(0, np.int64), LENGTH).unknown_share == 0
