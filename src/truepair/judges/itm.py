"""ITM heads as judges: ours (ALBEF), BLIP's, and BLIP-2's."""

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import (
    AutoImageProcessor,
    Blip2ForImageTextRetrieval,
    BlipForImageTextRetrieval,
    PreTrainedTokenizerBase,
)

from truepair.data.pairs import PairBatch, PairCollator
from truepair.data.preprocessing import OwnPreprocessing, Preprocessing
from truepair.data.tokens import WholeTokenizer
from truepair.data.transforms import normalisation
from truepair.devices import sent
from truepair.errors import CheckpointError, ConfigError
from truepair.judges.base import JudgeConfig, JudgeInputs, PairReader, PlainImages, PlainStates, Read
from truepair.models.checkpoints.load import load_hub_model, load_part, processor_key, processor_transform
from truepair.models.encoders.fingerprint import caption_input_key, combined_key, encoder_fingerprint, image_input_key
from truepair.models.encoders.frozen_captions import CaptionStates
from truepair.models.encoders.frozen_images import ImageStates
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.blip import BlipImageTower, start_of, with_start
from truepair.models.fusion.qformer import image_keys_values, read_pairs
from truepair.models.open import open_own


class View(Protocol):
    """States of some images and captions of a batch, by the judge's encoders.

    Attributes:
        repeatable: whether the same image and caption always look the same.
    """

    repeatable: bool

    def image_states(self, batch: PairBatch, rows: Tensor) -> Tensor:
        """States of the images of some rows, [U, N, W] on the judge's device."""
        ...

    def text_states(self, batch: PairBatch, rows: Tensor) -> tuple[Tensor, Tensor]:
        """States of the captions of some rows [U, L, D], and their mask [U, L]."""
        ...


class BatchView:
    """The student's own pixels and tokens, augmentation included, as in the MAFA program.

    Args:
        model: the judge.
        own: the judge's preprocessing.
        student: the student's, which the batch went through.

    Raises:
        ConfigError: the two differ in how tokens or pixel values are to be read.
    """

    repeatable = False

    def __init__(self, model: AlbefModel, own: OwnPreprocessing, student: Preprocessing | None) -> None:
        if not isinstance(student, OwnPreprocessing):
            raise ConfigError("ecm.judge.view: the student reads tokens and pixels of its own; set it to plain")
        for what, one, other in (
            ("tokenizer", own.tokenizer.get_vocab(), student.tokenizer.get_vocab()),
            ("add_sep", own.add_sep, student.add_sep),
            ("normalise", own.normalise, student.normalise),
            ("image normalisation", *(normalisation(one.transform, one.statistics) for one in (own, student))),
        ):
            if one != other:
                raise ConfigError(f"ecm.judge.view: judge and student differ in their {what}; set it to plain")
        self.model = model

    def image_states(self, batch: PairBatch, rows: Tensor) -> Tensor:
        """States of the augmented images of some rows [U, N, W].

        Raises:
            ConfigError: the batch has no pixels, since the student's image states come from a cache.
        """
        if batch.pixel_values is None:
            raise ConfigError("ecm.judge.view is batch, but the student's images come from a cache; set it to plain")
        return self.model.image_states(batch.pixel_values[sent(rows, batch.device)].to(self.model.device))

    def text_states(self, batch: PairBatch, rows: Tensor) -> tuple[Tensor, Tensor]:
        """States of the batch's tokens [V, L, W], and their mask [V, L]."""
        there = sent(rows, batch.device)
        mask = batch.attention_mask[there]
        length = int(mask.sum(dim=1).max())  # padding costs as much as words
        ids, mask = (part[:, :length].to(self.model.device) for part in (batch.input_ids[there], mask))
        return self.model.text_states(ids, mask), mask


class PlainView:
    """The unaugmented image and the caption's text, through the judge's own preprocessing.

    Args:
        model: the judge.
        images: states by the judge's own image encoder, row by row.
        collator: the judge's tokenization.
        captions: token states of the judge's own text encoder, under this tokenization; None computes them.
    """

    repeatable = True

    def __init__(
        self,
        model: AlbefModel,
        images: PlainStates,
        collator: PairCollator,
        captions: CaptionStates | None = None,
    ) -> None:
        self.model = model
        self.images = images
        self.collator = collator
        self.captions = captions

    def image_states(self, batch: PairBatch, rows: Tensor) -> Tensor:
        """States of the plain images of some rows [U, N, W]."""
        return self.images(batch.source_index[rows], self.model.device)

    def text_states(self, batch: PairBatch, rows: Tensor) -> tuple[Tensor, Tensor]:
        """States of the captions as their source states them [V, L, W], and their mask [V, L]."""
        texts = [batch.captions[row] for row in rows.tolist()]
        if self.captions is not None:
            states, mask = self.captions.gather(texts)
            return states.to(self.model.device), mask.to(self.model.device)
        ids, mask = (part.to(self.model.device) for part in self.collator.encode(texts))
        return self.model.text_states(ids, mask), mask


