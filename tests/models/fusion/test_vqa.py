from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.tiny_albef import batch as tiny_batch
from tests.models.tiny_albef import tiny_model
from truepair.data.tasks.vqa import VqaBatch
from truepair.errors import ConfigError
from truepair.models.fusion.answers import AnswerTrie, rank_answers
from truepair.models.fusion.vqa import VqaModel

START, END = 2, 3
# Beginnings are shared: 11 distinct ones for 17 tokens, the empty one included.
ANSWERS = [[5], [5, 6], [5, 6, 7], [5, 6, 8, 9], [10, 6], [10, 11, 12], [13]]


def tiny_vqa(options: dict[str, Any] | None = None, **fields: Any) -> VqaModel:
    torch.manual_seed(4)
    model = VqaModel.from_albef(tiny_model(**fields), **(options or {})).eval()
    with torch.no_grad():
        model.answer_decoder.head.transform.weight *= 4  # answers of clearly different likelihood
        if model.answer_decoder.copy_head is not None:
            model.answer_decoder.copy_head.query.weight *= 4
    return model


def make_batch(questions: int = 4) -> VqaBatch:
    """Questions about three images; the second image is asked about twice."""
    pixels, ids, mask = tiny_batch(rows=questions)
    texts = [ANSWERS[number % len(ANSWERS)] for number in range(2 * questions - 1)]
    width = max(map(len, texts)) + 2
    answer_ids = torch.zeros(len(texts), width, dtype=torch.int64)
    for row, text in enumerate(texts):
        answer_ids[row, : len(text) + 2] = torch.tensor([START, *text, END])
    return VqaBatch(
        pixel_values=pixels[:3],
        image_index=torch.tensor([7, 1, 4]),
        image_rows=torch.tensor([0, 1, 1, 2])[:questions],
        input_ids=ids,
        attention_mask=mask,
        question_id=torch.arange(questions) + 100,
        answer_ids=answer_ids,
        answer_mask=(answer_ids > 0).long(),
        answer_rows=torch.arange(len(texts)) % questions,
        answer_weights=torch.linspace(0.1, 1.0, len(texts)),
        index=torch.arange(questions),
        questions=[f"question {number}" for number in range(questions)],
    )


def log_probabilities(model: VqaModel, batch: VqaBatch, question: int, answer: list[int]) -> Tensor:
    """Log-probability of every token at each place of one answer to one question, without sharing anything."""
    pixels = batch.pixel_values[batch.image_rows[question]][None]
    length = int(batch.attention_mask[question].sum())
    ids, mask = batch.input_ids[question : question + 1, :length], torch.ones(1, length, dtype=torch.int64)
    states = model.text_states(ids, mask)
    fused = model.fusion_encoder(states, mask, model.fusion_encoder.image_keys_values(model.image_states(pixels)))
    source = model.answer_decoder.question_keys_values(fused, mask, ids)
    states = model.answer_decoder(torch.tensor([[START, *answer]]), source).states[0]
    logits = model.answer_decoder.logits(states, source, torch.zeros(len(states), dtype=torch.int64))
    return logits.log_softmax(dim=1)


def log_likelihoods(model: VqaModel, batch: VqaBatch, question: int, answer: list[int]) -> Tensor:
    """Log-probability of each token of one answer to one question."""
    tokens = torch.tensor([*answer, END])
    return log_probabilities(model, batch, question, answer)[torch.arange(len(tokens)), tokens]


def trie() -> AnswerTrie:
    return AnswerTrie([[*answer, END] for answer in ANSWERS], start=START)


