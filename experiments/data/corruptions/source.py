"""Where corrupted images come from: the published archive where the data root has it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.data.provenance import Identity, place_in_words, published
from experiments.errors import UserError

# "any": of the archive if it is there, else made; one of the others: from there and from nowhere else.
Origin = Literal["any", "published", "made"]
FOLDERS = {"cifar10": "CIFAR-10-C", "cifar100": "CIFAR-100-C"}
ARCHIVES = {
    "CIFAR-10-C": "https://zenodo.org/records/2535967 (CIFAR-10-C.tar, 2.9 GB, md5 "
    "56bf5dcef84df0e2308c6dcbcbbd8499)",
    "CIFAR-100-C": "https://zenodo.org/records/3555552 (CIFAR-100-C.tar, 2.9 GB, md5 "
    "11f0ed0f1191edbf9fa23466ae6021d3)",
}
ARCHIVE_MD5 = {
    "CIFAR-10-C": "56bf5dcef84df0e2308c6dcbcbbd8499",
    "CIFAR-100-C": "11f0ed0f1191edbf9fa23466ae6021d3",
}
LABELS = "labels.npy"
MD5 = {
    "CIFAR-10-C": {
        LABELS: "c439b113295ed5254878798ffe28fd54",
        "brightness.npy": "0a81ef75e0b523c3383219c330a85d48",
        "contrast.npy": "3c8262171c51307f916c30a3308235a8",
        "defocus_blur.npy": "7d1322666342a0702b1957e92f6254bc",
        "elastic_transform.npy": "9421657c6cd452429cf6ce96cc412b5f",
        "fog.npy": "7b397314b5670f825465fbcd1f6e9ccd",
        "frost.npy": "31f6ab3bce1d9934abfb0cc13656f141",
        "gaussian_noise.npy": "ecaf8b9a2399ffeda7680934c33405fd",
        "glass_blur.npy": "7361fb4019269e02dbf6925f083e8629",
        "impulse_noise.npy": "2090e01c83519ec51427e65116af6b1a",
        "jpeg_compression.npy": "2b9cc4c864e0193bb64db8d7728f8187",
        "motion_blur.npy": "fffa5f852ff7ad299cfe8a7643f090f4",
        "pixelate.npy": "0f14f7e2db14288304e1de10df16832f",
        "shot_noise.npy": "3a7239bb118894f013d9bf1984be7f11",
        "snow.npy": "bb238de8555123da9c282dea23bd6e55",
        "zoom_blur.npy": "6ea8e63f1c5cdee1517533840641641b",
    },
    "CIFAR-100-C": {
        LABELS: "bb4026e9ce52996b95f439544568cdb2",
        "brightness.npy": "f22d7195aecd6abb541e27fca230c171",
        "contrast.npy": "322bb385f1d05154ee197ca16535f71e",
        "defocus_blur.npy": "d923e3d9c585a27f0956e2f2ad832564",
        "elastic_transform.npy": "a0792bd6581f6810878be71acedfc65a",
        "fog.npy": "4efc7ebd5e82b028bdbe13048e3ea564",
        "frost.npy": "3a39c6823bdfaa0bf8b12fe7004b8117",
        "gaussian_noise.npy": "ecc4d366eac432bdf25c024086f5e97d",
        "glass_blur.npy": "0bf384f38e5ccbf8dd479d9059b913e1",
        "impulse_noise.npy": "3b3c210ddfa0b5cb918ff4537a429fef",
        "jpeg_compression.npy": "c851b7f1324e1d2ffddeb76920576d11",
        "motion_blur.npy": "732a7e2e54152ff97c742d4c388c5516",
        "pixelate.npy": "96c00c60f144539e14cffb02ddbd0640",
        "shot_noise.npy": "b0a1fa6e1e465a747c1b204b1914048a",
        "snow.npy": "0237be164583af146b7b144e73b43465",
        "zoom_blur.npy": "0204613400c034a81c4830d5df81cb82",
    },
}


def published_folder(root: Path, dataset: str) -> Path | None:
    """The unpacked archive for this data set; None if the data root has none."""
    folder = root / FOLDERS[dataset] if dataset in FOLDERS else None
    return folder if folder and folder.is_dir() else None


def check_published(root: Path, folder: Path) -> Identity:
    """The identity of the unpacked archive, all of whose files here must be as published, or declared not to
    be (`provenance.published`). UserError otherwise, also if it has no labels.
    """
    name = folder.name
    there = {file: md5 for file, md5 in MD5[name].items() if file == LABELS or (folder / file).is_file()}
    return published(root, folder, there, archive=ARCHIVE_MD5[name], remedy=_remedy(folder))


def _remedy(folder: Path) -> str:
    return f"take it from {ARCHIVES[folder.name]} again, or move {folder} away, and the images are made"


@dataclass(frozen=True, kw_only=True)
class CorruptedImages:
    """The corrupted test images of a data set that has a published archive, which `origin` may ask for."""

    dataset: str
    origin: Origin = "any"
    corruptions: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return FOLDERS[self.dataset]

    def check(self, root: Path) -> None:
        """UserError if the archive is asked for and is not there with all of these corruptions, or if what is
        there and would be read is damaged.
        """
        if self.origin == "made":
            return
        if missing := self._missing(root):
            raise UserError(missing)
        if folder := published_folder(root, self.dataset):
            check_published(root, folder)

    def _missing(self, root: Path) -> str:
        """What is asked for and not there, in a sentence; empty if nothing."""
        if self.origin != "published":
            return ""
        if self.dataset not in FOLDERS:
            return f"no archive of corrupted images of {self.dataset!r} is published"
        files = (LABELS, *(f"{name}.npy" for name in self.corruptions))
        absent = next((name for name in files if not (root / self.title / name).is_file()), "")
        return absent and (
            f"{self.title} is not in {root} (no {absent}): unpack {ARCHIVES[self.title]} there; "
            "the artefact fig7_made does without, on images that are made here, and says so"
        )

    def fetch(self, root: Path) -> None:
        """Three gigabytes are for the user to bring."""

    def folder_below(self, _root: Path) -> str | None:
        return FOLDERS[self.dataset]

    def where(self, root: Path) -> str:
        """In words, for plans."""
        if missing := self._missing(root):
            return f"MISSING: {missing}"
        try:
            self.check(root)
        except UserError as error:
            return f"UNUSABLE: {error}"
        if self.origin == "made":
            return "made from the published definitions, as asked for"
        if folder := published_folder(root, self.dataset):
            absent = [name for name in MD5[folder.name] if not (folder / name).is_file()]
            return f"found in {place_in_words(folder)}" + (f"; without {', '.join(absent)}" if absent else "")
        return f"not in {root}: made from the published definitions; archive: {ARCHIVES[self.title]}"
