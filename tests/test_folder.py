"""A user's own images: how a folder is read, and that every mistake in it is named in one line."""

from __future__ import annotations

import csv
import os
import pickle
import re
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cfbench_datasets.folder import decode, image_folder, parents_table
from cfbench_datasets.folder.dataset import Folder
from cfbench_datasets.folder.graph_file import read_declaration
from cfbench_datasets.folder.image_folder import split_of
from cfbench_datasets.folder.parents_table import read_rows
from PIL import Image

from cfbench.cli.main import _main
from cfbench.conformance import checks, subject
from cfbench.contract import Derived, Fit, Method
from cfbench.errors import UserError
from cfbench.evaluation.plan import Plan
from cfbench.judges import JudgeBudget, train_judges
from cfbench.plugins.registry import Registry
from cfbench.rng import Streams

SIDES = (16, 20)
GRAPH = """
ignore = ["note"]

[variables.kind]
kind = "categorical"
classes = ["cat", "dog"]

[variables.shade]
kind = "continuous"
unit = "grey levels"
parents = ["kind"]
"""


def names(count: int) -> list[str]:
    return [f"img/{k:03d}.png" for k in range(count)]


def pixels(k: int, kind: str, colour: bool = False) -> np.ndarray:
    """A dark square for cats and a bright one for dogs, no two of the same grey levels."""
    x = np.full((*SIDES, 3), 60 + k % 7 * 20 + 40 * (kind == "dog"), dtype=np.uint8)
    x[4:-4, 4:-4] = k // 7 if kind == "cat" else 255 - k // 7
    x[..., 1] //= 2 if colour else 1
    return x if colour else x[..., 0]


def table(count: int) -> list[dict[str, str]]:
    rows = []
    for k, name in enumerate(names(count)):
        kind = ("cat", "dog")[k * 7 // 3 % 2]
        rows.append({"image": name, "kind": kind, "shade": str(pixels(k, kind).mean()), "note": "x, y"})
    return rows


def write_table(folder: Path, rows: list[dict[str, str]], name: str = "parents.csv") -> None:
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def make(root: Path, count: int = 160, colour: bool = False, graph: str = GRAPH) -> Path:
    folder = root / "pets"
    (folder / "img").mkdir(parents=True)
    (folder / "graph.toml").write_text(graph)
    rows = table(count)
    for k, row in enumerate(rows):
        Image.fromarray(pixels(k, row["kind"], colour)).save(folder / row["image"])
    write_table(folder, rows)
    return folder


@pytest.fixture
def pets(tmp_path) -> Path:
    return make(tmp_path)


def opened(root: Path, path: str = "pets") -> Folder:
    data = Folder(path)
    data.open(root)
    return data


def complaint(folder: Path, path: str = "pets") -> str:
    """The one line that a folder is refused with."""
    with pytest.raises(UserError) as error:
        Folder(path).open(folder.parent)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_what_is_read_is_what_was_written(pets):
    data = opened(pets.parent)
    assert data.graph.shape == (1, *SIDES)
    kind, shade = data.graph.variables
    assert (kind.name, kind.kind, kind.size, kind.parents, kind.truth) == ("kind", "categorical", 2, (), "none")
    assert (shade.name, shade.kind, shade.unit, shade.parents) == ("shade", "continuous", "grey levels", ("kind",))
    rows = table(160)
    shades = np.array([float(r["shade"]) for r in rows], dtype=np.float32)
    assert (shade.low, shade.high) == (shades.min(), shades.max())
    seen = []
    for part in ("train", "valid", "test"):
        split = data.split(pets.parent, part)
        assert split.images.dtype == torch.uint8
        assert split.parents.dtype == torch.float32
        for image, parents, index in zip(split.images, split.parents, split.index.tolist(), strict=True):
            row = rows[index]
            assert split_of(row["image"]) == part
            assert np.array_equal(image[0].numpy(), pixels(index, row["kind"]))
            assert parents.tolist() == [float(row["kind"] == "dog"), shades[index]]
            seen.append(index)
    assert sorted(seen) == list(range(160))


def test_the_parents_mechanisms_are_left_to_the_harness_where_there_are_edges(pets):
    data = opened(pets.parent)
    pa = data.split(pets.parent, "test").parents
    assert data.act(pa, {"kind": 1 - pa[:, 0]}, torch.Generator()) is None
    (pets / "graph.toml").write_text(GRAPH.replace('parents = ["kind"]', ""))
    new = opened(pets.parent).act(pa, {"kind": 1 - pa[:, 0]}, torch.Generator())
    assert new is not None
    assert torch.equal(new[:, 1], pa[:, 1])
    assert data.oracle(pets.parent, "test", torch.arange(3), pa[:3]) is None


def test_splits_follow_from_names_and_stay_when_images_are_added(pets):
    before = {name: split_of(name) for name in names(160)}
    share = {part: sum(p == part for p in map(split_of, names(20_000))) / 20_000 for part in ("train", "valid", "test")}
    assert share == pytest.approx({"train": 0.8, "valid": 0.1, "test": 0.1}, abs=0.01)
    rows = table(200)
    for k, row in enumerate(rows):
        Image.fromarray(pixels(k, row["kind"])).save(pets / row["image"])
    write_table(pets, rows[::-1])
    data = opened(pets.parent)
    for part in ("train", "valid", "test"):
        here = [names(200)[i] for i in data.split(pets.parent, part).index.tolist()]
        assert [n for n in here if n in before] == [n for n in names(160) if before[n] == part]


def test_splits_are_these_on_every_machine():
    assert [split_of(f"{k}.png") for k in (0, 5, 9, 23, 32, 59)] == ["train", "test", "valid", "test", "valid", "test"]


def test_the_order_of_rows_does_not_matter(pets):
    first = opened(pets.parent).split(pets.parent, "train")
    write_table(pets, table(160)[::-1])
    again = opened(pets.parent).split(pets.parent, "train")
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.parents, again.parents)
    assert torch.equal(first.index, again.index)


