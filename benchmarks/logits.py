"""The largest difference between swinkit's logits and those of timm, torchvision and transformers, for the same weights.

    python benchmarks/logits.py > benchmarks/results/logits.md

Needs timm and transformers; no network and no weights. HEADER says what is computed.
"""

import contextlib
import io
import os
import tempfile
import textwrap
import warnings
from pathlib import Path

import timm
import torch
import torchvision
from torch import nn

import swinkit

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import transformers

AWKWARD = [(200, 312), (237, 311), (112, 448)]
TIMM = {1: "swin_tiny_patch4_window7_224", 2: "swinv2_tiny_window8_256"}
OWN = {1: (224, 224), 2: (256, 256)}
WINDOW = {1: 7, 2: 8}

HEADER = """\
# Logits against the peers' own code

`python benchmarks/logits.py > benchmarks/results/logits.md`, on {where}.

Each peer's tiny model with every parameter random (V2's norms, which start at zero, included) is saved as the peer saves it and read with
`swinkit.from_pretrained`; both then see one image of noise. The table gives the largest difference of any of the 1,000 logits, in brackets
as a fraction of the largest logit. Each row has a fresh model of the peer. Microsoft's own code is compared in `tests/test_golden.py`.

- timm builds its windows for one size, so each row has a model built for that size (`img_size=`) and read with timm's windows.
- torchvision's models are read as they are; swinkit takes the size policy `per_axis` for them.
- transformers' models have `image_size` 224 (V2: 256) and are read from their folder; swinkit takes the size policy `official`.

| peer | image | float64 | float32 | remark |
| --- | --- | --- | --- | --- |"""

AFTER_THE_SHIFT = "timm pads after the shift: see below"
DROPPED = "both drop the last 1 x 3 pixels"
REMARKS = {
    ("timm", 1, (200, 312)): AFTER_THE_SHIFT,
    ("timm", 2, (200, 312)): AFTER_THE_SHIFT,
    ("timm", 2, (112, 448)): AFTER_THE_SHIFT,
    ("timm", 1, (237, 311)): f"{AFTER_THE_SHIFT}; {DROPPED}",
    ("timm", 2, (237, 311)): f"{AFTER_THE_SHIFT}; {DROPPED}",
    ("torchvision", 1, (237, 311)): DROPPED,
    ("torchvision", 2, (237, 311)): DROPPED,
    ("transformers", 1, (237, 311)): "both pad to 240 x 312",
    ("transformers", 2, (237, 311)): "both pad to 240 x 312",
    ("transformers", 1, (112, 448)): "the map of the last stage is smaller than the window: see below",
    ("transformers", 2, (112, 448)): "by design: stage 2's map of 7 x 28 fits into the window of 8, where the original drops the shift; "
    "transformers keeps the one planned for 256 px",
}  # fmt: skip

REPRODUCTIONS = {
    "timm pads after the shift": (
        "The last row of a 13 x 14 map, window 7, shift 3. The seam's mask is planned for a map that was padded first, so row 0 of the "
        "opposite edge is not masked ([timm#2438](https://github.com/huggingface/pytorch-image-models/issues/2438)). Right would be "
        "10, 11, 12. On maps that the window divides there is nothing to pad and no difference. The rows `padded before the shift` of the "
        "table are timm's own models with that one change.",
        """\
block = timm.models.swin_transformer.SwinTransformerBlock(8, (13, 14), num_heads=2, window_size=7, shift_size=3).eval()
block(x := torch.randn(1, 13, 14, 8, requires_grad=True))[0, 12].sum().backward()
print("row 12 sees rows", (x.grad.abs().amax((0, 2, 3)) > 1e-9).nonzero().flatten().tolist())
""",
    ),
    "transformers V1: a small image changes the model": (
        "`SwinLayer.forward` writes its shift and window into the layer when the window covers the map, and never writes them back.",
        """\
model, x = transformers.SwinModel(transformers.SwinConfig(depths=[2], num_heads=[3])).eval(), torch.randn(1, 3, 224, 224)
before, _, after = (model(image).pooler_output for image in (x, x[:, :, :28, :28], x))
print("the same image before and after a small one:", "equal" if torch.equal(before, after) else "other numbers")
""",
    ),
    "transformers V1: a map below the window stops the model, for good": (
        "The window shrinks and the bias table does not; the shrunk window stays, and with it the error.",
        """\
model = transformers.SwinModel(transformers.SwinConfig()).eval()
print(*(f"{side}: {attempt(model, torch.zeros(1, 3, side, side))}" for side in (224, 192, 224)), sep="\\n")
""",
    ),
}
"""Title -> what it shows, and code that is run with `attempt` and the imports above."""


def attempt(model, x):
    """ "works", or the message of the error."""
    try:
        model(x)
    except (RuntimeError, AssertionError, ValueError) as error:
        return first_line(error)
    return "works"


