"""A trained model on its way to the hub: its own files and nothing else of the run."""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from truepair.errors import CheckpointError, ConfigError

# Weights, configs, tokenizers, image processors, card and licence, as transformers, open_clip, peft and truepair name
# them. What has another name stays here: states of optimizers, logs, ledgers, notes.
_OF_A_MODEL = (
    "README.md", "LICENSE*", "NOTICE*", "config.json", "generation_config.json", "preprocessor_config.json",
    "processor_config.json", "video_preprocessor_config.json", "preprocessing.json", "*.safetensors",
    "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model.bin.index.json", "open_clip_*",
    "adapter_config.json", "adapter_model.bin", "tokenizer*", "special_tokens_map.json", "added_tokens.json",
    "vocab.*", "merges.txt",
    "sentencepiece.bpe.model", "spiece.model", "chat_template.jinja", "image.onnx*", "text.onnx*",
)  # fmt: skip

_CHECKPOINT_FILES = ("optimizer.pt", "manifest.json", "state.json")


@dataclass(frozen=True)
class Upload:
    """One file.

    Attributes:
        path: here.
        size: in bytes.
    """

    path: Path
    size: int


def uploads(folder: Path, say: Callable[[str], None]) -> list[Upload]:
    """The files of a model, by name; what else lies in its folder is named and stays.

    Args:
        folder: the model's.
        say: prints a line.

    Raises:
        CheckpointError: there is no model, or the folder is a checkpoint of a run.
    """
    if any((folder / name).is_file() for name in _CHECKPOINT_FILES):
        raise CheckpointError(f"{folder} is a checkpoint with the state of its optimizer; give the run, or its 'model'")
    there = sorted(path for path in folder.iterdir()) if folder.is_dir() else []
    chosen = [path for path in there if path.is_file() and any(fnmatch(path.name, name) for name in _OF_A_MODEL)]
    if not any(path.suffix in (".safetensors", ".bin") for path in chosen):
        raise CheckpointError(f"there are no weights in {folder}; give a run that has come to its end, or its 'model'")
    left = [path.name for path in there if path not in chosen]
    if left:
        say(f"stays here, since it is no file of a model: {', '.join(left)}")
    return [Upload(path, path.stat().st_size) for path in chosen]


def require_name(name: str) -> None:
    """Check a name on the hub before anything is done.

    Raises:
        ConfigError: the hub does not allow it.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(f"'{name}' is no name on the hub: {' '.join(str(error).split())}") from None
    if name.count("/") != 1:
        raise ConfigError(f"'{name}' has no owner; give owner/name")


def push(files: list[Upload], name: str, *, private: bool = False, update: bool = False) -> str:
    """Upload files as one commit.

    Args:
        files: from :func:`uploads`.
        name: owner/name on the hub.
        private: only the owner may see it.
        update: replace files of a model that is there already.

    Returns:
        Where it is.

    Raises:
        ConfigError: no token, a name that is taken, no permission, or no hub in reach.
    """
    if get_token() is None:
        raise ConfigError("there is no token for the hub; run 'hf auth login', or set HF_TOKEN")
    api = HfApi()
    operations = [CommitOperationAdd(file.path.name, file.path) for file in files]
    try:
        api.create_repo(name, private=private, exist_ok=update)
        api.create_commit(name, operations, commit_message="Upload a model trained with truepair")
    except HfHubHTTPError as error:
        status = None if error.response is None else error.response.status_code
        reason = {
            401: "the hub does not accept the token; run 'hf auth login' again, or set HF_TOKEN to another",
            403: f"the token may not write to {name}; make one with write access, or give another name",
            409: f"{name} is there already; give another name, or --update to replace its files",
        }.get(status or 0, f"the hub refuses ({' '.join(str(error).split())[:200]})")
        raise ConfigError(reason) from None
    except Exception as error:  # of httpx or the system: the library passes on what it meets
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(
            f"{constants.ENDPOINT} cannot be reached ({reason}); check the network and run the command again"
        ) from error
    return f"{constants.ENDPOINT}/{name}"
