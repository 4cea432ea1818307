"""What the models of downstream tasks have in common: the encoders of a pre-trained model, without its heads."""

import copy
import math
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from truepair.errors import ConfigError
from truepair.models.encoders.images import build_image_encoder
from truepair.models.fusion.albef import AlbefModel, mark_initialised
from truepair.models.fusion.config import AlbefConfig
from truepair.models.fusion.heads import build_projection
from truepair.models.fusion.text_encoder import TextEncoder


class TokenProducts(nn.Module):
    """Adds to each text state what its ITC feature and those of its images have in common.

    That is their elementwise product and its sum, the similarity, mapped to the width of a state. ITC learns what an
    image shows long before a fusion encoder does; this tells it word by word, as ``itm_product`` does for a whole
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


class DownstreamConfig(AlbefConfig):
    """Sizes and options that the models of all tasks have in common."""

    model_type: ClassVar[str] = "truepair-downstream"

    token_products: bool = False
    """Give the fusion layers what each word and its images have in common in ITC (needs ``contrastive_head``)."""
    freeze_projections: bool = True
    """Leave ITC's projections, which `token_products` compares in, as they were pre-trained."""

    def _check(self) -> None:
        super()._check()
        if self.token_products and not self.contrastive_head:
            raise ConfigError("token_products needs the features of ITC: start from a model with contrastive_head.")


class DownstreamModel(PreTrainedModel):
    """An image encoder and a text encoder; subclasses add what reads both, and call ``post_init``.

    The heads of pre-training are left out, so that every weight takes part in training.

    Args:
        config: sizes and options.
        images: how many images each text of the task has.
    """

    config_class = DownstreamConfig
    config: DownstreamConfig
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: DownstreamConfig, images: int = 1) -> None:
        super().__init__(copy.deepcopy(config))
        self.image_encoder = build_image_encoder(config.image_encoder)
        self.config.image_encoder = self.image_encoder.config
        mark_initialised(self.image_encoder)
        self.text_encoder = TextEncoder(config)
        self.token_products = None
        if config.token_products:
            frozen = config.freeze_projections
            self.token_products = TokenProducts(config, self.image_encoder.width, images, frozen=frozen)

    @classmethod
    def from_albef(cls, albef: AlbefModel, **fields: Any) -> Self:
        """A model of this task whose parts start from those of a pre-trained one.

        What has no counterpart starts from torch's global generator.

        Args:
            albef: the pre-trained model; nothing of it is shared.
            **fields: further fields of this model's config.

        Raises:
            ConfigError: a field with an unusable value.
        """
        if albef.config.region_products:
            raise ConfigError("a model with region_products serves retrieval alone; start from one without")
        names = set(AlbefConfig.__annotations__) - {"model_type"}
        inherited = {name: copy.deepcopy(getattr(albef.config, name)) for name in names}
        model = cls(cls.config_class(**{**inherited, **fields}))
        model.image_encoder.load_state_dict(albef.image_encoder.state_dict())
        model.text_encoder.load_state_dict(albef.text_encoder.state_dict())
        if model.token_products is not None:
            model.token_products.start_from(albef)
        model._start_from(albef)
        return model

    def _start_from(self, albef: AlbefModel) -> None:
        """Give the parts of the subclass their first weights."""
        raise NotImplementedError

    def image_states(self, pixel_values: Tensor) -> Tensor:
        """Images [I, 3, H, W] to image states [I, N, W]."""
        states: Tensor = self.image_encoder(pixel_values)
        return states

    def text_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask (1 = token, 0 = padding), both [B, L], to text states [B, L, D]."""
        states: Tensor = self.text_encoder(input_ids, attention_mask)
        return states
