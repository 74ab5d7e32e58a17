# pyright: reportMissingImports=false, reportMissingParameterType=false, reportGeneralTypeIssues=false
"""Algorithm 1 as GPU kernels that read and write every number once, for all parameters in one launch.

`_kernels.py` says the same as PyTorch's operations, each of which goes through memory. Here the noise is made
in registers, a function of a seed and a place, and made again where it is wanted again. Importing this needs
Triton, which comes with PyTorch for NVIDIA GPUs.

`table` has the addresses of the tensors, role by role, `n` to a role. A program does one chunk of 4 BLOCK
neighbouring entries of one tensor: the generator makes four normals at once.
"""

import triton
import triton.language as tl

BLOCK = 256


@triton.jit
def _place(numels, groups, tensor_of, chunk_of, block: tl.constexpr):
    """Of this program: tensor, entries and their bound, first group of numbers, whether its chunk is full."""
    i = tl.load(tensor_of + tl.program_id(0))
    chunk = tl.load(chunk_of + tl.program_id(0)).to(tl.int64)
    at = chunk * (4 * block) + tl.arange(0, 4 * block)
    numel = tl.load(numels + i)
    return i, at, numel, tl.load(groups + i) + chunk * block, (chunk + 1) * (4 * block) <= numel


@triton.jit
def _tensor(table, role: tl.constexpr, n, i, aligned: tl.constexpr):
    pointer = tl.load(table + role * n + i).to(tl.pointer_type(tl.float32))
    if aligned:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def _load(tensor, at, numel, whole: tl.constexpr):
    # Sixteen bytes at once, which a mask of unknown bounds would prevent.
    if whole:
        return tl.load(tensor + at)
    else:
        return tl.load(tensor + at, mask=at < numel, other=1.0)


@triton.jit
def _store(tensor, at, values, numel, whole: tl.constexpr):
    if whole:
        tl.store(tensor + at, values)
    else:
        tl.store(tensor + at, values, mask=at < numel)


@triton.jit
def _normals(seed, group, block: tl.constexpr):
    e0, e1, e2, e3 = tl.randn4x(seed, group + tl.arange(0, block))
    return tl.reshape(tl.join(tl.join(e0, e1), tl.join(e2, e3)), (4 * block,))


@triton.jit
def _noise(seed, group, hess, noise_scale, weight_decay, block: tl.constexpr):
    """sigma eps"""
    return noise_scale * tl.rsqrt(hess + weight_decay) * _normals(seed, group, block)


