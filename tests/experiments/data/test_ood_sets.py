"""Images from elsewhere: the registry, the readers of public layouts, parts of sets, and fetching."""

import dataclasses
import hashlib
import io
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from experiments.data import DATASETS
from experiments.data.ood import OOD_SETS, OodImages, flowers102, ood_sets_against, open_ood, svhn
from experiments.data.ood.fetch import PublicFile, ensure
from experiments.data.ood.parts import read_part, write_part
from experiments.data.provenance import noted
from experiments.errors import RunError, UserError

EMBEDDED = [name for name, ood in OOD_SETS.items() if ood.against == ("digits",)]


@pytest.mark.parametrize("name", OOD_SETS)
def test_facts_fit_together_and_to_the_sets_scored_against(name):
    ood = OOD_SETS[name]
    assert ood.name == name
    assert len(ood.mean) == len(ood.std) == ood.channels
    for dataset in ood.against:
        assert (DATASETS[dataset].side, DATASETS[dataset].channels) == (ood.side, ood.channels)
        assert ood in ood_sets_against(dataset)
    assert ood_sets_against("imagenet") == ()


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_sets_are_what_the_registry_says(name, tmp_path):
    ood = OOD_SETS[name]
    ood.check(tmp_path)
    found, again = ood.load(tmp_path), ood.load(tmp_path)
    assert found.only is None
    assert (found.images.dtype, found.images.shape) == (np.uint8, (ood.size, 8, 8, 1))
    assert np.array_equal(found.images, again.images)
    assert set(np.unique(found.images)) <= {k * 255 // 16 for k in range(17)}, "the levels of the digits"
    assert len(np.unique(found.images.reshape(ood.size, -1), axis=0)) > 0.95 * ood.size
    pixels = found.images / 255
    # Another version of Pillow, FreeType or of the fonts may move a few pixels.
    assert ood.mean == pytest.approx([pixels.mean()], abs=0.01)
    assert ood.std == pytest.approx([pixels.std()], abs=0.01)
    assert list(tmp_path.iterdir()) == []


def test_batches_have_the_sets_own_normalisation(tmp_path):
    data, only = open_ood("letters", device="cpu", root=tmp_path)
    assert only is None
    images = torch.cat([images for images, _ in data.batches(100)])
    assert abs(images.mean()) < 0.03 and abs(images.std() - 1) < 0.03
    assert (data.labels == -1).all()
    with pytest.raises(UserError, match="known: svhn, flowers102"):
        open_ood("places365", device="cpu", root=tmp_path)


@pytest.fixture
def digits_of_houses(tmp_path):
    """A file in SVHN's layout with 5 images, the k-th of which is of level k where row 1 meets column 2."""
    pixels = np.zeros((32, 32, 3, 5), dtype=np.uint8)
    pixels[1, 2] = np.arange(5) + np.array([[10], [20], [30]])
    file = tmp_path / "test_32x32.mat"
    savemat(file, {"X": pixels, "y": np.ones((5, 1), dtype=np.uint8)}, do_compression=True)
    return file


def test_svhn_images_come_first_axis_first(digits_of_houses):
    images = svhn.read_test(digits_of_houses, 5)
    assert images.shape == (5, 32, 32, 3)
    assert images[3, 1, 2].tolist() == [13, 23, 33]
    assert images.sum() == images[:, 1, 2].sum()


def test_files_that_are_not_svhn_are_explained(digits_of_houses):
    with pytest.raises(RunError, match=r"must be uint8 \(32, 32, 3, 26032\), found uint8 \(32, 32, 3, 5\)"):
        svhn.read_test(digits_of_houses, svhn.SIZE)
    whole = digits_of_houses.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"no MATLAB file" * 99):
        digits_of_houses.write_bytes(content)
        with pytest.raises(RunError, match=r"cannot read .*test_32x32\.mat") as caught:
            svhn.read_test(digits_of_houses, 5)
        assert "\n" not in str(caught.value)
    for other in ({"Z": np.ones(3, dtype=np.uint8)}, {"X": np.array([{}], dtype=object)}):
        savemat(digits_of_houses, other)
        with pytest.raises(RunError, match="does not hold whole numbers named 'X'"):
            svhn.read_test(digits_of_houses, 5)


@pytest.fixture
def as_published(monkeypatch):
    """`as_published(svhn, "TEST", file)`: from now on the sum of this file is the published one."""

    def make(module, name, file):
        md5 = hashlib.md5(file.read_bytes()).hexdigest()
        monkeypatch.setattr(module, name, dataclasses.replace(getattr(module, name), md5=md5))
        return md5

    return make


