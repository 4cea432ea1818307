"""``truepair convert FILE OUT``."""

from pathlib import Path

from truepair.cli.importing import importing
from truepair.cli.options import CommandParser
from truepair.cli.run_folder import quiet_libraries, say
from truepair.errors import ConfigError

DESCRIPTION = """Writes the model of a checkpoint FILE as a folder OUT that every command takes, with the image size,
normalisation and tokenizer of its program:

  ALBEF, GRIT-VLP, MAFA   before fine-tuning, or fine-tuned for retrieval; a model of truepair
  BLIP                    for retrieval or ITM, or base; BlipForImageTextRetrieval of transformers
  open_clip               what its trainer writes; a model of open_clip

Which of them it is, is told by the names of its weights. Nothing in the file is run. Then:

  truepair evaluate OUT --data dataset_flickr30k.json"""


def run(words: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: a word is missing, or the folder is taken.
    """
    parser = CommandParser("truepair convert", usage="FILE OUT [options]", description=DESCRIPTION)
    parser.add_argument("file", metavar="FILE", nargs="?", help="a .pth, .pt, .bin, .ckpt or .safetensors file")
    parser.add_argument("folder", metavar="OUT", nargs="?", help="a new folder")
    tokenizer = "folder, vocab.txt or hub name (default: one beside FILE, else bert-base-uncased)"
    parser.option("tokenizer", metavar="FOLDER", help=tokenizer)
    size = "side of images in pixels; position embeddings are interpolated (default: that of FILE)"
    parser.option("image-size", metavar="N", type=int, default=0, help=size)
    length = "most tokens of a caption (default: 30; of BLIP 35)"
    parser.option("max-length", metavar="N", type=int, default=0, help=length)
    parser.option("weights", metavar="NAME", help="which weights, where FILE has several, such as model_ema")
    parser.option("heads", metavar="N", type=int, default=0, help="attention heads (default: one for 64 channels)")
    parser.option("architecture", metavar="NAME", help="of open_clip, or its JSON file (default: told by the weights)")
    call = parser.read_or_help(words)
    if call.folder is None:
        raise ConfigError("give the checkpoint and a new folder: truepair convert ALBEF.pth albef")

    with importing():
        from truepair.models.checkpoints.convert import ConvertOptions, convert_checkpoint

    quiet_libraries()
    options = ConvertOptions(
        tokenizer=call.tokenizer,
        image_size=call.image_size,
        max_length=call.max_length,
        weights=call.weights,
        heads=call.heads,
        architecture=call.architecture,
    )
    convert_checkpoint(call.file, Path(call.folder), say, options)
    say(f"written: {call.folder}; measure it: truepair evaluate {call.folder} --data PAIRS")