def test_a_column_split_overrides_the_names(pets):
    rows = [r | {"split": ("train", "train", "valid", "test")[k % 4]} for k, r in enumerate(table(160))]
    write_table(pets, rows)
    data = opened(pets.parent)
    assert data.split(pets.parent, "valid").index.tolist() == list(range(2, 160, 4))
    assert data.split(pets.parent, "test").index.tolist() == list(range(3, 160, 4))


def test_the_fingerprint_changes_with_every_file_and_with_nothing_else(pets):
    first = opened(pets.parent).fingerprint(pets.parent)
    (pets / "img" / "unused.png").write_bytes(b"not asked for")
    assert opened(pets.parent).fingerprint(pets.parent) == first
    for change in (
        lambda: (pets / "graph.toml").write_text(GRAPH + "# a comment\n"),
        lambda: write_table(pets, [r | {"note": ""} for r in table(160)]),
        lambda: Image.fromarray(pixels(1, "cat")).save(pets / names(160)[0]),
    ):
        change()
        now = opened(pets.parent).fingerprint(pets.parent)
        assert now != first
        first = now


def test_a_data_set_keeps_what_it_read_when_files_change(pets):
    data = opened(pets.parent)
    first = data.fingerprint(pets.parent), data.split(pets.parent, "train").images.clone()
    for k, name in enumerate(names(160)):
        Image.fromarray(np.full(SIDES, k, dtype=np.uint8)).save(pets / name)
    assert data.fingerprint(pets.parent) == first[0]
    assert torch.equal(data.split(pets.parent, "train").images, first[1])
    again = opened(pets.parent).split(pets.parent, "train")
    assert torch.equal(again.images.amax((1, 2, 3)), again.index.byte())


def test_images_are_decoded_once_a_process(pets, monkeypatch):
    opened(pets.parent)
    monkeypatch.setattr(image_folder, "read_images", lambda *args: pytest.fail("decoded again"))
    opened(pets.parent).split(pets.parent, "train")


def test_images_that_are_slow_to_decode_are_kept_and_read_back(pets, monkeypatch):
    monkeypatch.setattr(image_folder, "SLOW", 0.0)
    first = opened(pets.parent).split(pets.parent, "train").images
    (kept,) = (pets.parent / "folder-cache").iterdir()
    monkeypatch.setattr(image_folder, "_OPENED", {})
    with monkeypatch.context() as patch:
        patch.setattr(decode, "decode", lambda *args: pytest.fail("decoded again"))
        assert torch.equal(opened(pets.parent).split(pets.parent, "train").images, first)
    monkeypatch.setattr(image_folder, "_OPENED", {})
    kept.write_bytes(kept.read_bytes()[:-9])
    assert torch.equal(opened(pets.parent).split(pets.parent, "train").images, first)
    assert not list(pets.parent.glob("folder-cache/.part*"))


def test_quick_decoding_writes_nothing(pets, monkeypatch):
    monkeypatch.setattr(image_folder, "SLOW", 1e9)
    before = sorted(pets.parent.rglob("*"))
    opened(pets.parent).prepare(pets.parent)
    assert sorted(pets.parent.rglob("*")) == before


def test_it_pickles_without_its_images(pets):
    data = opened(pets.parent)
    sent = pickle.dumps(data)
    assert len(sent) < 4000
    assert torch.equal(pickle.loads(sent).split(pets.parent, "valid").images, data.split(pets.parent, "valid").images)