def first_line(error):
    return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def shaken(model):
    """Every parameter random, V2's zero-initialised norms included, so that a forgotten or swapped one shows."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            centre = 1.0 if isinstance(module, nn.LayerNorm) and name == "weight" else 2.3 if name == "logit_scale" else 0.0
            spread = 0.3 if parameter.ndim < 2 or name == "logit_scale" else parameter[0].numel() ** -0.5
            parameter.data = centre + spread * draw
    return model.double().eval()


def timm_model(version, size):
    return timm.create_model(TIMM[version], img_size=size)


def torchvision_model(version, size):
    return torchvision.models.swin_t() if version == 1 else torchvision.models.swin_v2_t()


def transformers_model(version, size):
    if version == 1:
        return transformers.SwinForImageClassification(transformers.SwinConfig(num_labels=1000))
    return transformers.Swinv2ForImageClassification(transformers.Swinv2Config(num_labels=1000, image_size=256, window_size=8))


PEERS = {"timm": timm_model, "torchvision": torchvision_model, "transformers": transformers_model}


def saved_by(peer, model, folder):
    """Where the peer's usual way of saving put it."""
    if peer == "transformers":
        model.save_pretrained(folder)
        return folder
    torch.save(model.state_dict(), folder / "weights.pth")
    return folder / "weights.pth"


def unsaid(peer, model, version, size):
    """What the saved weights do not tell: timm's windows for this size, the window of a V2 model."""
    if peer == "timm":
        windows = [tuple(stage.blocks[0].window_size) for stage in model.layers]
        return {
            "img_size": size,
            "window_size": windows,
            "size_policy": "per_axis",
            "pretrained_window_sizes": windows if version == 2 else None,
        }
    if peer == "torchvision":
        return {"img_size": OWN[version], "window_size": WINDOW[version], "pretrained_window_sizes": [8] * 4 if version == 2 else None}
    return {}


def logits(model, x):
    with torch.inference_mode():
        out = model.to(x.dtype)(x)
    return getattr(out, "logits", out).double()


def padded_first(model):
    """timm's model with one thing changed: what a block attends to is padded before the shift."""
    for stage in model.layers:
        for block in stage.blocks:
            block._attn = pad_before(block._attn, block.window_size)
    return model


def pad_before(attention, window):
    def attend(x):
        rows, columns = x.shape[1:3]
        x = nn.functional.pad(x, (0, 0, 0, -columns % window[1], 0, -rows % window[0]))
        return attention(x)[:, :rows, :columns]

    return attend


def rows(peer, version, size):
    """Lines of the table for one peer, version and image size."""
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    theirs = shaken(PEERS[peer](version, size))
    with tempfile.TemporaryDirectory() as folder:
        ours = swinkit.from_pretrained(saved_by(peer, theirs, Path(folder)), **unsaid(peer, theirs, version, size))
    title, remark = f"V{version} | {size[0]} x {size[1]}", REMARKS.get((peer, version, size), "")
    # transformers' forward changes its layers, so each image gets a model that has seen no other.
    if (message := attempt(theirs, x)) != "works":
        ours(x)
        yield f"| {peer} {title} | stops | stops | {remark}. `{message}` |"
        return
    yield f"| {peer} {title} | {compared(ours, theirs, x)} | {remark} |"
    if remark.startswith(AFTER_THE_SHIFT):
        yield f"| timm padded before the shift, {title} | {compared(ours, padded_first(theirs), x)} | |"


def compared(ours, theirs, x):
    """Two cells: float64 and float32."""
    cells = []
    for dtype in (torch.float64, torch.float32):
        got, wanted = logits(ours, x.to(dtype)), logits(theirs, x.to(dtype))
        difference, largest = (got - wanted).abs().max().item(), wanted.abs().max().item()
        cells.append(f"{difference:.1e} ({difference / largest:.0e})" if difference else "0")
    return " | ".join(cells)


def printed(code):
    out = io.StringIO()
    names = {"timm": timm, "torch": torch, "transformers": transformers, "attempt": attempt}
    with contextlib.redirect_stdout(out):
        exec(code, names)
    return out.getvalue()


def where():
    names = [line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    peers = ", ".join(f"{module.__name__} {module.__version__}" for module in (torch, timm, torchvision, transformers))
    return f"{names[0]}, {os.cpu_count()} cores (one thread).\n{peers}"


def main():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(HEADER.format(where=where()))
    for peer in PEERS:
        for version in (1, 2):
            for size in (OWN[version], *AWKWARD):
                print(*rows(peer, version, size), sep="\n", flush=True)
    for title, (shown, code) in REPRODUCTIONS.items():
        print(f"\n## {title}\n\n{textwrap.fill(shown, 150)}\n\n```py\n{code}```\n\n```\n{printed(code)}```")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