class AlbefJudge(PairReader):
    """Match probability by the ITM head.

    Args:
        model: the judge; it is put into evaluation mode and gets no gradient.
        view: what it reads of a batch.
        name: for logs.
        fingerprint: of the weights, the preprocessing and the view.
        pairs_at_once: pairs that go through the fusion encoder together.
    """

    def __init__(
        self, model: AlbefModel, view: View, *, name: str, fingerprint: str, pairs_at_once: int = 1024
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.view = view
        self.name = name
        self.fingerprint = fingerprint
        self.repeatable = view.repeatable
        self.pairs_at_once = pairs_at_once

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.device
        return device

    def encode(self, batch: PairBatch, image_rows: Tensor, text_rows: Tensor) -> Read:
        """Encode images [U] and captions [V], see ``PairReader.encode``; keys and values once an image."""
        model = self.model
        image_states = self.view.image_states(batch, image_rows)
        text_states, mask = self.view.text_states(batch, text_rows)
        keys_values = model.image_keys_values(image_states)
        with_features = model.config.itm_product
        image_features = model.project_image(image_states) if with_features else None
        text_features = model.project_text(text_states, mask) if with_features else None

        def read(image: Tensor, text: Tensor) -> Tensor:
            """The ITM head's opinion."""
            fused = model.fuse(text_states[text], mask[text], keys_values, image, cls_only=True)  # [p, 1, D]
            logits = model.match(fused, _some(image_features, image), _some(text_features, text))  # [p, 2]
            probabilities: Tensor = (logits[:, 1] - logits[:, 0]).float().sigmoid()
            return probabilities

        return read


def open_albef(config: JudgeConfig, run: JudgeInputs, device: torch.device | str) -> AlbefJudge:
    """Open a folder that ``truepair`` wrote, or a checkpoint file of ALBEF: model, tokenizer and preprocessing.

    Raises:
        CheckpointError: there is none, it is damaged, or its ITM head was never trained.
        ConfigError: the judge cannot read the batches as they are, and ``view`` is "batch".
    """
    folder = Path(config.checkpoint)
    model, own = open_own(folder)
    model.to(device)
    if not model.config.itm_trained:
        raise CheckpointError(
            f"{folder} cannot judge: its run did not train ITM; see objectives.itm.weight and start_epoch in its recipe"
        )
    view: View
    if config.view == "batch":
        view = BatchView(model, own, run.preprocessing)
    else:
        states, captions = _shared_states(model, own, run)
        if states is None:
            images = PlainStates.of_run(model.image_tower, own.images(), config, run)
        else:
            images = PlainStates(model.image_tower, PlainImages(run.table, own.images()), states)
        view = PlainView(model, images, own.collator(), captions)
    fingerprint = combined_key(
        model=encoder_fingerprint(model), images=image_input_key(own), captions=caption_input_key(own), view=config.view
    )
    return AlbefJudge(model, view, name=f"albef {folder}", fingerprint=fingerprint, pairs_at_once=config.pairs_at_once)


def _shared_states(
    model: AlbefModel, own: OwnPreprocessing, run: JudgeInputs
) -> tuple[ImageStates | None, CaptionStates | None]:
    """The run's caches, as far as they hold what the judge's own encoders would compute."""
    student = run.preprocessing
    if run.model is None or student is None:
        return None, None
    same_images = not run.pooled and image_input_key(own) == image_input_key(student)
    same_captions = caption_input_key(own) == caption_input_key(student)
    return (
        run.image_cache if same_images and _equal(run.model.image_tower, model.image_tower) else None,
        run.caption_cache if same_captions and _equal(run.model.text_tower, model.text_tower) else None,
    )


def _equal(one: nn.Module, other: nn.Module) -> bool:
    return encoder_fingerprint(one) == encoder_fingerprint(other)


def _some(features: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if features is None else features[rows]


class BlipJudge(PairReader):
    """Match probability by a frozen ``BlipForImageTextRetrieval`` (Li et al., ICML 2022), on plain images.

    Args:
        model: the judge; it is put into evaluation mode and gets no gradient.
        tokenizer: its own.
        images: states of images that came through its own processor.
        name: for logs.
        fingerprint: of weights and preprocessing.
        pairs_at_once: pairs that are fused together.
    """

    repeatable = True

    def __init__(
        self,
        model: BlipForImageTextRetrieval | Blip2ForImageTextRetrieval,
        tokenizer: PreTrainedTokenizerBase,
        images: PlainStates,
        *,
        name: str,
        fingerprint: str,
        pairs_at_once: int = 1024,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.images = images
        self.name = name
        self.fingerprint = fingerprint
        self.pairs_at_once = pairs_at_once

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.device
        return device

    def encode(self, batch: PairBatch, image_rows: Tensor, text_rows: Tensor) -> Read:
        """Encode images [U] and tokenize captions [V], see ``PairReader.encode``."""
        states = self.images(batch.source_index[image_rows], self.device)  # [U, N, W]
        captions = [batch.captions[row] for row in text_rows.tolist()]
        tokens = self.tokenizer(
            captions, padding=True, truncation=True, max_length=self._room(), return_tensors="pt"
        ).to(self.device)
        ids = with_start(tokens["input_ids"], start_of(self.tokenizer))
        return self._reader(states, ids, tokens["attention_mask"])

    def _reader(self, states: Tensor, ids: Tensor, mask: Tensor) -> Read:
        """Asks the ITM head about image states [U, N, W] and tokens [V, L] with their mask."""

        def read(image: Tensor, text: Tensor) -> Tensor:
            """Match probabilities [p]; each pair has a copy of its image's states."""
            fused = self.model.text_encoder(
                input_ids=ids[text],
                attention_mask=mask[text],
                encoder_hidden_states=states[image],
                encoder_attention_mask=mask.new_ones(len(image), states.shape[1]),
            ).last_hidden_state  # [p, L, D]
            return _matching(self.model.itm_head(fused[:, 0]))

        return read

    def _room(self) -> int:
        """Most tokens of a caption."""
        most: int = self.model.config.text_config.max_position_embeddings
        return min(most, int(self.tokenizer.model_max_length))


class Blip2Judge(BlipJudge):
    """Match probability by a frozen ``Blip2ForImageTextRetrieval`` (Li et al., ICML 2023), on plain images."""

    def _reader(self, states: Tensor, ids: Tensor, mask: Tensor) -> Read:
        """Asks the ITM head, on average of the queries, each of which has read both; keys and values once an image."""
        model = self.model
        keys_values = image_keys_values(model.qformer, states)

        def read(image: Tensor, text: Tensor) -> Tensor:
            """Match probabilities [p]."""
            words = model.embeddings(input_ids=ids[text])  # [p, L, D]
            fused = read_pairs(model.qformer, model.query_tokens, words, mask[text], keys_values, image)  # [p, Q, D]
            return _matching(model.itm_head(fused.to(model.itm_head.weight.dtype)).mean(dim=1))

        return read

    def _room(self) -> int:
        """Most tokens of a caption."""
        most: int = self.model.config.qformer_config.max_position_embeddings
        return min(most, int(self.tokenizer.model_max_length))


def _matching(logits: Tensor) -> Tensor:
    """Probability of a match [p] of ITM logits [p, 2]."""
    return logits.float().softmax(dim=1)[:, 1]


def open_blip(config: JudgeConfig, run: JudgeInputs, device: torch.device | str) -> BlipJudge:
    """Open a folder or a name on the hub, with its own processor and tokenizer.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    return _open_hub(BlipForImageTextRetrieval, BlipJudge, config, run, device)


def open_blip2(config: JudgeConfig, run: JudgeInputs, device: torch.device | str) -> BlipJudge:
    """Open a ``Blip2ForImageTextRetrieval``, see :func:`open_blip`.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    return _open_hub(Blip2ForImageTextRetrieval, Blip2Judge, config, run, device)


def _open_hub(
    kind: type[BlipForImageTextRetrieval | Blip2ForImageTextRetrieval],
    judge: type[BlipJudge],
    config: JudgeConfig,
    run: JudgeInputs,
    device: torch.device | str,
) -> BlipJudge:
    model = load_hub_model(kind, config.checkpoint)
    if not getattr(model.config, "itm_trained", True):
        raise CheckpointError(
            f"{config.checkpoint} cannot judge: its run did not train ITM; see objectives.itm.weight and start_epoch "
            "in its recipe"
        )
    if getattr(model.config, "itm_product", False):
        raise CheckpointError(
            f"{config.checkpoint} cannot judge: its ITM also reads products of features, for which {kind.__name__} has "
            "no place; train the judge without model.options.itm_product"
        )
    processor = load_part(AutoImageProcessor, config.checkpoint)
    tokenizer = load_part(WholeTokenizer, config.checkpoint, what="tokenizer")
    model.to(device).eval()
    return judge(
        model,
        tokenizer,
        PlainStates.of_run(BlipImageTower(model.vision_model), processor_transform(processor), config, run),
        name=f"{config.kind} {config.checkpoint}",
        fingerprint=combined_key(model=encoder_fingerprint(model), inputs=processor_key(processor, tokenizer)),
        pairs_at_once=config.pairs_at_once,
    )
