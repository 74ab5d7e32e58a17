"""Specifications, records, the one training loop, the one evaluation loop, and the local launcher."""
