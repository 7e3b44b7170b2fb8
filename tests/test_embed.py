"""embed: pooled features in memory and in files, and what is left of them when a call is interrupted."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import swinkit
from conftest import COLOURS
from swinkit.cli import run
from swinkit.data import eval_transform, read_image
from swinkit.errors import CheckpointError, ConfigError, DataError, InputError, UnknownNameError
from swinkit.runtimes.prepared import PreparedRuntime
from swinkit.runtimes.pytorch import TorchRuntime

PREPROCESS = {"size": [16, 16], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


def vectors_of(table):
    return np.stack(table["vector"].to_numpy())


def read(out):
    """(vectors, sources) of either kind of file."""
    if out.suffix == ".parquet":
        table = pq.read_table(out)
        return vectors_of(table), table["source"].to_pylist()
    return np.load(out), json.loads(out.with_suffix(".names.json").read_text())["sources"]


def stop_after(batches, error):
    """A stand-in for PreparedRuntime.features that raises `error` instead of computing the next batch."""
    calls, real = [], PreparedRuntime.features

    def features(self, images):
        calls.append(len(images))
        if len(calls) > batches:
            raise error
        return real(self, images)

    return features


@pytest.fixture
def flat(tmp_path, pictures):
    """Twelve pictures in one folder, without classes."""
    (tmp_path / "flat").mkdir()
    for index, path in enumerate(sorted((pictures / "test").rglob("*.png"))[:12]):
        (tmp_path / "flat" / f"{index:02}.png").write_bytes(path.read_bytes())
    return tmp_path / "flat"


def test_vectors_are_the_pooled_features(trained, pictures):
    result = swinkit.embed(trained.run, pictures, batch_size=5)
    model = swinkit.from_pretrained(trained.run)
    prepare = eval_transform(swinkit.Preprocess.from_dict(model.preprocess))
    with torch.no_grad():
        images = torch.stack([prepare(read_image(source)) for source in result.sources])
        wanted = model.forward_head(model.forward_features(images), pre_logits=True)
    assert result.vectors.dtype == np.float32
    np.testing.assert_allclose(result.vectors, wanted, rtol=1e-5, atol=1e-6)
    assert result.sources == tuple(str(path) for path in sorted((pictures / "test").rglob("*.png")))
    assert result.labels == tuple(source.split(os.sep)[-2] for source in result.sources)
    assert set(result.labels) == set(COLOURS)
    logits = torch.nn.functional.linear(torch.from_numpy(result.vectors), model.head.weight, model.head.bias)
    torch.testing.assert_close(logits, model(images), rtol=1e-4, atol=1e-5)


def test_the_runs_own_runtime_still_gives_logits(trained):
    model = swinkit.from_pretrained(trained.run)
    x = torch.randn(2, 3, 16, 16)
    runtime = TorchRuntime(model, torch.device("cpu"))
    torch.testing.assert_close(runtime.run(x), model(x).detach())
    assert runtime.features(x).shape == (2, model.num_features)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 7, "shard_size": 10}, {"shard_size": 1}, {"workers": 2}])
def test_vectors_do_not_depend_on_batches_shards_and_workers(trained, pictures, options):
    one, other = swinkit.embed(trained.run, pictures), swinkit.embed(trained.run, pictures, **options)
    np.testing.assert_allclose(one.vectors, other.vectors, rtol=1e-5, atol=1e-6)
    assert (one.sources, one.labels) == (other.sources, other.labels)


def test_parquet(trained, pictures, tmp_path):
    out = tmp_path / "new" / "folder" / "vectors.parquet"
    written = swinkit.embed(trained.run, pictures, out=out, shard_size=5)
    table = pq.read_table(out)
    assert table.schema.field("vector").type == pa.list_(pa.float32(), written.dim)
    assert table.column_names == ["source", "label", "vector"]
    in_memory = swinkit.embed(trained.run, pictures, shard_size=5)
    np.testing.assert_array_equal(vectors_of(table), in_memory.vectors)
    assert tuple(table["source"].to_pylist()) == in_memory.sources
    assert tuple(table["label"].to_pylist()) == in_memory.labels
    facts = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert facts["swinkit.version"] == swinkit.__version__
    assert facts["swinkit.model"] == str(trained.run)
    model = swinkit.from_pretrained(trained.run)
    assert json.loads(facts["swinkit.preprocess"])["size"] == list(model.preprocess["size"])
    assert swinkit.SwinConfig.from_dict(json.loads(facts["swinkit.config"])) == model.config
    assert len(facts["swinkit.weights_sha256"]) == 64
    assert sorted(path.name for path in out.parent.iterdir()) == ["vectors.parquet"], "nothing is left beside it"


def test_npy(trained, flat, tmp_path):
    written = swinkit.embed(trained.run, str(flat / "*.png"), out=tmp_path / "vectors.npy", shard_size=5)
    assert (written.count, written.path) == (12, tmp_path / "vectors.npy")
    vectors, sources = read(written.path)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, swinkit.embed(trained.run, flat, shard_size=5).vectors)
    assert sources == [str(path) for path in sorted(flat.iterdir())]
    names = json.loads((tmp_path / "vectors.names.json").read_text())
    assert "labels" not in names
    assert names["metadata"]["swinkit.version"] == swinkit.__version__
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flat", "vectors.names.json", "vectors.npy"]


def test_normalized_vectors_have_length_one(trained, flat):
    plain, unit = (swinkit.embed(trained.run, flat, normalize=normalize).vectors for normalize in (False, True))
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=1, keepdims=True), rtol=1e-5, atol=1e-7)


def test_data_of_every_kind(trained, pictures, flat):
    paths = sorted(flat.iterdir())
    assert swinkit.embed(trained.run, flat).labels is None
    assert swinkit.embed(trained.run, paths[3]).sources == (str(paths[3]),)
    assert swinkit.embed(trained.run, [paths[4], str(paths[2]), paths[4]]).sources == (str(paths[4]), str(paths[2])), "as given, once each"
    assert len(swinkit.embed(trained.run, pictures, split="val").sources) == 18
    told = []
    (flat / "lost").mkdir()
    (flat / "lost" / "a.png").write_bytes(paths[0].read_bytes())
    assert len(swinkit.embed(trained.run, flat, say=told.append).sources) == 13
    assert "has no class" in told[0], "a folder of folders that has no classes says why"


def test_a_built_in_data_set(tmp_path):
    model = swinkit.create_model("swin_pico_patch2_window7_28", num_classes=0, in_chans=1)
    model.preprocess = {"size": [28, 28], "mean": [0.5], "std": [0.5]}
    result = swinkit.embed(model, "fashion-mnist-sample", batch_size=250)
    assert result.vectors.shape == (1000, model.num_features)
    assert result.sources[17] == "fashion-mnist-sample/test/17"
    assert len(set(result.labels)) == 10


@pytest.mark.parametrize("num_classes", [0, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_without_a_classifier_or_training(tmp_path, flat, num_classes, dtype):
    model = swinkit.create_model("swinv2_pico_patch2_window4_32", num_classes=num_classes, img_size=16).to(dtype)
    model.preprocess = PREPROCESS
    swinkit.save_pretrained(model, tmp_path / "m")
    saved, given = (swinkit.embed(source, flat).vectors for source in (tmp_path / "m", model))
    assert saved.shape == (12, model.num_features)
    np.testing.assert_array_equal(saved, given)
    assert model.training, "a given model stays as it is"


@pytest.mark.parametrize("suffix", [".parquet", ".npy"])
def test_a_killed_call_is_continued(trained, flat, tmp_path, suffix):
    """kill -9 in the middle; what comes out in the end equals, byte for byte, what an undisturbed call writes."""
    whole, out = tmp_path / f"whole{suffix}", tmp_path / f"vectors{suffix}"
    swinkit.embed(trained.run, flat, out=whole, shard_size=2, batch_size=2)
    code = "import sys, time, swinkit; swinkit.embed(*sys.argv[1:3], out=sys.argv[3], shard_size=2, on_batch=lambda *_: time.sleep(0.2))"
    killed = subprocess.Popen([sys.executable, "-c", code, str(trained.run), str(flat), str(out)])
    parts = tmp_path / f"{out.name}.parts"
    deadline = time.monotonic() + 60
    while len(list(parts.glob("part-*.safetensors"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not out.exists()
    kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("part-*.safetensors")}
    assert 2 <= len(kept) < 6

    told, computed = [], []
    swinkit.embed(trained.run, flat, out=out, shard_size=2, batch_size=2, say=told.append, on_batch=lambda *done: computed.append(done))
    assert told[-1].startswith(f"Going on: {len(kept)} of 6 shards")
    assert len(computed) == 6 - len(kept)
    assert computed[-1] == (12, 12)
    assert out.read_bytes() == whole.read_bytes()
    assert not parts.exists()


@pytest.mark.parametrize("batches", [0, 1, 4])
def test_ctrl_c_is_130_and_the_same_command_goes_on(trained, flat, tmp_path, capsys, monkeypatch, batches):
    out = tmp_path / "vectors.npy"
    command = ["embed", str(trained.run), str(flat), "--out", str(out), "--shard-size", "3", "--batch-size", "2"]
    with monkeypatch.context() as patched:
        patched.setattr(PreparedRuntime, "features", stop_after(batches, KeyboardInterrupt()))
        assert run(command) == 130
    printed = capsys.readouterr()
    assert f"interrupted. {batches // 2} of 4 shards are kept in {out}.parts; the same command goes on." in printed.err
    assert printed.out == ""
    assert run([*command[:-1], "64"]) == 0, "a resumed call may use other batches"
    printed = capsys.readouterr()
    assert printed.out == f"{out}\n"
    assert ("Going on: 2 of 4" in printed.err) == (batches == 4)
    np.testing.assert_allclose(read(out)[0], swinkit.embed(trained.run, flat).vectors, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("suffix", [".parquet", ".npy"])
def test_interrupted_at_the_very_end(trained, flat, tmp_path, monkeypatch, suffix):
    """Before the file takes its name, and before the shards are removed: the next call finishes, and computes nothing again."""
    out = tmp_path / f"vectors{suffix}"
    for place in ("swinkit.vectors._publish", "swinkit.vectors.Shards.remove"):
        with monkeypatch.context() as patched:
            patched.setattr(place, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                swinkit.embed(trained.run, flat, out=out, shard_size=5)
        assert out.exists() == (place.endswith("remove"))
    monkeypatch.setattr(PreparedRuntime, "features", stop_after(0, AssertionError))
    assert swinkit.embed(trained.run, flat, out=out).count == 12, "another shard_size does not matter: the kept one counts"
    assert not (tmp_path / f"{out.name}.parts").exists()


def test_a_damaged_shard_is_computed_again(trained, flat, tmp_path, monkeypatch):
    out = tmp_path / "vectors.npy"
    with monkeypatch.context() as patched:
        patched.setattr(PreparedRuntime, "features", stop_after(3, OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            swinkit.embed(trained.run, flat, out=out, shard_size=3)
    part = tmp_path / "vectors.npy.parts" / "part-00001.safetensors"
    part.write_bytes(part.read_bytes()[:-4])
    (part.parent / ".part-00002.safetensors.x.writing").write_bytes(b"half")
    told = []
    swinkit.embed(trained.run, flat, out=out, shard_size=3, say=told.append)
    assert told[-1].startswith("Going on: 2 of 4")
    np.testing.assert_array_equal(read(out)[0], swinkit.embed(trained.run, flat, shard_size=3).vectors)


@pytest.fixture
def interrupted(trained, flat, tmp_path, monkeypatch):
    """vectors.npy of `flat`, stopped after one shard of four."""
    out = tmp_path / "vectors.npy"
    with monkeypatch.context() as patched:
        patched.setattr(PreparedRuntime, "features", stop_after(1, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            swinkit.embed(trained.run, flat, out=out, shard_size=3)
    return out


def test_other_work_is_refused(trained, flat, interrupted, tmp_path):
    swinkit.save_pretrained(swinkit.from_pretrained(trained.run, num_classes=2), tmp_path / "other")
    cases = [
        ({"source": tmp_path / "other"}, "another architecture, of other weights"),
        ({"data": sorted(flat.iterdir())[1:]}, "made of other images"),
        ({"normalize": True}, "the other --normalize"),
        ({"amp": True}, "another precision"),
    ]
    for changes, message in cases:
        with pytest.raises(DataError, match=f"{message}.*--overwrite"):
            swinkit.embed(**{"source": trained.run, "data": flat, "out": interrupted, "shard_size": 3} | changes)
    told = []
    swinkit.embed(trained.run, flat, out=interrupted, normalize=True, overwrite=True, say=told.append)
    assert not any("Going on" in line for line in told)
    np.testing.assert_allclose(np.linalg.norm(read(interrupted)[0], axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"shard_size": 0}', b"{}"])
def test_a_broken_plan_is_refused(trained, flat, interrupted, content):
    (interrupted.parent / "vectors.npy.parts" / "plan.json").write_bytes(content)
    with pytest.raises(DataError, match=r"plan\.json|made of"):
        swinkit.embed(trained.run, flat, out=interrupted)
    assert swinkit.embed(trained.run, flat, out=interrupted, overwrite=True).count == 12


def test_shards_without_a_plan_do_not_count_and_strangers_stay(trained, flat, interrupted):
    parts = interrupted.parent / "vectors.npy.parts"
    (parts / "plan.json").unlink()
    (parts / "mine.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(DataError, match=r"mine\.txt, which is not swinkit's"):
            swinkit.embed(trained.run, flat, out=interrupted, overwrite=overwrite)
    (parts / "mine.txt").unlink()
    told = []
    swinkit.embed(trained.run, flat, out=interrupted, say=told.append)
    assert len(told) == 1, "nothing is gone on with"


@pytest.mark.parametrize("name", ["vectors.parquet", "vectors.npy"])
def test_a_finished_file_is_kept_unless_told(trained, flat, tmp_path, name):
    out = tmp_path / name
    swinkit.embed(trained.run, flat, out=out)
    before = out.read_bytes()
    with pytest.raises(DataError, match="exists already; give another --out, or --overwrite"):
        swinkit.embed(trained.run, flat, out=out, normalize=True)
    assert out.read_bytes() == before
    swinkit.embed(trained.run, flat, out=out, normalize=True, overwrite=True)
    assert out.read_bytes() != before


def test_an_interrupted_replacement_goes_on_and_leaves_the_old_file_until_then(trained, flat, tmp_path, monkeypatch):
    out = tmp_path / "vectors.npy"
    swinkit.embed(trained.run, flat, out=out)
    before = out.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(PreparedRuntime, "features", stop_after(1, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt, match="the same command without --overwrite goes on"):
            swinkit.embed(trained.run, flat, out=out, shard_size=3, normalize=True, overwrite=True)
    assert out.read_bytes() == before
    told = []
    swinkit.embed(trained.run, flat, out=out, shard_size=3, normalize=True, say=told.append)
    assert told[-1].startswith("Going on: 1 of 4")
    np.testing.assert_allclose(np.linalg.norm(read(out)[0], axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_images_get_no_row(trained, flat, tmp_path, capsys, workers):
    for index in (0, 5, 6, 7):
        (flat / f"{index:02}.png").write_bytes(b"no picture")
    out = tmp_path / "vectors.parquet"
    command = ["embed", str(trained.run), str(flat), "--out", str(out), "--shard-size", "3", "--batch-size", "3"]
    assert run([*command, "--workers", str(workers)]) == 1
    printed = capsys.readouterr()
    assert printed.out == f"{out}\n"
    assert "4 images could not be read" in printed.err
    assert all(f"{index:02}.png is not an image" in printed.err for index in (0, 5, 6, 7))
    vectors, sources = read(out)
    assert [source[-6:-4] for source in sources] == ["01", "02", "03", "04", "08", "09", "10", "11"]
    good = swinkit.embed(trained.run, sources)
    np.testing.assert_allclose(vectors, good.vectors, rtol=1e-5, atol=1e-6)
    assert [failure.source[-6:-4] for failure in swinkit.embed(trained.run, flat).failures] == ["00", "05", "06", "07"]


def test_broken_images_of_an_earlier_call_are_told_again(trained, flat, interrupted):
    (flat / "11.png").write_bytes(b"no picture")
    assert [failure.source[-6:-4] for failure in swinkit.embed(trained.run, flat, out=interrupted).failures] == ["11"]
    assert swinkit.embed(trained.run, flat, out=interrupted, overwrite=True).count == 11


def test_an_image_that_reads_at_the_second_attempt_has_its_row(trained, flat, monkeypatch):
    wanted, seen = swinkit.embed(trained.run, flat).vectors, set()

    def unsteady(path, mode):
        if str(path).endswith("4.png") and path not in seen:
            seen.add(path)
            raise InputError("the server stumbled")
        return read_image(path, mode)

    monkeypatch.setattr("swinkit.data.sets.read_image", unsteady)
    result = swinkit.embed(trained.run, flat)
    assert (result.failures, len(seen)) == ((), 1)
    np.testing.assert_array_equal(result.vectors, wanted)


def test_nothing_but_broken_images_is_a_sentence(trained, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    for out in (None, tmp_path / "vectors.npy"):
        with pytest.raises(DataError, match=r"None of the 1 images can be read.*a\.png"):
            swinkit.embed(trained.run, tmp_path, out=out)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_vector_that_is_not_finite_is_named(flat):
    model = swinkit.create_model("swin_pico_patch2_window4_32", num_classes=0, img_size=16)
    model.preprocess = PREPROCESS
    model.norm.weight.data[0] = float("inf")
    with pytest.raises(InputError, match=r"00\.png is not finite"):
        swinkit.embed(model, flat)


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such names")
def test_a_name_that_is_not_utf8(trained, flat, tmp_path):
    os.rename(flat / "00.png", os.fsencode(flat) + b"/\xff.png")
    out = swinkit.embed(trained.run, flat, out=tmp_path / "vectors.parquet").path
    assert read(out)[1][-1].endswith("\\udcff.png")


def test_sources_without_pooled_features(tmp_path, flat):
    swinkit.save_pretrained(swinkit.create_model("swin_pico_patch2_window4_32", features_only=True), tmp_path / "b")
    with pytest.raises(CheckpointError, match="no pooled features"):
        swinkit.embed(tmp_path / "b", flat)
    swinkit.save_pretrained(swinkit.create_model("swin_pico_patch2_window4_32", num_classes=0), tmp_path / "m")
    with pytest.raises(CheckpointError, match="how to prepare images"):
        swinkit.embed(tmp_path / "m", flat)
    with pytest.raises(CheckpointError, match="Linear has no pooled features"):
        swinkit.embed(torch.nn.Linear(2, 2), flat)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"out": "vectors.csv"}, ConfigError, r"ends in '\.csv'; expected .*\.parquet or \.npy"),
        ({"out": "vectors"}, ConfigError, "ends in 'no suffix'"),
        ({"out": "folder.npy"}, DataError, "is a folder"),
        ({"batch_size": 0}, ConfigError, "batch_size is 0"),
        ({"shard_size": 0}, ConfigError, "shard_size is 0"),
        ({"workers": -1}, ConfigError, "workers is -1"),
        ({"split": "train"}, DataError, "without class folders"),
        ({"split": "tset"}, UnknownNameError, "Did you mean test"),
        ({"data": [], "split": "auto"}, DataError, "list of images is empty"),
        ({"data": "flat/*.png", "split": "test"}, ConfigError, "have no splits"),
        ({"data": "fashion-mnist-simple"}, UnknownNameError, "fashion-mnist-sample"),
        ({"data": "empty"}, DataError, "holds no image file"),
        ({"data": "none/*.png"}, DataError, "matches no image"),
        ({"data": ["flat", "none.png"]}, DataError, r"none\.png does not exist"),
        ({"source": "nowhere"}, CheckpointError, "There is no nowhere"),
        ({"device": "warp"}, ConfigError, "warp"),
    ],
)
def test_wrong_input_is_a_sentence(trained, flat, monkeypatch, options, error, message):
    monkeypatch.chdir(flat.parent)
    for folder in ("empty", "folder.npy"):
        (flat.parent / folder).mkdir()
    before = sorted(flat.parent.rglob("*"))
    with pytest.raises(error, match=message):
        swinkit.embed(**{"source": trained.run, "data": "flat", "out": "vectors.npy"} | options)
    assert sorted(flat.parent.rglob("*")) == before


def test_a_missing_pyarrow_is_a_sentence(trained, flat, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'swinkit\[data\]'"):
        swinkit.embed(trained.run, flat, out=tmp_path / "vectors.parquet")
    assert swinkit.embed(trained.run, flat, out=tmp_path / "vectors.npy").count == 12


def test_command(trained, flat, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for index in (1, 2):
        Image.new("RGB", (8, 8)).save(f"{index}.bmp")
    assert run(["embed", str(trained.run), "1.bmp", "2.bmp", "--out", "vectors.npy", "--normalize"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "vectors.npy\n"
    assert "2 images, without labels; " in printed.err
    assert read(tmp_path / "vectors.npy")[1] == ["1.bmp", "2.bmp"]
    assert run(["embed", str(trained.run), "flat"]) == 2
    assert "--out" in capsys.readouterr().err
    assert run(["embed", str(trained.run), "flat", "--out", "vectors.csv"]) == 1
    assert run(["embed", str(trained.run), "flat", "--out", "vectors.npy"]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_tables_and_shards_are_embedded_with_their_labels(trained, pictures, tmp_path):
    import webdataset

    files = sorted((pictures / "test" / "red").iterdir())
    (tmp_path / "table.csv").write_text("path,label\n" + "".join(f"{file},{number % 2}\n" for number, file in enumerate(files)))
    with webdataset.TarWriter(str(tmp_path / "shard-0.tar")) as shard:
        for number, file in enumerate(files):
            shard.write({"__key__": f"{number:03}", "png": file.read_bytes(), "cls": str(number % 2)})
    vectors = [swinkit.embed(trained.run, source).vectors for source in (files, tmp_path / "table.csv", str(tmp_path / "shard-*.tar"))]
    assert all((other == vectors[0]).all() for other in vectors)
    assert swinkit.embed(trained.run, tmp_path / "shard-0.tar").labels == tuple(str(number % 2) for number in range(len(files)))
