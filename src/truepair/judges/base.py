"""What a judge is, what it may read of a run, and how it is configured."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from truepair.data.images import BadImageError
from truepair.data.pairs import PairBatch, PairDataset, stacked
from truepair.data.preprocessing import Preprocessing
from truepair.data.table import PairTable
from truepair.data.transforms import ImageTransform
from truepair.devices import sent
from truepair.errors import ConfigError
from truepair.models.dual.base import DualEncoder
from truepair.models.encoders.frozen_captions import CaptionStates
from truepair.models.encoders.frozen_images import ImageStates
from truepair.settings import Natural, Positive, Share, check_settings

_VIEWS = ("plain", "batch")

_KEEPING = ("albef", "blip", "blip2")  # kinds that make states of images, which their fusion reads

PROMPT = 'Is this caption true of the picture? Caption: "{caption}" Answer yes or no.'
"""What a vision-language model is asked."""


class Judge(Protocol):
    """A frozen model that gives pairs a probability of matching (the con-D of COSMO and MAFA, section 3).

    Attributes:
        name: for logs.
        fingerprint: of everything a verdict depends on: weights, preprocessing, view. Verdicts of different judges
            never mix.
        repeatable: whether a verdict is a function of image id and caption id, so that it may be remembered. A judge
            that sees augmented crops is not repeatable: each crop has a verdict of its own.
    """

    name: str
    fingerprint: str
    repeatable: bool

    def score(self, batch: PairBatch, images: Tensor, texts: Tensor) -> Tensor:
        """Match probabilities of some (image row, text row) pairs of a batch; no gradient, no dropout.

        Args:
            batch: B pairs.
            images: image rows, int64 on the host [P].
            texts: text rows, int64 on the host [P].

        Returns:
            Probabilities in [0, 1], float32 on the host [P].
        """
        ...


def ledger_name(judge: Judge) -> str:
    """The name under which a judge's verdicts stand in a ledger; those of another judge have another."""
    return f"judge:{judge.fingerprint[:12]}"


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Which judge a run asks, and how.

    Attributes:
        checkpoint: folder of the judge (kinds blip, blip2, dual and vlm: or a name on the hub; kind recorded: folder or
            file of a ledger).
        kind: "albef" (ITM head of a truepair model), "blip" (``BlipForImageTextRetrieval``), "blip2"
            (``Blip2ForImageTextRetrieval``), "dual" (similarity of a dual encoder), "evidence" (what the two pairs of a
            candidate have in common), "recorded" (the verdicts of a ledger, such as a mined one), "vlm" (yes or no of
            any image-text-to-text model).
        view: what an albef judge reads: "plain" images, through its own preprocessing; or the "batch" as it is,
            augmentation included, as in the MAFA program. The other kinds always read plain images.
        memory: ask once per (image, caption). None does so where a verdict depends on nothing else; crops of the batch
            have a verdict each, and are remembered only if this is true.
        memory_limit: most verdicts to hold, 12 bytes each, also in every checkpoint; None for all.
        cache_images: kinds albef, blip and blip2, on plain images: compute the states of all images once, with the
            judge's image encoder, and keep them on disk; see ``model.cache_folder``. A step then fuses pairs, and
            neither reads nor encodes images for the judge. 2 bytes a number: 395 KB an image of ViT-B/16 at 256 px.
        calibration: kind dual: JSON file of its calibration; None takes ``calibration.json`` in the checkpoint.
        prompt: kind vlm: what it is asked about a picture, with ``{caption}`` in it.
        pairs_at_once: pairs that are read together; a vlm reads 16 at most.
        least_coverage: warn when a smaller share of known pairs passes the upper threshold.

    Raises:
        ConfigError: an unknown view, one that the kind cannot read, states kept where there are none to keep, a prompt
            without a caption, or a number out of range.
    """

    checkpoint: str
    kind: str = "albef"
    view: str = "plain"
    memory: bool | None = None
    memory_limit: Natural | None = 50_000_000
    cache_images: bool = False
    calibration: str | None = None
    prompt: str = PROMPT
    pairs_at_once: Positive = 1024
    least_coverage: Share = 0.2

    def __post_init__(self) -> None:
        if self.view not in _VIEWS:
            raise ConfigError(f"ecm.judge.view is '{self.view}'; give {' or '.join(_VIEWS)}")
        if self.view == "batch" and self.kind != "albef":
            raise ConfigError(f"ecm.judge.view is batch, which kind '{self.kind}' cannot read; set it to plain")
        if self.cache_images and (self.kind not in _KEEPING or self.view == "batch"):
            raise ConfigError(
                f"ecm.judge.cache_images keeps states of plain images for {', '.join(_KEEPING)}, and this judge is "
                f"'{self.kind}' with view '{self.view}'; leave it out"
            )
        if "{caption}" not in self.prompt:
            raise ConfigError(f"ecm.judge.prompt is {self.prompt!r}; put {{caption}} where the caption goes")
        check_settings(self, "ecm.judge")


KeepImages = Callable[[nn.Module, ImageTransform], ImageStates]
"""States [B, N, W] that an encoder makes of all plain images of a run's table, under a transform, row by row."""


