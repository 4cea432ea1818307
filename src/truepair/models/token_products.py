"""What each word of a text and its images have in common, as an input of the fusion layers."""

import math
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from truepair.models.albef import AlbefModel
from truepair.models.config import AlbefConfig
from truepair.models.heads import build_projection


class TokenProducts(nn.Module):
    """Adds to each text state what its ITC feature and those of its images have in common.

    That is their elementwise product and its sum, the similarity, mapped to the width of a state. ITC learns what an
    image shows long before a fusion encoder does; this hands it on word by word, as ``itm_product`` does for a whole
    caption. The map starts at zero: at first, nothing changes.

    Args:
        config: sizes, pooling and projections, as ITC was trained with.
        image_width: width of the image states.
        images: K, how many images each text has.
        frozen: the projections are not trained: a high learning rate would ruin the space of ITC before anything reads
            it.
    """

    def __init__(self, config: AlbefConfig, image_width: int, images: int, *, frozen: bool = False) -> None:
        super().__init__()
        self.image_projection = build_projection(config, image_width)
        self.text_projection = build_projection(config, config.hidden_size)
        self.merge = nn.Linear(images * (config.embed_dim + 1), config.hidden_size)
        self.image_pooling, self.text_pooling = config.image_pooling, config.text_pooling
        self.frozen = frozen
        self.image_projection.requires_grad_(not frozen)
        self.text_projection.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> Self:
        """Set training mode; frozen projections stay without dropout."""
        super().train(mode)
        if self.frozen:
            self.image_projection.eval()
            self.text_projection.eval()
        return self

    @torch.no_grad()
    def start_from(self, albef: AlbefModel) -> None:
        """Take over the projections of a pre-trained model, and begin as if there were no products."""
        self.image_projection.load_state_dict(albef.image_projection.state_dict())
        self.text_projection.load_state_dict(albef.text_projection.state_dict())
        self.merge.weight.zero_()
        self.merge.bias.zero_()

    def forward(
        self, text_states: Tensor, attention_mask: Tensor, image_states: Tensor, image_rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """New text states [B, L, D], and the mean of what was added before it was mapped [B, K (E + 1)].

        Args:
            text_states: [B, L, D].
            attention_mask: 1 for tokens and 0 for padding, [B, L].
            image_states: of I images [I, N, W].
            image_rows: the images of each text, [B, K] int64.
        """
        features = self.image_features(image_states)  # [I, E]
        words = F.normalize(self.text_projection(text_states), dim=-1)  # [B, L, E]
        # As in `MatchHead`: sqrt(E) keeps the length of a product near 1.
        of_texts = features[image_rows] * math.sqrt(features.shape[1])  # [B, K, E]
        products = words[:, :, None] * of_texts[:, None]  # [B, L, K, E]
        # The sum could be learned from its parts, but slowly: each of them says next to nothing.
        common = torch.cat([products, products.sum(dim=3, keepdim=True)], dim=3).flatten(2)  # [B, L, K (E + 1)]
        return text_states + self.merge(common), _mean(common, attention_mask)

    def image_features(self, image_states: Tensor) -> Tensor:
        """Image states [I, N, W] to the L2-normalised features of ITC [I, E]."""
        pooled = image_states[:, 0] if self.image_pooling == "cls" else image_states.mean(dim=1)
        return F.normalize(self.image_projection(pooled), dim=-1)

    def text_features(self, text_states: Tensor, attention_mask: Tensor) -> Tensor:
        """Text states [B, L, D] with their mask [B, L] to the L2-normalised features of ITC [B, E]."""
        pooled = text_states[:, 0] if self.text_pooling == "cls" else _mean(text_states, attention_mask)
        return F.normalize(self.text_projection(pooled), dim=-1)


def _mean(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean over tokens: [B, L, X] with mask [B, L] to [B, X]."""
    weights = attention_mask[:, :, None] / attention_mask.sum(dim=1)[:, None, None]  # [B, L, 1]
    return (states * weights).sum(dim=1)
