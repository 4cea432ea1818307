"""What a BLIP-2 with a language model learns of weighted answers, beside a slow loop."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.judges.tiny_judges import save_blip2
from truepair.data.open import open_pairs
from truepair.data.tasks.vqa import VqaSample
from truepair.data.tasks.vqa_language import LanguageVqaBatch, LanguageVqaCollator
from truepair.data.tokens import starting_tokenizer, train_wordpiece
from truepair.models.checkpoints.blip2_language import join_language_model, new_language_model
from truepair.models.fusion.blip2 import open_blip2_folder
from truepair.models.fusion.blip2_language import Blip2LanguageModel
from truepair.models.fusion.language_preprocessing import LanguagePreprocessing

PROMPT = "question: {} answer:"
GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 40, "initializer_range": 0.5}


@pytest.fixture(scope="module")
def made(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Blip2LanguageModel, LanguagePreprocessing]:
    folder = save_blip2(tmp_path_factory.mktemp("start") / "blip2", open_pairs(squares / "pairs.jsonl"))
    first, images = open_blip2_folder(str(folder))
    words = ["question : answer : what colour is it red blue dark green is this a square yes no"]
    tokenizer = starting_tokenizer(train_wordpiece(words, 200, min_frequency=1))
    torch.manual_seed(3)
    language = new_language_model(GPT2, tokenizer)
    model, preprocessing = join_language_model(first, images.processor, language, tokenizer, "a gpt2")
    torch.nn.init.normal_(model.model.language_projection.weight)
    return model.eval(), preprocessing


def samples() -> list[VqaSample]:
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return [
        VqaSample(1, 7, "what colour is it", ["dark green", "red"], [0.7, 0.3], pixels[0], 0),
        VqaSample(2, 4, "is this a square", ["yes"], [0.5], pixels[1], 1),
        VqaSample(3, 7, "is it red", ["no", "dark blue", "yes"], [0.5, 0.4, 0.1], pixels[0], 2),
    ]


def batch_of(preprocessing: LanguagePreprocessing) -> LanguageVqaBatch:
    return LanguageVqaCollator(preprocessing.encode, PROMPT)(samples())


def log_likelihood(
    model: Blip2LanguageModel, preprocessing: LanguagePreprocessing, pixels: Tensor, question: str, answer: str
) -> Tensor:
    """Of one answer to one question, token by token."""
    tokenizer = preprocessing.tokenizer
    read = tokenizer(PROMPT.replace("{}", question))["input_ids"]
    seen = model.seen(model.image_states(pixels[None]))  # [1, Q, D]
    total = torch.zeros(())
    for token in [*tokenizer(answer, add_special_tokens=False)["input_ids"], preprocessing.end]:
        embedded = torch.cat([seen, model.text_states(torch.tensor([read]))], dim=1)
        logits = model.text_encoder(inputs_embeds=embedded).logits[0, -1]
        total = total + logits.log_softmax(dim=0)[token]
        read = [*read, token]
    return total


def test_the_loss_is_the_weighted_likelihood_of_the_answers_alone(
    made: tuple[Blip2LanguageModel, LanguagePreprocessing],
) -> None:
    model, preprocessing = made
    batch = batch_of(preprocessing)
    assert batch.image_index.tolist() == [4, 7] and batch.question_images.tolist() == [1, 0, 1]
    assert batch.image_rows.tolist() == [1, 1, 0, 1, 1, 1] and len(batch) == 3
    expected = torch.zeros(())
    for sample in samples():
        for answer, weight in zip(sample.answers, sample.weights, strict=True):
            expected -= weight * log_likelihood(model, preprocessing, sample.pixels, sample.question, answer).detach()
    loss = model.loss(batch)
    assert loss.item() == pytest.approx(float(expected) / 3, rel=1e-5)
    states = model.image_states(batch.pixel_values), model.text_states(batch.input_ids)
    assert model.loss(batch, *states).item() == pytest.approx(loss.item(), rel=1e-6)
    loss.backward()
    assert model.model.query_tokens.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.text_encoder.parameters()), "it rests"


def test_questions_without_answers_are_read_as_well(made: tuple[Blip2LanguageModel, LanguagePreprocessing]) -> None:
    model, preprocessing = made
    bare = [sample._replace(answers=[], weights=[]) for sample in samples()]
    batch = LanguageVqaCollator(preprocessing.encode, PROMPT)(bare)
    assert len(batch) == 3 and batch.input_ids.shape[0] == 0 and batch.prompts[2] == "question: is it red answer:"
    assert model.text_states(batch.input_ids).shape == (0, 1, 16)
