"""IVON inside training frameworks; README.md says how to run the scripts."""

from contextlib import suppress

with suppress(ImportError):  # of torchvision, which the frameworks import: not every build fits every PyTorch
    from experiments.torchvision_guard import import_torchvision

    import_torchvision()
