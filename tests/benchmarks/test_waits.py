"""A step waits for its GPU a few times, however many pairs it has; counted without a GPU, on a made-up device."""

import pytest
import torch
from made_up_device import DEVICE, made_up_device, move
from torch import Tensor, nn
from waits import STEPS, waits

from tests.methods.compositions import BATCHES, COMPOSITIONS
from tests.methods.steps import info
from truepair.methods.frozen import FrozenOnBatch
from truepair.methods.step import PretrainStep

MOST = 15
PARTS = ("loss", "itc", "itm", "mlm")


@pytest.mark.parametrize("name", STEPS)
def test_a_step_waits_as_often_at_any_size(name: str) -> None:
    """Its figures go to the log, which takes a few waits more."""
    few, many = waits(name, 8, logged=True), waits(name, 24, logged=True)
    assert few.total() == many.total() <= MOST, (few, many)


def test_other_steps_wait_even_less_often() -> None:
    assert waits("albef", 8).total() == 3
    assert waits("itc", 8).total() == waits("clip", 8).total() == 1


class Line(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 3), nn.Linear(3, 3)
        self.other.weight = self.one.weight


def test_the_made_up_device_sees_what_a_gpu_would_wait_for() -> None:
    with made_up_device() as found:
        values = torch.arange(6.0).to(DEVICE, non_blocking=True)
        assert not found and values.is_meta
        doubled, index = values * 2, torch.arange(2, device=DEVICE)
        doubled[index] = values[index]
        assert not found
        seen = {
            "_local_scalar_dense": lambda: float(values.sum()),
            "tolist": values.tolist,
            "nonzero": lambda: values.nonzero(),
            "_unique2": lambda: values.unique(),
            "bincount": lambda: torch.bincount(values.long()),
            "repeat_interleave": lambda: torch.repeat_interleave(index),
            "index by a mask": lambda: values[values > 2],
            "index by an index of the host": lambda: values[torch.arange(2)],
            "index_put_ of a value of the host": lambda: doubled.__setitem__(index, 0.5),
            "copy to the host": values.cpu,
            "copy to the device": lambda: torch.tensor([1.0], device=DEVICE),
        }
        for what, does in seen.items():
            found.clear()
            does()
            assert [name for name, _ in found] == [what]
        with pytest.raises(RuntimeError, match="a GPU would refuse"):
            values + torch.arange(6)
    assert values.held.tolist() == [0, 1, 2, 3, 4, 5]


def test_weights_that_are_shared_stay_shared() -> None:
    line = Line()
    with made_up_device():
        move([line], DEVICE)
        line.other(line.one(torch.ones(2, 3).to(DEVICE))).sum().backward()
        assert line.one.weight is line.other.weight and line.one.weight.is_meta
        assert line.one.weight.grad is not None and line.one.weight.grad.is_meta


def trained(step: PretrainStep, device: torch.device) -> tuple[list[dict[str, float]], list[Tensor]]:
    """Losses of two steps on a device, and the gradients of the second, on the CPU."""
    asked = [step.guide, None if step.srcl is None else step.srcl.seed]
    move([step, *(model.encoder.model for model in asked if isinstance(model, FrozenOnBatch))], device)
    losses, gradients = [], list[Tensor]()
    for number, batch in enumerate(BATCHES):
        step.zero_grad()
        torch.manual_seed(number)
        output = step(batch.to(device), info(number, logged=True))
        output.losses["loss"].backward()
        gradients = [weight.grad.cpu() for weight in step.parameters() if weight.grad is not None]
        step.after_update(info(number))
        losses.append({name: float(output.losses[name].detach()) for name in PARTS if name in output.losses})
    return losses, gradients


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_steps_of_every_kind_train_there_as_on_the_cpu(name: str) -> None:
    """Host and device are told apart nowhere else without a GPU: an operation that mixes them fails here."""
    wanted, gradients = trained(COMPOSITIONS[name].build(), torch.device("cpu"))
    with made_up_device():
        found, found_gradients = trained(COMPOSITIONS[name].build(), DEVICE)
    for one, other in zip(wanted, found, strict=True):
        assert other == pytest.approx(one, rel=1e-9)
    for one, other in zip(gradients, found_gradients, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-7, atol=1e-12)
