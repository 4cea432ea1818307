"""ALBEF: image encoder, text encoder and fusion encoder with the heads for ITC, ITM and MLM."""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

from truepair.devices import sent
from truepair.errors import ConfigError
from truepair.models.dual.base import Encoded, FusionModel, ImageKeysValues
from truepair.models.encoders.base import ImageEncoder, masked_mean
from truepair.models.encoders.images import build_image_encoder
from truepair.models.fusion.config import AlbefConfig
from truepair.models.fusion.fusion_encoder import FusionEncoder
from truepair.models.fusion.heads import MatchHead, RegionProducts, VocabularyHead, ZeroLinear, build_projection
from truepair.models.fusion.text_encoder import TextEncoder


@dataclass(frozen=True)
class AlbefOutput:
    """What `AlbefModel.forward` computes for B declared pairs."""

    image: Encoded
    """Image states [B, N, W] and features [B, E]."""
    text: Encoded
    """Text states [B, L, D] and features [B, E]."""
    fused: Tensor
    """Fused states of each pair [B, L, D]."""
    itm_logits: Tensor
    """ITM logits of each pair [B, 2]; index 1 says match."""


class AlbefModel(PreTrainedModel, FusionModel):
    """ALBEF (Li et al., NeurIPS 2021), as GRIT-VLP and MAFA use it: without momentum encoders.

    The parts are separate methods, because a training step encodes each image and text once and then fuses many
    pairings of them. `fuse` takes image keys and values that were computed once per image, and states which image each
    row uses. Everything from `project_image` and `image_keys_values` on also works on states that come from a cache.
    """

    config_class = AlbefConfig
    config: AlbefConfig
    base_model_prefix = "albef"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _tied_weights_keys: dict[str, str] = {  # noqa: RUF012 - transformers reads it as an attribute of the model
        "mlm_head.decoder.weight": "text_encoder.embeddings.word_embeddings.weight"
    }

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(copy.deepcopy(config))
        self.image_encoder = build_image_encoder(config.image_encoder)
        # As the encoder states it, with what it was not told (pixel statistics). The caller's config is left as it was.
        self.config.image_encoder = self.image_encoder.config
        mark_initialised(self.image_encoder)
        self.text_encoder = TextEncoder(config)
        self.fusion_encoder = FusionEncoder(config, self.image_encoder.width)
        self.itm_head = MatchHead(config)
        self.region_products = RegionProducts(config) if config.region_products else None
        self.mlm_head = VocabularyHead(config) if config.mlm_head else None
        if self.mlm_head is None:
            self._tied_weights_keys = {}
        if config.contrastive_head:
            self.image_projection = build_projection(config, self.image_encoder.width)
            self.text_projection = build_projection(config, config.hidden_size)
            self.temp = nn.Parameter(torch.tensor(config.temperature_init))
        self.post_init()  # type: ignore[operator]  # of transformers, whose types mypy does not read

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ZeroLinear):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
            return
        super()._init_weights(module)
        if module is self and self.config.contrastive_head:
            init.constant_(self.temp, self.config.temperature_init)

    @property
    def temperature(self) -> Tensor:
        """The learnable ITC temperature, a scalar within [temperature_min, temperature_max]."""
        self._require_features()
        return self.temp.clamp(self.config.temperature_min, self.config.temperature_max)

    @torch.no_grad()
    def clamp_temperature_(self) -> None:
        """Bring the temperature parameter itself back into its range; call it after each optimizer step.

        Clamping only the value that is used would let the parameter drift outside, where it has no gradient and stays.
        """
        self._require_features()
        self.temp.clamp_(self.config.temperature_min, self.config.temperature_max)

    @property
    def image_tower(self) -> ImageEncoder:
        """The image encoder: images [B, 3, H, W] to image states [B, N, W]."""
        return self.image_encoder

    @property
    def text_tower(self) -> TextEncoder:
        """The text encoder: token ids and mask (1 = token, 0 = padding), both [B, L], to text states [B, L, D]."""
        return self.text_encoder

    @property
    def embed_dim(self) -> int:
        """E, the width of a feature."""
        return self.config.embed_dim

    @property
    def itm_trained(self) -> bool:
        """Whether a step has trained the ITM head, as the config says."""
        return self.config.itm_trained

    @property
    def vocab_size(self) -> int:
        """V, the tokens that `predict_tokens` tells apart."""
        return self.config.vocab_size

    def project_image(self, states: Tensor) -> Tensor:
        """Image states [B, N, W] to L2-normalised features [B, E]."""
        self._require_features()
        pooled = states[:, 0] if self.config.image_pooling == "cls" else states.mean(dim=1)
        return F.normalize(self.image_projection(pooled), dim=-1)

    def project_text(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Text states [B, L, D] with their mask [B, L] to L2-normalised features [B, E]."""
        self._require_features()
        pooled = states[:, 0] if self.config.text_pooling == "cls" else masked_mean(states, attention_mask)
        return F.normalize(self.text_projection(pooled), dim=-1)

    def image_keys_values(self, image_states: Tensor) -> ImageKeysValues:
        """Keys and values of I images [I, N, W] for every fusion layer, once, for all rows that use these images."""
        keys_values: ImageKeysValues = self.fusion_encoder.image_keys_values(image_states)
        if self.region_products is None:
            return keys_values
        with torch.no_grad():
            return keys_values._replace(regions=F.normalize(self.image_projection(image_states), dim=-1))

    def fuse(
        self,
        text_states: Tensor,
        attention_mask: Tensor,
        keys_values: ImageKeysValues,
        image_rows: Tensor | None = None,
        *,
        cls_only: bool = False,
    ) -> Tensor:
        """Fused states of each row of text with its image [R, L, D], or of [CLS] alone; see `FusionModel.fuse`."""
        if self.region_products is None:
            fused: Tensor = self.fusion_encoder(text_states, attention_mask, keys_values, image_rows, cls_only=cls_only)
            return fused
        assert keys_values.regions is not None, "keys and values must be of this model"
        rows = torch.arange(len(text_states)) if image_rows is None else image_rows
        with torch.no_grad():
            words = F.normalize(self.text_projection(text_states), dim=-1)  # [R, L, E]
            temperature = self.temperature
        of_words, of_captions = self.region_products(
            words, attention_mask, keys_values.regions, rows, temperature
        )  # [R, L, D], [R, D]
        fused = self.fusion_encoder(text_states + of_words, attention_mask, keys_values, rows, cls_only=cls_only)
        return torch.cat([fused[:, :1] + of_captions[:, None], fused[:, 1:]], dim=1)

    def match(self, fused: Tensor, image_feature: Tensor | None = None, text_feature: Tensor | None = None) -> Tensor:
        """ITM logits [R, 2] (index 1 = match) of fused states [R, L, D].

        With `config.itm_product` the features [R, E] of each row's image and text are needed as well.

        Raises:
            ConfigError: when the features are needed and missing.
        """
        logits: Tensor = self.itm_head(fused, image_feature, text_feature)
        return logits

    def predict_tokens(self, fused: Tensor, positions: Tensor) -> Tensor:
        """Vocabulary logits, computed only where they are asked for.

        Args:
            fused: Fused states [R, L, D].
            positions: True at the P places to predict, [R, L] bool; on the host, if no device is to be waited for.

        Returns:
            Logits [P, V], in row-major order of the places.

        Raises:
            ConfigError: when the model has no vocabulary head.
        """
        if self.mlm_head is None:
            raise ConfigError("this model has no vocabulary head: set mlm_head to true in its config.")
        places = sent(positions.flatten().nonzero()[:, 0], fused.device)  # [P]
        logits: Tensor = self.mlm_head(fused.flatten(0, 1).index_select(0, places))
        return logits

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> AlbefOutput:
        """Encode, fuse and judge B declared pairs.

        Args:
            pixel_values: Images [B, 3, H, W].
            input_ids: Token ids [B, L].
            attention_mask: 1 for tokens and 0 for padding, [B, L].
        """
        image = self.encode_images(pixel_values)
        text = self.encode_texts(input_ids, attention_mask)
        fused = self.fuse(text.states, attention_mask, self.image_keys_values(image.states))
        return AlbefOutput(image, text, fused, self.match(fused, image.features, text.features))

    def _require_features(self) -> None:
        if not self.config.contrastive_head:
            raise ConfigError("this model has no projections and no temperature: set contrastive_head to true.")


def mark_initialised(encoder: nn.Module) -> None:
    """Keep transformers from initialising an image encoder, which has done so itself, by its own rule for convolutions.

    On the meta device there are no values yet: `from_pretrained` must initialise what it does not find.
    """
    if not any(parameter.is_meta for parameter in encoder.parameters()):
        for module in encoder.modules():
            module._is_hf_initialized = True  # type: ignore[assignment]
