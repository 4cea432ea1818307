"""A small data set with every fault that the doctor looks for, and how often each is in it."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image


def photo(seed: int, side: int = 96) -> Image.Image:
    """A picture of soft shapes, unlike any of another seed."""
    grid = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC)


def write_faulty(folder: Path) -> tuple[Path, dict[str, int]]:
    """Write the data set.

    Returns:
        Its list, and what the doctor has to count.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []

    def pair(name: str, *captions: str, split: str = "train", **more: object) -> None:
        rows.append({"image": name, "captions": list(captions), "split": split, **more})

    for number in range(6):
        photo(number).save(folder / f"good{number}.png")
        pair(f"good{number}.png", f"a good picture of the number {number}", f"here is number {number}", license="CC0")
    # One picture in three files, one of them in another split; one in two splits.
    for copy in ("copy1.png", "copy2.png"):
        (folder / copy).write_bytes((folder / "good0.png").read_bytes())
    pair("copy1.png", "a copy of the first picture")
    pair("copy2.png", "another copy of the first picture", split="test")
    pair("good1.png", "the second picture again, in the test split", split="test")
    # Nearly the same: half the size, as JPEG.
    photo(2).resize((48, 48)).save(folder / "near.jpg", quality=80)
    pair("near.jpg", "the third picture, saved anew", split="val")
    # Not there, not readable.
    pair("gone1.png", "a lost picture")
    pair("gone2.png", "another lost picture", split="val")
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("no picture")
    whole = io.BytesIO()
    photo(20).save(whole, "JPEG")
    (folder / "broken.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    for name in ("empty.png", "text.png", "broken.jpg"):
        pair(name, f"a picture in {name.split('.')[0]} form")
    # Read in other ways.
    photo(21).convert("CMYK").save(folder / "print.jpg")
    Image.fromarray(np.asarray(photo(22).convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    photo(23).save(folder / "moving.gif", save_all=True, append_images=[photo(24)])
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(25).resize((90, 60)).save(folder / "turned.jpg", exif=exif)
    Image.new("RGB", (64, 64), "teal").save(folder / "blank.png")
    photo(26).resize((24, 24)).save(folder / "tiny.png")
    photo(27).resize((200, 40)).save(folder / "long.png")
    for number, name in enumerate(
        ["print.jpg", "deep.png", "moving.gif", "turned.jpg", "blank.png", "tiny.png", "long.png"]
    ):
        pair(name, f"an odd picture, kind {'abcdefg'[number]}")
    # Captions.
    photo(30).save(folder / "say0.png")
    photo(31).save(folder / "say1.png")
    pair(
        "say0.png", "IMG_1234", "untitled", "a cafÃ© in the sun", "a bell\x07 rings", "Two dogs play.", "two dogs play"
    )
    pair("say1.png", "Two Dogs play!", "кошка на окне", "🐶🐶", "photo.jpg", "")
    long = (
        "a man in a red coat walks with his old dog along the shore of the wide and quiet lake in the evening of a day"
    )
    pair("good3.png", f"{long} of winter", f"{long} of summer")
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    captions = sum(len(list(row["captions"])) for row in rows) - 1  # type: ignore[call-overload]
    return path, {
        "rows": len(rows),
        "pictures": 6 + 1 + 2 + 3 + 7 + 2,
        "captions": captions,
        "left_out": 1,
        "same_picture_groups": 1,
        "near_picture_groups": 1,
        "near_leaks": 1,
        "same_caption_groups": 1,
        "leaks": 2,
        "missing": 2,
        "unreadable": 3,
        "cmyk": 1,
        "sixteen_bit": 1,
        "animated": 1,
        "rotated": 1,
        "blank": 1,
        "tiny": 1,
        "elongated": 1,
        "captions_generic": 3,
        "captions_mojibake": 1,
        "captions_control": 1,
        "captions_repeated": 3,
        "captions_repeated_within": 1,
        "captions_other_script": 2,
        "captions_cut": 2,
        "captions_equal_after_cutting": 2,
        "captions_equal_without_cutting": 0,
        "contradicting_ids": 0,
    }
