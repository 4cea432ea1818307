"""How often a step makes its processor wait for its device: each wait lets a GPU run dry.

Such operations are counted on a CPU, where they cost nothing: numbers read out, and results whose size the data decide.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.methods.compositions import COMPOSITIONS
from tests.methods.steps import info, pairs
from truepair.methods.step import ItcConfig, ItmConfig, MlmConfig, ObjectivesConfig

WAITS = {"_local_scalar_dense", "nonzero", "_unique2", "masked_select", "bincount", "equal", "is_nonzero"}
# Whether an image, and whether a caption, stands twice; and how long the longest caption is, of ALBEF's text encoder.
LOOKED_UP = {"_unique2": 2, "_local_scalar_dense": 1}


class Waits(TorchDispatchMode):
    """Counts operations that a processor must wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note an operation and run it."""
        name = func.__name__.split(".")[0]
        masks = name in ("index", "index_put_") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
        )
        if name in WAITS or masks:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def waits(loss: str, ids: list[int]) -> Counter[str]:
    """Waits of a step of ITC alone with the usual rules, forward and backward."""
    alone = ObjectivesConfig(
        itc=ItcConfig(loss=loss, smoothing=0.1),  # type: ignore[arg-type]
        itm=ItmConfig(weight=0.0),
        mlm=MlmConfig(weight=0.0),
    )
    step, batch = replace(COMPOSITIONS["ITC alone"], objectives=alone).build(), pairs(ids)
    with Waits() as counted:
        step(batch, info()).losses["loss"].backward()
        step.after_update(info())
    return counted.counts


def test_itc_without_matches_waits_for_the_look_up_alone() -> None:
    assert waits("softmax", list(range(8))) == LOOKED_UP


def test_waits_are_seen_where_there_are_matches() -> None:
    found = waits("softmax", [0, 1, 2, 3, 4, 5, 3, 0])
    assert found["_unique2"] == 2 and 5 < found["nonzero"] + found["index"] <= 14, found


def test_a_sigmoid_waits_for_the_check_of_its_labels_too() -> None:
    found = waits("sigmoid", list(range(8)))
    assert found == {"_unique2": 2, "_local_scalar_dense": 2, "index": 2}
