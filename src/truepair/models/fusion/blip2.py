"""BLIP-2 stage 1, `Blip2ForImageTextRetrieval` of transformers: a Q-Former between images and texts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoImageProcessor, Blip2Config, Blip2ForImageTextRetrieval
from transformers.models.bert.modeling_bert import BertPredictionHeadTransform

from truepair.data.tokens import WholeTokenizer
from truepair.data.transforms import TransformConfig
from truepair.errors import CheckpointError, ConfigError
from truepair.models.checkpoints.load import load_hub_model, load_part
from truepair.models.dual.base import ImageKeysValues
from truepair.models.dual.hub_preprocessing import HubPreprocessing, image_side
from truepair.models.encoders.base import ImageEncoder
from truepair.models.encoders.images import build_image_encoder
from truepair.models.fusion.blip import BlipImageTower, BlipLine, log_scale, stated_temperature, with_start
from truepair.models.fusion.blip2_files import (
    TOWER_FILE,
    Weights,
    load_tower,
    take_weights,
    vision_names,
    weights_under,
    write_weights,
)
from truepair.models.fusion.qformer import image_keys_values, read_captions, read_images, read_pairs
from truepair.models.fusion.rows import apply_by_length

CAPTION_TOKEN = "[DEC]"
"""What the Q-Former reads in the place of [CLS] where it writes a caption."""

HEAD_FILE = "itg_head.safetensors"
"""What transformers' class has no place for: the head of ITG."""

PRODUCT_FILE = "itm_product.safetensors"
"""... and what ITM makes of the product of features, where a model has that."""


_TEMPERATURE = 0.07  # where BLIP-2's programs start it


class CaptionHead(nn.Module):
    """ITG: linear, activation, LayerNorm, then products with the word embeddings, which are the Q-Former's own.

    Args:
        config: Of the Q-Former.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.transform = BertPredictionHeadTransform(config)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        nn.init.normal_(self.transform.dense.weight, std=config.initializer_range)
        nn.init.zeros_(self.transform.dense.bias)

    def forward(self, states: Tensor, words: Tensor) -> Tensor:
        """States [P, D] and word embeddings [V, D] to logits [P, V]."""
        return F.linear(self.transform(states), words, self.bias)


class ItmProduct(nn.Module):
    """What ITM makes of the product of a text's feature with its best query's, two logits; it starts at zero.

    Queries learn slowly to compare what they read of an image with the words, and ITM stays at chance until they do.
    ITC compares both much earlier, and so ITM starts from there.

    Args:
        width: E, of a feature.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, image_feature: Tensor, text_feature: Tensor) -> Tensor:
        """Features of the image [R, Q, E] and of the text [R, E] of each row to logits [R, 2]."""
        alike = (image_feature @ text_feature[:, :, None]).squeeze(2)  # [R, Q]
        best = image_feature[torch.arange(len(alike), device=alike.device), alike.argmax(dim=1)]  # [R, E]
        # Times E its elements are near 1, as those of a state are, and the weights need not become large first.
        logits: Tensor = self.linear(best * text_feature * self.linear.in_features)
        return logits


