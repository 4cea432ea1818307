"""A CLIP on a CSV of pairs, in a loop to be changed at will: matches among the negatives of a batch are positives.

    python examples/clip_on_csv.py pairs.csv openai/clip-vit-base-patch32 my-clip --ledger runs/mined/ledger

Pairs of one picture or of one caption text are matches, and so are those of the ledger, if one is given. What is left
is an ordinary folder of the model's own library: `CLIPModel.from_pretrained("my-clip")`. The command `truepair train
clip pairs.csv` does the same with resume, figures, ranks and all else.
"""

import argparse
from collections.abc import Iterator

import torch
from accelerate import PartialState
from torch.utils.data import DataLoader

from truepair.data import PairBatch, PairDataset, PairTable, TransformConfig, open_pairs
from truepair.models.open import OpenedModel, open_model
from truepair.objectives import Direction, contrastive_loss
from truepair.relations import Recorded, Relabel, Rule, SameCaption, SameImage, Signals, apply_rules
from truepair.sampling.batches import Visit

AUGMENTATION = TransformConfig(size=0, normalisation="encoder", crop_scale=(0.9, 1.0), flip=0.0, rand_augment_ops=0)


def batches(opened: OpenedModel, table: PairTable, epochs: int, size: int, workers: int) -> Iterator[PairBatch]:
    """The batches of all epochs; a visit says which crop and which caption of a row it is."""
    dataset = PairDataset(table, opened.preprocessing.images(train=True))
    collate, shuffle = opened.preprocessing.collator(), torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        order = torch.randperm(len(dataset), generator=shuffle)
        visits = [[Visit(epoch, int(row)) for row in rows] for rows in order.split(size) if len(rows) == size]
        yield from DataLoader(dataset, batch_sampler=visits, collate_fn=collate, num_workers=workers)


def main() -> None:
    """Train, and save the model with its processor and tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "pairs", help="CSV or TSV with columns of pictures and captions, or anything else of docs/data.md"
    )
    parser.add_argument("model", help="folder or name of a CLIP")
    parser.add_argument("output", help="folder for the trained model")
    parser.add_argument("--ledger", help="folder of verdicts, from `truepair mine` say")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, default=1e-5)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()

    torch.manual_seed(0)
    device = PartialState().device
    opened = open_model(options.model)
    preprocessing = opened.preprocessing.adapted(AUGMENTATION, 0)
    model = opened.model.to(device).train()
    rules = [Rule(SameImage(), Relabel()), Rule(SameCaption(), Relabel())]
    rules += [Rule(Recorded(ledger=options.ledger), Relabel())] if options.ledger else []
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=0.1)

    table = open_pairs(options.pairs).split("train")
    sizes = (options.epochs, options.batch_size, options.workers)
    for step, read in enumerate(batches(OpenedModel(model, preprocessing), table, *sizes)):
        batch = read.to(device)
        images = model.encode_images(batch.pixel_values).features  # [B, E]
        texts = model.encode_texts(batch.input_ids, batch.attention_mask).features  # [B, E]
        signals = Signals(batch.image_id, batch.caption_id, caption_keys=batch.caption_key)
        relations = apply_rules(rules, signals)
        rows = Direction.of_relations(relations, "i2t")  # the rules hold in both directions
        loss = contrastive_loss(images, texts, model.temperature, rows=rows).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.clamp_temperature_()
        print(f"step {step}: loss {loss.item():.4f}, {len(relations.matches())} matches that no pair declares")
    model.save_pretrained(options.output)
    preprocessing.save(options.output)


if __name__ == "__main__":
    main()
