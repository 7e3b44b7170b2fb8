"""Four maps of one image, from fine to coarse, at a size that nothing divides: what a detector or a segmenter is built on."""

import torch

import swinkit

backbone = swinkit.create_model("swin_tiny_patch4_window7_224", features_only=True, size_policy="dense").eval()
with torch.inference_mode():
    maps = backbone(torch.randn(1, 3, 237, 311))
for info, features in zip(backbone.feature_info, maps, strict=True):
    print(f"{info['module']}: {tuple(features.shape)}, one token per {info['reduction']} pixels")