@dataclass(frozen=True, kw_only=True)
class JudgeInputs:
    """What a training run has that its judge may use.

    Attributes:
        table: the table that batches are drawn from; ``PairBatch.source_index`` numbers its rows.
        preprocessing: how captions and images reach the student; None where there is no student.
        model: the student, whose frozen towers the caches are of; needed with a cache.
        image_cache: states of the table's images, from the student's frozen image encoder.
        caption_cache: states of the table's captions, from the student's frozen text encoder.
        pooled: the cache holds the mean of an image's states only; enough to compare, not to fuse.
        keep_images: computes or opens the states of a judge's own encoder; needed with ``JudgeConfig.cache_images``.
    """

    table: PairTable
    preprocessing: Preprocessing | None = None
    model: DualEncoder | None = None
    image_cache: ImageStates | None = None
    caption_cache: CaptionStates | None = None
    pooled: bool = False
    keep_images: KeepImages | None = None


class FeatureReader(Protocol):
    """Reads the features by which a dual encoder compares plain images and captions.

    Attributes:
        fingerprint: of weights and preprocessing.
    """

    fingerprint: str

    def image_features(self, rows: Tensor) -> Tensor:
        """Features of the images of rows [R] of the table, L2-normalised float32 [R, E]."""
        ...

    def text_features(self, captions: Sequence[str]) -> Tensor:
        """Features of T captions, L2-normalised float32 [T, E]."""
        ...


class PlainImages:
    """Reads images by their rows.

    Args:
        table: the table that batches are drawn from; ``PairBatch.source_index`` numbers its rows.
        transform: the judge's own evaluation transform.
    """

    def __init__(self, table: PairTable, transform: ImageTransform) -> None:
        self._dataset = PairDataset(table, transform, captions="first", substitutes=0)

    def __call__(self, rows: Tensor) -> Tensor:
        """Pixels of rows [R], float32 [R, 3, H, W] on the CPU.

        Raises:
            BadImageError: an image cannot be read.
        """
        return stacked([sample["pixel_values"] for sample in self._dataset.__getitems__(rows.tolist())])


class PlainStates:
    """States of plain images by their rows, of images that are read and encoded anew or of states that are kept.

    Args:
        encoder: from images [U, 3, H, W] to states [U, N, W].
        images: reads the images.
        kept: what the encoder made of them before.
    """

    def __init__(self, encoder: nn.Module, images: PlainImages, kept: ImageStates | None = None) -> None:
        self.encoder = encoder
        self.images = images
        self.kept = kept
        self._unreadable = {} if kept is None else kept.unreadable

    @classmethod
    def of_run(
        cls, encoder: nn.Module, transform: ImageTransform, config: JudgeConfig, run: JudgeInputs
    ) -> "PlainStates":
        """Those of a run's table, kept where the judge is to keep them.

        Raises:
            ConfigError: it is to keep them, and nothing keeps any here.
        """
        images = PlainImages(run.table, transform)
        if not config.cache_images:
            return cls(encoder, images)
        if run.keep_images is None:
            raise ConfigError("ecm.judge.cache_images: only a training run keeps states; leave it out")
        return cls(encoder, images, run.keep_images(encoder, transform))

    def __call__(self, rows: Tensor, device: torch.device) -> Tensor:
        """States of the images of rows [U] of the table, [U, N, W] on a device.

        Raises:
            BadImageError: an image cannot be read, or could not when its states were to be computed.
        """
        rows = rows.cpu()
        if self.kept is None:
            states: Tensor = self.encoder(self.images(rows).to(device))
            return states
        lost = next((row for row in rows.tolist() if row in self._unreadable), None)
        if lost is not None:
            raise BadImageError(self._unreadable[lost])
        return self.kept[rows].to(device)


Read = Callable[[Tensor, Tensor], Tensor]
"""Match probabilities [p] of pairs of encoded images and captions, by their places among the encoded [p], [p]."""


class PairReader(ABC):
    """A ``Judge`` that encodes the distinct images and captions of a query, then reads the pairs in parts.

    Attributes:
        pairs_at_once: pairs that are read together.
    """

    pairs_at_once: Positive

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where pairs are read."""

    @abstractmethod
    def encode(self, batch: PairBatch, image_rows: Tensor, text_rows: Tensor) -> Read:
        """Encode the images [U] and captions [V] of some rows of a batch, for their pairs to be read."""

    def score(self, batch: PairBatch, images: Tensor, texts: Tensor) -> Tensor:
        """Match probabilities [P] of (image row, text row) pairs [P], [P], see ``Judge.score``."""
        if not len(images):
            return torch.zeros(0, device=images.device)
        with torch.inference_mode():
            image_rows, image_of = images.unique(return_inverse=True)  # [U], [P]
            text_rows, text_of = texts.unique(return_inverse=True)  # [V], [P]
            read = self.encode(batch, image_rows, text_rows)
            places = (sent(rows, self.device).split(self.pairs_at_once) for rows in (image_of, text_of))
            scores = torch.cat([read(image, text) for image, text in zip(*places, strict=True)]).to(images.device)
        return scores.clone()  # outside inference mode, so that autograd may keep it
