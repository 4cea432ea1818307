"""The two protocols of models: a dual encoder compares features, a fusion model also reads image and text together."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from truepair.errors import ConfigError


class Encoded(NamedTuple):
    """What an encoder makes of a batch."""

    states: Tensor
    """What the tower makes of each image or text, before the projection, [B, N, W]: one state per patch or token, or
    the pooled state alone (N is 1)."""
    features: Tensor
    """The L2-normalised projection that ITC compares, [B, E]; of images in models with queries, [B, Q, E]."""


class DualEncoder(nn.Module, ABC):
    """A model with one feature per image and one per text, whose product over a temperature says how alike they are.

    ITC and all that manages false negatives needs no more than this.

    Each side is a tower and a projection: the tower makes states, which can be computed once and kept where it is
    frozen, and the projection makes the feature of them. `encode_images` is `project_image` of `image_states`, and
    `encode_texts` is `project_text` of `text_states`, for every model.
    """

    origin = ""
    """What opens the weights that it had before training, from any folder; empty where nothing does."""

    _image_frozen = False
    _text_frozen = False
    _resting: tuple[nn.Module, ...] = ()

    @property
    @abstractmethod
    def image_tower(self) -> nn.Module:
        """The module from images [B, 3, H, W] to image states [B, N, W]."""

    @property
    @abstractmethod
    def text_tower(self) -> nn.Module:
        """The module from token ids and mask (1 = token, 0 = padding), both [B, L], to text states [B, N, D]."""

    @abstractmethod
    def project_image(self, states: Tensor) -> Tensor:
        """Image states [B, N, W] to L2-normalised features [B, E], or [B, Q, E] where `vectors_per_image` is Q."""

    def read_images(self, states: Tensor) -> tuple[Tensor, "ImageKeysValues | None"]:
        """`project_image` of states [B, N, W], and keys and values for fusion where the same pass makes them."""
        return self.project_image(states), None

    @abstractmethod
    def project_text(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Text states [B, N, D] and the mask of their tokens [B, L] to L2-normalised features [B, E]."""

    @property
    @abstractmethod
    def embed_dim(self) -> int:
        """E, the width of a feature."""

    @property
    @abstractmethod
    def temperature(self) -> Tensor:
        """What similarities are divided by, a scalar with gradient."""

    @property
    def bias(self) -> Tensor | None:
        """What the sigmoid loss adds to the logits, a scalar with gradient; None where a model has none."""
        return None

    @property
    def vectors_per_image(self) -> int:
        """Features of an image: 1, or Q queries of which a text is compared with the most similar one (BLIP-2)."""
        return 1

    @property
    def itm_trained(self) -> bool:
        """Whether `FusionModel.match` ranks pairs better than similarity does; never of a model that does not fuse."""
        return False

    @abstractmethod
    def clamp_temperature_(self) -> None:
        """Bring the parameter of the temperature back into its range; call it after each optimizer step."""

    def save_pretrained(self, folder: str | Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Write the model into a folder, which the class's ``from_pretrained`` reads; `PreTrainedModel` has its own."""
        raise NotImplementedError

    def blank(self) -> Self:
        """A model of the same kind and sizes with other weights; `PreTrainedModel` is made from its config."""
        raise NotImplementedError

    @property
    def kind(self) -> str:
        """The class that a user knows it by: that of its own library."""
        return type(self).__name__

    @property
    def inner(self) -> nn.Module | None:
        """The model of another library that this one stands around, which an adapter can be put into; None of ours."""
        return None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.parameters()).device

    def image_states(self, pixel_values: Tensor) -> Tensor:
        """Images [B, 3, H, W] to image states [B, N, W]."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._image_frozen):
            states: Tensor = self.image_tower(pixel_values)
        return states

    def text_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask (1 = token, 0 = padding), both [B, L], to text states [B, N, D]."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._text_frozen):
            states: Tensor = self.text_tower(input_ids, attention_mask)
        return states

    def encode_images(self, pixel_values: Tensor) -> Encoded:
        """Images [B, 3, H, W] to states [B, N, W] and features [B, E]."""
        states = self.image_states(pixel_values)
        return Encoded(states, self.project_image(states))

    def encode_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Encoded:
        """Token ids and mask (1 = token, 0 = padding), both [B, L], to states [B, N, D] and features [B, E]."""
        states = self.text_states(input_ids, attention_mask)
        return Encoded(states, self.project_text(states, attention_mask))

    def freeze(self, image: bool, text: bool) -> Self:
        """Say which towers are not trained; projections and temperature always are.

        A frozen tower gets no gradient, and stays in evaluation mode whatever `train` says: its dropout would make
        other states each time.

        Args:
            image: The image tower is not trained.
            text: The text tower is not trained.
        """
        self._image_frozen, self._text_frozen, self._resting = image, text, ()
        self.image_tower.requires_grad_(not image)
        self.text_tower.requires_grad_(not text)
        return self.train(self.training)

    def rest(self, modules: Sequence[nn.Module], weights: Sequence[nn.Parameter]) -> Self:
        """Say which parts of the towers are not trained, beside whole towers; `freeze` forgets it.

        Where they come first, as the embeddings and the first blocks do, no graph is built through them.

        Args:
            modules: Stay in evaluation mode, whatever `train` says.
            weights: Get no gradient.
        """
        self._resting += tuple(modules)
        for weight in weights:
            weight.requires_grad_(False)
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set training mode, but for frozen towers and other parts that rest."""
        super().train(mode)
        if self._image_frozen:
            self.image_tower.eval()
        if self._text_frozen:
            self.text_tower.eval()
        for module in self._resting:
            module.eval()
        return self