def test_colour_is_found_asked_for_or_taken_away(tmp_path):
    folder = make(tmp_path, colour=True)
    assert opened(tmp_path).graph.shape == (3, *SIDES)
    first = opened(tmp_path).split(tmp_path, "test")
    kinds = {k: table(160)[k]["kind"] for k in first.index.tolist()}
    for image, k in zip(first.images, first.index.tolist(), strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels(k, kinds[k], colour=True))
    (folder / "graph.toml").write_text('mode = "grey"\n' + GRAPH)
    assert opened(tmp_path).graph.shape == (1, *SIDES)
    for k, row in enumerate(table(160)[1:]):
        Image.fromarray(pixels(k, row["kind"])).save(folder / row["image"])
    (folder / "graph.toml").write_text(GRAPH)
    mixed = opened(tmp_path).split(tmp_path, "train").images
    assert mixed.shape[1] == 3
    assert torch.equal(mixed[1, 0], mixed[1, 2])
    assert not torch.equal(mixed[0, 0], mixed[0, 1])


def test_grey_images_are_made_rgb_where_that_is_asked_for(pets):
    (pets / "graph.toml").write_text('mode = "rgb"\n' + GRAPH)
    images = opened(pets.parent).split(pets.parent, "train").images
    assert images.shape[1] == 3
    assert torch.equal(images[:, 0], images[:, 1])


def test_images_of_all_sizes_are_resized_where_a_size_is_given(pets):
    Image.fromarray(pixels(0, "cat")).resize((60, 40)).save(pets / names(160)[0])
    (pets / "graph.toml").write_text("size = [12, 9]\n" + GRAPH)
    data = opened(pets.parent)
    assert data.graph.shape == (1, 12, 9)
    assert data.split(pets.parent, "train").images.float().mean() == pytest.approx(
        np.mean([pixels(k, r["kind"]) for k, r in enumerate(table(160)) if split_of(r["image"]) == "train"]), abs=3
    )


def test_common_types_are_read(tmp_path):
    grey = np.arange(16 * 20, dtype=np.uint8).reshape(16, 20) // 2
    lossless = {"png": {}, "bmp": {}, "tif": {}, "pgm": {}, "webp": {"lossless": True}}
    for suffix, options in lossless.items():
        Image.fromarray(grey).save(tmp_path / f"a.{suffix}", **options)
        found, _ = decode.decode((tmp_path / f"a.{suffix}").read_bytes(), "grey")
        assert np.abs(found[0].astype(int) - grey).max() <= (1 if suffix == "webp" else 0), suffix
    Image.fromarray(grey).save(tmp_path / "a.jpg", quality=98)
    assert np.abs(decode.decode((tmp_path / "a.jpg").read_bytes())[0][0].astype(int) - grey).mean() < 2


def test_unusual_pixels_are_read_as_meant(tmp_path):
    grey = np.arange(16 * 20, dtype=np.uint8).reshape(16, 20) // 2

    def saved(image: Image.Image, name: str = "a.png", **options) -> np.ndarray:
        image.save(tmp_path / name, **options)
        return decode.decode((tmp_path / name).read_bytes())[0]

    assert np.array_equal(saved(Image.fromarray(grey.astype(np.uint16) * 257))[0], grey)
    assert np.array_equal(saved(Image.fromarray(grey).convert("P"))[0], grey)
    assert np.array_equal(saved(Image.fromarray(grey > 50))[0], (grey > 50) * np.uint8(255))
    opaque = Image.fromarray(grey).convert("RGBA")
    assert np.array_equal(saved(opaque)[2], grey)
    turned = Image.Exif()
    turned[0x0112] = 6
    assert np.array_equal(saved(Image.fromarray(grey), exif=turned)[0], np.rot90(grey, -1))
    assert saved(Image.fromarray(grey).convert("CMYK"), "a.jpg").shape == (3, 16, 20)


def test_class_numbers_and_sizes_are_found_in_the_data(pets):
    rows = [r | {"kind": "1.0" if r["kind"] == "dog" else "0"} for r in table(160)]
    write_table(pets, rows, "labels.csv")
    (pets / "graph.toml").write_text('csv = "labels.csv"\n' + GRAPH.replace('classes = ["cat", "dog"]', ""))
    assert opened(pets.parent).graph["kind"].size == 2


def test_bounds_that_are_given_are_kept(pets):
    (pets / "graph.toml").write_text(GRAPH + "low = 0\nhigh = 255.0\n")
    shade = opened(pets.parent).graph["shade"]
    assert (shade.low, shade.high) == (0.0, 255.0)


def test_an_absolute_path_needs_no_data_root(pets, tmp_path):
    data = opened(tmp_path / "elsewhere", str(pets))
    assert len(data.split(tmp_path / "elsewhere", "test")) >= 12


def test_without_a_path_it_says_what_to_write(tmp_path):
    data = Registry().load("dataset", "folder")()
    for call in (lambda: data.open(tmp_path), lambda: data.prepare(tmp_path), lambda: data.split(tmp_path, "train")):
        with pytest.raises(UserError, match=r"write folder\[path="):
            call()


