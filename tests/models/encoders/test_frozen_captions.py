"""Caption states: equal to the encoder's, once per caption, without padding on disk."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from truepair.errors import DataError
from truepair.models.encoders.frozen_captions import CaptionStates, cache_caption_states

CAPTIONS = ["a b c", "a", "b a", "a b c d e f", "a", "d e f"]


def encode(captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """One token per letter after a start token, padded to the longest."""
    rows = [[1, *(ord(word) - ord("a") + 2 for word in caption.split())] for caption in captions]
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])


@pytest.fixture
def encoder() -> BertModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return BertModel(BertConfig(vocab_size=10, **sizes), add_pooling_layer=False).train()


def cache(encoder: BertModel, folder: Path, captions: Sequence[str] = CAPTIONS) -> CaptionStates:
    return cache_caption_states(encoder, captions, encode, folder, batch_size=2)


def test_states_equal_the_encoders(encoder: BertModel, tmp_path: Path) -> None:
    states = cache(encoder, tmp_path)
    assert encoder.training, "the caller's mode comes back"
    for batch in (CAPTIONS, ["a"], ["d e f", "a", "a b c d e f"]):
        got, mask = states.gather(batch)
        ids, expected_mask = encode(batch)
        with torch.inference_mode():
            expected = encoder.eval()(input_ids=ids, attention_mask=expected_mask).last_hidden_state
        encoder.train()
        assert torch.equal(mask, expected_mask)
        torch.testing.assert_close(got, expected * mask[:, :, None], atol=1e-3, rtol=1e-3)


def test_disk_holds_each_token_of_each_distinct_caption_once(encoder: BertModel, tmp_path: Path) -> None:
    tokens = sum(1 + len(caption.split()) for caption in set(CAPTIONS))
    assert cache(encoder, tmp_path).tokens.nbytes == tokens * 16 * 2


def test_key_is_of_weights_and_tokens(encoder: BertModel, tmp_path: Path) -> None:
    first = cache(encoder, tmp_path)
    assert cache(encoder, tmp_path, CAPTIONS[::-1]).tokens.path == first.tokens.path
    assert cache(encoder, tmp_path, [*CAPTIONS, "f"]).tokens.path != first.tokens.path
    with torch.no_grad():
        encoder.embeddings.word_embeddings.weight[3, 0] += 1
    assert cache(encoder, tmp_path).tokens.path != first.tokens.path


def test_interrupted_build_goes_on(encoder: BertModel, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(done: int, _: int) -> None:
        raise StopError(str(done))

    with pytest.raises(StopError) as stopped:
        cache_caption_states(encoder, CAPTIONS, encode, tmp_path, batch_size=2, progress=stop)
    done: list[int] = []
    states = cache_caption_states(
        encoder, CAPTIONS, encode, tmp_path, batch_size=2, progress=lambda rows, _: done.append(rows)
    )
    assert done[0] > int(str(stopped.value)), "the first block was not computed again"
    whole = cache(encoder, tmp_path / "other")
    torch.testing.assert_close(states.gather(CAPTIONS)[0], whole.gather(CAPTIONS)[0])


def test_unknown_caption_and_no_captions(encoder: BertModel, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lacks 'f f'"):
        cache(encoder, tmp_path).gather(["a", "f f"])
    with pytest.raises(DataError, match="no captions"):
        cache(encoder, tmp_path, [])
