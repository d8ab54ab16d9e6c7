"""Real inputs: what is taken from a folder or a callable, how it is fitted, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from testbed.errors import TestbedError, UserError
from testbed.model import pictures
from testbed.model.pictures import gather
from testbed.model.table import SplitTable
from testbed.records import sha256_file
from testbed.worker.inputs import real_inputs

TABLE = SplitTable("tiny", 64, (3, 64, 64), 3, ())
GREY = {"a": 10, "b": 20, "c": 30}


def paint(path: Path, grey: int, size: tuple[int, int] = (80, 120)) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.new("RGB", size, (grey, 0, 255)).save(path)


def test_class_folders_in_turn_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, grey in GREY.items():
        for number in range(3):
            paint(tmp_path / name / f"{number}.png", grey + number)
    monkeypatch.setattr(pictures, "MOST_IMAGES", 7)
    found = gather(f"images:{tmp_path}", TABLE)
    assert found.images.shape == (7, 3, 64, 64)
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert found.images[:, 0, 0, 0].tolist() == [10, 20, 30, 11, 21, 31, 12]
    assert (found.images[:, 2] == 255).all()


def test_the_middle_of_an_image_is_kept(tmp_path: Path) -> None:
    image = Image.new("RGB", (146, 73), (0, 0, 0))  # 64 / 0.875 = 73: not resized
    image.paste((200, 200, 200), (41, 4, 105, 68))
    image.save(tmp_path / "one.png")
    found = gather(f"images:{tmp_path}", TABLE)
    assert found.labels is None
    assert (found.images == 200).all()


def test_folders_named_by_number_are_those_classes(tmp_path: Path) -> None:
    paint(tmp_path / "2" / "x.jpg", 100)
    found = gather(f"images:{tmp_path}", TABLE)
    assert found.labels is not None
    assert found.labels.tolist() == [2]


def two_of_three_classes(folder: Path) -> None:
    paint(folder / "a" / "x.png", 1)
    paint(folder / "b" / "x.png", 1)


def no_such_class(folder: Path) -> None:
    paint(folder / "7" / "x.png", 1)


def loose_and_classes(folder: Path) -> None:
    paint(folder / "x.png", 1)
    paint(folder / "1" / "x.png", 1)


def not_an_image(folder: Path) -> None:
    (folder / "x.png").write_bytes(b"no image")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder: None, "no image"),
        (two_of_three_classes, "2 class folders for the 3 classes of tiny"),
        (no_such_class, "classes 0 to 2, got labels from 7 to 7"),
        (loose_and_classes, "images beside class folders"),
        (not_an_image, "x.png: cannot be decoded"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, make, told: str) -> None:
    make(tmp_path)
    with pytest.raises(UserError, match=told):
        gather(f"images:{tmp_path}", TABLE)


def test_a_callable_is_given_the_resolution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_images.py").write_text(
        "import torch\n"
        "def good(size):\n"
        "    return torch.ones(5, 3, size, size, dtype=torch.uint8), torch.arange(5) % 3\n"
        "def floats(size):\n    return torch.ones(5, 3, size, size)\n"
        "def labels(size):\n    return good(size)[0], torch.ones(4)\n"
    )
    found = gather("python:my_images:good", TABLE)
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 2, 0, 1]
    with pytest.raises(UserError, match=r"got torch.float32 \(5, 3, 64, 64\)"):
        gather("python:my_images:floats", TABLE)
    with pytest.raises(UserError, match="labels, one an image"):
        gather("python:my_images:labels", TABLE)
    with pytest.raises(UserError, match="inputs: python:my_images:none: AttributeError"):
        gather("python:my_images:none", TABLE)


def test_a_host_batches_what_was_sent_and_nothing_else(tmp_path: Path) -> None:
    for number in range(3):
        paint(tmp_path / "in" / str(number) / "x.png", number)
    pack = tmp_path / "inputs.pack"
    gather(f"images:{tmp_path / 'in'}", TABLE).save(pack)
    again = gather(f"pack:{pack}", TABLE)
    sent = {"path": str(pack), "sha256": sha256_file(pack)}
    batches, labels = real_inputs(sent, 2)
    assert [len(x) for x in batches] == [2, 2]
    assert labels is not None
    assert [some.tolist() for some in labels] == [[0, 1], [2, 0]]
    assert torch.equal(torch.cat(batches)[:3], again.images)
    with pytest.raises(TestbedError, match="SHA-256"):
        real_inputs({**sent, "sha256": "0" * 64}, 2)
