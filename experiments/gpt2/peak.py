"""The most operations a second that GPUs do in bfloat16, without sparsity, by their makers' data sheets."""

PEAKS = {"A100": 312e12, "H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12}


def peak_flops(device: str) -> float | None:
    """Of the device with this name; None where it is not known."""
    return next((peak for name, peak in PEAKS.items() if name in device), None)
