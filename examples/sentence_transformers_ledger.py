"""A CLIP in the trainer of sentence-transformers, with the matches of a ledger as further positives.

    python examples/sentence_transformers_ledger.py pairs.csv openai/clip-vit-base-patch32 runs/mined/ledger my-clip

The losses of that library take every other pair of a batch for a negative. This one is called like them; the column
`label`, which they would read as a score, holds the ids of a pair. Needs sentence-transformers 6 or later.
"""

import sys
from collections.abc import Iterable

import torch.nn.functional as F
from datasets import Dataset, Features, Image, List, Value
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from torch import Tensor, nn

from truepair.data import open_pairs
from truepair.objectives import Direction, contrastive_loss
from truepair.relations import Recorded, Relabel, Rule, SameImage, Signals, apply_rules


class MatchLoss(nn.Module):
    """Symmetric contrastive loss, in place of `MultipleNegativesRankingLoss`.

    Args:
        model: Embeds pictures and captions.
        ledger: Folder of verdicts; those of at least a half are matches.
        scale: What cosines are multiplied by, as in the losses of sentence-transformers.
    """

    def __init__(self, model: SentenceTransformer, ledger: str, scale: float = 20.0) -> None:
        super().__init__()
        self.model, self.scale = model, scale
        self.rules = [Rule(SameImage(), Relabel()), Rule(Recorded(ledger=ledger), Relabel())]
        self.found = 0

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """The loss of pictures and captions, with the image and the caption id of each pair [B, 2]."""
        images, texts = (F.normalize(self.model(column)["sentence_embedding"]) for column in sentence_features)
        relations = apply_rules(self.rules, Signals(*labels.T))
        self.found += len(relations.matches())
        return contrastive_loss(images, texts, 1 / self.scale, rows=Direction.of_relations(relations, "i2t")).loss


def training_pairs(source: str) -> Dataset:
    """Pictures, captions and ids of the training split; pictures are read when they are needed."""
    rows = open_pairs(source).split("train").as_pairs().rows
    columns = {
        "image": [image["path"] for image in rows["image"]],
        "caption": [captions[0] for captions in rows["captions"]],
        "label": [[image, captions[0]] for image, captions in zip(rows["image_id"], rows["caption_ids"], strict=True)],
    }
    kinds = {"image": Image(), "caption": Value("string"), "label": List(Value("int64"))}
    return Dataset.from_dict(columns, features=Features(kinds))


def main() -> None:
    """Train, and save the model as sentence-transformers does."""
    pairs, name, ledger, output = sys.argv[1:5]
    epochs, batch_size, learning_rate = (*map(float, sys.argv[5:]), 5, 64, 1e-5)[:3]
    model = SentenceTransformer(name)
    loss = MatchLoss(model, ledger)
    arguments = SentenceTransformerTrainingArguments(
        output,
        num_train_epochs=epochs,
        per_device_train_batch_size=int(batch_size),
        learning_rate=learning_rate,
        dataloader_drop_last=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    )
    SentenceTransformerTrainer(model, arguments, train_dataset=training_pairs(pairs), loss=loss).train()
    print(f"{loss.found} matches that no pair declares")
    model.save_pretrained(output)


if __name__ == "__main__":
    main()
