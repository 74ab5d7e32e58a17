"""Where corrupted images come from: the published archive where the data root has it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.errors import UserError

# "any": of the archive if it is there, else made; one of the others: from there and from nowhere else.
Origin = Literal["any", "published", "made"]
LABELS = "labels"
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
    """The corrupted test images of a data set that has a published archive, which `origin` may ask for."""

    dataset: str
    origin: Origin = "any"
    corruptions: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return FOLDERS[self.dataset]

    def check(self, root: Path) -> None:
        """UserError if the archive is asked for and not there, with all of these corruptions."""
        if self.origin != "published":
            return
        if self.dataset not in FOLDERS:
            raise UserError(f"no archive of corrupted images of {self.dataset!r} is published")
        folder = root / self.title
        missing = [name for name in (LABELS, *self.corruptions) if not (folder / f"{name}.npy").is_file()]
        if missing:
            raise UserError(
                f"{self.title} is not in {root} (no {missing[0]}.npy): unpack {ARCHIVES[self.title]} there; "
                "the artefact fig7_made does without, on images that are made here, and says so"
            )

    def fetch(self, root: Path) -> None:
        """Three gigabytes are for the user to bring."""

    def folder_below(self, _root: Path) -> str | None:
        return FOLDERS[self.dataset]

    def where(self, root: Path) -> str:
        """In words, for plans."""
        try:
            self.check(root)
        except UserError as error:
            return f"MISSING: {error}"
        folder = published_folder(root, self.dataset)
        if folder and self.origin != "made":
            return f"found in {folder}"
        if self.origin == "made":
            return "made from the published definitions, as asked for"
        return f"not in {root}: made from the published definitions; archive: {ARCHIVES[self.title]}"
