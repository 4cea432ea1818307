import torch
from transformers import BertConfig, BertModel

from tests.models.tiny_albef import batch, tiny_config
from truepair.models.checkpoints.bert import text_names
from truepair.models.fusion.text_encoder import TextEncoder


def reference(layers: int) -> BertModel:
    config = tiny_config()
    names = ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    fields = {name: getattr(config, name) for name in names}
    torch.manual_seed(0)
    bert = BertModel(BertConfig(**fields, num_hidden_layers=layers, initializer_range=0.2), add_pooling_layer=False)
    return bert.eval()


def test_equals_the_bert_of_transformers() -> None:
    _, ids, mask = batch()
    bert = reference(layers=2)
    encoder = TextEncoder(tiny_config(text_layers=2)).eval()
    names = text_names(2, 0, cross_attention=False)
    state = {names[name].removeprefix("text_encoder."): tensor for name, tensor in bert.state_dict().items()}
    encoder.load_state_dict(state)
    with torch.no_grad():
        found, expected = encoder(ids, mask), bert(input_ids=ids, attention_mask=mask).last_hidden_state
    shown = mask.bool()
    torch.testing.assert_close(found[shown], expected[shown], rtol=1e-5, atol=1e-5)


def test_padding_changes_nothing() -> None:
    _, ids, mask = batch(rows=1, length=5)
    encoder = TextEncoder(tiny_config()).eval()
    padded_ids = torch.cat([ids, torch.full((1, 4), 7)], dim=1)
    padded_mask = torch.cat([mask, torch.zeros(1, 4, dtype=torch.long)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(encoder(padded_ids, padded_mask)[:, :5], encoder(ids, mask), rtol=1e-5, atol=1e-6)


def test_a_row_of_padding_alone_is_finite() -> None:
    encoder = TextEncoder(tiny_config())
    states = encoder(torch.zeros(2, 4, dtype=torch.long), torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]]))
    states.sum().backward()
    assert states.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())