def test_it_conforms(pets):
    examined = subject(Folder, data_root=pets.parent, path="pets")
    assert {"splits", "disjoint", "plans", "again"} <= {str(check) for check in checks(examined)}
    for check in checks(examined):
        check(examined)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ("[variables", r"graph\.toml is not TOML: "),
        ("", r'declares no variable; write a table \[variables\.NAME\]'),
        ("modes = 3\n" + GRAPH, r"unknown key 'modes'; did you mean 'mode'\?"),
        ('mode = "gray"\n' + GRAPH, r"""mode is "grey" or "rgb", found 'gray'"""),
        ("size = 64\n" + GRAPH, r"size is \[height, width\] of 8 to 1024 pixels each, found 64"),
        ("size = [64, 4]\n" + GRAPH, r"size is \[height, width\] .* found \[64, 4\]"),
        ('csv = "../parents.csv"\n' + GRAPH, r"csv is the name of a file in .* folder, found '\.\./parents\.csv'"),
        ("[variables.shade]\nkind = 3\n", r"variable 'shade': kind is .* found 3"),
        ("[variables.shade]\n", r"variable 'shade': kind is .* found None"),
        ("[variables]\nshade = 3\n", r"variable 'shade' is 3; write a table \[variables\.shade\]"),
        (GRAPH + "parent = 1\n", r"variable 'shade' has the unknown key 'parent'; did you mean 'parents'\?"),
        (GRAPH + "size = 3\n", r"variable 'shade' is continuous and has no size; .* kind = 'categorical'"),
        (GRAPH + 'low = "a"\n', r"variable 'shade': low is a number, found 'a'"),
        (GRAPH + "low = 2\nhigh = 1\n", r"variable 'shade': low = 2 is not below high = 1"),
        (GRAPH + "low = 100\n", r"line \d+ \(img/\d+\.png\): shade is [\d.]+, below its low = 100"),
        (GRAPH + "high = 100\n", r"line \d+ \(img/\d+\.png\): shade is [\d.]+, above its high = 100"),
        (GRAPH.replace('"grey levels"', "3"), r"""unit is a text of one line such as "mm", found 3"""),
        (GRAPH.replace('["cat", "dog"]', '["cat"]'), r"has 1 classes; a cause needs two or more"),
        (GRAPH.replace('["cat", "dog"]', '["cat", "cat"]'), r"classes names 'cat' twice"),
        (GRAPH.replace('["cat", "dog"]', '"cat"'), r"classes is a list of names.* found 'cat'"),
        (GRAPH.replace('["cat", "dog"]', '["cat", "dog"]\nsize = 3'), r"size = 3 and 2 classes; leave out size"),
        (GRAPH.replace('classes = ["cat", "dog"]', "size = 1"), r"size is the number of classes, 2 or more, found 1"),
        (GRAPH.replace('["kind"]', '["knid"]'), r"'shade' has the unknown parent 'knid'; did you mean 'kind'\?"),
        (GRAPH.replace('["kind"]', '["shade"]'), r"the edges shade -> shade form a cycle"),
        (GRAPH.replace('"dog"]', '"dog"]\nparents = ["shade"]'), r"the edges \w+ -> \w+ -> \w+ form a cycle"),
        (GRAPH.replace("shade", "file"), r"variable 'file' cannot have that name"),
        (GRAPH.replace("variables.shade", 'variables."a/b"'), r"variable 'a/b' cannot .* it has '/' in it; take"),
        (GRAPH.replace("shade", "shde"), r"has no column 'shde'; did you mean 'shade'\?"),
        (GRAPH.replace("shade", "weight"), r"has no column 'weight'; found: image, kind, shade, note"),
        (GRAPH.replace('["cat", "dog"]', '["cat", "dog", "cow"]'), r"no training image has kind 'cow', one of 3"),
        (GRAPH.replace('classes = ["cat", "dog"]', ""), r"kind is 'cat', which is not a number; name its classes"),
    ],
)  # fmt: skip
def test_mistakes_in_the_graph_are_named(pets, graph, message):
    (pets / "graph.toml").write_text(graph)
    assert re.search(message, complaint(pets)), complaint(pets)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": ""}, r"line 12: no file name"),
        ({"image": "../000.png"}, r"'\.\./000\.png' leads out of the folder"),
        ({"image": "/etc/a.png"}, r"'/etc/a\.png' leads out of the folder"),
        ({"image": "C:\\a.png"}, r"leads out of the folder"),
        ({"image": "a\0.png"}, r"leads out of the folder"),
        ({"image": "."}, r"line 12: \. has the unknown image type ''"),
        ({"image": "img/000.png"}, r"img/000\.png is in line \d+ already; keep one"),
        ({"image": "./img/000.png"}, r"img/000\.png is in line \d+ already; keep one"),
        ({"image": "img/nix.png"}, r"line 12: no image img/nix\.png in .*pets; put it there"),
        ({"image": "img/010.heic"}, r"line 12: img/010\.heic has the unknown image type '\.heic'; known: \.png, \.jpg"),
        ({"kind": "dgo"}, r"line 12 \(img/010\.png\): kind is 'dgo', which is no class of it; did you mean 'dog'\?"),
        ({"kind": ""}, r"line 12 \(img/010\.png\): kind is '', which is no class"),
        ({"shade": ""}, r"line 12 \(img/010\.png\): shade is empty"),
        ({"shade": "dark"}, r"line 12 \(img/010\.png\): shade is 'dark', which is not a number"),
        ({"shade": "nan"}, r"line 12 \(img/010\.png\): shade is nan, which is not finite"),
        ({"shade": "1e60"}, r"shade is 1e60, which is not finite"),
        ({"split": "val"}, r"line 12 \(img/010\.png\): split is 'val'; did you mean 'valid'\?"),
        ({"split": "other"}, r"split is 'other'; known: train, valid, test"),
    ],
)
def test_mistakes_in_a_row_are_named_with_their_line(pets, change, message):
    rows = table(160)
    if "split" in change:
        rows = [r | {"split": "train"} for r in rows]
    rows[10] |= change
    write_table(pets, rows)
    assert re.search(message, complaint(pets)), complaint(pets)


