"""What an error says, also when a loading process raised it."""

import pytest
from torch.utils.data import DataLoader, Dataset

from truepair.data.images import BadImageError
from truepair.errors import DataError, message_of


class Broken(Dataset[int]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, row: int) -> int:
        raise BadImageError("photo.jpg: it is empty; repair it")


def test_a_message_from_a_loading_process_is_one_line() -> None:
    with pytest.raises(DataError) as caught:
        list(DataLoader(Broken(), num_workers=1))
    assert len(str(caught.value).splitlines()) > 3
    assert message_of(caught.value) == "photo.jpg: it is empty; repair it"
    assert message_of(DataError("Caught in the act: no pairs")) == "Caught in the act: no pairs"
