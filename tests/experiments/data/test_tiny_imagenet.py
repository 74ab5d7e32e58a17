"""TinyImageNet in its public layout, on three real classes."""

import io

import numpy as np
import pytest
from PIL import Image

from experiments.data import DATASETS
from experiments.data.provenance import noted
from experiments.data.readers import tiny_imagenet
from experiments.data.readers.tiny_imagenet import read_folder
from experiments.errors import RunError, UserError

CLASSES = 3


@pytest.fixture
def folder(real_data, tmp_path):
    """Links to the images of the first classes, so that nothing is kept beside the real ones."""
    real = real_data("tiny-imagenet-200") / "tiny-imagenet-200"
    folder = tmp_path / "tiny-imagenet-200"
    (folder / "val").mkdir(parents=True)
    (folder / "val" / "images").symlink_to(real / "val" / "images")
    classes = (real / "wnids.txt").read_text().split()[:CLASSES]
    (folder / "wnids.txt").write_text("\n".join(reversed(classes)))  # the order must not matter
    for wnid in classes:
        (folder / "train" / wnid).mkdir(parents=True)
        (folder / "train" / wnid / "images").symlink_to(real / "train" / wnid / "images")
    rows = (real / "val" / "val_annotations.txt").read_text().splitlines(keepends=True)
    chosen = [row for row in rows if row.split("\t")[1] in classes]
    (folder / "val" / "val_annotations.txt").write_text("".join(chosen))
    return folder


def test_images_labels_and_the_kept_arrays(folder, capsys):
    arrays = read_folder(folder)
    assert arrays.train_images.shape == (CLASSES * 500, 64, 64, 3)
    assert arrays.train_images.dtype == np.uint8
    assert np.bincount(arrays.train_labels).tolist() == [500] * CLASSES
    assert np.bincount(arrays.test_labels).tolist() == [50] * CLASSES
    assert capsys.readouterr().err.count("decoding") == 2

    first = sorted((folder / "train").iterdir())[1]  # its images have label 1
    file = min((first / "images").iterdir())
    assert np.array_equal(arrays.train_images[500], np.asarray(Image.open(file).convert("RGB")))
    row = (folder / "val" / "val_annotations.txt").read_text().split("\t")
    assert sorted(path.name for path in (folder / "train").iterdir())[arrays.test_labels[0]] == row[1]
    picture = np.asarray(Image.open(folder / "val" / "images" / row[0]).convert("RGB"))
    assert np.array_equal(arrays.test_images[0], picture)

    again = read_folder(folder)
    assert capsys.readouterr().err == "", "decoded again"
    assert np.array_equal(again.train_images, arrays.train_images)

    kept = folder / "val-64x64.npy"
    whole = kept.read_bytes()
    for damaged in (whole[:-1000], b"", whole[:20], whole[:-1000] + bytes(1000)):
        kept.write_bytes(damaged)
        assert np.array_equal(read_folder(folder).test_images, arrays.test_images)
        assert "val" in capsys.readouterr().err
    assert kept.read_bytes() == whole
    assert not list(folder.glob(".*.npy")), "a temporary file was left"


def test_part_of_the_set_is_not_the_set(folder):
    for ask in (DATASETS["tinyimagenet"].check, DATASETS["tinyimagenet"].load):
        with pytest.raises(UserError, match=r"names 3 classes in wnids\.txt, not 200"):
            ask(folder.parent)


@pytest.fixture
def made_up(tmp_path):
    """Two classes of two images each, one to test with, without real data."""
    picture = io.BytesIO()
    Image.fromarray(np.full((64, 64), 77, np.uint8)).save(picture, "JPEG")
    for place in ("train/n1/images", "train/n2/images", "val/images"):
        (tmp_path / place).mkdir(parents=True)
        for name in ("a.JPEG", "b.JPEG"):
            (tmp_path / place / name).write_bytes(picture.getvalue())
    (tmp_path / "wnids.txt").write_text("n1\nn2\n")
    annotations = tmp_path / "val" / "val_annotations.txt"
    annotations.write_text("b.JPEG\tn2\t0\t0\t1\t1\na.JPEG\tn1\t0\t0\t1\t1\n")
    return tmp_path


