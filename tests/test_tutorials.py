"""What the tutorials claim beyond running, which tests/test_examples.py sees to: the change to model.py, and how small it is."""

import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import swinkit

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tutorials" / "new-bias.md"
COMPARE = """
import torch, swinkit
from swinkit.model import WindowAttention
assert "rate" in dict(WindowAttention(swinkit.SwinConfig(), 0, swinkit.window_attention).named_parameters())
run = swinkit.train({data!r}, output="run", epochs=1, batch_size=16, model="swin_pico_patch2_window4_32", img_size=16, threads=1)
model = swinkit.from_pretrained("run")
x = torch.randn(2, model.config.in_chans, 19, 26)
fast = swinkit.prepare(model, dtype=torch.float32)
attention = model.layers[0].blocks[0].attn
i, j = 0, attention.window[1] + 2  # one row and two columns apart
expected = -attention.rate.detach() * 5**0.5
torch.testing.assert_close(attention.bias()[:, i, j].detach(), expected)
with torch.inference_mode():
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)
print(len(dict(model.named_parameters())))
"""


@pytest.fixture(scope="module")
def diff():
    return re.search(r"```diff\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]


def test_the_change_is_small_and_of_one_file(diff):
    assert re.findall(r"^\+\+\+ b/(\S+)", diff, re.MULTILINE) == ["src/swinkit/model.py"]
    added = [line for line in diff.splitlines() if line.startswith("+") and not line.startswith("+++")]
    assert len(added) < 30


def test_the_class_of_the_script_is_small():
    script = (ROOT / "examples" / "tutorial_new_bias.py").read_text()
    assert len(re.search(r"^class .*?(?=\n# %%)", script, re.DOTALL | re.MULTILINE)[0].strip().splitlines()) < 30


def test_the_change_applies_trains_and_runs(diff, pictures, tmp_path):
    """On a copy of the package, as a researcher would in a clone."""
    source = Path(inspect.getfile(swinkit)).parent
    shutil.copytree(source, tmp_path / "src" / "swinkit", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "apply", "-"], input=diff.encode(), cwd=tmp_path, check=True)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "src")}
    code = COMPARE.format(data=str(pictures))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "rate" in (tmp_path / "src" / "swinkit" / "model.py").read_text()
