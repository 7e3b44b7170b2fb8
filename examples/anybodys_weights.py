"""Weights of torchvision, read, resized to another image and window, and written for timm, whose code gives the same logits."""

import timm
import torch
import torchvision

import swinkit

theirs = torchvision.models.SwinTransformer([4, 4], embed_dim=24, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8], window_size=[7, 7]).eval()
torch.save(theirs.state_dict(), "swin.pth")

model = swinkit.from_pretrained("swin.pth")
image = torch.randn(1, 3, 224, 224)
with torch.inference_mode():
    print(f"torchvision and swinkit at 224 px: {(theirs(image) - model(image)).abs().max():.1e} apart")

larger = swinkit.resize(model, img_size=288, window_size=9)
swinkit.save_pretrained(larger, "larger")
swinkit.convert("larger", "for-timm", to="timm")

again = timm.create_model("local-dir:for-timm", pretrained=True).eval()
image = torch.randn(1, 3, 288, 288)
with torch.inference_mode():
    difference = (again(image) - larger(image)).abs().max()
print(f"swinkit and timm at 288 px, window 9: {difference:.1e} apart")
assert difference < 1e-5