@triton.jit
def _draw(
    params, kept, hess, at, numel, seed, group, noise_scale, weight_decay,
    whole: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    mean = _load(params, at, numel, whole)
    noise = _noise(seed, group, _load(hess, at, numel, whole), noise_scale, weight_decay, block)
    _store(kept, at, mean, numel, whole)
    _store(params, at, mean + noise, numel, whole)


@triton.jit(do_not_specialize=["n", "seed"])
def draw(
    table, numels, groups, tensor_of, chunk_of, n, seed,
    noise_scale, weight_decay,
    aligned: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """params: m <- theta = m + sigma eps (line 7); kept: m. Roles: params, kept, hess.

    Behind them the table has the address of a number that becomes `seed`: that it was done.
    """
    if tl.program_id(0) == 0:
        tl.store(tl.load(table + 3 * n).to(tl.pointer_type(tl.int64)), seed)
    i, at, numel, group, whole = _place(numels, groups, tensor_of, chunk_of, block)
    params = _tensor(table, 0, n, i, aligned)
    kept = _tensor(table, 1, n, i, aligned)
    hess = _tensor(table, 2, n, i, aligned)
    if whole:
        _draw(params, kept, hess, at, numel, seed, group, noise_scale, weight_decay, True, block)
    else:
        _draw(params, kept, hess, at, numel, seed, group, noise_scale, weight_decay, False, block)


@triton.jit
def _restore(params, kept, at, numel, whole: tl.constexpr):
    _store(params, at, _load(kept, at, numel, whole), numel, whole)


@triton.jit(do_not_specialize=["n", "seed"])
def restore(
    table, numels, groups, tensor_of, chunk_of, n, seed,
    aligned: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """params: theta <- m, if `draw` was done with this table and seed."""
    if tl.load(tl.load(table + 3 * n).to(tl.pointer_type(tl.int64))) == seed:
        i, at, numel, _, whole = _place(numels, groups, tensor_of, chunk_of, block)
        params = _tensor(table, 0, n, i, aligned)
        kept = _tensor(table, 1, n, i, aligned)
        if whole:
            _restore(params, kept, at, numel, True)
        else:
            _restore(params, kept, at, numel, False)


@triton.jit
def _add(
    hess, grads, products, sums, at, numel, seed, group, noise_scale, weight_decay, weight,
    price: tl.constexpr, first: tl.constexpr, whole: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    grad = _load(grads, at, numel, whole)
    if price:
        product = grad * _noise(seed, group, _load(hess, at, numel, whole), noise_scale, weight_decay, block)
    else:
        product = grad * grad
    product *= weight
    if not first:
        product += _load(products, at, numel, whole)
        _store(sums, at, _load(sums, at, numel, whole) + weight * grad, numel, whole)
    _store(products, at, product, numel, whole)


@triton.jit(do_not_specialize=["n", "seed"])
def add(
    table, numels, groups, tensor_of, chunk_of, n, seed,
    noise_scale, weight_decay, weight,
    price: tl.constexpr, first: tl.constexpr, aligned: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """The products of one draw, weighted, to their sums, and unless `first` the gradients to theirs.

    Roles: hess, grads, sums of products, sums of gradients.
    """
    i, at, numel, group, whole = _place(numels, groups, tensor_of, chunk_of, block)
    hess = _tensor(table, 0, n, i, aligned)
    grads = _tensor(table, 1, n, i, aligned)
    products = _tensor(table, 2, n, i, aligned)
    sums = _tensor(table, 3, n, i, aligned)
    if whole:
        _add(
            hess, grads, products, sums, at, numel, seed, group, noise_scale, weight_decay, weight,
            price, first, True, block,
        )  # fmt: skip
    else:
        _add(
            hess, grads, products, sums, at, numel, seed, group, noise_scale, weight_decay, weight,
            price, first, False, block,
        )  # fmt: skip


@triton.jit
def _update(
    params, hesses, momenta, grads, products, at, numel, seed, group,
    noise_scale, hess_scale, weight, momentum_rate, hess_rate, weight_decay, decay, clip, lr, floor,
    price: tl.constexpr, summed: tl.constexpr, clipped: tl.constexpr,
    whole: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    hess = _load(hesses, at, numel, whole)
    grad = _load(grads, at, numel, whole)
    if summed:
        grad = grad / weight
        product = _load(products, at, numel, whole) / weight
    elif price:
        product = grad * _noise(seed, group, hess, noise_scale, weight_decay, block)
    else:
        product = grad * grad

    precision = hess + weight_decay
    if price:
        q = hess / precision - hess_scale * product
    else:
        q = (hess - hess_scale * product) / precision
    q -= 0.5 * hess_rate * q * q
    hess -= hess_rate * precision * q
    hess = tl.where(hess < floor, floor, hess)  # a NaN stays one
    _store(hesses, at, hess, numel, whole)

    momentum = _load(momenta, at, numel, whole)
    momentum += momentum_rate * (grad - momentum)
    _store(momenta, at, momentum, numel, whole)

    mean = _load(params, at, numel, whole)
    direction = (momentum + decay * mean) / (hess + weight_decay)
    if clipped:
        direction = tl.where(direction > clip, clip, direction)
        direction = tl.where(direction < -clip, -clip, direction)
    _store(params, at, mean - lr * direction, numel, whole)


@triton.jit(do_not_specialize=["n", "seed"])
def update(
    table, numels, groups, tensor_of, chunk_of, n, seed,
    noise_scale, hess_scale, weight, momentum_rate, hess_rate, weight_decay, decay, clip, lr, floor,
    price: tl.constexpr, summed: tl.constexpr, clipped: tl.constexpr,
    aligned: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Lines 2 to 6, as `_kernels.update`. Roles: params, hess, momentum, grads, products if `summed`."""
    i, at, numel, group, whole = _place(numels, groups, tensor_of, chunk_of, block)
    params = _tensor(table, 0, n, i, aligned)
    hess = _tensor(table, 1, n, i, aligned)
    momentum = _tensor(table, 2, n, i, aligned)
    grads = _tensor(table, 3, n, i, aligned)
    products = _tensor(table, 4 if summed else 3, n, i, aligned)
    if whole:
        _update(
            params, hess, momentum, grads, products, at, numel, seed, group,
            noise_scale, hess_scale, weight, momentum_rate, hess_rate, weight_decay, decay, clip, lr, floor,
            price, summed, clipped, True, block,
        )  # fmt: skip
    else:
        _update(
            params, hess, momentum, grads, products, at, numel, seed, group,
            noise_scale, hess_scale, weight, momentum_rate, hess_rate, weight_decay, decay, clip, lr, floor,
            price, summed, clipped, False, block,
        )  # fmt: skip