@pytest.mark.parametrize(
    ("value", "message"), [("-1", "is -1; classes"), ("0.5", "is 0.5; classes"), ("2", "known: 0 to 1")]
)
def test_class_numbers_are_whole_and_in_range(pets, value, message):
    rows = [r | {"kind": str(int(r["kind"] == "dog"))} for r in table(160)]
    rows[3]["kind"] = value
    write_table(pets, rows)
    (pets / "graph.toml").write_text(GRAPH.replace('classes = ["cat", "dog"]', "size = 2"))
    assert message in complaint(pets)


def test_class_numbers_have_no_gap(pets):
    write_table(pets, [r | {"kind": str(3 * int(r["kind"] == "dog"))} for r in table(160)])
    (pets / "graph.toml").write_text(GRAPH.replace('classes = ["cat", "dog"]', ""))
    assert "no training image has kind 1, one of 4 classes" in complaint(pets)


def test_the_class_that_was_meant_is_looked_for_once(pets, monkeypatch):
    """Among a thousand classes, for each of two thousand rows, it would take minutes."""
    asked = []
    monkeypatch.setattr(parents_table, "did_you_mean", lambda text, known: asked.append(text) or "did you mean 'cat'?")
    write_table(pets, [r | {"kind": "cta"} for r in table(160)])
    assert "kind is 'cta', which is no class of it; did you mean 'cat'? (and 159 more)" in complaint(pets)
    assert asked == ["cta"]


def test_several_mistakes_are_counted(pets):
    rows = table(160)
    for k in (3, 5, 8):
        rows[k]["shade"] = "?"
    write_table(pets, rows)
    assert "img/003.png" in complaint(pets)
    assert complaint(pets).endswith("(and 2 more)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"parents\.csv is empty"),
        ("image,kind,shade\n", r"has a header and no rows"),
        ("name,kind,shade\na.png,cat,1\n", r"has no column 'image' or 'file' .*found: name, kind, shade"),
        ("image;kind;shade\na.png;cat;1\n", r"is not separated by commas"),
        ("image,kind,shade\na.png,cat\n", r"line 2: 2 fields, but the header has 3"),
        ("image,kind,kind,shade\na.png,cat,cat,1\n", r"has 2 columns 'kind'; keep one"),
        ('image,kind,shade\na.png,"cat"x,1\n', r"line 2 is not CSV"),
    ],
)
def test_mistakes_in_the_table_are_named(pets, text, message):
    (pets / "parents.csv").write_text(text)
    assert re.search(message, complaint(pets)), complaint(pets)


def test_a_table_of_another_encoding_is_named(pets):
    (pets / "parents.csv").write_bytes("image,größe\n".encode("latin-1"))
    assert "is not in UTF-8" in complaint(pets)


def test_missing_files_are_named(pets):
    (pets / "parents.csv").unlink()
    assert "has no parents.csv; write it" in complaint(pets)
    (pets / "graph.toml").unlink()
    assert "has no graph.toml; write one" in complaint(pets)
    assert "no folder" in complaint(pets, "pests")
    assert "leads out of the data root" in complaint(pets, "../pets")


