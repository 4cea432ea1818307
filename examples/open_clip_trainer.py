"""open_clip's own training program, with a loss that knows matches: pairs of one picture, and those of a ledger.

    python examples/open_clip_trainer.py pairs.csv ViT-B-32 runs/mined/ledger my-clip.pt

Ids travel behind the tokens, through the model, to the loss. More options: those of `python -m open_clip_train.main`.
"""

import logging
import sys
from types import SimpleNamespace

import open_clip
import torch
from open_clip_train.params import parse_args
from open_clip_train.scheduler import cosine_lr
from open_clip_train.train import train_one_epoch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from truepair.data import ImageTransform, PairDataset, open_pairs
from truepair.engine.distributed.gathering import gather
from truepair.objectives import Direction, contrastive_loss, sigmoid_loss
from truepair.relations import Recorded, Relabel, Rule, SameImage, Signals, apply_rules


class MatchLoss(nn.Module):
    """In place of `ClipLoss` or, where the model has a bias, of `SigLipLoss`; of the pairs of all ranks."""

    def __init__(self, ledger: str) -> None:
        super().__init__()
        self.rules = [Rule(SameImage(), Relabel()), Rule(Recorded(ledger=ledger), Relabel())]

    def forward(self, image_features, text_features, logit_scale, ids, logit_bias=None, output_dict=True):  # noqa: D102
        images, texts, (image_ids, caption_ids) = gather(image_features), gather(text_features), gather(ids).T
        rows = Direction.of_relations(apply_rules(self.rules, Signals(image_ids, caption_ids)), "i2t")
        if logit_bias is not None:
            return {"contrastive_loss": sigmoid_loss(images, texts, 1 / logit_scale, logit_bias, rows=rows)}
        return {"contrastive_loss": contrastive_loss(images, texts, 1 / logit_scale, rows=rows).loss}


class WithIds(nn.Module):
    """A model of open_clip that takes ids behind the tokens of each caption [B, L + 2], and returns them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.logit_scale = model, model.logit_scale  # which open_clip's loop keeps in its range

    def forward(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:  # noqa: D102
        return {**self.model(images, texts[:, :-2]), "ids": texts[:, -2:]}


def main() -> None:
    """Train as open_clip does, and write its kind of checkpoint."""
    logging.basicConfig(level=logging.INFO)
    pairs, name, ledger, output, *more = sys.argv[1:]
    args = parse_args(["--precision", "amp_bf16", *more])
    args.device, args.rank, args.world_size = "cuda" if torch.cuda.is_available() else "cpu", 0, 1
    args.distributed = args.distill = args.wandb = False
    model, pixels, _ = open_clip.create_model_and_transforms(name, args.pretrained, output_dict=True)
    tokenize = open_clip.get_tokenizer(name)

    def collate(samples: list[dict]) -> tuple[Tensor, Tensor]:
        ids = torch.tensor([(sample["image_id"], sample["caption_id"]) for sample in samples])
        texts = torch.cat([tokenize([sample["caption"] for sample in samples]), ids], dim=1)
        return torch.stack([sample["pixel_values"] for sample in samples]), texts

    dataset = PairDataset(open_pairs(pairs).split("train").as_pairs(), ImageTransform(pixels))
    loader = DataLoader(dataset, args.batch_size, True, num_workers=args.workers, collate_fn=collate, drop_last=True)
    loader.num_samples, loader.num_batches = len(dataset), len(loader)
    data = {"train": SimpleNamespace(dataloader=loader, set_epoch=lambda epoch: None)}
    model, loss = WithIds(model).to(args.device), MatchLoss(ledger)
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, (args.beta1, args.beta2), args.eps, args.wd)
    schedule = cosine_lr(optimizer, args.lr, args.warmup, args.epochs * len(loader))
    for epoch in range(args.epochs):
        train_one_epoch(model, data, loss, epoch, optimizer, None, schedule, None, args)
    torch.save({"state_dict": model.model.state_dict(), "epoch": args.epochs}, output)


if __name__ == "__main__":
    main()
