"""The features of the last steps, kept until there are enough of them to group."""

import torch
from torch import Tensor


class FeatureQueue:
    """Dataset indices (int64) and features of samples, in one block of memory on the device of the features.

    Args:
        capacity: Most samples it holds at a time.
        storage: Type the features are kept in.
    """

    def __init__(self, capacity: int, storage: torch.dtype) -> None:
        self.capacity = capacity
        self.storage = storage
        self._size = 0
        self._index = torch.empty(0, dtype=torch.int64)  # [capacity] once in use
        self._image = self._text = torch.empty(0, 0, dtype=storage)  # [capacity, D] once in use

    def __len__(self) -> int:
        return self._size

    @property
    def index(self) -> Tensor:
        """Dataset indices, int64 [n]."""
        return self._index[: self._size]

    @property
    def image(self) -> Tensor:
        """Image features [n, D]."""
        return self._image[: self._size]

    @property
    def text(self) -> Tensor:
        """Text features [n, D]."""
        return self._text[: self._size]

    def add(self, index: Tensor, image: Tensor, text: Tensor) -> None:
        """Append samples: int64 [b], and features [b, D] of the storage type."""
        if not len(self._index) or self._index.device != index.device:
            self._reserve(image.shape[1], index.device)
        end = self._size + len(index)
        self._index[self._size : end] = index
        self._image[self._size : end] = image.detach()
        self._text[self._size : end] = text.detach()
        self._size = end

    def keep(self, positions: Tensor) -> None:
        """Forget all samples but those at some positions, int64 [k]; they stay in that order."""
        kept = [part[positions] for part in (self.index, self.image, self.text)]
        self._size = 0
        if len(positions):
            self.add(*kept)

    def _reserve(self, dimension: int, device: torch.device) -> None:
        """Take the memory on a device, and move what is held there."""
        held = (self.index, self.image, self.text)
        self._index = torch.empty(self.capacity, dtype=torch.int64, device=device)
        self._image = torch.empty(self.capacity, dimension, dtype=self.storage, device=device)
        self._text = torch.empty_like(self._image)
        for block, part in zip((self._index, self._image, self._text), held, strict=True):
            if self._size:
                block[: self._size] = part

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of what it holds."""
        return {name: getattr(self, name).cpu().clone() for name in ("index", "image", "text")}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Hold what another queue held; the memory moves to the device of the next features that are added."""
        self._size, self._index = 0, torch.empty(0, dtype=torch.int64)
        if len(state["index"]):
            self.add(state["index"], state["image"], state["text"])
