"""Pairs that are held out of training, by which a learned hardness is rewarded where no MLM is trained."""

from dataclasses import dataclass

import numpy as np

from truepair.data.pairs import PairBatch, PairCollator, PairDataset, PairSample
from truepair.errors import ConfigError
from truepair.methods.encode import BatchEncoder
from truepair.randomness import stable_hash
from truepair.sampling.ranks import Ranks


@dataclass(frozen=True)
class HeldOut:
    """A fixed batch of pairs that the run does not train on, no two of one picture or one caption.

    Attributes:
        encoder: Encodes them with the student.
        batch: This rank's share of them; all ranks have as many.
    """

    encoder: BatchEncoder
    batch: PairBatch

    @classmethod
    def of(
        cls, encoder: BatchEncoder, dataset: PairDataset, collate: PairCollator, *, count: int, seed: int, ranks: Ranks
    ) -> "HeldOut":
        """Choose pairs at random, the same for any number of ranks.

        Args:
            encoder: Of the student, with the states of the images and captions of the data set where they are cached.
            dataset: The pairs that are held out.
            collate: Makes a batch of them.
            count: How many at most, over all ranks.
            seed: Of the run.
            ranks: This process among all.

        Raises:
            ConfigError: There are not two.
        """
        order = np.random.default_rng(stable_hash(seed, "held out")).permutation(len(dataset))
        chosen: list[PairSample] = []
        captions: set[int] = set()
        pictures: set[int] = set()
        for row in order.tolist():
            sample = dataset[row]
            if sample["caption_key"] not in captions and sample["image_id"] not in pictures:
                chosen.append(sample)
                captions.add(sample["caption_key"])
                pictures.add(sample["image_id"])
            if len(chosen) == count:
                break
        share = len(chosen) // ranks.count
        if share * ranks.count < 2:
            raise ConfigError(
                "sampler.hardness.learned without MLM learns from validation pairs, and there are not two for the "
                f"{ranks.count} process(es) without a picture or caption in common; give a larger data.validation_split"
            )
        return cls(encoder, collate(chosen[ranks.rank * share : (ranks.rank + 1) * share]))

    @property
    def count(self) -> int:
        """Pairs of all ranks."""
        return len(self.batch) * Ranks.current().count