def require_one_vector(model: DualEncoder, what: str, advice: str = "give a model such as CLIP") -> None:
    """Refuse a model with several features an image where one is needed.

    Args:
        model: Any.
        what: Needs one.
        advice: What to do instead.

    Raises:
        ConfigError: It has queries.
    """
    if model.vectors_per_image > 1:
        raise ConfigError(
            f"{model.kind} compares a text with the best of {model.vectors_per_image} queries of an image, and {what} "
            f"keeps one vector an image; {advice}"
        )


class ImageKeysValues(NamedTuple):
    """What the fusion layers need to know of I images: per layer, keys and values of their N states."""

    keys: tuple[Tensor, ...]
    """One [I, N, D] per fusion layer."""
    values: tuple[Tensor, ...]
    """One [I, N, D] per fusion layer."""
    regions: Tensor | None = None
    """Each state in the space of ITC, L2-normalised [I, N, E], where the model has `region_products`."""
    query_keys: tuple[Tensor, ...] = ()
    """One [I, Q, D] per layer, where learned queries have read the images (BLIP-2): words look back at them."""
    query_values: tuple[Tensor, ...] = ()
    """One [I, Q, D] per layer, likewise."""

    @property
    def images(self) -> int:
        """The number of images, I."""
        return len(self.keys[0])


class FusionModel(DualEncoder):
    """A dual encoder whose fusion encoder reads pairs: the only kind of model that ITM, MLM and ITG can train.

    `fuse` takes image keys and values that were computed once per image, and states which image each row uses. So a
    training step encodes each image and text once, and fuses many pairings of them.
    """

    writes_captions = False
    """Whether `predict_next` is there, for ITG."""

    @property
    def itm_trained(self) -> bool:
        """False where no step has trained `match`: its word counts for nothing, and pairs are ranked by similarity."""
        return True

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """V, the tokens that `predict_tokens` tells apart."""

    @abstractmethod
    def image_keys_values(self, image_states: Tensor) -> ImageKeysValues:
        """Keys and values of I images [I, N, W] for every fusion layer, once, for all rows that use these images."""

    @abstractmethod
    def fuse(
        self,
        text_states: Tensor,
        attention_mask: Tensor,
        keys_values: ImageKeysValues,
        image_rows: Tensor | None = None,
        *,
        cls_only: bool = False,
    ) -> Tensor:
        """Fuse each row of text with its image.

        Args:
            text_states: States of the text tower [R, L, D].
            attention_mask: 1 for tokens and 0 for padding, [R, L].
            keys_values: From `image_keys_values`, for I images.
            image_rows: The image of each row, [R] int64; None means row r uses image r.
            cls_only: Compute no more than `match` needs.

        Returns:
            Fused states [R, L, D], or those of [CLS] alone [R, 1, D] with `cls_only`.
        """

    @abstractmethod
    def match(self, fused: Tensor, image_feature: Tensor | None = None, text_feature: Tensor | None = None) -> Tensor:
        """ITM logits [R, 2] (index 1 = match) of fused states [R, L, D].

        Args:
            fused: From `fuse`.
            image_feature: Features of the image of each row [R, E], which some models read as well.
            text_feature: Features of the text of each row [R, E], likewise.
        """

    @abstractmethod
    def predict_tokens(self, fused: Tensor, positions: Tensor) -> Tensor:
        """Vocabulary logits [P, V] in row-major order of the places, computed only where they are asked for.

        Args:
            fused: Fused states [R, L, D].
            positions: True at the P places to predict, [R, L] bool; on the host, if no device is to be waited for.
        """

    def predict_next(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        keys_values: ImageKeysValues,
        image_rows: Tensor,
        positions: Tensor,
    ) -> Tensor:
        """Vocabulary logits of the token behind each place [P, V], from the image and the tokens up to there alone.

        Args:
            input_ids: Token ids [R, L].
            attention_mask: 1 for tokens, then 0 for padding, [R, L].
            keys_values: From `image_keys_values`, for I images.
            image_rows: The image of each row, [R] int64.
            positions: True at the P places behind which to predict, [R, L] bool.

        Raises:
            ConfigError: The model writes no captions.
        """
        raise ConfigError(f"{self.kind} writes no captions; set objectives.itg.weight to 0")
