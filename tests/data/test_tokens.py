import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from tokenizers import normalizers, pre_tokenizers

from truepair.data import load_tokenizer, tokenize_captions, tokens, train_wordpiece
from truepair.errors import ConfigError, DataError

NOUNS = [f"{colour} {thing}" for colour in ("red", "blue", "green") for thing in ("dog", "cat", "doghouse")]
CORPUS = [f"{noun} on the {place}" for noun in NOUNS for place in ("grass", "street", "streetcar")]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece(CORPUS, 50)


def test_special_tokens_come_first(tokenizer):
    assert tokenizer.convert_ids_to_tokens(range(5)) == SPECIAL
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.cls_token_id) == (0, 1, 2)
    assert (tokenizer.sep_token_id, tokenizer.mask_token_id, tokenizer.vocab_size) == (3, 4, 50)


def test_text_comes_back_and_unknown_characters_do_not(tokenizer):
    ids = tokenizer("A Red streetdog, on 3")["input_ids"]

    assert tokenizer.decode(tokenizer("blue doghouse on the streetcar")["input_ids"], skip_special_tokens=True) == (
        "blue doghouse on the streetcar"
    )
    assert ids[0] == 2 and ids[-1] == 3 and 1 in ids


def test_every_word_of_the_corpus_is_covered(tokenizer):
    assert all(tokenizer.unk_token_id not in tokenizer(caption)["input_ids"] for caption in CORPUS)


def test_pieces_are_numbered_alike_in_any_order_and_every_time(tokenizer):
    # The library's own trainer numbers them by hash maps, which differ from one call to the next.
    for seed in range(5):
        shuffled = random.Random(seed).sample(CORPUS, len(CORPUS))
        assert train_wordpiece(shuffled, 50).get_vocab() == tokenizer.get_vocab()


def test_frequent_words_become_one_piece():
    vocabulary = train_wordpiece(["dog house"] * 9 + ["doghouse"] * 5 + ["rare"], 40).get_vocab()

    assert {"dog", "house", "doghouse"} <= set(vocabulary)
    assert "rare" not in vocabulary and {"r", "##a", "##r", "##e"} <= set(vocabulary)


def test_it_is_saved_beside_a_model(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)

    loaded = load_tokenizer(tmp_path)

    assert loaded("a red dog")["input_ids"] == tokenizer("a red dog")["input_ids"]
    assert loaded.mask_token_id == 4


def test_a_tokenizer_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no tokenizer at") as error:
        load_tokenizer(tmp_path / "nothing")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("corpus", [[], ["", "  "]])
def test_a_corpus_without_text_is_an_error(corpus):
    with pytest.raises(DataError, match="no caption to train a tokenizer on"):
        train_wordpiece(corpus, 60)


def test_a_vocabulary_without_room_is_an_error():
    with pytest.raises(ConfigError, match="vocab_size is 5"):
        train_wordpiece(CORPUS, 5)


class TestEncodeCaptions:
    def test_rows_are_padded_and_masked(self, tokenizer):
        ids, mask = tokenize_captions(tokenizer, ["dog", "the red dog on the grass"], max_length=30)

        assert ids[0, mask[0].bool()].tolist() == tokenizer("dog")["input_ids"]
        assert ids[1].tolist() == tokenizer("the red dog on the grass")["input_ids"]
        assert ids[0, ~mask[0].bool()].eq(0).all()
        assert (ids.dtype, mask.dtype) == (torch.int64, torch.int64)

    @pytest.mark.parametrize("add_sep", [True, False])
    def test_long_captions_are_cut_with_their_ends_in_place(self, tokenizer, add_sep):
        ids, mask = tokenize_captions(tokenizer, ["dog " * 50], max_length=6, add_sep=add_sep)

        dog = tokenizer.convert_tokens_to_ids("dog")
        assert ids.tolist() == [[2, *[dog] * 4, 3] if add_sep else [2, *[dog] * 5]]
        assert mask.sum() == 6

    def test_what_leaves_no_room_is_an_error(self, tokenizer):
        with pytest.raises(ConfigError, match="max_length is 2; give at least 3"):
            tokenize_captions(tokenizer, ["dog"], max_length=2)


def test_the_words_of_a_tokenizer_are_those_of_whole_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    captions = [
        "A red  dog's ball",
        " the\x1cred\u00a0dog\u3000\n ran",
        "\u03a3\u0391\u03a3 caf\u00e9 \u72d7dog",
        "",
        "a red dog",
    ]
    seen: dict[str, int] = {}
    original = tokens._train_pieces

    def noting(words: Mapping[str, int], *rest: int) -> list[str]:
        seen.update(words)
        return original(words, *rest)

    monkeypatch.setattr(tokens, "_train_pieces", noting)
    tokens.train_wordpiece(captions, 100)
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    wanted = Counter(word for text in captions for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    assert seen == wanted


def test_a_folder_without_a_vocabulary_is_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')  # transformers makes one of two entries of it
    with pytest.raises(ConfigError, match="no vocabulary of a tokenizer is there"):
        load_tokenizer(tmp_path)
