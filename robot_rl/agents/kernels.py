"""Fused CPU kernels of the learner: an ensemble of Dense-LayerNorm-activation networks, and Adam with Polyak averaging.

The matrix products are BLAS calls (numba hands ``np.dot`` to SciPy's BLAS); all that lies between them is one pass over
rows that are still in cache. Each kernel works on a range of independent items and touches no other, so that several
Python threads run shares of an ensemble, and the numbers do not depend on how many threads there are.

Parameters of one network lie in one row: for every hidden layer W (inputs, outputs), bias, LayerNorm gain, LayerNorm
shift; at the end W and bias of the output layer.

All kernels stay in this one file: numba decides by a function's own file whether what it cached on disk is out of date.
"""

# Types are numba's to infer. FURB136: max() and min() would turn NaN into a number, a comparison keeps it.
# ruff: noqa: ANN001, ANN201, ANN202, PLR0913, FURB136
# pyright: reportMissingParameterType=false

import numba
import numpy as np

# Keeps NaN and infinity honest (no nnan, no ninf): a diverged learner must not look healthy.
FAST = {"reassoc", "contract", "nsz", "arcp"}
TANH, RELU = 0, 1
LAYER_NORM_EPSILON = 1e-5

_EPSILON, _ONE, _ZERO = np.float32(LAYER_NORM_EPSILON), np.float32(1), np.float32(0)
_TANH_LIMIT = np.float32(7.90531110763549805)
# Rational minimax approximation of tanh on [-7.9, 7.9], odd numerator and even denominator. Source: Eigen, ptanh_float.
# fmt: off
_ODD = (4.89352455891786e-03, 6.37261928875436e-04, 1.48572235717979e-05, 5.12229709037114e-08,
        -8.60467152213735e-11, 2.00018790482477e-13, -2.76076847742355e-16)
_EVEN = (4.89352518554385e-03, 2.26843463243900e-03, 1.18534705686654e-04, 1.19825839466702e-06)
# fmt: on
_A1, _A3, _A5, _A7, _A9, _A11, _A13 = (np.float32(c) for c in _ODD)
_B0, _B2, _B4, _B6 = (np.float32(c) for c in _EVEN)


@numba.njit(fastmath=FAST, error_model="numpy", inline="always")
def _tanh(x):
    x = _TANH_LIMIT if x > _TANH_LIMIT else x
    x = -_TANH_LIMIT if x < -_TANH_LIMIT else x
    s = x * x
    p = s * (s * (s * (s * (s * (s * _A13 + _A11) + _A9) + _A7) + _A5) + _A3) + _A1
    q = s * (s * (s * _B6 + _B4) + _B2) + _B0
    return x * p / q


@numba.njit(nogil=True, fastmath=FAST, error_model="numpy", cache=True)
def tanh(x, out):
    """Hyperbolic tangent of x into ``out``, one-dimensional float32 arrays, to a few float32 roundings."""
    for j in range(x.shape[0]):
        out[j] = _tanh(x[j])


@numba.njit(nogil=True, fastmath=FAST, error_model="numpy", cache=True)
def normalise_and_activate(z, affine, h, rstd, activation):
    """In place, z -> (z + bias - mean) / std of each row, then h = activation(gain z + shift)."""
    rows, n = z.shape
    bias, gain, shift = affine[0], affine[1], affine[2]
    inverse_n = _ONE / np.float32(n)
    for i in range(rows):
        zi = z[i]
        hi = h[i]
        total = _ZERO
        for j in range(n):
            value = zi[j] + bias[j]
            zi[j] = value
            total += value
        mean = total * inverse_n
        squares = _ZERO
        for j in range(n):
            d = zi[j] - mean
            squares += d * d
        r = _ONE / np.sqrt(squares * inverse_n + _EPSILON)
        rstd[i] = r
        if activation == TANH:
            for j in range(n):
                value = (zi[j] - mean) * r
                zi[j] = value
                hi[j] = _tanh(value * gain[j] + shift[j])
        else:
            for j in range(n):
                value = (zi[j] - mean) * r
                zi[j] = value
                a = value * gain[j] + shift[j]
                hi[j] = _ZERO if a < _ZERO else a