@torch.no_grad()
@pytest.mark.parametrize("copies", [False, True])
def test_ranking_equals_scoring_each_answer_by_itself(copies: bool) -> None:
    model, batch = tiny_vqa({"copy_question": copies}), make_batch()
    ranked = model.predict(batch, trie())
    assert ranked.answers.shape == ranked.scores.shape == (4, len(ANSWERS))
    for question in range(4):
        scores = torch.stack([log_likelihoods(model, batch, question, answer).sum() for answer in ANSWERS])
        torch.testing.assert_close(ranked.scores[question], scores.sort(descending=True).values, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(scores[ranked.answers[question]], ranked.scores[question], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("candidates", [1, 2, 3, 5])
def test_candidates_are_those_with_the_likeliest_first_token(candidates: int) -> None:
    model, batch = tiny_vqa(), make_batch()
    ranked = model.predict(batch, trie(), candidates=candidates)
    for question in range(4):
        each = [log_likelihoods(model, batch, question, answer) for answer in ANSWERS]
        first = sorted(range(len(ANSWERS)), key=lambda a: (-round(float(each[a][0]), 4), a))[:candidates]
        assert set(ranked.answers[question].tolist()) == set(first)
        scores = torch.stack([each[answer].sum() for answer in ranked.answers[question].tolist()])
        torch.testing.assert_close(ranked.scores[question], scores, rtol=1e-4, atol=1e-4)
        assert (ranked.scores[question].diff() <= 0).all()


@torch.no_grad()
def test_each_distinct_beginning_is_read_once() -> None:
    model, batch = tiny_vqa(), make_batch()
    read: list[int] = []
    model.answer_decoder.layers[0].register_forward_hook(lambda _m, inputs, _o: read.append(inputs[0].shape[1]))
    model.predict(batch, trie())
    beginnings = {tuple(answer[:length]) for answer in ANSWERS for length in range(len(answer) + 1)}
    assert sum(read) == len(beginnings) == 11


def test_ranking_wants_candidates() -> None:
    model = tiny_vqa()
    questions = model.answer_decoder.question_keys_values(torch.randn(1, 2, 32), torch.ones(1, 2))
    with pytest.raises(ConfigError, match="at least one candidate"):
        rank_answers(model.answer_decoder, questions, trie(), candidates=0)


@torch.no_grad()
def test_a_question_may_have_choices_of_its_own() -> None:
    """As A-OKVQA's questions: what is no choice has a prior of nothing at all."""
    model, batch = tiny_vqa(), make_batch()
    own = [[0, 2, 4, 6], [1, 3], [5, 6, 0], [3, 2, 1, 0]]
    prior = torch.full((4, len(ANSWERS)), -torch.inf)
    for question, choices in enumerate(own):
        prior[question, choices] = 0.0
    ranked = model.predict(batch, trie(), candidates=4, prior=prior)
    for question, choices in enumerate(own):
        scores = torch.stack([log_likelihoods(model, batch, question, ANSWERS[choice]).sum() for choice in choices])
        order = scores.sort(descending=True)
        assert ranked.answers[question, : len(choices)].tolist() == [choices[place] for place in order.indices]
        torch.testing.assert_close(ranked.scores[question, : len(choices)], order.values, rtol=1e-4, atol=1e-4)
        assert ranked.scores[question, len(choices) :].isneginf().all()


@torch.no_grad()
def test_a_prior_counts_in_both_steps() -> None:
    model, batch = tiny_vqa(), make_batch()
    plain = model.predict(batch, trie())
    scores = torch.zeros(4, len(ANSWERS)).scatter(1, plain.answers, plain.scores)  # by number of the answer
    prior = torch.randn(4, len(ANSWERS), generator=torch.Generator().manual_seed(2)) * 4
    ranked = model.predict(batch, trie(), prior=prior)
    assert torch.equal(ranked.answers[:, 0], (scores + prior).argmax(dim=1))
    assert not torch.equal(ranked.answers[:, 0], plain.answers[:, 0])
    torch.testing.assert_close(ranked.scores, (scores + prior).gather(1, ranked.answers))
    certain = torch.zeros(4, len(ANSWERS))
    certain[:, 5] = 1000.0
    assert (model.predict(batch, trie(), prior=certain, candidates=1).answers == 5).all()


@torch.no_grad()
def test_similarities_of_answers_are_those_of_itc() -> None:
    torch.manual_seed(4)
    albef = tiny_model().eval()
    model = VqaModel.from_albef(albef, token_products=True).eval()
    pixels, ids, mask = tiny_batch()
    found = model.similarities(model.image_states(pixels), model.answer_features(ids, mask))
    expected = albef.encode_images(pixels).features @ albef.encode_texts(ids, mask).features.T
    torch.testing.assert_close(found, expected)
    with pytest.raises(ConfigError, match="token_products"):
        tiny_vqa().answer_features(ids, mask)


@torch.no_grad()
@pytest.mark.parametrize("copies", [False, True])
def test_the_loss_equals_a_loop_over_answers(copies: bool) -> None:
    model, batch = tiny_vqa({"copy_question": copies}), make_batch()
    total = 0.0
    for row, question in enumerate(batch.answer_rows.tolist()):
        answer = [token for token in batch.answer_ids[row].tolist() if token > END]
        total -= float(batch.answer_weights[row] * log_likelihoods(model, batch, question, answer).sum())
    assert float(model.loss(batch)) == pytest.approx(total / 4, rel=1e-4)


@torch.no_grad()
def test_states_may_come_from_elsewhere() -> None:
    model, batch = tiny_vqa(), make_batch()
    states = model.image_states(batch.pixel_values)
    torch.testing.assert_close(model.loss(batch, states), model.loss(batch))
    assert torch.equal(model.predict(batch, trie(), states).answers, model.predict(batch, trie()).answers)


@torch.no_grad()
@pytest.mark.parametrize("copies", [False, True])
def test_writing_takes_the_likeliest_token_each_time(copies: bool) -> None:
    model, batch = tiny_vqa({"copy_question": copies}), make_batch()
    written = model.generate_answers(batch, start=START, end=END, max_length=5)
    for question, answer in enumerate(written):
        expected: list[int] = []
        while len(expected) < 5 and END not in expected:
            scores = log_probabilities(model, batch, question, expected)[-1].tolist()
            expected.append(max(range(len(scores)), key=lambda token: scores[token]))
        assert answer == [token for token in expected if token != END]


@pytest.mark.parametrize("copies", [False, True])
def test_every_weight_is_trained(copies: bool) -> None:
    model = tiny_vqa({"copy_question": copies}).train()
    model.loss(make_batch()).backward()
    idle = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert not idle


@pytest.mark.parametrize("fields", [{}, {"tie_word_embeddings": False}, {"mlm_head": False, "contrastive_head": False}])
def test_a_saved_model_comes_back_bit_for_bit(fields: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_vqa(**fields)
    model.save_pretrained(tmp_path)
    loaded, info = VqaModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    own, other = model.state_dict(), loaded.state_dict()
    assert own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)
    tied = loaded.answer_decoder.head.decoder.weight is loaded.answer_decoder.embeddings.word_embeddings.weight
    assert tied is fields.get("tie_word_embeddings", True)


def test_a_copying_model_over_the_tokens_of_a_list_comes_back(tmp_path: Path) -> None:
    model = tiny_vqa({"copy_question": True, "answer_tokens": [0, 2, 3, *range(5, 14)]})
    batch = make_batch()
    words = batch.input_ids.clamp(max=20)
    ids, mask = words[:1], batch.attention_mask[:1]
    states = torch.randn(1, ids.shape[1], 32)
    model.save_pretrained(tmp_path)
    loaded = VqaModel.from_pretrained(tmp_path)
    own, other = (one.answer_decoder.question_keys_values(states, mask, ids).copies for one in (model, loaded))
    assert own is not None and other is not None
    expected = [model.config.answer_tokens.index(t) if t in model.config.answer_tokens else -1 for t in ids[0].tolist()]
    assert own.tokens[0].tolist() == [t if seen else -1 for t, seen in zip(expected, mask[0].tolist(), strict=True)]
    assert torch.equal(own.tokens, other.tokens) and torch.equal(own.keys, other.keys)


def test_the_encoders_start_as_those_of_the_checkpoint() -> None:
    albef = tiny_model()
    model = VqaModel.from_albef(albef)
    for part in ("image_encoder", "text_encoder", "fusion_encoder"):
        own, other = getattr(model, part).state_dict(), getattr(albef, part).state_dict()
        assert all(torch.equal(own[name], other[name]) for name in other)
        assert not {w.data_ptr() for w in own.values()} & {w.data_ptr() for w in other.values()}
