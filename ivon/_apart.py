"""Parameters that share memory: a draw would move it twice, and the way back end elsewhere."""

from array import array
from itertools import pairwise

from torch import Tensor

from ivon._shards import locals_of
from ivon._stretches import PLAIN, is_dense


class Apart:
    """Checks that no two parameters share memory, once for every place that they are in."""

    def __init__(self) -> None:
        self._checked = array("q")

    def check(self, params: list[Tensor]) -> None:
        """RuntimeError if two of them do: two `nn.Parameter` of one tensor, or views that overlap."""
        here = locals_of(params)
        if not PLAIN.issuperset(map(type, here)):
            return
        addresses = array("q", map(Tensor.data_ptr, here))
        if addresses == self._checked:
            return
        # Of one with gaps it is not known which others lie in them.
        dense = [i for i, tensor in enumerate(here) if tensor.numel() and is_dense(tensor)]
        dense.sort(key=lambda i: addresses[i])
        for i, j in pairwise(dense):
            if addresses[i] + here[i].numel() * here[i].element_size() > addresses[j]:
                raise RuntimeError(
                    f"trainable parameters {min(i, j)} and {max(i, j)} share memory: a draw would move it "
                    f"twice. Tied weights are to be one nn.Parameter, at several places in the model"
                )
        self._checked = addresses
