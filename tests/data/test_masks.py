"""Masks by what their pixels hold, what these values mean, and which image they belong to."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hierax.data.labelled import mask_meaning, read_pair
from hierax.data.mask_classes import class_table, classes_of, read_classes, with_unlabelled
from hierax.data.masks import TRANSPARENT, mask_size, read_mask, write_mask
from hierax.data.pairs import find_pairs, split_pairs
from hierax.errors import InputError

VALUES = np.array([[0, 1, 2], [3, 3, 255]], np.uint8)
COLORS = {0: (0, 0, 0), 1: (200, 0, 0), 2: (0, 200, 0), 3: (0, 0, 200), 255: (255, 255, 255)}


def palette_png(path, values=VALUES, colors=COLORS):
    write_mask(values, colors, path)
    return path


def test_numbers__palette_grey_and_alpha(tmp_path):
    """A palette must not be turned into colours, nor a clear pixel be a class."""
    assert (read_mask(palette_png(tmp_path / "p.png")).values == VALUES).all()
    Image.fromarray(VALUES).save(tmp_path / "l.png")
    assert (read_mask(tmp_path / "l.png").values == VALUES).all()
    grey = np.stack([VALUES, np.where(VALUES == 3, 0, 9).astype(np.uint8)], -1)
    Image.fromarray(grey, "LA").save(tmp_path / "la.png")
    assert (read_mask(tmp_path / "la.png").values == np.where(VALUES == 3, TRANSPARENT, VALUES)).all()
    Image.fromarray(VALUES > 1).save(tmp_path / "one.png")
    assert (read_mask(tmp_path / "one.png").values == (VALUES > 1)).all()
    assert mask_size(tmp_path / "one.png") == (2, 3)


def test_numbers__few_bits(tmp_path):
    """Pillow stretches levels of 2 and 4 bits: class 1 would be 85 or 17."""
    import struct
    import zlib

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    for depth, row in ((2, b"\x1b"), (4, b"\x01\x23")):
        head = struct.pack(">IIBBBBB", 4, 1, depth, 0, 0, 0, 0)
        parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
        (tmp_path / "m.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
        assert read_mask(tmp_path / "m.png").values.tolist() == [[0, 1, 2, 3]]


def test_classes__by_colour(tmp_path):
    """RGB masks and palettes mean the same where colours are what is named."""
    (tmp_path / "classes.csv").write_text(
        "color,name\n#c80000,car\n#00c800,tree\n#0000c8,sky\n#ffffff,unlabelled\n#000000,road\n"
    )
    meaning = read_classes(tmp_path / "classes.csv")
    palette = palette_png(tmp_path / "p.png")
    Image.open(palette).convert("RGB").save(tmp_path / "rgb.png")
    wanted = [[3, 0, 1], [2, 2, -1]]
    assert meaning.names == ["car", "tree", "sky", "road"]
    for name in ("p.png", "rgb.png"):
        assert meaning.decode(read_mask(tmp_path / name), name).tolist() == wanted


def test_classes__unknown_value(tmp_path):
    """A value that nobody named must not become a class, or nothing, in silence."""
    (tmp_path / "classes.csv").write_text("index,name\n0,a\n1,b\n")
    meaning = read_classes(tmp_path / "classes.csv")
    with pytest.raises(InputError, match=r"holds 2 in 1 pixels, the first at row 0, column 2.*0, 1, 255"):
        meaning.decode(read_mask(palette_png(tmp_path / "p.png")), "p.png")
    stated = with_unlabelled(with_unlabelled(meaning, 2), "3")
    assert stated.decode(read_mask(tmp_path / "p.png"), "p").tolist() == [[0, 1, -1], [-1, -1, -1]]


def test_classes__of_masks_alone(tmp_path):
    """Without a table each value is a class, with its palette's colour; palettes that contradict are refused."""
    one = read_mask(palette_png(tmp_path / "a.png"))
    found = classes_of([("a", one)])
    assert found.names == ["class_0", "class_1", "class_2", "class_3"]
    assert [each.color for each in found.known] == [COLORS[n] for n in range(4)]
    other = read_mask(palette_png(tmp_path / "b.png", colors={**COLORS, 1: (9, 9, 9)}))
    with pytest.raises(InputError, match="1 is #c80000 in a and #090909 in b"):
        classes_of([("a", one), ("b", other)])
    with pytest.raises(InputError, match="numbers or colours"):
        classes_of([("a", one), ("b", other.as_colors())])
    with pytest.raises(InputError, match="of the other kind"):
        classes_of([("a", one)], "#ffffff")


