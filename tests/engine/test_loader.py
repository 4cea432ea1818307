import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from truepair.data.pairs import SubstitutionLog, TensorBatch
from truepair.engine.loop.loader import GroupReader
from truepair.sampling.batches import Visit, Visits


@dataclass(frozen=True)
class Batch(TensorBatch):
    index: Tensor  # [B]
    source_index: Tensor  # [B]
    pixels: Tensor  # [B, 64, 64]
    nothing: Tensor  # [0, 3]
    process: int
    reasons: list[str]


class Numbers:
    """Samples that are numbers."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, visit: Visit) -> int:
        return 100 * visit.epoch + visit.index


def collate(samples: Sequence[int]) -> Batch:
    numbers = torch.tensor(samples)
    pixels = numbers[:, None, None].float().expand(-1, 64, 64).contiguous()
    return Batch(numbers % 100, numbers % 100, pixels, torch.empty(0, 3), os.getpid(), [""] * len(samples))


def visits(epoch: int) -> Visits:
    return ([Visit(epoch, index) for index in rows] for rows in (range(8), range(8, 12), range(4)))


def read(reader: GroupReader, epoch: int) -> list[list[Batch]]:
    return [group for group, _ in reader.groups(visits(epoch), 3, 2)]  # type: ignore[misc]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_epoch_comes_in_groups_whoever_reads_it(workers: int) -> None:
    with closing(
        GroupReader(Numbers(), collate, workers=workers, pin_memory=False, substitutions=SubstitutionLog())
    ) as reader:
        epochs = [read(reader, epoch) for epoch in range(3)]
    for epoch, groups in enumerate(epochs):
        assert [len(group) for group in groups] == [2, 1]
        for batch, rows in zip([*groups[0], *groups[1]], [range(8), range(8, 12), range(4)], strict=True):
            assert batch.index.tolist() == list(rows)
            assert batch.pixels[:, 5, 5].tolist() == [100 * epoch + row for row in rows]
            assert batch.nothing.shape == (0, 3)
    processes = [{batch.process for group in groups for batch in group} for groups in epochs]
    assert processes[0] == processes[1] == processes[2]
    assert len(processes[0] - {os.getpid()}) == workers


@pytest.mark.parametrize("workers", [0, 1])
def test_epochs_that_are_known_are_read_ahead(workers: int) -> None:
    asked = []

    def known() -> Visits:
        for epoch in range(3):
            asked.append(epoch)
            yield from visits(epoch)

    with closing(
        GroupReader(Numbers(), collate, workers=workers, pin_memory=False, substitutions=SubstitutionLog())
    ) as reader:
        for epoch in range(3):
            for place, (group, _) in enumerate(reader.groups(known() if epoch == 0 else iter([]), 3, 2)):
                assert len(group) == 2 - place
                assert group[0].pixels.min() == 100 * epoch  # type: ignore[attr-defined]
                # A worker has two batches to read beyond those that are waited for.
                assert len(asked) == min(3, epoch + 1 + workers)
        (((first, *_), _),) = reader.groups(visits(7), 3, 3)
        assert first.pixels.max() == 707  # type: ignore[attr-defined]


def test_processes_end_with_the_reader() -> None:
    reader = GroupReader(Numbers(), collate, workers=1, pin_memory=False, substitutions=SubstitutionLog())
    groups = reader.groups(visits(0), 3, 1)
    ((batch,), _) = next(groups)
    reader.close()
    with pytest.raises(ProcessLookupError):
        os.kill(batch.process, 0)  # type: ignore[attr-defined]