class Blip2FusionModel(BlipLine):
    """The first stage of BLIP-2 (Li et al., ICML 2023), trained and saved as what it is: its class and its format.

    Learned queries read the states of an image through the Q-Former, alone or together with a text:

    - **ITC**: each query becomes a feature of the image, and the one most similar to a text counts: the features of
      images are [B, Q, E], and :func:`truepair.relations.similarity.similarities` compares them.
    - **ITM**: queries and text see each other, and the mean over the queries is the verdict.
    - **ITG** (`predict_next`): queries see each other alone, a word the queries and the words before it.

    So the image tower is the vision model, usually frozen, and all of the Q-Former is trained. Any other image encoder
    may stand in its place; then transformers' class, which has only a ViT, reads no more than the Q-Former of the
    folder, and says that it lacks the rest. The states of a text
    [B, L, 2 D] are what the Q-Former makes of it alone [B, L, D], and beside them the embeddings that the second
    reading starts from [B, L, D].

    Transformers' class has no place for the learnt temperature of ITC, which is kept in the config as
    ``logit_scale_init_value``, the logarithm of its inverse, nor for the head of ITG, which has a file of its own. With
    ``itm_product`` in the config the verdict of ITM also hears the product of the features, see `ItmProduct`; its file
    is read by no one else, so other programs get another verdict from the folder.

    Args:
        model: The model.
        start: Id of [DEC]; None reads [CLS] in its place.
        vision: The image tower, if not the model's own.
    """

    writes_captions = True

    def __init__(
        self, model: Blip2ForImageTextRetrieval, start: int | None = None, vision: ImageEncoder | None = None
    ) -> None:
        scale = getattr(model.config, "logit_scale_init_value", None)
        temperature = torch.tensor(_TEMPERATURE) if scale is None else stated_temperature(scale)
        super().__init__(model, start, temperature)
        self.vision = vision
        if vision is not None:
            self.model.vision_model = None
            self.model.config.image_encoder = vision.config
        self.itg_head = CaptionHead(model.config.qformer_config)
        self.itg_fresh = True  # until a head is loaded
        self.itm_product = ItmProduct(self.embed_dim) if getattr(model.config, "itm_product", False) else None

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, **options: Any) -> Self:
        """Load a model without what reads captions and images for it: [DEC] is not known.

        Args:
            name_or_folder: A folder that `save_pretrained` wrote, of this class or of transformers, or a hub name.
            **options: How transformers is to read the weights, such as ``use_safetensors``.

        Raises:
            CheckpointError: It is missing or damaged.
        """
        name = str(name_or_folder)
        config = load_part(Blip2Config, name, what="config")
        tower = load_tower(config, name)
        absent = frozenset() if tower is None else vision_names(config)
        model = load_hub_model(Blip2ForImageTextRetrieval, name, may_lack=absent, dtype=torch.float32, **options)
        made = cls(model, vision=tower)
        head = load_part(Weights(HEAD_FILE), name, what=HEAD_FILE)
        if head is not None:
            take_weights(made.itg_head, head, f"{name}: {HEAD_FILE}")
            made.itg_fresh = False
        if made.itm_product is not None:
            weights = load_part(Weights(PRODUCT_FILE), name, what=PRODUCT_FILE)
            if weights is None:
                raise CheckpointError(
                    f"{name} has no {PRODUCT_FILE}, of which its config says that ITM reads it; give a whole model"
                )
            take_weights(made.itm_product, weights, f"{name}: {PRODUCT_FILE}")
        return made

    def save_pretrained(self, folder: str | Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Write a folder of transformers, which `Blip2ForImageTextRetrieval.from_pretrained` reads, and ITG's head."""
        state = dict(self.state_dict() if state_dict is None else state_dict)
        self.model.config.logit_scale_init_value = log_scale(state["temp"])
        model, head = (weights_under(prefix, state) for prefix in ("model.", "itg_head."))
        self.model.save_pretrained(folder, state_dict=model)
        write_weights(head, Path(folder, HEAD_FILE))
        if self.vision is not None:
            write_weights(weights_under("vision.", state), Path(folder, TOWER_FILE))
        if self.itm_product is not None:
            write_weights(weights_under("itm_product.", state), Path(folder, PRODUCT_FILE))

    def blank(self) -> Self:
        """A model of the same kind and sizes with other weights."""
        vision = None if self.vision is None else build_image_encoder(self.vision.config)
        return type(self)(type(self.model)(self.model.config), self.start, vision)

    @property
    def image_tower(self) -> nn.Module:
        """The vision model: images [B, 3, H, W] to states [B, N, W]."""
        return BlipImageTower(self.model.vision_model) if self.vision is None else self.vision

    @property
    def text_tower(self) -> nn.Module:
        """The Q-Former as it reads texts, its cross-attention included: ids and mask, both [B, L], to [B, L, 2 D]."""
        return _TextTower(self.model)

    def project_image(self, states: Tensor) -> Tensor:
        """Image states [B, N, W] to one L2-normalised feature for each query [B, Q, E]."""
        return self.read_images(states)[0]

    def image_keys_values(self, image_states: Tensor) -> ImageKeysValues:
        """Keys and values of I images [I, N, W] for every layer that looks at them, once for all rows that do."""
        return image_keys_values(self.model.qformer, image_states)

    def read_images(self, states: Tensor) -> tuple[Tensor, ImageKeysValues]:
        """Features of I images [I, Q, E] of their states [I, N, W], and keys and values, those of the queries too."""
        keys_values = self.image_keys_values(states)
        read, keys_values = read_images(self.model.qformer, self.model.query_tokens, keys_values)
        return F.normalize(self.model.vision_projection(read), dim=-1), keys_values

    def project_text(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Text states [B, L, 2 D] to L2-normalised features [B, E]; the mask is not needed any more."""
        return F.normalize(self.model.text_projection(states[:, 0, : self._width]), dim=-1)

    @property
    def vectors_per_image(self) -> int:
        """Q, the learned queries."""
        return int(self.model.query_tokens.shape[1])

    @property
    def itm_trained(self) -> bool:
        """False where the config says that no step has trained the ITM head; those of the hub are trained."""
        return bool(getattr(self.model.config, "itm_trained", True))

    @property
    def vocab_size(self) -> int:
        """V, the tokens that it reads and writes."""
        return int(self.model.config.qformer_config.vocab_size)

    def fuse(
        self,
        text_states: Tensor,
        attention_mask: Tensor,
        keys_values: ImageKeysValues,
        image_rows: Tensor | None = None,
        *,
        cls_only: bool = False,
    ) -> Tensor:
        """What the queries make of each row of text with its image [R, Q, D]: all that `match` reads.

        See `FusionModel.fuse`; ``cls_only`` changes nothing.
        """
        rows = torch.arange(len(text_states)) if image_rows is None else image_rows
        words = text_states[:, :, self._width :]  # [R, L, D]
        return read_pairs(self.model.qformer, self.model.query_tokens, words, attention_mask, keys_values, rows)

    def match(self, fused: Tensor, image_feature: Tensor | None = None, text_feature: Tensor | None = None) -> Tensor:
        """ITM logits [R, 2] (index 1 = match) of what the queries made of the rows [R, Q, D]: their mean.

        With ``itm_product`` the features of each row's image [R, Q, E] and text [R, E] are needed as well.

        Raises:
            ConfigError: The features are needed and missing.
        """
        logits: Tensor = self.model.itm_head(fused).mean(dim=1)
        if self.itm_product is None:
            return logits
        if image_feature is None or text_feature is None:
            raise ConfigError("itm_product is on: pass image_feature and text_feature of each row to match")
        product: Tensor = self.itm_product(image_feature, text_feature)
        return logits + product

    def predict_next(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        keys_values: ImageKeysValues,
        image_rows: Tensor,
        positions: Tensor,
    ) -> Tensor:
        """Logits of the token behind each place [P, V], see `FusionModel.predict_next`."""
        if not keys_values.query_keys:
            _, keys_values = read_images(self.model.qformer, self.model.query_tokens, keys_values)
        words = self.model.embeddings(input_ids=with_start(input_ids, self.start))  # [R, L, D]
        states = read_captions(self.model.qformer, words, attention_mask, keys_values, image_rows)  # [R, L, D]
        logits: Tensor = self.itg_head(states[positions], self.model.embeddings.word_embeddings.weight)
        return logits

    def predict_tokens(self, fused: Tensor, positions: Tensor) -> Tensor:
        """BLIP-2 masks no words: it writes captions.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"{self.kind} guesses no masked words; set objectives.mlm.weight to 0, and train ITG instead")

    @property
    def _width(self) -> int:
        return int(self.model.config.qformer_config.hidden_size)


class _TextTower(nn.Module):
    """The Q-Former that reads texts alone, and returns what both readings need."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.embeddings = model.embeddings
        self.qformer = model.qformer
        self.training = model.qformer.training  # not of its parts: some may be frozen

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask (1 = token, 0 = padding), both [B, L], to [B, L, 2 D]."""
        embedded = self.embeddings(input_ids=input_ids)  # [B, L, D]

        def read(_: Tensor | slice, words: Tensor, mask: Tensor) -> Tensor:
            """All layers over some rows."""
            states: Tensor = self.qformer(query_embeds=words, query_length=0, attention_mask=mask).last_hidden_state
            return states

        return torch.cat([apply_by_length(embedded, attention_mask, read), embedded], dim=2)


def is_blip2(settings: Mapping[str, Any]) -> bool:
    """Whether a config is that of a BLIP-2 of the first stage; others have a language model and compare nothing."""
    return settings.get("model_type") == "blip-2" and Blip2ForImageTextRetrieval.__name__ in (
        settings.get("architectures") or ()
    )


def open_blip2_folder(name_or_folder: str) -> tuple[Blip2FusionModel, HubPreprocessing]:
    """Load a BLIP-2 of the first stage with its image processor and tokenizer, and the head of ITG if it has one.

    Raises:
        CheckpointError: One of the three is missing or damaged, or they do not fit together.
    """
    opened = Blip2FusionModel.from_pretrained(name_or_folder)
    processor = load_part(AutoImageProcessor, name_or_folder, what="image processor")
    tokenizer = load_part(WholeTokenizer, name_or_folder, what="tokenizer")
    config = opened.model.config
    if config.image_token_index is not None or len(tokenizer) > config.qformer_config.vocab_size:
        raise CheckpointError(
            f"{name_or_folder} has a tokenizer of {len(tokenizer)} entries and a Q-Former of "
            f"{config.qformer_config.vocab_size}; save the tokenizer that the model was trained with beside it"
        )
    side, expected = image_side(processor), config.vision_config.image_size
    if side != expected:
        raise CheckpointError(
            f"{name_or_folder} has an image processor of {side} px and a model of {expected}; set its size to that"
        )
    longest = min(int(config.qformer_config.max_position_embeddings), tokenizer.model_max_length)
    transform = TransformConfig(size=side, normalisation="encoder")
    opened.start = caption_token(tokenizer)
    return opened.eval(), HubPreprocessing(processor, tokenizer, longest, transform)


def caption_token(tokenizer: Any) -> int | None:
    """The id of [DEC], if the tokenizer has that token."""
    found: int | None = tokenizer.get_vocab().get(CAPTION_TOKEN)
    return found
