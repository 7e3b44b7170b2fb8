# %% [markdown]
# Weights of another implementation, at another resolution, as a file for another runtime. The weights are made here by timm, small and
# random, so that the tutorial needs no network; with published ones the same lines give the published accuracy.

# %%
import timm
import torch

import swinkit

SMALL = {"img_size": 64, "patch_size": 4, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
theirs = timm.create_model("swin_tiny_patch4_window7_224", num_classes=3, **SMALL).eval()
torch.save({"model": theirs.state_dict()}, "theirs.pth")

# %% [markdown]
# Read it. Nobody says whose file it is; the report accounts for every tensor. The size of the images is in no tensor, so it is given.

# %%
print(swinkit.inspect("theirs.pth", img_size=64).table())
model = swinkit.from_pretrained("theirs.pth", img_size=64)
images = torch.randn(2, 3, 64, 64)
with torch.inference_mode():
    print(f"timm and swinkit at 64 pixels: logits {(theirs(images) - model(images)).abs().max():.1e} apart")
    torch.testing.assert_close(model(images), theirs(images), rtol=1e-4, atol=1e-5)

# %% [markdown]
# Another resolution. `model` itself takes images of any size. `resize` plans it for another one: windows that cover as much of the picture
# as before, with their position bias interpolated. Weights that were trained for long want some epochs at the new size:
# `swinkit train --data DIR --pretrained --model larger --recipe finetune`.

# %%
larger = swinkit.resize(model, img_size=96, window_size=6)
with torch.inference_mode():
    print(f"windows {model.config.windows} became {larger.config.windows}: {tuple(larger(torch.randn(1, 3, 96, 96)).shape)}")

# %% [markdown]
# Keep it, with what only you know: the names of the classes, and how pictures are prepared.

# %%
preprocess = swinkit.Preprocess(size=(96, 96), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)).to_dict()
swinkit.save_pretrained(larger, "larger", labels=["ankle boot", "sandal", "sneaker"], preprocess=preprocess, overwrite=True)

# %% [markdown]
# Export. The file takes any number of images of any size. It is opened in ONNX Runtime and compared with PyTorch before it gets its name.

# %%
written = swinkit.export("larger", to="onnx", out="larger.onnx", overwrite=True)
print(written.table())

# %% [markdown]
# Use the file: `Predictor` reads names, mean and deviation from it. Any other program with ONNX Runtime can run it as well.

# %%
picture = torch.rand(100, 140, 3).numpy()  # height, width, channels, from 0 to 1
print(swinkit.Predictor("larger.onnx")(picture))
