"""`check_folder`: each fault that is planted in a folder is found, and a good folder has none."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("PIL", reason="image files are read by pillow")

from PIL import Image

from minires.data.check import check_folder
from minires.errors import DataError


def save(path, seed, size=(40, 50), grey=False):
    """A picture of random pixels; the same seed and size give the same pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 1 if grey else 3), np.uint8)
    Image.fromarray(np.repeat(pixels, 3, axis=2) if grey else pixels).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    """photos/{train,test}/{cat,dog}: 12 and 3 pictures each, all different."""
    root = tmp_path / "photos"
    for s, (split, count) in enumerate((("train", 12), ("test", 3))):
        for c, label in enumerate(("cat", "dog")):
            for i in range(count):
                save(root / split / label / f"{i}.png", 1000 * s + 100 * c + i)
    return root


def test_a_good_folder_has_nothing_to_say(photos):
    seen = []
    report = check_folder(photos, on_image=lambda done, total: seen.append((done, total)))
    assert (report.faults, report.notes) == ([], [])
    assert report.counts == {"cat": {"train": 12, "test": 3}, "dog": {"train": 12, "test": 3}}
    assert report.sizes()["width"] == {"least": 40, "median": 40, "largest": 40}
    assert seen == [(i, 30) for i in range(1, 31)]


def test_a_folder_without_splits_is_checked_as_one(photos):
    report = check_folder(photos / "train")
    assert report.counts == {"cat": {"": 12}, "dog": {"": 12}}
    assert report.faults == []


def test_corrupt_files_are_named_with_the_reason(photos):
    whole = (photos / "train/cat/0.png").read_bytes()
    (photos / "train/cat/0.png").write_bytes(whole[: len(whole) // 2])
    (photos / "test/dog/1.png").write_bytes(b"hello")
    report = check_folder(photos)
    assert [file for file, _ in report.unreadable] == ["test/dog/1.png", "train/cat/0.png"] or [
        file for file, _ in report.unreadable
    ] == ["train/cat/0.png", "test/dog/1.png"]
    assert len(report.faults) == 2 and len(report.images) == 28
    assert all(str(photos) not in why for _, why in report.unreadable)


def test_a_picture_in_both_splits_is_found_whatever_its_name_and_format(photos):
    save(photos / "test/cat/other-name.bmp", seed=4)  # train/cat/4.png
    (fault,) = check_folder(photos).faults
    assert "two splits" in fault and "train/cat/4.png" in fault and "test/cat/other-name.bmp" in fault


def test_a_picture_in_two_classes_is_found(photos):
    save(photos / "train/dog/x.png", seed=5)
    (fault,) = check_folder(photos).faults
    assert "two classes" in fault and "train/cat/5.png" in fault


def test_copies_within_a_class_are_a_note(photos):
    save(photos / "train/cat/copy.png", seed=5)
    report = check_folder(photos)
    assert report.faults == []
    assert "1 copies of pictures within a class" in report.notes[0]


def test_pictures_of_equal_bytes_and_other_shape_are_two(photos):
    pixels = np.zeros((20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(photos / "train/cat/wide.png")
    Image.fromarray(pixels.reshape(30, 20, 3)).save(photos / "train/cat/high.png")
    assert check_folder(photos).copies == []


def test_empty_and_missing_classes_are_found(photos):
    (photos / "train/bird").mkdir()
    save(photos / "train/fish/0.png", 7)
    faults = check_folder(photos).faults
    assert "train/bird: a class folder without images" in faults
    assert any(fault.startswith("test has no images of bird, fish") for fault in faults)


def test_imbalance_and_odd_sizes_are_notes(photos):
    for i in range(120):
        save(photos / "train/dog" / f"more{i}.png", 5000 + i, size=(33, 33))
    save(photos / "train/cat/long.png", 1, size=(200, 40))
    save(photos / "train/cat/small.png", 2, size=(8, 8))
    save(photos / "train/cat/grey.png", 3, grey=True)
    (photos / "train/cat/readme.txt").write_text("a note")
    save(photos / "train/fish/0.png", 7)
    notes = "\n".join(check_folder(photos).notes)
    for expected in (
        "train: dog has 132 times as many images as fish (132 and 1)",
        "train: fewer than 10 images of fish",
        "1 images are more than 3 times as long as wide, for example train/cat/long.png",
        "1 images have a side of less than 32 pixels, for example train/cat/small.png",
        "1 of 154 images are grey, for example train/cat/grey.png",
        "1 files are no images by their names: train/cat/readme.txt",
    ):
        assert expected in notes, notes


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="there is no such folder"):
        check_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="one sub-folder for each class"):
        check_folder(tmp_path)


def test_the_number_of_threads_changes_nothing(photos):
    save(photos / "test/cat/x.bmp", seed=4)
    assert check_folder(photos, workers=1).as_dict() == check_folder(photos, workers=4).as_dict()
