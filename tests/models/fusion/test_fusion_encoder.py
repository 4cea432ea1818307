import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertEncoder

from tests.models.tiny_albef import batch, tiny_config, tiny_model
from truepair.models.checkpoints.bert import text_names
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.fusion_encoder import FusionEncoder

WIDTH, IMAGE_WIDTH = 32, 24


def states(rows: int, length: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, length, width, generator=generator, dtype=torch.float64)


def repeated(model: AlbefModel, text: Tensor, mask: Tensor, image: Tensor, rows: Tensor) -> Tensor:
    """The obvious form: each row brings a copy of its image's states, and its keys and values are computed again."""
    return model.fuse(text, mask, model.image_keys_values(image[rows]))


@settings(max_examples=15)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_sharing_equals_repeating_in_value_and_gradient(rows: list[int]) -> None:
    model = tiny_model().double()
    image_rows = torch.tensor(rows)
    mask = batch(rows=len(rows), length=5)[2]
    results = []
    for shared in (True, False):
        model.zero_grad()
        text, image = states(len(rows), 5, WIDTH, 1), states(4, 6, IMAGE_WIDTH, 2).requires_grad_()
        if shared:
            fused = model.fuse(text, mask, model.image_keys_values(image), image_rows)
        else:
            fused = repeated(model, text, mask, image, image_rows)
        (fused * states(len(rows), 5, WIDTH, 3)).sum().backward()
        gradients = [parameter.grad for parameter in model.fusion_encoder.parameters()]
        results.append([fused.detach(), image.grad, *gradients])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


def test_sharing_equals_repeating_in_float32() -> None:
    model = tiny_model()
    rows = torch.tensor([0, 1, 2, 0, 0, 0, 2, 1, 0])
    mask = batch(rows=9, length=5)[2]
    text, image = states(9, 5, WIDTH, 1).float(), states(3, 6, IMAGE_WIDTH, 2).float()
    with torch.no_grad():
        found = model.fuse(text, mask, model.image_keys_values(image), rows)
        assert (found - repeated(model, text, mask, image, rows)).abs().max() <= 1e-6 * found.abs().max()


def test_without_rows_each_row_uses_its_own_image() -> None:
    model = tiny_model()
    _, _, mask = batch(rows=3, length=5)
    text, keys_values = states(3, 5, WIDTH, 1).float(), model.image_keys_values(states(3, 6, IMAGE_WIDTH, 2).float())
    with torch.no_grad():
        found = model.fuse(text, mask, keys_values)
        torch.testing.assert_close(found, model.fuse(text, mask, keys_values, torch.arange(3)), rtol=1e-5, atol=1e-6)


def test_keys_and_values_are_computed_once_per_image() -> None:
    model = tiny_model()
    seen: list[int] = []
    for layer in model.fusion_encoder.layers:
        layer.cross_attention.key.register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))
    keys_values = model.image_keys_values(states(2, 6, IMAGE_WIDTH, 2).float())
    assert keys_values.images == 2
    for _ in range(3):
        model.fuse(states(5, 4, WIDTH, 1).float(), torch.ones(5, 4), keys_values, torch.tensor([0, 1, 1, 0, 1]))
    assert seen == [2, 2]  # two layers, two images each


def test_equals_the_cross_attention_of_transformers() -> None:
    config = tiny_config()
    bert_config = BertConfig(
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        is_decoder=True,
        add_cross_attention=True,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    reference = BertEncoder(bert_config).eval()
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    names = text_names(0, 2, cross_attention=True)
    ours = {names[f"encoder.{name}"]: tensor for name, tensor in reference.state_dict().items()}
    fusion = FusionEncoder(config, WIDTH).eval()
    fusion.load_state_dict({name.removeprefix("fusion_encoder."): tensor for name, tensor in ours.items()})
    _, _, mask = batch(rows=3, length=5)
    text, image = states(3, 5, WIDTH, 1).float(), states(3, 6, WIDTH, 2).float()
    additive = (1.0 - mask[:, None, None, :]) * torch.finfo(torch.float32).min  # bidirectional, unlike a decoder's own
    with torch.no_grad():
        expected = reference(text, additive, encoder_hidden_states=image).last_hidden_state
        found = fusion(text, mask, fusion.image_keys_values(image))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_image_matters_and_only_the_own_one() -> None:
    model = tiny_model()
    text, mask = states(2, 4, WIDTH, 1).float(), torch.ones(2, 4)
    image = states(2, 6, IMAGE_WIDTH, 2).float()
    changed = image.clone()
    changed[1] += 1
    with torch.no_grad():
        before = model.fuse(text, mask, model.image_keys_values(image), torch.tensor([0, 1]))
        after = model.fuse(text, mask, model.image_keys_values(changed), torch.tensor([0, 1]))
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1], atol=1e-3)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_checkpointing_changes_memory_alone(dropout: float) -> None:
    rows = torch.tensor([0, 1, 1, 0, 1])
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        torch.manual_seed(5)
        keys_values = model.image_keys_values(states(2, 6, IMAGE_WIDTH, 2).float())
        fused = model.fuse(states(5, 4, WIDTH, 1).float(), torch.ones(5, 4), keys_values, rows)
        fused.square().sum().backward()
        gradients.append([parameter.grad for parameter in model.fusion_encoder.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


@pytest.mark.parametrize("rows", [1, 5, 200])
def test_cls_alone_equals_cls_of_all_in_value_and_gradient(rows: int) -> None:
    model = tiny_model().double()
    generator = torch.Generator().manual_seed(rows)
    lengths = torch.randint(1, 8, (rows,), generator=generator)
    mask = (torch.arange(7) < lengths[:, None]).long()  # [R, 7]
    image_rows = torch.randint(0, 4, (rows,), generator=generator)
    results = []
    for cls_only in (True, False):
        model.zero_grad()
        text, image = states(rows, 7, WIDTH, 1).requires_grad_(), states(4, 6, IMAGE_WIDTH, 2).requires_grad_()
        fused = model.fuse(text, mask, model.image_keys_values(image), image_rows, cls_only=cls_only)[:, :1]
        (fused * states(rows, 1, WIDTH, 3)).sum().backward()
        gradients = [parameter.grad for parameter in model.fusion_encoder.parameters()]
        results.append([fused.detach(), text.grad, image.grad, *gradients])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)
