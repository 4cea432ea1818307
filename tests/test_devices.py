import torch

from truepair.devices import sent


def test_a_tensor_that_is_there_is_sent_nowhere() -> None:
    here = torch.arange(3)
    assert sent(here, "cpu") is here


def test_a_tensor_of_the_host_goes_to_a_device() -> None:
    moved = sent(torch.arange(3), "meta")
    assert moved.is_meta and moved.shape == (3,) and moved.dtype == torch.int64
