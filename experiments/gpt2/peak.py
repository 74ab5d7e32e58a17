"""The most operations a second that GPUs do in bfloat16, without sparsity, by their makers' data sheets."""

# The first name that a device's name contains counts, so the variants of a GPU come before it.
PEAKS = {
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
}


def peak_flops(device: str, precision: str) -> float | None:
    """Of the device with this name, in the precision of a run; None where it is not known."""
    if precision == "fp32":
        return None
    return next((peak for name, peak in PEAKS.items() if name in device), None)