@numba.njit(nogil=True, fastmath=FAST, error_model="numpy", cache=True)
def normalise_and_activate_backward(d, xhat, h, rstd, gain, g_affine, activation, want_parameters):
    """In place: gradient by the activation's output -> gradient by the matrix product's output."""
    rows, n = d.shape
    inverse_n = _ONE / np.float32(n)
    g_bias, g_gain, g_shift = g_affine[0], g_affine[1], g_affine[2]
    if want_parameters:
        g_affine[:] = _ZERO
    for i in range(rows):
        di = d[i]
        xi = xhat[i]
        hi = h[i]
        s1 = _ZERO
        s2 = _ZERO
        if activation == TANH:
            for j in range(n):
                di[j] = di[j] * (_ONE - hi[j] * hi[j])
        else:
            for j in range(n):
                di[j] = di[j] if hi[j] > _ZERO else _ZERO
        for j in range(n):
            a = di[j] * gain[j]
            s1 += a
            s2 += a * xi[j]
        if want_parameters:
            for j in range(n):
                g_gain[j] += di[j] * xi[j]
                g_shift[j] += di[j]
        s1 *= inverse_n
        s2 *= inverse_n
        r = rstd[i]
        for j in range(n):
            di[j] = r * (di[j] * gain[j] - s1 - xi[j] * s2)
        if want_parameters:
            for j in range(n):
                g_bias[j] += di[j]


@numba.njit(nogil=True, cache=True)
def forward(first, last, chunks, parameters, index, x, dims, activation, xhat, h, rstd, out):
    """Items ``first..last`` of (network, row chunk) pairs; network e of the output is parameter row ``index[e]``.

    Shapes: parameters (E, P); x (B, inputs), shared by all; xhat, h (E, B * hidden units); rstd (E, B * layers);
    out (E', B, outputs). ``dims``: inputs, hidden widths, outputs.
    """
    batch = x.shape[0]
    layers = dims.shape[0] - 2
    for item in range(first, last):
        e = item // chunks
        c = item % chunks
        lo = batch * c // chunks
        hi = batch * (c + 1) // chunks
        p = parameters[index[e]]
        source = x[lo:hi]
        offset = 0
        unit = 0
        for layer in range(layers):
            k = dims[layer]
            n = dims[layer + 1]
            w = p[offset : offset + k * n].reshape(k, n)
            offset += k * n
            z = xhat[e, unit * batch : (unit + n) * batch].reshape(batch, n)[lo:hi]
            a = h[e, unit * batch : (unit + n) * batch].reshape(batch, n)[lo:hi]
            np.dot(source, w, z)
            affine = p[offset : offset + 3 * n].reshape(3, n)
            rstd_rows = rstd[e, layer * batch + lo : layer * batch + hi]
            normalise_and_activate(z, affine, a, rstd_rows, activation)
            offset += 3 * n
            unit += n
            source = a
        k = dims[layers]
        n = dims[layers + 1]
        y = out[e, lo:hi]
        np.dot(source, p[offset : offset + k * n].reshape(k, n), y)
        bias = p[offset + k * n : offset + k * n + n]
        for i in range(y.shape[0]):
            for j in range(n):
                y[i, j] += bias[j]


@numba.njit(nogil=True, cache=True)
def backward(
    first, last, parameters, x, dims, activation, xhat, h, rstd, d_out, scratch, grads, d_x, want_parameters, want_x
):
    """Gradients of networks ``first..last`` by their parameters and by the input of each.

    Shapes as in `forward`; d_out (E, B, outputs); scratch (2, B * widest layer), one a thread; grads (E, P);
    d_x (E, B, inputs). What is not wanted is not touched and may be an empty array.
    """
    batch = x.shape[0]
    layers = dims.shape[0] - 2
    units = 0
    for layer in range(layers):
        units += dims[layer + 1]
    for e in range(first, last):
        p = parameters[e]
        g = grads[e] if want_parameters else p
        offset = parameters.shape[1]
        unit = units
        d = d_out[e]
        for layer in range(layers, -1, -1):
            k = dims[layer]
            n = dims[layer + 1]
            if layer == layers:
                offset -= (k + 1) * n
                if want_parameters:
                    g_bias = g[offset + k * n : offset + k * n + n]
                    g_bias[:] = _ZERO
                    for i in range(batch):
                        for j in range(n):
                            g_bias[j] += d[i, j]
            else:
                offset -= (k + 3) * n
                unit -= n
                b = offset + k * n
                normalise_and_activate_backward(
                    d,
                    xhat[e, unit * batch : (unit + n) * batch].reshape(batch, n),
                    h[e, unit * batch : (unit + n) * batch].reshape(batch, n),
                    rstd[e, layer * batch : (layer + 1) * batch],
                    p[b + n : b + 2 * n],
                    g[b : b + 3 * n].reshape(3, n),
                    activation,
                    want_parameters,
                )
            w = p[offset : offset + k * n].reshape(k, n)
            source = h[e, (unit - k) * batch : unit * batch].reshape(batch, k) if layer > 0 else x
            if want_parameters:
                np.dot(source.T, d, g[offset : offset + k * n].reshape(k, n))
            if layer > 0:
                d_source = scratch[layer % 2, : batch * k].reshape(batch, k)
                np.dot(d, w.T, d_source)
                d = d_source
            elif want_x:
                np.dot(d, w.T, d_x[e])


