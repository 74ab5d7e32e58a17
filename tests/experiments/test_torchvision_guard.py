"""The guard, beside the installed torchvision, and beside small stand-ins for it. Those have a process of
their own: an operator stays declared as long as its process lives."""

import json
import subprocess
import sys
from pathlib import Path

import torch

from experiments.torchvision_guard import import_torchvision

ROOT = Path(__file__).parent.parent.parent

# What torchvision does at import: describe operators that its compiled library should have brought.
DESCRIBES_OPERATORS = """
import torch, torchvision.half
for name in ("nms", "qnms"):
    fake = torch.library.register_fake("torchvision::" + name, allow_override=True)
    fake(lambda dets, scores, iou_threshold: dets)
"""
BRINGS_NMS = """
import torch
if not hasattr(torch, "kept"):
    torch.kept = torch.library.Library("torchvision", "FRAGMENT")
    torch.kept.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
# Puts one stand-in after the other in place, imports it twice through the guard, and says how that ended and
# which operators there are then.
DRIVER = """
import json, os, sys
folder, *stand_ins = sys.argv[1:]
sys.path[:0] = [folder, os.getcwd()]
sys.dont_write_bytecode = True  # two stand-ins of one size within a second would share it
import torch
from experiments.torchvision_guard import import_torchvision
os.mkdir(f"{folder}/torchvision")
open(f"{folder}/torchvision/half.py", "w").close()
for stand_in in stand_ins:
    with open(f"{folder}/torchvision/__init__.py", "w") as file:
        file.write(stand_in)
    sys.modules.pop("torchvision", None)
    try:
        end = "imported" if import_torchvision() is import_torchvision() else "imported twice"
    except Exception as error:
        end = str(error)
    print(json.dumps([end, [name for name in ("nms", "qnms") if hasattr(torch.ops.torchvision, name)]]))
"""


def through_the_guard(folder: Path, *stand_ins: str) -> list[tuple[str, list[str]]]:
    command = [sys.executable, "-c", DRIVER, str(folder), *stand_ins]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return [tuple(json.loads(line)) for line in answer.stdout.splitlines()]


def test_transforms_work() -> None:
    assert import_torchvision() is import_torchvision()
    transforms = import_torchvision("torchvision.transforms.v2")
    image = torch.arange(3 * 8 * 8, dtype=torch.uint8).reshape(3, 8, 8)
    assert torch.equal(transforms.functional.horizontal_flip(image), image.flip(-1))
    assert transforms.RandomCrop(8, padding=2)(image).shape == image.shape


def test_operators_are_declared_only_where_they_are_missing(tmp_path: Path) -> None:
    ends = through_the_guard(
        tmp_path,
        "",  # imports cleanly
        "raise ImportError('no such library')",
        "raise RuntimeError('out of memory')",
        DESCRIBES_OPERATORS,
    )
    assert ends == [
        ("imported", []),
        ("no such library", []),
        ("out of memory", []),
        ("imported", ["nms", "qnms"]),
    ]


def test_operators_that_are_there_are_left_alone(tmp_path: Path) -> None:
    """Declaring nms a second time would end the process."""
    ends = through_the_guard(tmp_path, BRINGS_NMS + DESCRIBES_OPERATORS)
    assert ends == [("imported", ["nms", "qnms"])]
