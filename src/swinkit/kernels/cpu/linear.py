"""Linear layers of training in C++: y = x W^T + b and its gradients, with GELU on the way in if wanted."""

from __future__ import annotations

import torch
from torch import Tensor

from swinkit.kernels.cpu import library
from swinkit.kernels.cpu.calls import openmp, run
from swinkit.kernels.cpu.heap import empty
from swinkit.kernels.forked import keep_one_thread_after_a_fork

Norm = tuple[Tensor, Tensor, float]
"""Weight, bias and epsilon of a LayerNorm."""


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, gelu: bool = False, norm: Norm | None = None,
    residual: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """x (..., I) in `dtype` or float32, weight (O, I) and bias (O,) float32 -> (..., O) in `dtype`.

    norm: weight, bias and epsilon of a LayerNorm that x goes through first; residual: (..., O) in `dtype`, is added.
    """
    out = empty((*x.shape[:-1], len(weight)), dtype)
    job = _job(x, weight, dtype, gelu)
    _set_norm(job, norm)
    job.bias, job.residual, job.y = _pointer(bias), _pointer(residual), out.data_ptr()
    run(library.load().swk_linear_forward, dtype, job)
    return out


def backward(
    grad: Tensor, x: Tensor | None, weight: Tensor, dtype: torch.dtype, gelu: bool, wanted: tuple[bool, bool, bool], like: torch.dtype,
    norm: Norm | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """Gradients of x (in the dtype `like`), weight and bias, those that are wanted; grad (..., O) in `dtype` or float32.

    norm: weight, bias and epsilon of a LayerNorm that x goes through first; the gradient is then that of what comes out.
    """
    given = grad if x is None else x  # without a gradient of the weight, x is not looked at
    x_grad = empty((*grad.shape[:-1], weight.shape[1]), like) if wanted[0] else None
    weight_grad = empty(weight.shape, weight.dtype) if wanted[1] else None
    bias_grad = weight.new_empty(len(weight)) if wanted[2] else None
    job = _job(given, weight, dtype, gelu)
    job.rows, job.y_grad, job.y_grad_wide, job.x_grad_wide = (
        grad.numel() // len(weight),
        grad.data_ptr(),
        grad.dtype != dtype,
        like != dtype,
    )
    _set_norm(job, norm)
    job.x_grad, job.weight_grad, job.bias_grad = _pointer(x_grad), _pointer(weight_grad), _pointer(bias_grad)
    run(library.load().swk_linear_backward, dtype, job)
    return x_grad, weight_grad, bias_grad


def _job(x: Tensor, weight: Tensor, dtype: torch.dtype, gelu: bool) -> library.Linear:
    keep_one_thread_after_a_fork()
    outputs, inputs = weight.shape
    return library.Linear(
        rows=x.numel() // inputs, inputs=inputs, outputs=outputs, gelu=gelu, x_wide=x.dtype != dtype, x=x.data_ptr(),
        weight=weight.data_ptr(), threads=torch.get_num_threads(), parallel=openmp(),
    )  # fmt: skip


def _set_norm(job: library.Linear, norm: Norm | None) -> None:
    if norm is not None:
        job.norm_weight, job.norm_bias, job.norm_epsilon = norm[0].data_ptr(), norm[1].data_ptr(), norm[2]


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
