from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertModel, ViTConfig, ViTModel

from tests.models.tiny_albef import VIT, batch, tiny_config, tiny_model
from truepair.errors import CheckpointError
from truepair.models.checkpoints.bert import albef_from_bert, load_bert
from truepair.models.fusion.albef import AlbefModel

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 20,
    "num_hidden_layers": 4,
    "initializer_range": 0.2,
}


@pytest.fixture
def bert(tmp_path: Path) -> BertForMaskedLM:
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(**SIZES)).eval()
    torch.nn.init.normal_(model.cls.predictions.bias)
    model.save_pretrained(tmp_path / "bert")
    return model


def test_first_layers_encode_text_and_the_following_fuse(bert: BertForMaskedLM, tmp_path: Path) -> None:
    model, report = albef_from_bert(tmp_path / "bert", image_encoder=VIT, embed_dim=16)
    assert (model.config.text_layers, model.config.fusion_layers, model.config.vocab_size) == (2, 2, 60)
    _, ids, mask = batch()
    model.eval()
    with torch.no_grad():
        hidden = bert(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        states = model.text_states(ids, mask)
        torch.testing.assert_close(states[mask.bool()], hidden[2][mask.bool()], rtol=1e-5, atol=1e-5)
        # Without cross-attention the fusion layers are those of the BERT.
        for layer in model.fusion_encoder.layers:
            layer.cross_attention.forward = lambda states, *args, **kwargs: states
        fused = model.fuse(states, mask, model.image_keys_values(torch.zeros(3, 1, 24)))
        torch.testing.assert_close(fused[mask.bool()], hidden[4][mask.bool()], rtol=1e-5, atol=1e-5)
        logits = bert.cls(hidden[4])[mask.bool()]
        torch.testing.assert_close(model.predict_tokens(hidden[4], mask.bool()), logits, rtol=1e-5, atol=1e-5)
    assert report.unused == ()
    assert {name.split(".")[3] for name in report.fresh} == {"cross_attention"}
    assert "cross_attention" in str(report)


def test_a_bert_without_vocabulary_head_is_reported(tmp_path: Path) -> None:
    BertModel(BertConfig(**SIZES)).save_pretrained(tmp_path)
    model = tiny_model()
    report = load_bert(model, tmp_path)
    fresh = {name for name in report.fresh if name.startswith("mlm_head")}
    assert fresh == {
        "mlm_head.transform.weight",
        "mlm_head.transform.bias",
        "mlm_head.norm.weight",
        "mlm_head.norm.bias",
        "mlm_head.decoder.bias",
    }
    assert "mlm_head" in str(report)


def test_layers_beyond_the_last_are_reported_as_unused(bert: BertForMaskedLM, tmp_path: Path) -> None:
    model = AlbefModel(tiny_config(text_layers=1, fusion_layers=1, mlm_head=False))
    report = load_bert(model, tmp_path / "bert")
    unused = {".".join(name.split(".")[:3]) for name in report.unused}
    assert {"encoder.layer.2", "encoder.layer.3"} <= unused
    assert "cls.predictions.bias" in unused
    own = model.state_dict()
    weight = bert.bert.encoder.layer[1].attention.self.query.weight
    assert torch.equal(own["fusion_encoder.layers.0.self_attention.query.weight"], weight)


def test_the_vocabulary_stays_tied(bert: BertForMaskedLM, tmp_path: Path) -> None:
    model = tiny_model()
    load_bert(model, tmp_path / "bert")
    assert model.mlm_head.decoder.weight is model.text_encoder.embeddings.word_embeddings.weight
    assert torch.equal(model.mlm_head.decoder.weight, bert.bert.embeddings.word_embeddings.weight)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_layers": 5}, "fewer layers"),
        ({"vocab_size": 61}, "sizes of the checkpoint"),
        ({"hidden_size": 36, "intermediate_size": 64}, "sizes of the checkpoint"),
    ],
)
def test_other_sizes_are_refused(fields: dict[str, int], message: str, bert: BertForMaskedLM, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_bert(AlbefModel(tiny_config(**fields)), tmp_path / "bert")


def test_what_is_no_bert_is_refused(bert: BertForMaskedLM, tmp_path: Path) -> None:
    vit = {name: value for name, value in VIT.items() if name != "model_type"}
    ViTModel(ViTConfig(**vit)).save_pretrained(tmp_path / "vit")
    (tmp_path / "bert" / "model.safetensors").write_bytes(b"damaged")
    for source, message in (("vit", "needs? a BERT"), ("missing", "not a readable"), ("bert", "cannot be loaded")):
        with pytest.raises(CheckpointError, match=message) as caught:
            load_bert(tiny_model(), tmp_path / source)
        assert "\n" not in str(caught.value)


def test_fusion_layers_beyond_the_bert_start_from_its_last_ones(bert: BertForMaskedLM, tmp_path: Path) -> None:
    model, report = albef_from_bert(tmp_path / "bert", image_encoder=VIT, text_layers=4, fusion_layers=2)
    for number, layer in enumerate((2, 3)):
        weight = bert.bert.encoder.layer[layer].intermediate.dense.weight
        assert torch.equal(model.fusion_encoder.layers[number].feed_forward.expand.weight, weight)
        assert torch.equal(model.text_encoder.layers[layer].feed_forward.expand.weight, weight)
    assert report.unused == ()
