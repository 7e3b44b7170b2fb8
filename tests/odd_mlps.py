"""What people do to an MLP, after which its kernel must not go around the modules inside: from it and its input to an input."""

import torch
import torch.nn.functional as F
from torch import nn


class Quantised(torch.Tensor):
    """A weight with arithmetic of its own."""


def of_float32(mlp, x):
    mlp.float()
    return x.float()


def of_odd_channels(mlp, x):
    mlp.fc1, mlp.fc2 = nn.Linear(24, 96, dtype=x.dtype), nn.Linear(96, 24, dtype=x.dtype)
    return x[:, :24].contiguous()


def without_tokens(mlp, x):
    return x[:0]


def of_two_dtypes(mlp, x):
    mlp.fc2.bias = nn.Parameter(mlp.fc2.bias.float())
    mlp.fc2.forward = lambda hidden: F.linear(hidden, mlp.fc2.weight)
    return x


def hooked(mlp, x):
    mlp.fc1.register_forward_hook(lambda *_: None)
    return x


def hooked_before(mlp, x):
    mlp.drop.register_forward_pre_hook(lambda *_: None)
    return x


def dropping(mlp, x):
    mlp.drop.p = 0.5
    return x


def dropping_in_inference(mlp, x):
    mlp.drop.p = 0.5
    mlp.eval().drop.train()
    return x


def with_another_dropout(mlp, x):
    mlp.drop = nn.AlphaDropout(0.0)
    return x


def without_bias(mlp, x):
    mlp.fc2.bias = None
    return x


def with_another_layer(mlp, x):
    mlp.fc1 = type("Adapted", (nn.Linear,), {})(32, 128, dtype=x.dtype)
    return x


def with_a_forward_of_its_own(mlp, x):
    mlp.fc2.forward = lambda hidden: hidden[..., :32]
    return x


def with_quantised_weights(mlp, x):
    mlp.fc1.weight = nn.Parameter(mlp.fc1.weight.detach().as_subclass(Quantised))
    return x


ODD = (
    of_float32, of_odd_channels, without_tokens, of_two_dtypes, hooked, hooked_before, dropping, dropping_in_inference,
    with_another_dropout, without_bias, with_another_layer, with_a_forward_of_its_own, with_quantised_weights,
)  # fmt: skip
