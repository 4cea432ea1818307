"""All kinds of pictures come to the same pixels and refusals whatever decodes JPEGs, and as whole images of Pillow."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tests.data.makers import put, put_jsonl
from tests.data.odd_images import OTHERS, PLAIN, REFUSED
from truepair.data import BadImageError, PairDataset, TransformConfig, build_transform, load_image, open_pairs
from truepair.data import pixels as decoding
from truepair.data.pixels import Part, as_pixels, load_part
from truepair.randomness import isolated_rng

STRANGE = "ignore::PIL.Image.DecompressionBombWarning"


def part(height: int, width: int, *, least: int) -> Part:
    """The middle of an image."""
    return Part(height // 5, width // 4, height - height // 3, width - width // 3, (least, least))


def far(ours: Tensor, theirs: Tensor) -> int:
    """The most by which two images [H, W, 4] differ, of 255."""
    assert ours.shape == theirs.shape
    return int((ours.int() - theirs.int())[..., :3].abs().max())


@pytest.mark.parametrize("kind", [*PLAIN, *OTHERS])
def test_all_kinds_are_read_in_part_as_in_whole(kind: str, decoder: list[int], request: pytest.FixtureRequest) -> None:
    stored = {"bytes": (PLAIN | OTHERS)[kind]}
    image = load_image(stored)
    kept = part(image.height, image.width, least=10_000)
    most = 2 if kind in PLAIN and request.node.callspec.params["decoder"] == "simplejpeg" else 0

    assert far(load_part(stored, partial(part, least=10_000)), kept.of(as_pixels(image))) <= most
    assert len(decoder) == (kind in PLAIN and request.node.fast)


@pytest.mark.parametrize("kind", [*PLAIN, *OTHERS])
def test_a_transform_reads_what_it_reads_by_pillow(
    kind: str, decoder: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = {"bytes": (PLAIN | OTHERS)[kind]}
    for size in (16, 100):
        config = TransformConfig(size=size, normalisation="none", rand_augment_ops=0)
        for train in (True, False):
            transform = build_transform(config, train=train)
            with isolated_rng(size):
                ours = transform.read(stored)
            with monkeypatch.context() as patched, isolated_rng(size):
                patched.setattr(decoding, "_decoder", lambda: decoding._Decoder("Pillow"))
                theirs = transform.read(stored)
            assert float((ours - theirs).abs().max()) * 255 <= 2


@pytest.mark.filterwarnings(STRANGE)
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_is_refused_in_the_same_words(kind: str, decoder: list[int]) -> None:
    stored = {"bytes": REFUSED[kind]}
    with pytest.raises(BadImageError) as expected:
        load_image(stored)
    with pytest.raises(BadImageError) as whole:
        load_part(stored, partial(part, least=10_000))
    with pytest.raises(BadImageError) as seen:
        build_transform(TransformConfig(size=8), train=True).read(stored)
    assert str(expected.value) == str(whole.value) == str(seen.value) and "\n" not in str(seen.value)


@pytest.mark.filterwarnings(STRANGE)
@pytest.mark.parametrize("size", [16, 64])
def test_a_data_set_of_all_kinds_under_wrong_names_leaves_out_what_is_refused(
    size: int, decoder: list[int], tmp_path: Path
) -> None:
    entries = []
    kinds = {**PLAIN, **OTHERS, **REFUSED}
    for number, data in enumerate(kinds.values()):
        put(tmp_path / f"{number}.jpg", data)  # most are no JPEGs
        entries.append({"image": f"{number}.jpg", "caption": str(number)})
    table = open_pairs(put_jsonl(tmp_path / "x.jsonl", entries), identity="id")
    dataset = PairDataset(table, build_transform(TransformConfig(size=size), train=True), substitutes=len(kinds))

    samples = [sample for batch in DataLoader(dataset, batch_size=7, collate_fn=list) for sample in batch]

    left_out = [kind for kind, sample in zip(kinds, samples, strict=True) if sample["substituted"]]
    assert left_out == list(REFUSED)
    assert all(sample["pixel_values"].shape == (3, size, size) for sample in samples)


BROKEN = "raise OSError('no libturbojpeg\\n.so.0')"

INSTALLED = {
    "works": ("def decode_jpeg(*arguments):\n    raise ValueError('never')\n", "simplejpeg 9.9", ""),
    "broken": (BROKEN, "Pillow", ": simplejpeg 9.9 cannot be loaded (no libturbojpeg .so.0)"),
    "not there": (None, "Pillow", ": simplejpeg, which is faster, is not installed"),
}


@pytest.mark.parametrize("kind", INSTALLED)
def test_a_run_says_what_decodes_and_why(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, name, why = INSTALLED[kind]
    if content is None:
        monkeypatch.setattr(decoding, "version", lambda name: (_ for _ in ()).throw(decoding.PackageNotFoundError))
    else:
        metadata = "Metadata-Version: 2.1\nName: simplejpeg\nVersion: 9.9\n"
        put(tmp_path / "simplejpeg-9.9.dist-info" / "METADATA", metadata)
        put(tmp_path / "simplejpeg" / "__init__.py", content)
    monkeypatch.syspath_prepend(tmp_path)
    for module in [name for name in sys.modules if name.partition(".")[0] == "simplejpeg"]:
        monkeypatch.delitem(sys.modules, module)
    find: Any = decoding._decoder
    find.cache_clear()
    try:
        assert decoding.decoder_name().startswith(name) and decoding.decoder_name()[-1].isdigit()
        assert decoding.decoder_line() == f"the decoder of pictures is {decoding.decoder_name()}{why}"
        assert load_part({"bytes": PLAIN["fine"]}, partial(part, least=1)).dtype == torch.uint8
    finally:
        find.cache_clear()
