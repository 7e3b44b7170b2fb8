"""LayerNorm of training in C++, and its gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from swinkit.kernels.cpu import library
from swinkit.kernels.cpu.calls import openmp, run
from swinkit.kernels.cpu.heap import empty
from swinkit.kernels.forked import keep_one_thread_after_a_fork


def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """x (..., C) float32 or bfloat16, weight and bias (C,) float32, contiguous, C in whole panels of 32 -> (..., C) as x."""
    out = empty(x.shape, x.dtype)
    job = _job(x, weight, eps)
    job.bias, job.y = bias.data_ptr(), out.data_ptr()
    run(library.load().swk_norm_forward, x.dtype, job)
    return out


def backward(grad: Tensor, x: Tensor, weight: Tensor, eps: float, passed: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias, the same for any number of threads; grad (..., C) contiguous in the dtype of x.

    passed: (..., C), contiguous and in the dtype of x, is added to the gradient of x.
    """
    x_grad, weight_grad, bias_grad = empty(x.shape, x.dtype), torch.empty_like(weight), torch.empty_like(weight)
    job = _job(x, weight, eps)
    job.y_grad, job.x_grad, job.weight_grad, job.bias_grad = (
        tensor.data_ptr() for tensor in (grad, x_grad, weight_grad, bias_grad)
    )  # fmt: skip
    job.passed = None if passed is None else passed.data_ptr()
    run(library.load().swk_norm_backward, x.dtype, job)
    return x_grad, weight_grad, bias_grad


def _job(x: Tensor, weight: Tensor, eps: float) -> library.Norm:
    keep_one_thread_after_a_fork()
    channels = len(weight)
    return library.Norm(
        rows=x.numel() // channels, channels=channels, epsilon=eps, x=x.data_ptr(), weight=weight.data_ptr(),
        threads=torch.get_num_threads(), parallel=openmp(),
    )  # fmt: skip