def test_unreadable_images_are_named(pets):
    good = (pets / names(160)[5]).read_bytes()
    for data, message in ((b"", "no PNG, JPEG"), (b"GIF89a", "no PNG, JPEG"), (good[:-30], "cannot be read: ")):
        (pets / names(160)[5]).write_bytes(data)
        assert f"img/005.png {'cannot be read'}" in complaint(pets)
        assert message in complaint(pets)
    frames = [Image.fromarray(pixels(k, "cat")) for k in range(2)]
    frames[0].save(pets / names(160)[5], save_all=True, append_images=frames[1:])
    assert "img/005.png has several frames" in complaint(pets)
    Image.fromarray(pixels(5, "cat")).convert("LA").point(lambda v: v // 2).save(pets / names(160)[5])
    assert "img/005.png is transparent in places" in complaint(pets)


def test_images_that_expand_beyond_pillows_limit_are_refused(pets, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for sides in ((40, 40), (60, 60)):
        Image.fromarray(np.zeros(sides, dtype=np.uint8)).save(pets / names(160)[5])
        assert "img/005.png has more than 1,000 pixels" in complaint(pets)


@pytest.mark.parametrize("name", ["graph.toml", "parents.csv", "img/005.png"])
@pytest.mark.parametrize("what", ["pipe", "endless", "large"])
def test_pipes_devices_and_files_without_end_are_not_read(pets, monkeypatch, name, what):
    monkeypatch.setattr(image_folder, "MAX_GRAPH", 10_000)
    monkeypatch.setattr(image_folder, "MAX_TABLE", 100_000)
    monkeypatch.setattr(image_folder, "MAX_IMAGE", 100_000)
    path = pets / name
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    elif what == "endless":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, 2**40)
    says = "it has 1,099,511,627,776 bytes" if what == "large" else "it is a pipe or a device"
    assert f"{name} cannot be read ({says}" in complaint(pets)


@pytest.mark.parametrize("size", ["[100000, 100000]", "[8, 1025]", "[7, 64]"])
def test_a_size_beyond_what_is_of_use_is_refused(pets, size):
    (pets / "graph.toml").write_text(f"size = {size}\n{GRAPH}")
    assert f"size is [height, width] of 8 to 1024 pixels each, found {size}" in complaint(pets)


def test_images_that_no_memory_holds_are_refused_before_they_are_read(pets, monkeypatch):
    (pets / "graph.toml").write_text("size = [1024, 1024]\n" + GRAPH)
    monkeypatch.setattr(image_folder.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**16}.__getitem__)
    monkeypatch.setattr(image_folder, "read_images", lambda *args: pytest.fail("read"))
    assert "160 images of 1024 x 1024 pixels need 0.5 GiB of memory" in complaint(pets)


def test_16_bit_images_that_use_little_of_their_range_are_reported_once_decoded_or_kept(pets, monkeypatch, capsys):
    for k, row in enumerate(table(160)):
        Image.fromarray(pixels(k, row["kind"]).astype(np.uint16)).save(pets / row["image"])
    for slow in (1e9, 0.0, 0.0):
        monkeypatch.setattr(image_folder, "SLOW", slow)
        monkeypatch.setattr(image_folder, "_OPENED", {})
        assert opened(pets.parent).split(pets.parent, "train").images.max() <= 1
        assert capsys.readouterr().err.count("images of more than 8 bits use 0.4 % of their range") == 1


def test_sizes_that_differ_or_do_not_fit_are_named(pets):
    Image.fromarray(np.zeros((30, 32), dtype=np.uint8)).save(pets / names(160)[5])
    assert "img/005.png has 30 x 32 pixels, most have 16 x 20" in complaint(pets)
    for k, name in enumerate(names(160)):
        Image.fromarray(np.full((6, 20), k, dtype=np.uint8)).save(pets / name)
    assert "6 x 20 pixels, at least 8" in complaint(pets)
    for k, name in enumerate(names(160)):
        Image.fromarray(np.full((300, 20), k, dtype=np.uint8)).save(pets / name)
    assert "300 x 20 pixels, too many" in complaint(pets)


def test_a_cause_that_does_not_vary_is_named(pets):
    write_table(pets, [r | {"shade": "0.1"} for r in table(160)])
    assert "shade is 0.1 in all" in complaint(pets)
    write_table(pets, [r | {"kind": "dog"} for r in table(160)])
    assert "kind is 'dog' in all" in complaint(pets)


def test_copies_of_training_images_among_those_asked_about_are_refused(pets):
    parts = {part: [n for n in names(160) if split_of(n) == part] for part in ("train", "valid", "test")}
    for part, doing in (("test", "test"), ("valid", "validate")):
        for name, copy in zip(parts["train"], parts[part][:2], strict=False):
            (pets / copy).write_bytes((pets / name).read_bytes())
        message = rf"2 of {len(parts[part])} images to {doing} are copies of training images \({parts[part][0]} of "
        assert re.search(message, complaint(pets)), complaint(pets)
        Image.fromarray(pixels(999, "cat")).save(pets / parts[part][1])
        (pets / parts[part][0]).write_bytes((pets / parts[part][1]).read_bytes())
        opened(pets.parent)


