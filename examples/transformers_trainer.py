r"""A CLIP or a SigLIP in the Trainer of transformers, whose loss knows matches: rules, and a ledger if there is one.

    python examples/transformers_trainer.py --pairs pairs.csv --model google/siglip-base-patch16-224 \
        --ledger runs/mined/ledger --output_dir my-siglip --learning_rate 1e-5 --per_device_train_batch_size 64

The collator passes the ids on, and `compute_loss` keeps them from the model. Pairs of one picture are matches; pairs of
one caption text are left out. On several ranks each contrasts its own. More options: `TrainingArguments`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, HfArgumentParser, Trainer, TrainingArguments

from truepair.data import ImageTransform, PairDataset, open_pairs
from truepair.objectives import Direction, contrastive_loss, sigmoid_loss
from truepair.relations import Mask, Recorded, Relabel, Rule, SameCaption, SameImage, Signals, apply_rules


@dataclass
class Options:
    """What is trained on what."""

    pairs: str
    model: str
    ledger: str | None = None


IDS = {"image_ids": "image_id", "caption_ids": "caption_id", "caption_keys": "caption_key"}


class MatchTrainer(Trainer):
    """The sigmoid loss where the model has a bias, else the softmax; by rules."""

    rules: list[Rule]

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any) -> Any:
        """The loss of a batch."""
        signals = Signals(**{name: inputs.pop(name) for name in IDS})
        outputs, bare = model(**inputs), self.accelerator.unwrap_model(model)
        rows = Direction.of_relations(apply_rules(self.rules, signals), "i2t")
        images, texts, temperature = outputs.image_embeds, outputs.text_embeds, 1 / bare.logit_scale.exp().squeeze()
        if hasattr(bare, "logit_bias"):
            loss = sigmoid_loss(images, texts, temperature, bare.logit_bias.squeeze(), rows=rows)
        else:
            loss = contrastive_loss(images, texts, temperature, rows=rows).loss
        return (loss, outputs) if return_outputs else loss


def collate(samples: list[dict[str, Any]], tokenizer: Any, padding: str | bool) -> dict[str, Tensor]:
    """What the model reads of some pairs, and their ids."""
    captions = [sample["caption"] for sample in samples]
    tokens = tokenizer(captions, padding=padding, truncation=True, return_tensors="pt")
    ids = {name: torch.tensor([sample[field] for sample in samples]) for name, field in IDS.items()}
    return {"pixel_values": torch.stack([sample["pixel_values"] for sample in samples]), **tokens, **ids}


def main() -> None:
    """Train, and save the model with its processor and tokenizer."""
    options, arguments = HfArgumentParser((Options, TrainingArguments)).parse_args_into_dataclasses()
    arguments.remove_unused_columns = False  # the ids are for the loss
    model = AutoModel.from_pretrained(options.model)
    processor, tokenizer = (kind.from_pretrained(options.model) for kind in (AutoImageProcessor, AutoTokenizer))
    pixels = ImageTransform(lambda image: processor(image, return_tensors="pt")["pixel_values"][0])
    padding = "max_length" if model.config.model_type.startswith("siglip") else True  # as they were trained
    dataset = PairDataset(open_pairs(options.pairs).split("train").as_pairs(), pixels)
    read = partial(collate, tokenizer=tokenizer, padding=padding)
    trainer = MatchTrainer(model, arguments, read, dataset, processing_class=processor)
    trainer.rules = [Rule(SameImage(), Relabel()), Rule(SameCaption(), Mask())]
    trainer.rules += [Rule(Recorded(ledger=options.ledger), Relabel())] if options.ledger else []
    trainer.train()
    trainer.save_model()
    tokenizer.save_pretrained(arguments.output_dir)


if __name__ == "__main__":
    main()
