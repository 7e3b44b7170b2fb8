"""Training a model that torch.compile has taken, in full and in lean memory."""

import pytest
import torch
from tests.test_training_memory import check_alike, gradients, kept, model_of, nothing

from swinkit.errors import ConfigError
from swinkit.kernels.training import compiling

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # PyTorch 2.11's own
BACKEND = "aot_eager_decomp_partition"
"""Inductor's decompositions and its choice of what to keep, without its compiler."""


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch._dynamo.reset()


def compiled(memory, dtype=None):
    """Bytes kept, output and gradients of a compiled model."""
    torch._dynamo.reset()
    model, x = model_of(), torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(2))
    run = torch.compile(model, backend=BACKEND, fullgraph=True)
    run.zero_grad()
    with compiling(memory), torch.autocast("cpu", dtype, enabled=dtype is not None):
        out = run(x)
    out.float().square().sum().backward()
    found = out.detach(), [parameter.grad for parameter in model.parameters()]
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        return kept(run, x, compiling(memory)), found, gradients(model, x, nothing(model), dtype)


def test_lean_keeps_less_and_computes_the_same():
    full, mine, plain = compiled("full")
    lean, thrifty, _ = compiled("lean")
    assert lean < 0.93 * full
    check_alike(mine, plain, 2e-5)
    check_alike(thrifty, plain, 2e-5)


def test_mixed_precision_is_as_near_to_float32():
    _, _, (_, wanted) = compiled("full")
    full, (_, mine), (_, plain) = compiled("full", torch.bfloat16)
    lean, (_, thrifty), _ = compiled("lean", torch.bfloat16)
    assert lean < 0.93 * full
    for a, b, c, d in zip(mine, thrifty, plain, wanted, strict=True):
        bound = 2 * (c - d).norm() + 0.02 * d.norm()
        assert (a - d).norm() <= bound
        assert (b - d).norm() <= bound


def test_outside_nothing_is_changed():
    from torch._functorch import config

    before = config.ban_recompute_materialized_backward
    with compiling("full"):
        assert config.ban_recompute_materialized_backward == before
    with compiling("lean"):
        assert config.ban_recompute_materialized_backward is False
    assert config.ban_recompute_materialized_backward == before


def test_another_memory_is_refused():
    with pytest.raises(ConfigError, match="memory is 'small'; expected full or lean"):
        compiling("small")
