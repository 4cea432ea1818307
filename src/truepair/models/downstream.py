"""What the models of downstream tasks have in common: the encoders of a pre-trained model, without its heads."""

import copy
from typing import Any, ClassVar, Self

from torch import Tensor
from transformers import PreTrainedModel

from truepair.errors import ConfigError
from truepair.models.albef import AlbefModel, mark_initialised
from truepair.models.config import AlbefConfig
from truepair.models.image_encoder import build_image_encoder
from truepair.models.text_encoder import TextEncoder
from truepair.models.token_products import TokenProducts


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
