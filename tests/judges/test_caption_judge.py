import pytest
import torch
import torch.nn.functional as F

from truepair.errors import DataError
from truepair.judges.caption_evidence import caption_pairs, caption_space
from truepair.judges.caption_words import WordStatistics
from truepair.judges.captions import CaptionFeatures, CaptionJudge, caption_evidence
from truepair.models.encoders.minilm import load_minilm

CAPTIONS = [
    ["A brown dog runs on the grass.", "The dog is running through a field, far away from the white house it knows."],
    ["A tan dog plays on a lawn.", "A puppy runs across the grass."],
    ["A man surfs a large wave.", "A surfer in the ocean."],
]


@pytest.fixture(scope="module")
def statistics() -> WordStatistics:
    return WordStatistics.of(text for own in CAPTIONS for text in own)


@pytest.fixture(scope="module")
def features(statistics: WordStatistics) -> CaptionFeatures:
    return CaptionFeatures.encode(CAPTIONS, load_minilm(), statistics, layers=(3, 6))


def test_features_are_those_of_the_sentence_encoder(features: CaptionFeatures, statistics: WordStatistics) -> None:
    minilm = load_minilm()
    flat = [text for own in CAPTIONS for text in own]
    assert torch.allclose(features.vectors.flatten(0, 1), minilm.encode(flat), atol=1e-5)
    tokens = minilm.tokenizer.tokenize(CAPTIONS[0][0].lower())  # a brown dog runs on the grass .
    assert features.mask[0, 0].sum() == len(tokens)
    shown = features.weights[0, 0][features.mask[0, 0]]
    assert shown.tolist() == [
        pytest.approx(statistics.rarity(token)) if token in {"brown", "dog", "runs", "grass"} else 0.0
        for token in tokens
    ]
    encoded = minilm.tokenizer(CAPTIONS[2][1], return_tensors="pt")
    with torch.inference_mode():
        layers = minilm.model(**encoded, output_hidden_states=True).hidden_states
    expected = F.normalize(layers[3][0, 1:-1], dim=1)
    assert torch.allclose(features.states[0][2, 1][features.mask[2, 1]].float(), expected, atol=1e-3)


def test_evidence_prefers_a_caption_of_the_same_scene(features: CaptionFeatures) -> None:
    pairs = caption_pairs(*torch.tensor([[0, 0, 0], [2, 1, 2], [0, 1, 1]]), features.vectors.shape)
    evidence = caption_evidence(features, caption_space(features.vectors), pairs)
    assert all(len(columns) == 3 for columns in evidence.values())
    for family in ("alignment", "learned similarity"):
        assert int(evidence[family][:, 0].argmax()) == 1
    alone = caption_evidence(features, caption_space(features.vectors), pairs.where(torch.tensor([False, True, False])))
    for family, columns in evidence.items():
        assert torch.allclose(columns[1:2], alone[family], atol=1e-5), family


def test_a_judge_gives_the_share_of_matches() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(4000, generator=generator)
    labels = torch.rand(4000, generator=generator) < (2 * hidden - 2).sigmoid()
    evidence = {"good": hidden[:, None] * 50 + 7, "noise": torch.randn(4000, 2, generator=generator)}
    judge = CaptionJudge.fit(evidence, labels, l2=1e-4)
    found = judge.probabilities(evidence)
    assert float((found - (2 * hidden - 2).sigmoid()).abs().mean()) < 0.02
    assert float(found.mean()) == pytest.approx(float(labels.double().mean()), abs=1e-4)
    constant = CaptionJudge.fit({"constant": torch.ones(4000, 1)}, labels).probabilities({"constant": torch.ones(2, 1)})
    assert constant.tolist() == pytest.approx([float(labels.double().mean())] * 2, abs=1e-4)


def test_images_must_have_several_captions_each(statistics: WordStatistics) -> None:
    with pytest.raises(DataError, match="same number"):
        CaptionFeatures.encode([["a dog"], ["a", "b"]], load_minilm(), statistics)
