"""What a C++ compiler makes of a model: AOTInductor's file, compared and run. The slowest of the formats to write."""

import shutil

import pytest
import torch

import swinkit
from small_models import small
from swinkit.bench.subject import randomised
from swinkit.export.checks import largest_difference
from swinkit.runtimes.artefacts import open_artefact


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.filterwarnings("ignore")  # the compiler warns about its own imports
def test_a_compiled_program(tmp_path):
    model = randomised(small(1, embed_dim=8, num_heads=(1,), depths=(1,), img_size=8))
    model.preprocess = {"size": [8, 8], "mean": [0.5] * 3, "std": [0.25] * 3}
    written = swinkit.export(model, to="aoti", out=tmp_path / "m.pt2", dynamic=False)
    artefact = open_artefact(written.path)
    assert artefact.about.startswith("AOTInductor")
    for batch in (1, 5):
        x = torch.randn(batch, 3, 8, 8)
        with torch.no_grad():
            assert largest_difference([artefact.run(x)], [model(x)]) < 2e-6
    assert not [name for name in torch._C.PyTorchFileReader(str(written.path)).get_all_records() if name.endswith(".cpp")]
    assert sum(swinkit.Predictor(written.path)(torch.zeros(8, 8, 3, dtype=torch.uint8).numpy()).scores) == pytest.approx(1.0)