def test_damaged_files_of_the_right_size_are_refused(digits_of_houses, flowers, as_published, monkeypatch):
    root, splits = digits_of_houses.parent, flowers.parent / "setid.mat"
    monkeypatch.setattr(svhn, "SIZE", 5)
    monkeypatch.setattr(flowers102, "SIZE", 2)
    sums = {
        "svhn": (digits_of_houses, as_published(svhn, "TEST", digits_of_houses)),
        "flowers102": (splits, as_published(flowers102, "SPLITS", splits)),
    }
    for name, (file, md5) in sums.items():
        OOD_SETS[name].check(root)
        OOD_SETS[name].load(root)
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        for ask in (OOD_SETS[name].check, OOD_SETS[name].load):
            with pytest.raises(
                UserError, match=rf"{file} has md5 \w+, not {md5} as published: move it"
            ) as no:
                ask(root)
            assert "ood-parts" in str(no.value) and "\n" not in str(no.value)


@pytest.fixture
def flowers(tmp_path):
    """Three pictures in the layout of Flowers102, the test split being numbers 12 and 3."""
    folder = tmp_path / "flowers-102" / "jpg"
    folder.mkdir(parents=True)
    for number, size, middle in ((3, (90, 60), 200), (7, (60, 90), 90), (12, (60, 100), 140)):
        picture = np.zeros((size[1], size[0], 3), dtype=np.uint8)
        shorter = min(size)
        top, left = (size[1] - shorter) // 2, (size[0] - shorter) // 2
        picture[top : top + shorter, left : left + shorter] = middle  # what is cut off is black
        Image.fromarray(picture).save(folder / f"image_{number:05d}.jpg", quality=95)
    savemat(
        folder.parent / "setid.mat",
        {"tstid": np.array([[12, 3]], dtype=np.uint16), "trnid": np.array([[7]], dtype=np.uint16)},
    )
    return folder


def test_flowers_are_reduced_to_their_middle_and_kept(flowers, capsys):
    splits = flowers.parent / "setid.mat"
    images = flowers102.read_test(flowers, splits, 2)
    assert (images.dtype, images.shape) == (np.uint8, (2, 32, 32, 3))
    assert images[:, 4:-4, 4:-4].mean(axis=(1, 2, 3)) == pytest.approx([140, 200], abs=1)
    assert images.min() > 50, "more than the middle is seen"  # the edge blends with the black beside it
    assert capsys.readouterr().err.count("decoding 2 images") == 1
    damaged = flowers / "image_00003.jpg"
    damaged.write_bytes(damaged.read_bytes()[:300])
    assert np.array_equal(flowers102.read_test(flowers, splits, 2), images)
    assert capsys.readouterr().err == "", "decoded again"
    with pytest.raises(RunError, match="must name 6149 images, found 2"):
        flowers102.read_test(flowers, splits, flowers102.SIZE)
    kept = flowers.parent / "test-32x32.npy"
    kept.write_bytes(kept.read_bytes()[:-7] + b"\0" * 7)
    with pytest.raises(RunError, match=r"cannot read the image .*image_00003\.jpg"):
        flowers102.read_test(flowers, splits, 2)
    damaged.unlink()
    with pytest.raises(UserError, match=r"lacks 1 of 2 test images, image_00003\.jpg first"):
        flowers102.read_test(flowers, splits, 2)


def test_of_several_at_once_one_decodes(flowers, monkeypatch, capsys):
    def slowly(file):
        time.sleep(0.05)  # so that all begin before one is done
        return reduced(file)

    reduced = flowers102.reduced
    monkeypatch.setattr(flowers102, "reduced", slowly)
    with ThreadPoolExecutor(4) as pool:  # each opens the lock for itself, as processes do
        found = list(
            pool.map(lambda _: flowers102.read_test(flowers, flowers.parent / "setid.mat", 2), range(4))
        )
    assert capsys.readouterr().err.count("decoding") == 1
    assert all(np.array_equal(images, found[0]) for images in found)
    assert not list(flowers.parent.glob(".*.npy")), "a temporary file was left"


def test_where_nothing_can_be_kept_the_images_come_all_the_same(flowers, capsys):
    kept = flowers.parent / "test-32x32.npy"
    lock = kept.with_name(f".{kept.name}.lock")
    lock.mkdir()  # in the way: no lock can be had, as on a read-only disk
    images = flowers102.read_test(flowers, flowers.parent / "setid.mat", 2)
    assert images.shape == (2, 32, 32, 3)
    said = capsys.readouterr().err
    assert f"not kept for next time, {kept}: Is a directory" in said and said.count("decoding") == 1
    assert not kept.exists()


