"""Where corrupted images come from: the published archive where the data root has it."""

from dataclasses import dataclass
from pathlib import Path

FOLDERS = {"cifar10": "CIFAR-10-C", "cifar100": "CIFAR-100-C"}
ARCHIVES = {
    "CIFAR-10-C": "https://zenodo.org/records/2535967 (CIFAR-10-C.tar, 2.9 GB, md5 "
    "56bf5dcef84df0e2308c6dcbcbbd8499)",
    "CIFAR-100-C": "https://zenodo.org/records/3555552 (CIFAR-100-C.tar, 2.9 GB)",
}


def published_folder(root: Path, dataset: str) -> Path | None:
    """The unpacked archive for this data set; None if the data root has none."""
    folder = root / FOLDERS[dataset] if dataset in FOLDERS else None
    return folder if folder and folder.is_dir() else None


@dataclass(frozen=True, kw_only=True)
class CorruptedImages:
    """The corrupted test images of a data set that has a published archive; without it they are made."""

    dataset: str

    @property
    def title(self) -> str:
        return FOLDERS[self.dataset]

    def check(self, root: Path) -> None:
        """Nothing has to be there."""

    def fetch(self, root: Path) -> None:
        """Three gigabytes are for the user to bring."""

    def folder_below(self, _root: Path) -> str | None:
        return FOLDERS[self.dataset]

    def where(self, root: Path) -> str:
        """In words, for plans."""
        if folder := published_folder(root, self.dataset):
            return f"found in {folder}"
        return f"not in {root}: made from the published definitions; archive: {ARCHIVES[self.title]}"
