"""The image encoder for training from scratch."""

import torch
import torch.nn.functional as F

from truepair.models.encoders.conv_stem import ConvStem, ConvStemConfig


def test_learns_a_few_images_in_a_few_steps() -> None:
    torch.manual_seed(0)
    encoder = ConvStem(ConvStemConfig(image_size=32, hidden_size=64))
    head = torch.nn.Linear(64, 8)
    pixels, labels = torch.randn(8, 3, 32, 32), torch.arange(8)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=2e-3)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(head(encoder(pixels).mean(dim=1)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 1.5 and losses[-1] < 0.1


def test_position_embeddings_tell_places_apart() -> None:
    torch.manual_seed(0)
    encoder = ConvStem(ConvStemConfig(image_size=32, hidden_size=32)).eval()
    states = encoder(torch.ones(1, 3, 32, 32))[0]  # [16, 32]
    inner = states[[5, 6, 9, 10]]  # away from the border, where the convolutions see padding
    assert (torch.pdist(inner) > 1e-3).all()


def test_blocks_start_from_different_weights() -> None:
    encoder = ConvStem(ConvStemConfig(hidden_size=32, num_hidden_layers=2))
    first, second = (block.linear1.weight for block in encoder.blocks)
    assert not torch.equal(first, second)


def test_any_size_gives_one_state_per_8_pixels() -> None:
    encoder = ConvStem(ConvStemConfig(image_size=64, hidden_size=32)).eval()
    assert encoder(torch.randn(1, 3, 64, 64)).shape == (1, 64, 32)
    assert encoder(torch.randn(1, 3, 32, 48)).shape == (1, 24, 32)