def test_classes__table_is_read_again(tmp_path):
    """What stands beside written masks must mean the same when they are labels."""
    found = classes_of([("a", read_mask(palette_png(tmp_path / "a.png")))])
    (tmp_path / "classes.csv").write_text(class_table(found.known))
    again = read_classes(tmp_path / "classes.csv")
    assert again.known == found.known
    mask = read_mask(tmp_path / "a.png")
    assert (again.decode(mask, "a") == found.decode(mask, "a")).all()


@pytest.mark.parametrize(
    "text", ["", "name\nx\n", "index,name\n300,a\n", "index,name\nx,a\n", "index,name\n1,\n", "index,name\n1,a\n1,b\n",
             "color,name\nred,a\n", "index,name\n1,a\n2,a\n", "index,name\n255,unlabelled\n", '"'],
)  # fmt: skip
def test_classes__refused(text, tmp_path):
    """Half a table would leave classes out without a word."""
    (tmp_path / "classes.csv").write_text(text)
    with pytest.raises(InputError, match="class"):
        read_classes(tmp_path / "classes.csv")


def place(folder, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(folder / name)


def test_pairs__two_folders(tmp_path):
    """Names below the folders pair, whatever they end with; what is alone is named."""
    place(
        tmp_path,
        "images/a.jpg",
        "images/x/b.png",
        "images/lone.jpg",
        "masks/a_mask.png",
        "masks/x/b.png",
        "masks/c.png",
    )
    found = find_pairs(tmp_path)
    assert [(p.name, p.mask.name) for p in found.pairs] == [("a", "a_mask.png"), ("x/b", "b.png")]
    assert [reason for _, reason in found.problems()] == ["an image without a mask", "a mask without an image"]
    assert split_pairs(found) == {}


def test_pairs__one_folder(tmp_path):
    """A PNG beside a JPEG of its name is a mask; beside another PNG it needs a mark."""
    place(tmp_path, "a.jpg", "a.png", "b.png", "b_mask.png", "c.png", "d.jpg", "d.labels.png")
    found = find_pairs(tmp_path)
    assert [(p.name, p.image.name, p.mask.name) for p in found.pairs] == [
        ("a", "a.jpg", "a.png"), ("b", "b.png", "b_mask.png"), ("d", "d.jpg", "d.labels.png"),
    ]  # fmt: skip
    assert [path.name for path in found.without_mask] == ["c.png"]


def test_pairs__splits(tmp_path):
    """Folders of splits in both are the sides; the order of files is not."""
    place(tmp_path, "images/train/a.jpg", "images/val/b.jpg", "annotations/train/a.png", "annotations/val/b.png")
    splits = split_pairs(find_pairs(tmp_path))
    assert {name: [pair.name for pair in pairs] for name, pairs in splits.items()} == {
        "training": ["train/a"], "validation": ["val/b"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (("images/a.jpg",), "none of masks"),
        (("images/a.jpg", "masks/b.png"), "no two belong together"),
        (("images/a.jpg", "images/a.png", "masks/a.png"), "both the image"),
        (("images/a.jpg", "masks/a.png", "masks/a_mask.png"), "both the mask"),
        (("images/a.jpg", "masks/a.png", "labels/a.png"), "two folders of one kind"),
        (("readme.png",), "no two belong together"),
    ],
)
def test_pairs__refused(names, match, tmp_path):
    """Which mask is meant must not be guessed."""
    place(tmp_path, *names)
    with pytest.raises(InputError, match=match):
        find_pairs(tmp_path)


def test_pair__turned_image(tmp_path):
    """A mask drawn on pixels that a viewer shows turned would be learned from sideways."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "images" / "a.jpg", exif=exif)
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "masks" / "a.png")
    pairs = find_pairs(tmp_path)
    with pytest.raises(InputError, match="turned by its orientation tag"):
        read_pair(pairs.pairs[0], mask_meaning(pairs, None, None))