@pytest.mark.slow  # importing torchvision takes seconds
def test_flowers_are_reduced_as_torchvision_does(real_data):
    from experiments.torchvision_guard import import_torchvision

    import_torchvision()
    from torchvision.transforms import CenterCrop, Compose, Resize  # noqa: TID251 (guarded above)

    folder = real_data("flowers-102") / "flowers-102"
    files = sorted(folder.glob("jpg*/*.jpg"))[:20]
    assert files
    theirs = Compose([Resize(32), CenterCrop(32)])
    for file in files:
        assert np.array_equal(flowers102.reduced(file), np.asarray(theirs(Image.open(file).convert("RGB"))))


NOWHERE = "http://127.0.0.1:9/"  # the port of "discard": nobody listens


@pytest.fixture
def offline(monkeypatch):
    for module, name in ((svhn, "TEST"), (flowers102, "IMAGES"), (flowers102, "SPLITS")):
        wanted = getattr(module, name)
        monkeypatch.setattr(module, name, dataclasses.replace(wanted, url=NOWHERE + wanted.path))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("name", "path"), [("svhn", "test_32x32.mat"), ("flowers102", "flowers-102/jpg")], ids=["SVHN", "Flowers"]
)
def test_missing_sets_say_where_they_belong_and_how_to_get_them(name, path, tmp_path):
    for ask in (OOD_SETS[name].check, OOD_SETS[name].load):
        with pytest.raises(UserError) as caught:
            ask(tmp_path)
        for part in (OOD_SETS[name].title, str(tmp_path / path), NOWHERE, "$IVON_DATA", "refused"):
            assert part in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["svhn", "flowers102"])
def test_a_part_stands_in_and_says_so(name, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    write_part(tmp_path, name, OodImages(images=images, only="4 images of noise"))
    OOD_SETS[name].check(tmp_path)
    found = OOD_SETS[name].load(tmp_path)
    assert found.only == "4 images of noise"
    assert np.array_equal(found.images, images)
    notes = {}
    with noted(notes.__setitem__):
        open_ood(name, device="cpu", root=tmp_path)
    assert notes[name]["modified"] == "4 images of noise"


def test_the_whole_set_comes_before_a_part(digits_of_houses, tmp_path, as_published, monkeypatch):
    monkeypatch.setattr(svhn, "SIZE", 5)
    as_published(svhn, "TEST", digits_of_houses)
    images = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    write_part(tmp_path, "svhn", OodImages(images=images, only="one"))
    assert svhn.load(tmp_path).only is None


def test_bad_parts_are_explained(tmp_path):
    images = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="must say what it is"):
        write_part(tmp_path, "svhn", OodImages(images=images))
    file = write_part(tmp_path, "svhn", OodImages(images=images[:, :8], only="too low"))
    with pytest.raises(RunError, match=r"found uint8 \(2, 8, 32, 3\)"):
        read_part(tmp_path, "svhn")
    file.write_bytes(file.read_bytes()[:99])
    with pytest.raises(RunError, match=r"cannot read .*svhn\.npz"):
        read_part(tmp_path, "svhn")
    assert read_part(tmp_path, "flowers102") is None


def published(folder, name: str, content: bytes, **facts) -> PublicFile:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    md5 = hashlib.md5(content).hexdigest()
    return PublicFile(**{"title": "Toy", "url": (folder / name).as_uri(), "md5": md5} | facts)


def test_files_and_archives_are_fetched_once_and_whole(tmp_path, capsys):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("jpg/a.jpg")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"one"))
    root, web = tmp_path / "new" / "root", tmp_path / "web"
    single = published(web, "toy.mat", b"numbers", path="toy/toy.mat")
    several = published(web, "toy.tgz", packed.getvalue(), path="toy/jpg", archive=True)
    for _ in range(2):
        assert ensure(root, single).read_bytes() == b"numbers"
        assert (ensure(root, several) / "a.jpg").read_bytes() == b"one"
    assert capsys.readouterr().err.count("downloading") == 2
    assert sorted(entry.name for entry in (root / "toy").iterdir() if entry.suffix != ".lock") == [
        "jpg",
        "toy.mat",
    ]


def test_nothing_is_left_of_what_does_not_match(tmp_path):
    wrong = published(tmp_path / "web", "toy.mat", b"numbers", path="toy.mat", md5="0" * 32)
    other = published(tmp_path / "web", "toy.tgz", b"no archive", path="jpg", archive=True)
    for wanted, reason in ((wrong, "not 00000"), (other, "cannot unpack")):
        with pytest.raises(UserError, match=reason):
            ensure(tmp_path / "root", wanted)
    assert {entry.suffix for entry in (tmp_path / "root").iterdir()} == {".lock"}


def test_importing_it_needs_neither_torch_nor_numpy():
    code = "import sys, experiments.data.ood; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
