"""Reading tests/golden: cases, formula weights, and the comparison at the stated tolerances."""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from swinkit.config import SwinConfig

FOLDER = Path(__file__).parent / "golden"
sys.path.insert(0, str(FOLDER))
import formula_weights as formula  # noqa: E402

MANIFEST = json.loads((FOLDER / "manifest.json").read_text())
CASES = {case["name"]: case for case in MANIFEST["cases"]}
NOT_OURS = {"norm_layer", "use_checkpoint", "fused_window_process", "out_indices", "frozen_stages", "pretrain_img_size"}


def names(*kinds):
    return [name for name, case in CASES.items() if case["kind"] in kinds]


def config_of(case):
    given = {name: value for name, value in case["config"].items() if name not in NOT_OURS}
    if case["kind"] == "dense_backbone":
        given |= {"img_size": case["config"]["pretrain_img_size"], "size_policy": "dense"}
    return SwinConfig.from_dict(given | {"version": 2 if case["kind"].endswith("v2") else 1})


def fill(model):
    """Formula weights by name and shape; returns the model in eval mode."""
    model.load_state_dict({name: torch.from_numpy(formula.formula_tensor(name, p.shape)) for name, p in model.state_dict().items()})
    return model.eval()


def image(case, dtype):
    return torch.from_numpy(formula.formula_input(**case["input"])).to(dtype)


def compare(case, name, got, dtype):
    """Assert that `got` equals the stored array within the manifest's tolerance."""
    entry = case["arrays"][name]
    stored = np.load(FOLDER / case["file"])
    got = got.detach().double().numpy()
    assert list(got.shape) == entry["shape"], name
    tolerance = entry["atol_fp64" if dtype == torch.float64 else "atol_fp32"]
    sample = formula.every17(got).reshape(-1) if entry["stored_as"].endswith(".every17") else got.reshape(-1)
    difference = np.abs(sample - stored[entry["stored_as"]].reshape(-1)).max()
    assert difference <= tolerance, f"{case['name']} {name}: differs by {difference:.3g}, allowed {tolerance:.3g}"
    if entry["stored_as"].endswith(".every17"):
        mean, std, largest = stored[entry["stored_as"].replace(".every17", ".stats")]
        for ours, theirs in ((got.mean(), mean), (got.std(), std), (np.abs(got).max(), largest)):
            assert abs(ours - theirs) <= tolerance, f"{case['name']} {name}: statistics differ, {ours} and {theirs}"
