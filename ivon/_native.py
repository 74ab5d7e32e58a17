# pyright: reportPrivateImportUsage=false
"""The functions of _native.c on lists of parameters: how they are compiled, and when they are used.

Compiling takes half a second, once on a machine. Where there is no C compiler, PyTorch's operations do the
same, several times slower.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from array import array
from contextlib import suppress
from functools import cache
from itertools import accumulate, chain
from operator import attrgetter
from pathlib import Path

import torch
from torch import Tensor

from ivon._kernels import Flags, Numbers
from ivon._ownership import Foreign, open_own, own_folder
from ivon._stretches import PLAIN, all_lie_alike, laid_out_like

SOURCE = Path(__file__).with_name("_native.c")
# Without the last two, square roots and comparisons might raise errors, and would be done one by one. The
# first is against a -ffast-math in CC, which knows no NaN.
FLAGS = (
    *("-fno-fast-math", "-O3", "-std=c11", "-shared", "-fPIC", "-pthread"),
    *("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
)
INSTRUCTIONS = {  # those that PyTorch uses on this processor
    "AVX2": ("-mavx2", "-mfma"),
    "AVX512": ("-mavx2", "-mfma", "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"),
}
KINDS = {"price": 0, "gradsq": 1, "ggn": 2}  # of products
SUMMED = 2
SHARE = 1 << 19  # entries; a thread for fewer comes too late to help
DTYPE, IS_CPU = attrgetter("dtype"), attrgetter("is_cpu")

WRONG_SIZE = "the state or the gradient of a parameter is not of its size"

Integers = array  # of 64 bits


class _Task(ctypes.Structure):
    _fields_ = (
        ("n", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("sizes", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        ("tensors", ctypes.c_void_p),
        ("key", ctypes.c_uint64),
        *((name, ctypes.c_float) for name in ("noise_scale", *Numbers._fields)),
    )


def usable(*roles: list[Tensor]) -> bool:
    """Whether the functions can do these parameters: of float32, on a CPU, ordinary, and without gaps.

    `roles[r][i]` is what parameter i has in role r; all must lie alike in memory.
    """
    return (
        set(map(DTYPE, chain.from_iterable(roles))) == {torch.float32}
        and all(map(IS_CPU, chain.from_iterable(roles)))
        and PLAIN.issuperset(map(type, roles[0]))
        and all_lie_alike(*roles)
        and library() is not None
    )


def normals(out: Tensor, key: int, start: int) -> bool:
    """Fill a flat tensor with the numbers start, start + 1, ... of the key. Whether it was done."""
    if not usable([out]):
        return False
    _call("ivon_normals", _sizes([out]), _addresses([out]), starts=array("q", [start]), key=key)
    return True


class Trip:
    """The way of parameters to a draw and back, whatever signal comes: each step is done whole or not at all.

    `kept`, a flat tensor with room for all, has standard normal noise at first or, with `made_here`, gets
    what the key has. It has the means while the parameters are at the draw, and afterwards theta - m.
    """

    def __init__(self, params: list[Tensor], kept: Tensor) -> None:
        self._params, self._kept = params, kept
        self.sizes = _sizes(params)
        self._begin = array("q", accumulate(self.sizes[:-1], initial=0))
        self._addresses = _addresses(params)
        begin = kept.data_ptr()
        self.places = array("q", [begin + 4 * entry for entry in self._begin])  # addresses within `kept`
        self._moved = ctypes.c_int64(0)

    def go(
        self, hess: list[Tensor], key: int, *, made_here: bool, noise_scale: float, weight_decay: float
    ) -> None:
        """params: m <- theta; kept: m."""
        addresses = self._addresses + self.places + _addresses(hess)
        starts = self._begin if made_here else None
        numbers = {"noise_scale": noise_scale, "weight_decay": weight_decay}
        moved = ctypes.byref(self._moved)
        _call("ivon_draw", self.sizes, addresses, moved, starts=starts, key=key, **numbers)
        tell_autograd(self._params)

    def is_away(self) -> bool:
        """Whether the parameters are at the draw."""
        return bool(self._moved)

    def is_open(self) -> bool:
        """Whether the parameters are what they were at the draw: not moved, converted nor resized since."""
        now = self._params
        return (
            _addresses(now) == self._addresses
            and _sizes(now) == self.sizes
            and set(map(DTYPE, now)) == {torch.float32}
        )

    def back(self) -> None:
        """params: theta <- m; kept: m <- theta - m; if they are at the draw."""
        if self.is_away():
            _call("ivon_restore", self.sizes, self._addresses + self.places, ctypes.byref(self._moved))
            tell_autograd(self._params)


def update(
    params: list[Tensor],
    hess: list[Tensor],
    momentum: list[Tensor],
    grads: list[Tensor],
    products: list[Tensor] | Trip,
    *,
    n: Numbers,
    flags: Flags,
) -> None:
    """`_kernels.update`, of products or of noise, such as a trip's, not yet multiplied by gradients."""
    kind_of_products = SUMMED if flags.summed else KINDS[flags.estimator]
    of_price = flags.estimator == "price"
    roles = [params, hess, momentum, laid_out_like(hess, grads)]
    if isinstance(products, Trip):
        sizes, places = products.sizes, products.places
    else:
        sizes, places = _sizes(params), array("q")
        roles.append(laid_out_like(hess, products))
    if any(_sizes(role) != sizes for role in roles):
        raise RuntimeError(WRONG_SIZE)
    addresses = _addresses(*roles) + places
    arguments = ctypes.c_int64(kind_of_products), ctypes.c_int64(of_price)
    _call("ivon_update", sizes, addresses, *arguments, **n._asdict())
    tell_autograd(params)


