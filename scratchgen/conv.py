"""Floor 2: convolution as a closed set of three ops, each of them a gradient of the others.

    y = conv2d(x, w),    y[n,o,p] = sum over c, k of  x[n, c, stride p + k - padding] w[o,c,k]

is linear in x and linear in w (p and k are places in the output and in the kernel, zeros are
beyond the edge). So its gradients are its two adjoints: `conv_transpose2d` carries y back to x,
`conv2d_weight` carries x and y to w. Both are bilinear themselves, and their gradients are
again among the three: every order of derivative is there.

Images are (N, C, H, W), weights (O, C, kh, kw); strides and paddings are a number or a pair.
"""

from scratchgen.backend import module_of
from scratchgen.tensor import op


@op
def conv2d(x, weight, *, stride=1, padding=0):
    """(N, C, H, W), (O, C, kh, kw) -> (N, O, H', W') with H' = (H + 2 padding - kh)//stride + 1."""
    stride, padding = _pair(stride), _pair(padding)
    _check(x, weight)
    if x.shape[1] != weight.shape[1]:
        raise ValueError(f"{x.shape[1]} input channels, but the weight takes {weight.shape[1]}")
    size = _output_size(x.shape[2:], weight.shape[2:], stride, padding)
    columns = _columns(x, weight.shape[2:], size, stride, padding)
    out = weight.reshape(weight.shape[0], -1) @ columns
    return out.reshape((len(x), weight.shape[0]) + size)


@op
def conv_transpose2d(y, weight, *, stride=1, padding=0, output_padding=0):
    """(N, O, H', W'), (O, C, kh, kw) -> (N, C, H, W), the adjoint of conv2d in x.

    H = (H' - 1) stride - 2 padding + kh + output_padding. A strided conv2d maps up to `stride`
    different H to one H': output_padding, 0 .. stride - 1, says which H to go back to.
    """
    stride, padding = _pair(stride), _pair(padding)
    extra = _pair(output_padding)
    _check(y, weight)
    if y.shape[1] != weight.shape[0]:
        raise ValueError(f"{y.shape[1]} input channels, but the weight takes {weight.shape[0]}")
    if not all(0 <= e < s for e, s in zip(extra, stride)):
        raise ValueError(f"output_padding {extra} must be at least 0 and below the stride {stride}")
    size = tuple((n - 1) * s - 2 * p + k + e for n, s, p, k, e in
                 zip(y.shape[2:], stride, padding, weight.shape[2:], extra))
    if min(size) < 1:
        raise ValueError(f"the output would be {size[0]} x {size[1]}: pad less")
    columns = weight.reshape(weight.shape[0], -1).T @ y.reshape(len(y), y.shape[1], -1)
    shape = (len(y), weight.shape[1]) + size
    return _sum_of_columns(columns, shape, weight.shape[2:], y.shape[2:], stride, padding)


@op
def conv2d_weight(x, y, *, kernel, stride=1, padding=0):
    """(N, C, H, W), (N, O, H', W') -> (O, C, kh, kw), the adjoint of conv2d in the weight."""
    stride, padding = _pair(stride), _pair(padding)
    _check(x, y)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} inputs for {len(y)} outputs")
    size = _output_size(x.shape[2:], kernel, stride, padding)
    if y.shape[2:] != size:
        raise ValueError(f"outputs of {size} expected, not {y.shape[2:]}")
    columns = _columns(x, kernel, size, stride, padding)
    products = y.reshape(len(y), y.shape[1], -1) @ columns.transpose(0, 2, 1)
    return products.sum(axis=0).reshape((y.shape[1], x.shape[1]) + tuple(kernel))


def _left_over(x, weight, stride, padding):
    """The output_padding that leads back to the size of x."""
    return tuple((n + 2 * p - k) % s for n, k, s, p in
                 zip(x.shape[2:], weight.shape[2:], _pair(stride), _pair(padding)))


def _back_to_input(y, weight, x, stride, padding):
    return conv_transpose2d(y, weight, stride=stride, padding=padding,
                            output_padding=_left_over(x, weight, stride, padding))


conv2d.rules(
    lambda g, out, x, weight, stride=1, padding=0:
        _back_to_input(g, weight, x, stride, padding),
    lambda g, out, x, weight, stride=1, padding=0:
        conv2d_weight(x, g, kernel=weight.shape[2:], stride=stride, padding=padding))

conv_transpose2d.rules(
    lambda g, out, y, weight, stride=1, padding=0, output_padding=0:
        conv2d(g, weight, stride=stride, padding=padding),
    lambda g, out, y, weight, stride=1, padding=0, output_padding=0:
        conv2d_weight(g, y, kernel=weight.shape[2:], stride=stride, padding=padding))

conv2d_weight.rules(
    lambda g, out, x, y, kernel, stride=1, padding=0:
        _back_to_input(y, g, x, stride, padding),
    lambda g, out, x, y, kernel, stride=1, padding=0:
        conv2d(x, g, stride=stride, padding=padding))


def _pair(n):
    return tuple(n) if isinstance(n, (tuple, list)) else (n, n)


def _check(*arrays):
    for array in arrays:
        if len(array.shape) != 4:
            raise ValueError(f"images and weights have four axes, not shape {array.shape}")


def _output_size(image, kernel, stride, padding):
    """(H', W'), or ValueError if there is none."""
    if min(stride) < 1 or min(padding) < 0:
        raise ValueError(f"stride {stride} must be positive and padding {padding} not negative")
    padded = tuple(n + 2 * p for n, p in zip(image, padding))
    if any(n < k for n, k in zip(padded, kernel)):
        raise ValueError(f"a kernel of {tuple(kernel)} does not fit a padded image of {padded}")
    return tuple((n - k) // s + 1 for n, k, s in zip(padded, kernel, stride))


def _taps(kernel, size, stride):
    """For each place in the kernel, the pixels of the padded image that it meets."""
    for i in range(kernel[0]):
        rows = slice(i, i + stride[0] * (size[0] - 1) + 1, stride[0])
        for j in range(kernel[1]):
            yield i, j, rows, slice(j, j + stride[1] * (size[1] - 1) + 1, stride[1])


def _columns(x, kernel, size, stride, padding):
    """What each output sees: (N, C kh kw, H' W')."""
    xp = module_of(x)
    if any(padding):
        x = xp.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    columns = xp.empty(x.shape[:2] + tuple(kernel) + size, x.dtype)
    for i, j, rows, cols in _taps(kernel, size, stride):
        columns[:, :, i, j] = x[:, :, rows, cols]
    return columns.reshape(len(x), -1, size[0] * size[1])


def _sum_of_columns(columns, shape, kernel, size, stride, padding):
    """The adjoint of `_columns`: adds every column entry where it was taken from."""
    n, channels, height, width = shape
    padded = (n, channels, height + 2 * padding[0], width + 2 * padding[1])
    out = module_of(columns).zeros(padded, columns.dtype)
    columns = columns.reshape((n, channels) + tuple(kernel) + tuple(size))
    for i, j, rows, cols in _taps(kernel, size, stride):
        out[:, :, rows, cols] += columns[:, :, i, j]
    return out[:, :, padding[0]:padding[0] + height, padding[1]:padding[1] + width]
