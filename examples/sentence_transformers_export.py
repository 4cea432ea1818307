"""A CLIP in the trainer of sentence-transformers, on exported verdicts: no known match is a negative.

    truepair export runs/mined training --format sentence-transformers --negatives 1
    python examples/sentence_transformers_export.py training openai/clip-vit-base-patch32 my-clip

Everything is that library's own: its loss takes every other row of a batch for a negative, and its sampler keeps rows
apart that have a value in common. It is given the ids of `groups.parquet` to compare: two rows share one exactly if
they must not meet. Needs sentence-transformers 6 or later, and nothing of truepair.
"""

import sys
from collections.abc import Sized
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.sampler import NoDuplicatesBatchSampler
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss


class Groups:
    """What the sampler compares in place of pictures and captions; called by the trainer, it makes the sampler.

    Args:
        file: Ids of each row of the training set, in its order.
    """

    column_names = ()

    def __init__(self, file: str) -> None:
        self.groups = pq.read_table(file)["group"].to_pylist()

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, row: int) -> dict[int, int]:
        """The values of a row."""
        return dict(enumerate(self.groups[row]))

    def __call__(self, dataset: Sized, **settings: Any) -> NoDuplicatesBatchSampler:
        """A sampler for the whole training set."""
        if len(dataset) != len(self):
            raise ValueError(f"{len(self)} rows have groups, and {len(dataset)} are trained on: keep them in one order")
        return NoDuplicatesBatchSampler(self, **settings)


def main() -> None:
    """Train, and save the model as sentence-transformers does."""
    folder, name, output = sys.argv[1:4]
    epochs, batch_size, learning_rate = (*map(float, sys.argv[4:]), 5, 64, 1e-5)[:3]
    model = SentenceTransformer(name)
    arguments = SentenceTransformerTrainingArguments(
        output,
        num_train_epochs=epochs,
        per_device_train_batch_size=int(batch_size),
        learning_rate=learning_rate,
        batch_sampler=Groups(f"{folder}/groups.parquet"),
        dataloader_drop_last=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    )
    data = Dataset.from_parquet(f"{folder}/train.parquet")
    loss = MultipleNegativesRankingLoss(model)
    SentenceTransformerTrainer(model, arguments, train_dataset=data, loss=loss).train()
    model.save_pretrained(output)


if __name__ == "__main__":
    main()