@numba.njit(nogil=True, fastmath=FAST, error_model="numpy", cache=True)
def adam(first, last, p, g, m, v, target, rate, beta1, beta2, epsilon, tau, keep):
    """Adam on elements ``first..last`` of flat arrays and, where ``target`` is not empty, target += tau (p - target).

    ``rate`` and ``epsilon`` carry the bias corrections: lr sqrt(1 - beta2^t) / (1 - beta1^t), eps sqrt(1 - beta2^t).
    ``keep``, 1 - lr times the weight decay, is what a step leaves of a parameter before it moves it.
    """
    c1 = _ONE - beta1
    c2 = _ONE - beta2
    if target.shape[0] == 0:
        for i in range(first, last):
            m[i] = beta1 * m[i] + c1 * g[i]
            v[i] = beta2 * v[i] + c2 * g[i] * g[i]
            p[i] = keep * p[i] - rate * m[i] / (np.sqrt(v[i]) + epsilon)
    else:
        for i in range(first, last):
            mi = beta1 * m[i] + c1 * g[i]
            vi = beta2 * v[i] + c2 * g[i] * g[i]
            pi = keep * p[i] - rate * mi / (np.sqrt(vi) + epsilon)
            m[i] = mi
            v[i] = vi
            p[i] = pi
            target[i] = target[i] + tau * (pi - target[i])


@numba.njit(nogil=True, fastmath=FAST, error_model="numpy", cache=True)
def regression_step(
    first,
    last,
    parameters,
    index,
    x,
    y,
    dims,
    activation,
    xhat,
    h,
    rstd,
    out,
    d_out,
    scratch,
    grads,
    m,
    v,
    target,
    numbers,
    d_x,
    d_inputs,
):
    """For networks ``first..last``: forward, squared error, backward, Adam and Polyak average, one network at a time.

    One network's weights, activations and gradients stay in the core's own cache from the first to the last of these.
    ``xhat``, ``h``, ``rstd``, ``d_out``, ``grads`` hold one network and belong to the calling thread. The loss is the
    mean of (out - y)^2 over samples and all networks. ``numbers``: the last six arguments of `adam`. Where ``d_x``,
    scratch of shape (1, B, inputs), is not empty, the loss's gradient by the inputs is added to ``d_inputs``.
    """
    networks, size = parameters.shape
    batch = x.shape[0]
    scale = np.float32(2) / np.float32(networks * batch)
    want_x = d_x.shape[0] > 0
    for e in range(first, last):
        one = parameters[e : e + 1]
        forward(0, 1, 1, one, index[:1], x, dims, activation, xhat, h, rstd, out[e : e + 1])
        for i in range(batch):
            d_out[0, i, 0] = scale * (out[e, i, 0] - y[i])
        backward(0, 1, one, x, dims, activation, xhat, h, rstd, d_out, scratch, grads, d_x, True, want_x)
        if want_x:
            for i in range(batch):
                for j in range(x.shape[1]):
                    d_inputs[i, j] += d_x[0, i, j]
        adam(
            0,
            size,
            parameters[e],
            grads[0],
            m[e],
            v[e],
            target[e],
            numbers[0],
            numbers[1],
            numbers[2],
            numbers[3],
            numbers[4],
            numbers[5],
        )
