# %% [markdown]
# Usage: python tutorial_own_folder.py [FOLDER]. FOLDER holds one folder of pictures per class. Without it, one is made from the
# clothes that come with swinkit, so that there is something to train on.

# %%
import sys
from pathlib import Path

import swinkit
from swinkit.data import open_data


def make_clothes(folder, count=80):
    """FOLDER/CLASS/000.png and so on: `count` pictures of each of three kinds."""
    sample = open_data("fashion-mnist-sample").train
    for name in ("Bag", "Sneaker", "Trouser"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        chosen = [index for index, label in enumerate(sample.labels.tolist()) if sample.classes[label] == name]
        for number, index in enumerate(chosen[:count]):
            sample.image(index, "RGB").save(folder / name / f"{number:03}.png")
    return folder


folder = Path(sys.argv[1]) if len(sys.argv) > 1 else make_clothes(Path("clothes"))

# %% [markdown]
# What swinkit makes of the folder: the folders' names are the classes, and a tenth of each is set aside to choose the best checkpoint.

# %%
data = open_data(folder, seed=0)
print(f"{len(data.train)} pictures to train on, {len(data.val)} to validate; classes: {', '.join(data.classes)}")

# %% [markdown]
# Train. The recipe for folders is used, with a smaller model and fewer epochs than it has by itself. Everything that belongs to the run
# is in one folder: weights, settings, curves, and report.html.

# %%
result = swinkit.train(folder, output="runs/mine", model="swin_pico_patch2_window7_28", img_size=28, epochs=10, batch_size=16, lr=4e-3)
print(f"{100 * result.scores.top1:.0f} % of {result.scores.count} pictures ({result.scored_on}) are right; see {result.report}")

# %% [markdown]
# Use it. Pictures are prepared as they were for training; the run folder knows how.

# %%
predictor = swinkit.Predictor("runs/mine")
pictures = [data.val.image(index, "RGB") for index in range(3)]
for prediction, truth in zip(predictor(pictures, top_k=2), data.val.labels.tolist(), strict=False):
    print(f"a picture of {data.classes[truth]:12} is called {prediction.label} ({100 * prediction.score:.0f} %)")

# %% [markdown]
# Score it, per class.

# %%
print(swinkit.evaluate("runs/mine", folder, split="val").table())
