import torch

from tests.sampling.pairs import make_features
from truepair.sampling.plan import CollectedFeatures


def test_it_holds_what_was_added_and_keeps_what_is_asked() -> None:
    image, text = make_features(10)
    queue = CollectedFeatures(12, torch.float32)
    assert len(queue) == 0
    queue.add(torch.arange(4), image[:4], text[:4])
    queue.add(torch.arange(4, 10), image[4:], text[4:])
    assert torch.equal(queue.index, torch.arange(10))
    assert torch.equal(queue.image, image)
    assert torch.equal(queue.text, text)
    queue.keep(torch.tensor([7, 2]))
    assert queue.index.tolist() == [7, 2]
    assert torch.equal(queue.image, image[[7, 2]])
    queue.keep(torch.tensor([], dtype=torch.int64))
    assert len(queue) == 0


def test_storage_in_half_precision() -> None:
    image, text = make_features(3)
    queue = CollectedFeatures(4, torch.bfloat16)
    queue.add(torch.arange(3), image, text)
    assert queue.image.dtype == queue.text.dtype == torch.bfloat16
    assert queue.image.data_ptr() != image.data_ptr()


def test_indices_above_two_to_the_24_stay_exact() -> None:
    image, text = make_features(72)
    queue = CollectedFeatures(72, torch.float16)
    index = torch.arange(16_777_216, 16_777_216 + 72)
    queue.add(index, image, text)
    assert torch.equal(queue.index, index)


def test_state_comes_back_and_is_a_copy() -> None:
    image, text = make_features(6)
    queue = CollectedFeatures(10, torch.float16)
    queue.add(torch.arange(3), image[:3], text[:3])
    state = queue.state_dict()
    queue.add(torch.arange(3, 6), image[3:], text[3:])
    other = CollectedFeatures(10, torch.float16)
    other.load_state_dict(state)
    assert len(other) == 3
    other.add(torch.arange(3, 6), image[3:], text[3:])
    assert torch.equal(other.image, queue.image)
    other.load_state_dict(CollectedFeatures(10, torch.float16).state_dict())
    assert len(other) == 0
