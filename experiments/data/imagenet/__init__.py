"""ImageNet, which does not fit into memory: listed, decoded by worker processes, streamed to the device."""