def _call(
    function: str,
    sizes: Integers,
    addresses: Integers,
    *arguments: object,
    starts: Integers | None = None,
    key: int = 0,
    **numbers: float,
) -> None:
    task = _Task(
        n=len(sizes),
        threads=max(min(torch.get_num_threads(), sum(sizes) // SHARE), 1),
        sizes=sizes.buffer_info()[0],
        starts=starts.buffer_info()[0] if starts else None,
        tensors=addresses.buffer_info()[0],
        key=key,
        **numbers,
    )
    getattr(library(), function)(ctypes.byref(task), *arguments)


def _sizes(tensors: list[Tensor]) -> Integers:
    return array("q", map(Tensor.numel, tensors))


def _addresses(*roles: list[Tensor]) -> Integers:
    return array("q", map(Tensor.data_ptr, chain.from_iterable(roles)))


def tell_autograd(params: list[Tensor]) -> None:
    """That they were changed in place, so that a backward pass that needs them as they were is an error."""
    if any(map(Tensor.is_inference, params)):
        params = [p for p in params if not p.is_inference()]
    torch.autograd.graph.increment_version(params)


@cache
def library() -> ctypes.CDLL | None:
    """The compiled functions; None, with a warning, if they cannot be compiled here."""
    try:
        return _load()
    except (OSError, ValueError, subprocess.SubprocessError) as error:  # ValueError: a CC that is no command
        said = getattr(error, "stderr", None) or str(error)
        reason = said.strip().partition("\n")[0]
        warnings.warn(f"IVON's step on CPUs is not compiled, and slower for it: {reason}", stacklevel=2)
        return None


def _load() -> ctypes.CDLL:
    """The functions from the user's cache; otherwise they are compiled, and put there if that is possible."""
    found = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not found:
        raise OSError("there is no C compiler (CC, cc, gcc, clang)")
    instructions = INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), ())
    command = [*shlex.split(found), *FLAGS, *instructions]
    # A home may be shared by machines of different kinds; -march=native is another thing on each.
    node = platform.node() if any("native" in part for part in command) else ""
    depends_on = repr((SOURCE.read_bytes(), command, platform.machine(), platform.libc_ver(), node))
    name, folder = f"native-{_digest(depends_on.encode())}", _cache_folder()
    if functions := _kept(folder, name):
        return functions
    with tempfile.TemporaryDirectory(prefix="ivon-") as scratch:
        compiled = _compile(command, own_folder(Path(scratch)))
        if folder:
            with suppress(OSError), tempfile.TemporaryDirectory(dir=folder) as beside:
                kept = folder / f"{name}-{_digest(compiled.read_bytes())}.so"
                _put(shutil.copy(compiled, beside), kept)
        return _kept(folder, name) or ctypes.CDLL(str(compiled))


def _compile(command: list[str], scratch: Path) -> Path:
    """The library, in a folder where nobody else can change what the compiler passes on to the linker."""
    compiled = scratch / "native.so"
    subprocess.run(
        [*command, "-o", str(compiled), str(SOURCE), "-lm"],
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",  # messages may be in any encoding
        timeout=120,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    compiled.chmod(0o700)  # whatever the umask: what others can write to is not loaded
    return compiled


def _kept(folder: Path | None, name: str) -> ctypes.CDLL | None:
    """The functions that some process has left in the cache."""
    for file in folder.glob(f"{name}-*.so") if folder else ():
        with suppress(OSError):  # a home may forbid to run its files: then what is compiled elsewhere is used
            if _is_whole(file):  # a damaged one would end the process
                return ctypes.CDLL(str(file))
    return None


def _put(new: str, kept: Path) -> None:
    """Keep a file, unless another process has done so by now: it may be running the one that is there."""
    try:
        os.link(new, kept)
    except OSError:
        if not _is_whole(kept):
            os.replace(new, kept)


def _is_whole(kept: Path) -> bool:
    """Whether a file is there, by nobody but the user, with the content that its name tells."""
    try:
        with open_own(kept) as file:
            return kept.name.endswith(f"-{_digest(file.read())}.so")
    except OSError:
        return False


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _cache_folder() -> Path | None:
    """Where the functions are kept; None if there is no such place. Code from there is run, so a folder that
    others can write to will not do."""
    try:
        return own_folder(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ivon")
    except Foreign as error:
        warnings.warn(f"IVON's step on CPUs is compiled anew by each process: {error}", stacklevel=4)
    except (OSError, RuntimeError):  # a disk that is full or read-only; a user without a home
        pass
    return None
