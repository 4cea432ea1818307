import math

import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertOnlyMLMHead

from tests.models.tiny_albef import tiny_model
from truepair.errors import ConfigError
from truepair.models.checkpoints.bert import vocabulary_names


def fused(rows: int = 3, length: int = 5) -> torch.Tensor:
    return torch.randn(rows, length, 32, generator=torch.Generator().manual_seed(4))


def test_vocabulary_head_equals_that_of_transformers() -> None:
    torch.manual_seed(0)
    reference = BertOnlyMLMHead(BertConfig(vocab_size=60, hidden_size=32)).eval()
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    reference.predictions.bias = reference.predictions.decoder.bias
    model = tiny_model(tie_word_embeddings=False)
    names = vocabulary_names()
    ours = {names[f"cls.{name}"]: tensor for name, tensor in reference.state_dict().items()}
    assert not model.load_state_dict(ours, strict=False).unexpected_keys
    positions = torch.zeros(3, 5, dtype=torch.bool)
    positions[0, 1] = positions[2, 4] = positions[2, 0] = True
    with torch.no_grad():
        expected = reference(fused())[positions]
        torch.testing.assert_close(model.predict_tokens(fused(), positions), expected, rtol=1e-5, atol=1e-5)


def test_the_vocabulary_is_computed_only_where_asked() -> None:
    model = tiny_model()
    seen: list[int] = []
    model.mlm_head.decoder.register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))
    positions = torch.zeros(3, 5, dtype=torch.bool)
    positions[1, 2] = True
    assert model.predict_tokens(fused(), positions).shape == (1, 60)
    assert model.predict_tokens(fused(), torch.zeros(3, 5, dtype=torch.bool)).shape == (0, 60)
    assert seen == [1, 0]


def test_match_reads_the_first_state_alone() -> None:
    model = tiny_model()
    other = fused()
    other[:, 1:] = 0
    linear = model.itm_head.linear
    with torch.no_grad():
        assert torch.equal(model.match(fused()), model.match(other))
        torch.testing.assert_close(model.match(fused()), F.linear(fused()[:, 0], linear.weight, linear.bias))


def test_match_with_the_product_of_features() -> None:
    model = tiny_model(itm_product=True)
    image, text = F.normalize(torch.randn(3, 16), dim=1), F.normalize(torch.randn(3, 16), dim=1)
    weight, bias = model.itm_head.linear.weight, model.itm_head.linear.bias
    with torch.no_grad():
        expected = fused()[:, 0] @ weight[:, :32].T + (image * text * math.sqrt(16)) @ weight[:, 32:].T + bias
        torch.testing.assert_close(model.match(fused(), image, text), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ConfigError, match="itm_product"):
        model.match(fused())


def test_dropout_before_the_projection_is_for_training() -> None:
    options = {"projection": "mlp", "projection_input_dropout": 0.5, "projection_dropout": 0.0}
    projection = tiny_model(**options).image_projection.eval()
    pooled = torch.ones(64, projection[0].in_features)
    expected = projection[3](projection[1](projection[0](pooled[:1])))
    torch.testing.assert_close(projection(pooled), expected.expand(64, -1))
    seen: list[torch.Tensor] = []
    projection[0].register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    projection.train()(pooled)
    assert set(seen[0].unique().tolist()) == {0.0, 2.0} and 0.4 < (seen[0] == 0).float().mean() < 0.6
    with pytest.raises(ConfigError, match="mlp"):
        tiny_model(projection_input_dropout=0.5)


def test_mlp_projection_has_a_hidden_layer_and_dropout() -> None:
    model = tiny_model(projection="mlp", projection_hidden_size=11, hidden_dropout_prob=0.5)
    first, _, dropout, last = model.image_projection
    assert (first.weight.shape, dropout.p, last.weight.shape) == ((11, 24), 0.5, (16, 11))
    assert model.text_projection[0].weight.shape == (11, 32)


@pytest.mark.parametrize("ask", ["predict", "project", "temperature", "clamp"])
def test_a_missing_head_is_named(ask: str) -> None:
    model = tiny_model(mlm_head=False, contrastive_head=False)
    calls = {
        "predict": lambda: model.predict_tokens(fused(), torch.ones(3, 5, dtype=torch.bool)),
        "project": lambda: model.project_image(fused()),
        "temperature": lambda: model.temperature,
        "clamp": model.clamp_temperature_,
    }
    with pytest.raises(ConfigError, match=r"mlm_head|contrastive_head"):
        calls[ask]()