def test_too_few_images_are_refused_with_the_minimum(pets):
    write_table(pets, table(40))
    assert re.search(
        r"40 images give \d+ to train, \d+ to validate, \d+ to test; at least 64 to train, 12 to validate, 12 to test",
        complaint(pets),
    )


def test_prepare_names_mistakes_before_a_run_and_a_run_before_it_writes(pets, tmp_path, capsys):
    assert _main(["prepare", "folder[path=pets]", "--data-root", str(tmp_path)]) == 0
    (pets / names(160)[7]).unlink()
    run = ["run", "--datasets", "folder[path=pets]", "--run-root", str(tmp_path / "runs"), "--preset", "tiny"]
    for argv in (["prepare", "folder[path=pets]"], run):
        assert _main([*argv, "--data-root", str(tmp_path)]) == 1
        assert "no image img/007.png" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_run_ends_in_a_leaderboard_with_learned_mechanisms(tmp_path, monkeypatch):
    monkeypatch.setattr("cfbench.evaluation.mechanisms.STEPS", 100)
    make(tmp_path, colour=True)
    places = ["--run-root", str(tmp_path / "runs"), "--data-root", str(tmp_path)]
    asked = ["--datasets", "folder[path=pets]", "--methods", "deepscm,flowscm", "--preset", "tiny", "--jobs", "1"]
    assert _main(["run", *asked, *places]) == 0
    board = tmp_path / "runs" / "tiny" / "leaderboard"
    scores = pd.read_csv(board / "folder_path_pets.csv")
    assert {"deepscm", "flowscm", "identity", "nearest", "untrained"} <= set(scores.method)
    assert {"kind", "shade"} <= set(scores.do)
    (sheet,) = board.glob("folder_path_pets-counterfactuals.png")
    assert Image.open(sheet).width > 16 * SIDES[1]
    (plan,) = (tmp_path / "runs" / "tiny" / "plans").iterdir()
    asked_for = Plan.load(plan).asked["kind"]
    assert (asked_for.cf_pa[:, 1] != Plan.load(plan).pa[asked_for.factual, 1]).any()
    assert asked_for.cf_pa[:, 1].isfinite().all()


def test_the_documentation_shows_a_graph_and_a_table_that_fit():
    text = (Path(__file__).parents[1] / "docs" / "data.md").read_text().split("## folder")[1]
    graph, rows = (re.search(rf"```{kind}\n(.*?)```", text, re.S)[1].encode() for kind in ("toml", "csv"))
    declared = read_declaration(graph, "graph.toml")
    assert [c.parents for c in declared.variables] == [(), (), ("age",)]
    assert [r.values[0] for r in read_rows(rows, declared, "parents.csv")] == [0, 1]
    shown = set(re.findall(r"`(\w+)`", text)) | set(re.findall(r"`(\w+) = ", text))
    assert {
        "kind",
        "parents",
        "unit",
        "classes",
        "size",
        "low",
        "high",
        "mode",
        "csv",
        "image",
        "file",
        "split",
    } <= shown
    least = re.search(r"At least (\d+) images to train and (\d+) each to validate and test", text)
    assert [int(n) for n in least.groups()] == [image_folder.MIN_IMAGES["train"], image_folder.MIN_IMAGES["test"]]


REGISTRY = Registry()
METHODS = [n for n in REGISTRY.names("method") if issubclass(REGISTRY.load("method", n), Method)]
LEARNED = [n for n in METHODS if not issubclass(REGISTRY.load("method", n), Derived)]


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> tuple[Folder, Path]:
    """Images in colour whose sides are no multiples of anything."""
    root = tmp_path_factory.mktemp("odd")
    make(root, colour=True, graph="size = [45, 31]\n" + GRAPH)
    return opened(root), root


@pytest.mark.parametrize("name", LEARNED)
def test_every_method_fits_and_answers_colour_images_of_odd_sides(odd, name):
    data, root = odd
    method = REGISTRY.load("method", name)(data.graph)
    train, valid = data.split(root, "train"), data.split(root, "valid")
    rng = torch.Generator().manual_seed(0)
    method.train().fit(Fit(train, valid, 64, torch.device("cpu"), rng))
    method.eval()
    x, pa = valid.x[:2], valid.parents[:2]
    with torch.no_grad():
        u = method.abduct(x, pa, Streams([0, 1]))
        image = method.predict(u, pa.flip(0), Streams([0, 1]))
        drawn = method.sample(pa, Streams([0, 1])) if callable(getattr(method, "sample", None)) else image
    for made in (image, drawn):
        assert made.shape == x.shape
        assert made.isfinite().all()


