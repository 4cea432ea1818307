import pytest
import torch
import torch.nn.functional as F

from truepair.errors import ConfigError
from truepair.objectives.mlm import IGNORED, MaskingConfig, TokenMasker, mlm_loss
from truepair.randomness import sample_keys

PAD, CLS, SEP, MASK, VOCAB = 0, 101, 102, 103, 300


def batch(rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[CLS] words [SEP] [PAD]..., of varying length."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(110, VOCAB, (rows, length), generator=generator)
    words = torch.randint(1, length - 2, (rows, 1), generator=generator)
    position = torch.arange(length)
    ids[:, 0] = CLS
    ids[position.expand_as(ids) == words + 1] = SEP
    attention = (position <= words + 1).long()
    return ids * attention, attention


def masker(**options: float | bool) -> TokenMasker:
    return TokenMasker(MASK, [PAD, 100, CLS, SEP], VOCAB, MaskingConfig(**options))


@pytest.mark.parametrize("probability", [0.15, 0.5, 1.0])
def test_special_tokens_are_never_masked_nor_put_in(probability: float) -> None:
    ids, attention = batch(400, 30)
    masked, labels = masker(probability=probability)(ids, attention, sample_keys(0, 0, torch.arange(400)))
    special = torch.isin(ids, torch.tensor([PAD, 100, CLS, SEP]))
    assert (labels[special] == IGNORED).all()
    assert torch.equal(masked[special], ids[special])
    predicted = labels != IGNORED
    assert torch.equal(labels[predicted], ids[predicted])
    assert torch.equal(masked[~predicted], ids[~predicted])
    put_in = masked[predicted & (masked != MASK)]
    assert not torch.isin(put_in, torch.tensor([PAD, 100, CLS, SEP])).any()
    if probability == 1.0:
        assert torch.equal(predicted, ~special & attention.bool())


def test_shares_are_80_10_10() -> None:
    ids, attention = batch(2000, 40)
    masked, labels = masker(probability=0.3)(ids, attention, sample_keys(0, 0, torch.arange(2000)))
    predicted = labels != IGNORED
    maskable = (ids >= 110).sum()
    assert abs(predicted.sum() / maskable - 0.3) < 0.01
    assert abs((masked[predicted] == MASK).float().mean() - 0.8) < 0.01
    changed = (masked != MASK) & (masked != ids)
    assert abs(changed[predicted].float().mean() - 0.1) < 0.01
    assert len(masked[changed].unique()) > 180  # random words come from all of the vocabulary


def test_padding_is_not_masked_even_if_it_holds_ordinary_ids() -> None:
    ids = torch.full((1, 10), 200)
    attention = torch.tensor([[1] * 4 + [0] * 6])
    _, labels = masker(probability=1.0)(ids, attention, sample_keys(0, 0, torch.tensor([1])))
    assert (labels[0] != IGNORED).tolist() == [True] * 4 + [False] * 6


def test_mask_of_a_sample_does_not_depend_on_its_batch() -> None:
    ids, attention = batch(16, 20)
    keys = sample_keys(3, 1, torch.arange(16))
    whole = masker(probability=0.5)(ids, attention, keys)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    shuffled = masker(probability=0.5)(ids[order], attention[order], keys[order])
    assert all(torch.equal(a[order], b) for a, b in zip(whole, shuffled, strict=True))
    longer = F.pad(ids, (0, 5)), F.pad(attention, (0, 5))  # another rank pads to another length
    assert torch.equal(masker(probability=0.5)(*longer, keys)[1][:, :20], whole[1])
    other_epoch = masker(probability=0.5)(ids, attention, sample_keys(3, 2, torch.arange(16)))
    assert not torch.equal(other_epoch[1], whole[1])


def test_converted_rows_get_a_mask_of_their_own() -> None:
    ids, attention = batch(1, 30)
    own = masker(probability=0.5)(ids, attention, sample_keys(0, 0, torch.tensor([4])))
    converted = masker(probability=0.5)(ids, attention, sample_keys(0, 0, torch.tensor([4]), torch.tensor([9])))
    assert not torch.equal(own[1], converted[1])


def test_at_least_one_token_is_predicted_where_there_is_a_word() -> None:
    ids, attention = batch(300, 12)
    ids = torch.cat([ids, torch.tensor([[CLS, SEP] + [PAD] * 10])])
    attention = torch.cat([attention, torch.tensor([[1, 1] + [0] * 10])])
    keys = sample_keys(0, 0, torch.arange(301))
    counts = (masker(probability=0.05, at_least_one=True)(ids, attention, keys)[1] != IGNORED).sum(dim=1)
    assert (counts[:300] >= 1).all() and counts[300] == 0
    without = (masker(probability=0.05)(ids, attention, keys)[1] != IGNORED).sum(dim=1)
    assert (without == 0).any() and torch.equal(counts[without > 0], without[without > 0])


def test_loss_is_cross_entropy_of_the_predicted_tokens() -> None:
    logits = torch.randn(12, VOCAB)
    labels = torch.randint(0, VOCAB, (12,))
    labels[::3] = IGNORED
    torch.testing.assert_close(mlm_loss(logits, labels), F.cross_entropy(logits, labels))
    assert mlm_loss(logits, torch.full((12,), IGNORED)) == 0
    assert mlm_loss(torch.zeros(0, VOCAB), torch.zeros(0, dtype=torch.long)) == 0
    assert mlm_loss(logits.half(), labels).dtype == torch.float32


def test_distilled_loss_mixes_targets() -> None:
    logits, teacher, labels = torch.randn(5, VOCAB), torch.randn(5, VOCAB), torch.arange(5)
    targets = 0.6 * F.one_hot(labels, VOCAB) + 0.4 * teacher.softmax(dim=-1)
    wanted = -(targets * logits.log_softmax(dim=-1)).sum(dim=-1).mean()
    torch.testing.assert_close(mlm_loss(logits, labels, teacher, alpha=0.4), wanted)


def test_wrong_options_say_so() -> None:
    with pytest.raises(ConfigError, match="probability"):
        MaskingConfig(probability=1.2)
    with pytest.raises(ConfigError, match="exceed 1"):
        MaskingConfig(mask_share=0.8, random_share=0.3)
    with pytest.raises(ConfigError, match="special"):
        TokenMasker(0, [1, 2], 3)
