import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from truepair.objectives.contrastive import Direction, contrastive_loss
from truepair.objectives.momentum import FeatureQueue


def put(queue: FeatureQueue, ids: list[int]) -> None:
    """Enqueue pairs whose features are their ids, so that a test can see who is where."""
    numbers = torch.tensor(ids, dtype=torch.long)
    column = numbers.float().unsqueeze(1).expand(-1, 2)
    queue.enqueue(column, -column, numbers, numbers + 1000)


@settings(max_examples=60)
@given(st.integers(1, 12), st.lists(st.integers(0, 30), max_size=8))
def test_keeps_the_last_entries_whatever_the_batch_sizes(size: int, batches: list[int]) -> None:
    queue, everything, number = FeatureQueue(size, 2), [], 0
    for count in batches:
        batch = list(range(number, number + count))
        number += count
        put(queue, batch)
        everything += batch
    kept = everything[-size:]
    assert len(queue) == len(kept)
    assert sorted(queue.image_ids[: len(queue)].tolist()) == kept
    assert queue.features("images")[:, 0].tolist() == queue.image_ids[: len(queue)].tolist()
    assert queue.features("texts")[:, 0].tolist() == [-i for i in queue.image_ids[: len(queue)].tolist()]


def test_ids_above_the_integers_of_float32_survive() -> None:
    queue = FeatureQueue(2, 2)
    ids = torch.tensor([16_777_217, 2**62 + 1])
    queue.enqueue(torch.zeros(2, 2), torch.zeros(2, 2), ids, ids + 1)
    assert torch.equal(queue.image_ids, ids)


def test_entries_of_the_same_image_or_caption_are_positives() -> None:
    queue = FeatureQueue(4, 2)
    queue.enqueue(
        torch.zeros(3, 2), torch.zeros(3, 2), image_ids=torch.tensor([7, 8, 9]), caption_keys=torch.tensor([70, 80, 90])
    )
    positives = queue.positives(torch.tensor([7, 5]), torch.tensor([71, 90]))
    assert positives.dense().tolist() == [[1, 0, 1, 0, 0], [0, 1, 0, 0, 1]]


def test_a_duplicate_in_the_queue_is_not_pushed_away() -> None:
    """The gradient draws the image towards its own caption in the queue; as a negative it would push."""
    text = F.normalize(torch.tensor([[1.0, 0.2, 0.0]]), dim=1)
    image = F.normalize(torch.tensor([[0.0, 0.2, 1.0]]), dim=1).requires_grad_()
    queue = FeatureQueue(3, 3)
    queue.enqueue(text, text, torch.tensor([1]), torch.tensor([10]))
    keys = torch.cat([torch.tensor([[0.0, 1.0, 0.0]]), queue.features("texts")])
    pulls = []
    for positives in (queue.positives(torch.tensor([1]), torch.tensor([11])), None):
        loss = contrastive_loss(image, keys, 0.5, rows=Direction(positives), symmetric=False).loss
        (grad,) = torch.autograd.grad(loss, image)
        pulls.append(float(-(grad @ text.T)))
    assert pulls[0] > 0 > pulls[1]


def test_state_comes_back() -> None:
    queue, other = FeatureQueue(5, 2), FeatureQueue(5, 2)
    put(queue, list(range(7)))
    other.load_state_dict(queue.state_dict())
    for q in (queue, other):
        put(q, [100, 101])
    assert torch.equal(queue.images, other.images) and torch.equal(queue.image_ids, other.image_ids)
    assert len(other) == 5


def test_ids_stay_on_the_host_and_are_part_of_the_state() -> None:
    queue = FeatureQueue(2, 2)
    put(queue, [1, 2, 3])
    moved = queue.to("meta")
    assert moved.images.is_meta and not moved.image_ids.is_meta and len(moved) == 2
    assert set(queue.tensors()) == {"images", "texts", "image_ids", "caption_keys", "seen"}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("filled", [0, 5, 9])
def test_positives_are_those_of_comparing_all(seed: int, filled: int) -> None:
    images, captions = torch.randint(6, (2, 6 + filled), generator=torch.Generator().manual_seed(seed))
    queue = FeatureQueue(9, 2)
    queue.enqueue(torch.zeros(filled, 2), torch.zeros(filled, 2), images[6:], captions[6:])
    found = queue.positives(images[:6], captions[:6])
    alike = (images[:6, None] == images) | (captions[:6, None] == captions)
    assert torch.equal(torch.stack([found.rows, found.columns]), torch.stack(alike.nonzero(as_tuple=True)))
    assert torch.equal(found.values, torch.ones(len(found))) and found.shape == (6, 6 + filled)


def test_unknown_side() -> None:
    with pytest.raises(KeyError):
        FeatureQueue(2, 2).features("audio")