def test_grey_images_get_three_equal_channels(made_up):
    arrays = read_folder(made_up)
    assert (arrays.train_images == 77).all()
    assert (arrays.train_labels.tolist(), arrays.test_labels.tolist()) == ([0, 0, 1, 1], [1, 0])


def test_damaged_image_is_named(made_up):
    file = made_up / "train" / "n2" / "images" / "a.JPEG"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(RunError, match=r"n2/images/a\.JPEG"):
        read_folder(made_up)
    assert not (made_up / "train-64x64.npy").exists()


def test_incomplete_folders_are_explained(made_up):
    (made_up / "val" / "val_annotations.txt").write_text("a.JPEG\tn9\t0\t0\t1\t1\n")
    with pytest.raises(UserError, match=r"val_annotations\.txt, line 1: 'n9' is not a class"):
        read_folder(made_up)
    (made_up / "wnids.txt").write_text("n1\nn7\n")
    with pytest.raises(UserError, match="n7"):
        read_folder(made_up)
    (made_up / "wnids.txt").unlink()
    with pytest.raises(UserError, match=r"wnids\.txt"):
        read_folder(made_up)


def in_one_line(folder, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        read_folder(folder)
    assert "\n" not in str(caught.value)


def test_classes_agree_by_name_and_none_is_empty(made_up):
    train, annotations = made_up / "train", made_up / "val" / "val_annotations.txt"
    good = annotations.read_text()
    (train / "n3").mkdir()
    in_one_line(made_up, rf"{train} has the class n3, which .*wnids\.txt lacks")
    (train / "n3").rmdir()
    (made_up / "wnids.txt").write_text("n1\nn2\nn1\n")
    in_one_line(made_up, "names n1 more than once")
    (made_up / "wnids.txt").write_text("n1\nn2\n")
    annotations.write_text(good.splitlines()[0])
    in_one_line(made_up, rf"{annotations} has no image of the class n1")
    annotations.write_text(good + "a.JPEG\tn2\t0\n")
    in_one_line(made_up, "line 3: a.JPEG has a line already")
    annotations.write_text(good + "c.JPEG\tn2\t0\n")
    in_one_line(made_up, r"val/images lacks 1 images that val_annotations\.txt names, c\.JPEG first")
    annotations.write_text(good)
    (train / "n1" / "images" / "a.JPEG").rename(train / "n1" / "images" / "n2_7.JPEG")
    in_one_line(made_up, r"n1/images/n2_7\.JPEG is by its name of the class n2, not of n1")
    for file in (train / "n1" / "images").iterdir():
        file.unlink()
    in_one_line(made_up, rf"{train} has no image of the class n1")


def test_images_that_were_exchanged_after_decoding_are_decoded_again(made_up):
    """A kept array of the same shape would have the images of other files."""
    read_folder(made_up)
    white = io.BytesIO()
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(white, "JPEG")
    (made_up / "train" / "n1" / "images" / "a.JPEG").unlink()
    (made_up / "train" / "n1" / "images" / "c.JPEG").write_bytes(white.getvalue())
    assert read_folder(made_up).train_images[:, 0, 0, 0].tolist() == [77, 255, 77, 77]


def test_as_many_images_as_published_unless_it_is_said_to_be_another_set(made_up, monkeypatch):
    folder = made_up.parent / "tiny-imagenet-200"
    made_up.rename(folder)
    monkeypatch.setattr(tiny_imagenet, "NUM_CLASSES", 2)
    info = DATASETS["tinyimagenet"]
    with pytest.raises(UserError, match=r"train has 2 images of the class n1, not 500 .*MODIFIED") as no:
        info.check(folder.parent)
    assert "\n" not in str(no.value)
    (folder / "MODIFIED.txt").write_text("four grey images")
    info.check(folder.parent)
    found = {}
    with noted(found.__setitem__):
        info.load(folder.parent)
    assert found["tinyimagenet"]["modified"] == "four grey images"
