"""Change the attention of a model: anything with the signature of `window_attention` fits. Here, attention that ignores the seam."""

import torch

from swinkit import SwinTransformer, window_attention
from swinkit.variants import get_config


def without_shift(qkv, bias, *, shift, **rest):
    """Window attention whose windows never move."""
    return window_attention(qkv, bias, shift=(0, 0), **rest)


config = get_config("swin_pico_patch2_window4_32")
model, changed = SwinTransformer(config).eval(), SwinTransformer(config, attend=without_shift).eval()
changed.load_state_dict(model.state_dict())
image = torch.randn(1, 3, 32, 32)
with torch.inference_mode():
    difference = (model(image) - changed(image)).abs().max()
print(f"without the shift the logits move by up to {difference:.3f}")
assert difference > 0
