"""The captioning model against slow obvious references, and beam search against all texts there are."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.models.tiny_albef import batch as tiny_batch
from tests.models.tiny_albef import tiny_model
from truepair.data.tasks.captioning import CaptionBatch
from truepair.errors import ConfigError
from truepair.models.checkpoints.load import load_model
from truepair.models.fusion.beams import beam_search
from truepair.models.fusion.captioning import CaptionModel

START, END, VOCABULARY, LONGEST = 0, 1, 4, 4


def tiny_captioner(**fields: object) -> CaptionModel:
    torch.manual_seed(5)
    return CaptionModel.from_albef(tiny_model(), **fields).eval()


def make_batch() -> CaptionBatch:
    """Four captions of three images; the second image has two."""
    pixels, ids, mask = tiny_batch(rows=4)
    return CaptionBatch(
        pixel_values=pixels[:3],
        image_index=torch.tensor([7, 1, 4]),
        image_rows=torch.tensor([0, 1, 2, 1]),
        input_ids=ids,
        attention_mask=mask,
        index=torch.arange(4),
        texts=["a", "b", "c", "d"],
    )


def logs_after(source: int, text: tuple[int, ...]) -> Tensor:
    """Log-probabilities [V] after a beginning: any, but the same for the same beginning."""
    seed = hash((source, text)) % 2**31
    return (2 * torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed))).log_softmax(dim=0)


def best_of_all(source: int, penalty: float, shortest: int = 0) -> list[int]:
    """The likeliest of all texts of up to `LONGEST` tokens, and of so many without the end, by trying each."""
    found: list[tuple[float, list[int]]] = []
    for length in range(1, LONGEST + 1):
        for text in itertools.product(range(2, VOCABULARY), repeat=length - 1):
            for last in range(1, VOCABULARY):
                if (last != END and length < LONGEST) or (last == END and length <= shortest):
                    continue
                tokens = (*text, last)
                total = sum(float(logs_after(source, tokens[:n])[token]) for n, token in enumerate(tokens))
                found.append((total / length**penalty, [token for token in tokens if token != END]))
    return max(found)[1]


def written(sources: int, beams: int, penalty: float, shortest: int = 0) -> list[list[int]]:
    before: list[tuple[int, ...]] = [()] * (sources * beams)
    begun = False

    def step(tokens: Tensor, parents: Tensor) -> Tensor:
        nonlocal before, begun
        if begun:
            before = [(*before[row], token) for row, token in zip(parents.tolist(), tokens.tolist(), strict=True)]
        begun = True
        return torch.stack([logs_after(row // beams, text) for row, text in enumerate(before)])

    return beam_search(
        step,
        sources,
        start=START,
        end=END,
        beams=beams,
        max_length=LONGEST,
        min_length=shortest,
        length_penalty=penalty,
        banned=[START],
    )


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_with_enough_beams_the_best_text_of_all_is_found(penalty: float) -> None:
    expected = [best_of_all(source, penalty) for source in range(12)]
    assert len({len(text) for text in expected}) > 1, "texts of several lengths win"
    assert written(12, 2 ** (LONGEST - 1), penalty) == expected


@pytest.mark.parametrize("shortest", [1, 2, LONGEST - 1])
def test_a_text_is_as_long_as_is_asked_for(shortest: int) -> None:
    expected = [best_of_all(source, 0.0, shortest) for source in range(12)]
    assert min(len(text) for text in expected) == shortest > min(len(best_of_all(source, 0.0)) for source in range(12))
    assert written(12, 2 ** (LONGEST - 1), 0.0, shortest) == expected


def test_one_beam_takes_the_likeliest_token_each_time() -> None:
    for source, text in enumerate(written(6, 1, 0.0)):
        taken: tuple[int, ...] = ()
        ends: list[tuple[float, tuple[int, ...]]] = []
        total = 0.0
        for _ in range(LONGEST):
            logs = logs_after(source, taken)
            ends.append((total + float(logs[END]), taken))
            token = 2 + int(logs[2:].argmax())
            total, taken = total + float(logs[token]), (*taken, token)
        assert tuple(text) == max([*ends, (total, taken)])[1]


def test_a_search_needs_a_beam() -> None:
    with pytest.raises(ConfigError, match="needs a beam and a token, got 0 and 4"):
        written(1, 0, 1.0)


@pytest.mark.parametrize("feature", [False, True])
def test_the_search_reads_what_training_reads(feature: bool) -> None:
    """Greedy captions, token by token from kept keys, are those of the whole model over each beginning."""
    model = tiny_captioner(image_feature=feature).requires_grad_(False)
    images = model.image_states(make_batch().pixel_values)
    found = model.generate_captions(images, start=2, end=3, beams=1, max_length=6, length_penalty=0.0, banned=(0, 2))
    sources = model.image_keys_values(images)
    for image in range(3):
        tokens, total, best = [2], 0.0, (-math.inf, list[int]())
        for length in range(1, 7):
            states = model.text_states(torch.tensor([tokens]), torch.ones(1, length))
            logs = model.logits(model.read(states, sources, torch.tensor([image])))[0, -1].log_softmax(dim=0)
            best = max(best, (total + float(logs[3]), tokens[1:]))
            logs[[0, 2, 3]] = -math.inf
            total, tokens = total + float(logs.max()), [*tokens, int(logs.argmax())]
        assert found[image] == max(best, (total, tokens[1:]))[1]


def test_no_token_sees_what_follows_it() -> None:
    model, batch = tiny_captioner(), make_batch()
    sources = model.image_keys_values(model.image_states(batch.pixel_values))
    changed = batch.input_ids.clone()
    changed[:, 3:] = 9
    before, after = (
        model.read(model.text_states(ids, batch.attention_mask), sources, batch.image_rows)
        for ids in (batch.input_ids, changed)
    )
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3:], after[:, 3:], atol=1e-3)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_a_loop(smoothing: float) -> None:
    model, batch = tiny_captioner(label_smoothing=smoothing), make_batch()
    losses = []
    for row, image in enumerate(batch.image_rows.tolist()):
        length = int(batch.attention_mask[row].sum())
        for end in range(1, length):
            begun = batch.input_ids[row : row + 1, :end]
            sources = model.image_keys_values(model.image_states(batch.pixel_values[image : image + 1]))
            states = model.read(model.text_states(begun, torch.ones_like(begun)), sources, torch.tensor([0]))
            logs = model.head(states[0, -1]).log_softmax(dim=0)
            right = logs[batch.input_ids[row, end]]
            losses.append(-(1 - smoothing) * right - smoothing * logs.mean())
    torch.testing.assert_close(model.loss(batch), torch.stack(losses).mean())


def test_a_model_of_few_tokens_is_the_whole_one_with_the_others_left_out() -> None:
    batch = make_batch()
    known = sorted({2, 3, *batch.input_ids[batch.attention_mask.bool()].tolist()})
    whole, few = tiny_captioner(), tiny_captioner(caption_tokens=known)
    states = torch.randn(5, 32)
    torch.testing.assert_close(few.logits(states), whole.logits(states)[:, known])
    images = whole.image_states(batch.pixel_values)
    others = tuple(token for token in range(60) if token not in known)
    options = {"start": 2, "end": 3, "beams": 2, "max_length": 6}
    assert few.generate_captions(images, **options) == whole.generate_captions(images, **options, banned=others)
    assert bool(few.loss(batch).isfinite())


def test_every_weight_that_may_move_does(tmp_path: Path) -> None:
    model = tiny_captioner(image_feature=True).train()
    model.loss(make_batch()).backward()
    still = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert not still and all(not weight.requires_grad for weight in model.image_projection.parameters())
    model.eval().save_pretrained(tmp_path)
    torch.testing.assert_close(load_model(CaptionModel, tmp_path).loss(make_batch()), model.loss(make_batch()))


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="captioning has image_feature in its place"):
        tiny_captioner(token_products=True)
    with pytest.raises(ConfigError, match=r"label_smoothing is 1\.0; give a share from 0, below 1"):
        tiny_captioner(label_smoothing=1.0)
    with pytest.raises(ConfigError, match="caption_tokens must be in ascending order"):
        tiny_captioner(caption_tokens=[3, 2])
