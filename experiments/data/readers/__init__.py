"""The data sets that fit into memory: from files or a download to arrays."""
