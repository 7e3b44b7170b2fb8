# %% [markdown]
# A position bias of another kind. Swin learns a table of numbers, one for each offset and head. Here a head learns one number: how
# fast a token loses interest with distance, as ALiBi has it for text (arXiv 2108.12409). All that changes is what `WindowAttention.bias`
# returns: (K, N, N), what head k adds to the score of token j for token i.
#
# Usage: python tutorial_new_bias.py [FOLDER], with one folder of pictures per class; without it, on the clothes that come with swinkit.

# %%
import sys

import torch
from torch import nn

import swinkit
from swinkit import model


# %%
class DistanceBias(model.WindowAttention):
    """Window attention whose heads lose interest with distance, each at a learned rate."""

    def __init__(self, config, stage, attend):
        super().__init__(config, stage, attend)
        del self.relative_position_bias_table
        self.rate = nn.Parameter(torch.logspace(0, -4, self.heads, base=2))  # from 1 per token to 1/16

    def bias(self):
        rows, columns = (torch.arange(side, device=self.rate.device) for side in self.window)
        token = torch.cartesian_prod(rows, columns).to(self.rate)  # N, 2
        distance = (token[:, None] - token).square().sum(-1).sqrt()  # N, N
        return -self.rate[:, None, None] * distance


# %% [markdown]
# Blocks look `WindowAttention` up in model.py when they are built. So one line, before the first model is built, puts the new one into
# every model of this process: into those that `train`, `from_pretrained` and `Predictor` build, too.

# %%
model.WindowAttention = DistanceBias

data = sys.argv[1] if len(sys.argv) > 1 else "fashion-mnist-sample"
run = swinkit.train(data, output="runs/distance", model="swin_pico_patch2_window7_28", img_size=28, epochs=2, batch_size=32)
print(f"{100 * run.scores.top1:.1f} % of {run.scores.count} pictures are right, loss {run.scores.loss:.3f}")

# %% [markdown]
# Everything around the bias is as it was: any image size, the shift and its mask, the C++ kernels, exporting. See what was learned.

# %%
changed = swinkit.from_pretrained("runs/distance")
print("rates of the first block:", [f"{rate:.2f}" for rate in changed.layers[0].blocks[0].attn.rate.tolist()])
images = torch.randn(2, changed.config.in_chans, 45, 61)
with torch.inference_mode():
    plain, fast = changed(images), swinkit.prepare(changed, dtype=torch.float32)(images)
print(f"prepared and plain: {(plain - fast).abs().max():.1e} apart")
torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)
