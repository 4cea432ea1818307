import pytest
import torch
from torch import Tensor

from tests.models.tiny_albef import tiny_model
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.answer_decoder import AnswerDecoder, QuestionKeysValues

SAME_WIDTH = {"model_type": "conv_stem", "image_size": 16, "hidden_size": 32, "num_hidden_layers": 1}


def decoder_of(albef: AlbefModel) -> AnswerDecoder:
    torch.manual_seed(3)
    decoder = AnswerDecoder(albef.config).eval()
    decoder.start_from(albef)
    return decoder


def some_questions(decoder: AnswerDecoder, count: int = 3) -> QuestionKeysValues:
    states = torch.randn(count, 5, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])[:count]
    return decoder.question_keys_values(states, mask)


def tokens(rows: int = 3, length: int = 6) -> Tensor:
    return torch.randint(5, 60, (rows, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_a_token_sees_nothing_on_its_right() -> None:
    decoder = decoder_of(tiny_model())
    questions, ids = some_questions(decoder), tokens()
    before = decoder(ids, questions).states
    for place in range(6):
        changed = ids.clone()
        changed[:, place] = (changed[:, place] + 7) % 50 + 5
        after = decoder(changed, questions).states
        torch.testing.assert_close(after[:, :place], before[:, :place])
        assert ((after - before)[:, place:].abs().amax(dim=2) > 1e-4).all(), "and every later token sees it"


@torch.no_grad()
def test_going_on_from_the_past_equals_reading_it_all() -> None:
    decoder = decoder_of(tiny_model())
    questions, ids = some_questions(decoder), tokens()
    whole = decoder(ids, questions)
    first = decoder(ids[:, :2], questions)
    second = decoder(ids[:, 2:5], questions, past=first.past)
    third = decoder(ids[:, 5:], questions, past=second.past)
    parts = torch.cat([first.states, second.states, third.states], dim=1)
    torch.testing.assert_close(parts, whole.states, rtol=1e-4, atol=1e-5)
    assert all(keys.shape == (3, 6, 32) for keys, _ in third.past)


@torch.no_grad()
def test_padding_of_a_question_is_not_seen() -> None:
    decoder = decoder_of(tiny_model())
    states = torch.randn(2, 5, 32)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    noisy = states.clone()
    noisy[0, 3:] += 10
    ids = tokens(2)
    expected = decoder(ids, decoder.question_keys_values(states, mask)).states
    torch.testing.assert_close(decoder(ids, decoder.question_keys_values(noisy, mask)).states, expected)


@torch.no_grad()
def test_answers_share_the_keys_of_their_question() -> None:
    decoder = decoder_of(tiny_model())
    questions, ids = some_questions(decoder), tokens(rows=7)
    rows = torch.tensor([2, 0, 0, 2, 1, 0, 0])
    repeated = QuestionKeysValues(
        tuple(keys[rows] for keys in questions.keys), tuple(v[rows] for v in questions.values), questions.mask[rows]
    )
    shared = decoder(ids, questions, rows).states
    torch.testing.assert_close(shared, decoder(ids, repeated).states, rtol=1e-4, atol=1e-5)


def test_the_decoder_starts_as_the_fusion_layers() -> None:
    albef = tiny_model(image_encoder=SAME_WIDTH)
    decoder = decoder_of(albef)
    for layer, fusion in zip(decoder.layers, albef.fusion_encoder.layers, strict=True):
        assert layer.state_dict().keys() == fusion.state_dict().keys()
        assert all(torch.equal(value, fusion.state_dict()[name]) for name, value in layer.state_dict().items())
    assert torch.equal(decoder.head.transform.weight, albef.mlm_head.transform.weight)
    words = albef.text_encoder.embeddings.word_embeddings.weight
    assert torch.equal(decoder.embeddings.word_embeddings.weight, words)
    assert decoder.embeddings.word_embeddings.weight is not words


def test_keys_and_values_of_another_width_start_anew() -> None:
    albef = tiny_model()  # image states are 24 wide, question states 32
    layer, fusion = decoder_of(albef).layers[0], albef.fusion_encoder.layers[0]
    assert layer.cross_attention.key.weight.shape == (32, 32)
    assert torch.equal(layer.cross_attention.query.weight, fusion.cross_attention.query.weight)
    assert torch.equal(layer.self_attention.key.weight, fusion.self_attention.key.weight)


@pytest.mark.parametrize("length", [1, 4])
@torch.no_grad()
def test_a_single_row_is_a_fusion_layer_with_a_causal_mask(length: int) -> None:
    """With one token there is nothing to hide, so a fusion layer over the same source computes the same."""
    albef = tiny_model(image_encoder=SAME_WIDTH)
    decoder = decoder_of(albef)
    source = torch.randn(2, 5, 32)
    ids = tokens(2, length)
    decoded = decoder(ids, decoder.question_keys_values(source, torch.ones(2, 5))).states
    embedded = albef.text_encoder.embeddings(ids)
    fused = albef.fuse(embedded, torch.ones_like(ids), albef.image_keys_values(source))
    if length == 1:
        torch.testing.assert_close(decoded, fused, rtol=1e-4, atol=1e-5)
    else:
        assert not torch.allclose(decoded[:, 0], fused[:, 0], atol=1e-3), "a fusion layer sees what comes after"
