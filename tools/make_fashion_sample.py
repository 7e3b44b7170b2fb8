"""Make the embedded sample of Fashion-MNIST: python tools/make_fashion_sample.py FOLDER_WITH_IDX_FILES

Takes 600 images a class from the original train set and 100 from the original test set, by a fixed seed and without pixel-equal
repeats within or between the two, and writes one PNG sheet per class and split, and the original index of every tile (row by row).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from swinkit.data.fashion import CLASSES, TILE, read_split

SHEETS = Path(__file__).parents[1] / "src" / "swinkit" / "data" / "sheets"
SEED = 2017
GRIDS = {"test": (10, 10), "train": (20, 30)}


def main(folder: Path) -> None:
    """Write the sheets and index.json. The test set chooses first, so that no train image repeats one of its images."""
    rng = np.random.default_rng(SEED)
    taken: set[bytes] = set()
    index: dict[str, list[list[int]]] = {}
    for split, grid in GRIDS.items():
        pixels, labels = read_split(folder, split)
        index[split] = [choose(pixels, rng.permutation(np.flatnonzero(labels == label)), grid, taken) for label in range(len(CLASSES))]
        for label, chosen in enumerate(index[split]):
            sheet(pixels[chosen], grid).save(SHEETS / f"{split}-{label}.png", optimize=True)
    rows = [f'  "{split}": [\n' + ",\n".join(f"    {json.dumps(row)}" for row in index[split]) + "\n  ]" for split in ("train", "test")]
    (SHEETS / "index.json").write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


def choose(pixels: npt.NDArray[np.uint8], candidates: npt.NDArray[np.int64], grid: tuple[int, int], taken: set[bytes]) -> list[int]:
    """The sorted indices of the first candidates whose pixels are not taken yet; takes them."""
    chosen: list[int] = []
    for candidate in candidates:
        image = pixels[candidate].tobytes()
        if image not in taken and len(chosen) < grid[0] * grid[1]:
            taken.add(image)
            chosen.append(int(candidate))
    return sorted(chosen)


def sheet(tiles: npt.NDArray[np.uint8], grid: tuple[int, int]) -> Image.Image:
    """Tiles (rows * columns, 28, 28) as one grey picture."""
    rows, columns = grid
    return Image.fromarray(tiles.reshape(rows, columns, TILE, TILE).swapaxes(1, 2).reshape(rows * TILE, columns * TILE))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