def test_judges_learn_from_colour_images_of_odd_sides(odd):
    data, root = odd
    judges = train_judges(data, root, data.graph, JudgeBudget().scaled(0.002))
    x = data.split(root, "test").x
    assert judges.draw(x).shape == judges.reconstruct(x, "kind").shape == x.shape
    assert judges.features(x).isfinite().all()
    assert judges.read(x)["shade"].isfinite().all()


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("Split", r"has a column 'Split'; did you mean 'split'\? rename it, or write ignore = \[\"Split\"\]"),
        ("SPLIT ", r"has a column 'SPLIT'; did you mean 'split'\?"),
        ("s plit", r"has a column 's plit'; did you mean 'split'\?"),
        ("spilt", r"has a column 'spilt'; did you mean 'split'\?"),
        ("\ufeffsplit", r"did you mean 'split'\?"),
        ("ｓｐｌｉｔ", r"did you mean 'split'\?"),
        ("patient", r"has a column 'patient', which graph\.toml does not declare; declare it, or write ignore = "),
    ],
)
def test_columns_that_are_not_known_are_asked_about(pets, column, message):
    write_table(pets, [r | {column: "train"} for r in table(160)])
    assert re.search(message, complaint(pets)), complaint(pets)
    name = column.strip()
    (pets / "graph.toml").write_text(GRAPH.replace('["note"]', f'["note", "{name}"]'), encoding="utf-8")
    assert len(opened(pets.parent).split(pets.parent, "train").images)


def test_all_other_columns_can_be_ignored_at_once_but_none_that_is_nearly_known(pets):
    (pets / "graph.toml").write_text(GRAPH.replace('["note"]', '["*"]'))
    write_table(pets, [r | {"patient": "7", "age": "3"} for r in table(160)])
    opened(pets.parent)
    write_table(pets, [r | {"patient": "7", "Split": "train"} for r in table(160)])
    assert "did you mean 'split'?" in complaint(pets)


@pytest.mark.parametrize("column", ["Image", " IMAGE", "\ufeff\ufeffimage", "images"])
def test_a_column_that_is_nearly_that_of_the_images_is_named(pets, column):
    write_table(pets, [{column: r["image"], "kind": r["kind"], "shade": r["shade"]} for r in table(160)])
    assert re.search(r"no column 'image' or 'file'.*did you mean '.*'\? rename it 'image'", complaint(pets))


@pytest.mark.parametrize("column", ["Shade", "SHADE", "\ufeffshade", "s h a d e"])
def test_a_column_that_is_nearly_a_variable_is_named(pets, column):
    write_table(pets, [{"image": r["image"], "kind": r["kind"], column: r["shade"]} for r in table(160)])
    assert re.search(r"no column 'shade'; did you mean '.*'\?", complaint(pets))


def test_a_graph_may_begin_with_a_byte_order_mark(pets):
    plain = opened(pets.parent).graph
    (pets / "graph.toml").write_text(GRAPH, encoding="utf-8-sig")
    assert opened(pets.parent).graph == plain


@pytest.mark.parametrize(("name", "says"), [("2theta", "begins with '2'; begin with a letter or _"), ("a b ", "blank")])
def test_a_name_that_cannot_be_is_refused_with_its_reason(pets, name, says):
    (pets / "graph.toml").write_text(GRAPH.replace("variables.shade", f'variables."{name}"'))
    assert says in complaint(pets)


@pytest.mark.parametrize(("graph", "header", "disk"), [("NFC", "NFD", "NFC"), ("NFD", "NFC", "NFD")])
def test_names_are_the_same_in_every_unicode_form(tmp_path, graph, header, disk):
    def form(text, which):
        return unicodedata.normalize(which, text)

    pets = make(tmp_path)
    plain = opened(tmp_path)
    (pets / form("größe", disk)).mkdir()
    renamed = []
    for row in table(160):
        name = row["image"].replace("img", "größe")
        (pets / row["image"]).rename(pets / form(name, disk))
        kind = {"cat": "cät", "dog": "dog"}[row["kind"]]
        renamed.append({"image": form(name, header), "kind": form(kind, header), form("größe", header): row["shade"]})
    write_table(pets, renamed)
    text = GRAPH.replace("variables.shade", 'variables."größe"').replace('"cat"', '"cät"')
    (pets / "graph.toml").write_text(form(text, graph), encoding="utf-8")
    data = opened(tmp_path)
    assert data.graph.names == ("kind", unicodedata.normalize("NFC", "größe"))
    rows = sum(len(data.split(tmp_path, part)) for part in ("train", "valid", "test"))
    assert rows == sum(len(plain.split(tmp_path, part)) for part in ("train", "valid", "test")) == 160


def test_a_subfolder_of_another_user_is_no_full_disk(pets, monkeypatch):
    monkeypatch.setattr(image_folder, "SLOW", -1.0)
    cache = pets.parent / "folder-cache"
    cache.mkdir()
    cache.chmod(0o555)
    try:
        assert len(opened(pets.parent).split(pets.parent, "test").images)
        assert list(cache.iterdir()) == []
    finally:
        cache.chmod(0o755)
    image_folder._OPENED.clear()
    opened(pets.parent)
    assert len(list(cache.iterdir())) == 1
