"""What each word of a caption has in common with the image regions it resembles, as an input of the fusion encoder."""

import math

import torch
from torch import Tensor, nn

from truepair.models.config import AlbefConfig
from truepair.models.row_groups import RowGroups


class ZeroLinear(nn.Linear):
    """A linear map that starts at zero; `AlbefModel` initialises it."""


class RegionProducts(nn.Module):
    """Hands on to the fusion encoder, word by word, which regions of an image ITC finds alike.

    ITC learns what an image shows long before cross-attention finds out where. So each word attends to the regions in
    the space of ITC, at ITC's temperature (as in SCAN, Lee et al., ECCV 2018). The elementwise product of the word and
    what it found, and its sum, the similarity, are mapped to the width of a state and added to the word's. Their mean
    over the words is added to [CLS], before and behind the fusion layers. Both maps start at zero: at first, nothing
    changes. No gradient reaches the space of ITC.

    Args:
        config: sizes.
    """

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.of_words = ZeroLinear(config.embed_dim + 1, config.hidden_size)
        self.of_captions = ZeroLinear(config.embed_dim + 1, config.hidden_size)

    def forward(
        self, words: Tensor, attention_mask: Tensor, regions: Tensor, image_rows: Tensor, temperature: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What is to be added to the text states before fusion [R, L, D], and to [CLS] behind it [R, D].

        Args:
            words: Each token in the space of ITC, L2-normalised [R, L, E].
            attention_mask: 1 for tokens and 0 for padding, [R, L].
            regions: Each image state in the space of ITC, L2-normalised [I, N, E].
            image_rows: The image of each row, [R] int64.
            temperature: Of ITC, a scalar.
        """
        with torch.no_grad():
            common = _common(words, regions, image_rows, temperature)  # [R, L, E + 1]
            said = attention_mask[:, 1:, None].to(common.dtype)  # without [CLS], which is no word
            mean = (common[:, 1:] * said).sum(dim=1) / said.sum(dim=1).clamp(min=1)  # [R, E + 1]
            common = torch.cat([mean[:, None], common[:, 1:]], dim=1)
        return self.of_words(common), self.of_captions(mean)


def _common(words: Tensor, regions: Tensor, image_rows: Tensor, temperature: Tensor) -> Tensor:
    """Products of each word with what it finds in its image, and their sum [R, L, E + 1]."""
    groups = RowGroups.of(image_rows, len(regions))
    queries, keys = groups.pack(words), groups.expand(regions)  # [S, G * L, E], [S, N, E]
    attention = (queries @ keys.transpose(1, 2) / temperature).softmax(dim=2)  # [S, G * L, N]
    found = groups.unpack(attention @ keys)  # [R, L, E]
    products = words * found * math.sqrt(words.shape[2])  # the factor keeps the length of a product near 1
    # The sum could be learned from its parts, but slowly: each of them says next to nothing.
    return torch.cat([products, products.sum(dim=2, keepdim=True)], dim=2)
