"""States of a table's images from a frozen encoder."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from truepair.data.images import BadImageError
from truepair.data.loading import DATA_TIMEOUT, read_batches
from truepair.data.pairs import PairDataset
from truepair.errors import ConfigError
from truepair.models.encoders.fingerprint import combined_key, encoder_fingerprint
from truepair.models.encoders.frozen import FrozenStates, Inputs, Progress, StateBlock
from truepair.sampling.batches import Visit

_LABEL = "images"


@dataclass(frozen=True)
class ImageStates:
    """States of the images of a table, by its rows; rows of one image share their states.

    Attributes:
        views: one cache per view; the first is of the plain images.
        image_rows: row of the caches that each of the T rows of the table uses, int64 [T].
    """

    views: tuple[FrozenStates, ...]
    image_rows: Tensor

    def __len__(self) -> int:
        return len(self.image_rows)

    def __getitem__(self, rows: Tensor | Sequence[int] | slice) -> Tensor:
        """States of the plain images of some rows of the table, float32 [B, N, W]."""
        return self.views[0].gather(self._image_rows(rows))

    def visit(self, rows: Tensor | Sequence[int], epoch: int, seed: int = 0) -> Tensor:
        """States for training: each image shows its views in turn, one per epoch.

        The images of a batch differ in the view they show.

        Args:
            rows: rows of the table [B].
            epoch: epoch.
            seed: shifts the order.

        Returns:
            float32 [B, N, W].
        """
        images = self._image_rows(rows)  # [B]
        if len(self.views) == 1:
            return self.views[0].gather(images)
        chosen = self.shown(rows, epoch, seed)  # [B]
        states = torch.empty(len(images), *self.views[0].shape)
        for number, view in enumerate(self.views):
            at = (chosen == number).nonzero()[:, 0]
            states.index_copy_(0, at, view.gather(images[at]))
        return states

    def shown(self, rows: Tensor | Sequence[int], epoch: int, seed: int = 0) -> Tensor:
        """Which view each of some rows shows in an epoch, int64 [B]."""
        return (self._image_rows(rows) + epoch + seed) % len(self.views)

    def of_rows(self, rows: NDArray[np.int64]) -> "ImageStates":
        """The states of some rows of the table, int64 [R], as a table of their own."""
        return replace(self, image_rows=self.image_rows[torch.from_numpy(rows)])

    @property
    def nbytes(self) -> int:
        """Size of all views on disk, in bytes."""
        return sum(view.nbytes for view in self.views)

    @property
    def unreadable(self) -> dict[int, str]:
        """Rows of the table whose image cannot be read, and why. Their states are of nothing."""
        reasons = {row: why for view in reversed(self.views) for row, why in view.unreadable.items()}
        wanted = torch.tensor(sorted(reasons), dtype=torch.int64)
        found = torch.isin(self.image_rows, wanted).nonzero()[:, 0].tolist()
        return {row: reasons[int(self.image_rows[row])] for row in found}

    @property
    def readable(self) -> NDArray[np.int64]:
        """Rows of the table whose states are of their own image, int64 [R]; train on ``table.select`` of them."""
        return np.setdiff1d(np.arange(len(self)), list(self.unreadable))

    def _image_rows(self, rows: Tensor | Sequence[int] | slice) -> Tensor:
        return self.image_rows[
            rows if isinstance(rows, slice) else torch.as_tensor(rows, dtype=torch.int64, device="cpu")
        ]


def cache_image_states(
    encoder: nn.Module,
    plain: PairDataset,
    folder: Path,
    *,
    augmented: PairDataset | None = None,
    views: int = 1,
    preprocessing: Any = None,
    batch_size: int = 16,
    workers: int = 0,
    timeout: float = DATA_TIMEOUT,
    progress: Progress | None = None,
    encoder_key: str | None = None,
    whole: tuple[nn.Module, str] | None = None,
    check: str = "times",
) -> ImageStates:
    """Compute the states of every distinct image of a table once, or open those that are there.

    The key of a cache is of the encoder, the ids of the distinct pictures in order, what the dataset makes of a picture
    that is always the same, and ``preprocessing``. Each picture is compared with what it was when its states were
    computed: of those that have changed, or could not be read then, they are computed again, and a line says how many.

    Args:
        encoder: from images [B, 3, H, W] to states [B, N, W], as the image tower of a `DualEncoder`; it runs in
            evaluation mode on the device it is on.
        plain: the table with the evaluation transform.
        folder: where caches are kept.
        augmented: the same table with the training transform; needed for more than one view. View v is what it
            delivers in epoch v.
        views: V, how many views of each image to store; each takes as much time and disk as the first.
        preprocessing: what else the pixels depend on, of JSON types; the settings of the transform, say.
        batch_size: images encoded at once. 16 is fastest on a CPU at 128 px: more leave its caches.
        workers: processes that read images, and encode them if the encoder is on the CPU: as many as there are cores
            are fastest. With 0 the main process does both.
        timeout: seconds that a batch of these processes is waited for; 0 for ever.
        progress: called with (images done, images in all) after each batch of a view.
        encoder_key: the encoder's fingerprint, if it is known.
        whole: an encoder whose states the encoder's are the mean of, and its fingerprint: where its states are kept
            already, those are opened.
        check: how pictures are compared, one of ``truepair.checked.CHECKS``; see ``PairTable.picture_stamps``.

    Raises:
        ConfigError: several views without ``augmented``, or one of another table.
        DataError: no room on the disk or in shared memory; a picture cannot be read, of a dataset without substitutes;
            or a process was killed or hangs.
    """
    if views > 1 and (augmented is None or len(augmented) != len(plain)):
        raise ConfigError(f"{views} views need the augmented dataset of the same table; give one, or set views to 1")
    ids, first, image_rows = _distinct(plain.table.picture_keys)
    encoder_key = encoder_key or encoder_fingerprint(encoder)
    stamps = plain.table.picture_stamps(first, check)  # before any picture is read
    caches = []
    for view in range(views):
        dataset = plain if view == 0 or augmented is None else augmented
        source = _ViewSource(dataset, first, view, batch_size, workers, timeout)

        def key_of(used: str, view: int = view, probe: Tensor = source.probe) -> str:
            """The key of what an encoder of a fingerprint makes of the view."""
            return combined_key(
                encoder=used, ids=ids.tobytes(), pixels=probe, preprocessing=preprocessing, view=view, check=check
            )

        used, key = encoder, key_of(encoder_key)
        if whole is not None and FrozenStates.kept(folder, key_of(whole[1]), _LABEL):
            used, key = whole[0], key_of(whole[1])
        states_of = source.compute(used)
        cache = FrozenStates.open_or_compute(
            folder,
            key,
            len(ids),
            tuple(_encode(used, source.probe[None]).shape[1:]),
            partial(_rest, states_of, len(ids)),
            label=_LABEL,
            progress=progress,
            inputs=Inputs(stamps, states_of),
        )
        caches.append(cache)
    return ImageStates(tuple(caches), torch.from_numpy(image_rows))


def _rest(
    states_of: Callable[[NDArray[np.int64]], Iterator[StateBlock]], count: int, start: int
) -> Iterator[StateBlock]:
    """The states of all images from one on."""
    return states_of(np.arange(start, count))


class PooledEncoder(nn.Module):
    """An image tower that hands out one state an image, the mean of its states.

    Models with ``image_pooling`` "mean" project it to the same feature; a fusion encoder has little left to read.

    Args:
        encoder: from images [B, 3, H, W] to states [B, N, W].
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Images [B, 3, H, W] to states [B, 1, W]."""
        states: Tensor = self.encoder(pixel_values)  # [B, N, W]
        return states.mean(dim=1, keepdim=True)


class _ViewSource:
    """One view of the distinct images, as batches of states.

    Args:
        dataset: delivers the pixels.
        rows: the first row of each of the R distinct images [R].
        view: the epoch to visit.
        batch_size: images of a batch.
        workers: reading processes.
        timeout: seconds that a batch of theirs is waited for.
    """

    def __init__(
        self,
        dataset: PairDataset,
        rows: NDArray[np.int64],
        view: int,
        batch_size: int,
        workers: int,
        timeout: float,
    ) -> None:
        self.dataset = dataset
        self.view = view
        self.visits = [Visit(view, int(row)) for row in rows]
        self.batch_size = batch_size
        self.workers = workers
        self.timeout = timeout

    @cached_property
    def probe(self) -> Tensor:
        """What the dataset makes of a picture that is always the same [3, H, W]; another transform, other pixels."""
        return self.dataset.probe(self.view)

    def compute(self, encoder: nn.Module) -> Callable[[NDArray[np.int64]], Iterator[StateBlock]]:
        """What computes the states of some of the images."""
        # Several processes with one thread each keep all cores busy; the threads of one process wait for each other.
        in_workers = next(encoder.parameters()).device.type == "cpu"
        blank = torch.zeros_like(self.probe)
        collate = partial(_encoded, encoder, blank) if in_workers else partial(_collate, blank)

        def blocks(images: NDArray[np.int64]) -> Iterator[StateBlock]:
            """The blocks of some images, int64 [S]."""
            batches = read_batches(
                _Tries(self.dataset),
                collate,
                workers=min(self.workers, -(-len(images) // self.batch_size)),
                timeout=self.timeout,
                sampler=[self.visits[image] for image in images.tolist()],
                batch_size=self.batch_size,
            )
            for states_or_pixels, reasons in batches:
                yield StateBlock(states_or_pixels if in_workers else _encode(encoder, states_or_pixels), reasons)

        return blocks


class _Tries(Dataset[Tensor | str]):
    """The pixels of a dataset's pictures, or why one cannot be read: no other stands in for it.

    Args:
        dataset: one without substitutes raises instead.
    """

    def __init__(self, dataset: PairDataset) -> None:
        self.dataset = dataset.without_substitutes()
        self.strict = not dataset.substitutes

    def __getitem__(self, visit: Visit) -> Tensor | str:
        try:
            return self.dataset[visit]["pixel_values"]
        except BadImageError as error:
            if self.strict:
                raise
            return str(error)


@torch.inference_mode()
def _encode(encoder: nn.Module, pixels: Tensor) -> Tensor:
    """Pixels [B, 3, H, W] to states [B, N, W], in evaluation mode."""
    training = encoder.training
    encoder.eval()
    states: Tensor = encoder(pixels.to(next(encoder.parameters()).device))
    encoder.train(training)
    return states


def _encoded(encoder: nn.Module, blank: Tensor, samples: Sequence[Tensor | str]) -> tuple[Tensor, list[str]]:
    pixels, reasons = _collate(blank, samples)
    return _encode(encoder, pixels).half(), reasons


def _collate(blank: Tensor, samples: Sequence[Tensor | str]) -> tuple[Tensor, list[str]]:
    """Pixels [B, 3, H, W], those of ``blank`` where there are none, and why there are none, or empty [B]."""
    pixels = torch.stack([blank if isinstance(sample, str) else sample for sample in samples])
    return pixels, [sample if isinstance(sample, str) else "" for sample in samples]


def _distinct(image_ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The distinct ids in order of their first row [R], that row [R], and the place of each row's id among them [T]."""
    ids, first, inverse = np.unique(image_ids, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return ids[order], first[order], place[inverse]
