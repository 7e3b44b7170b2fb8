"""Models of the hub, through the real client: from a cache on disk, and from a hub that runs in this process."""

import ast
import errno
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, close_session, constants

import swinkit
from fake_hub import Repo, commit_of, lay_out, serve
from swinkit import weights
from swinkit.checkpoints import hub
from swinkit.checkpoints.hub import blobs
from swinkit.cli import run
from swinkit.errors import CheckpointError, UnknownNameError

NAME = "swin_pico_patch2_window4_32"
PREPROCESS = {"size": [32, 32], "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic", "crop_pct": 1.0}
ID = "somebody/colours"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return swinkit.create_model(NAME, num_classes=3).eval()


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """What a repository with a model holds."""
    folder = tmp_path_factory.mktemp("saved") / "colours"
    swinkit.save_pretrained(model, folder, labels=["blue", "green", "red"], preprocess=PREPROCESS, license="cc-by-4.0")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for each test, and nothing of the account of whoever runs it."""
    folder = tmp_path / "cache"
    for name, value in {"HF_HUB_CACHE": str(folder), "HF_HUB_OFFLINE": True, "HF_TOKEN_PATH": str(tmp_path / "token")}.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def online(monkeypatch):
    with serve() as server:
        use(server.url, monkeypatch)
        yield server
        close_session()


def use(url, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr("time.sleep", lambda _: None)


def same(first, second):
    return first.state_dict().keys() == second.state_dict().keys() and all(
        map(torch.equal, first.state_dict().values(), second.state_dict().values())
    )


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("hf-hub:a/b", hub.HubId("a/b")),
        ("hf_hub:a/b-c.d@v1.0", hub.HubId("a/b-c.d", "v1.0")),
        ("hf-hub:a/b@refs/pr/1", hub.HubId("a/b", "refs/pr/1")),
        ("a/b", None),
        ("/data/hf-hub", None),
        (Path("runs/x"), None),
    ],
)
def test_ids(source, wanted):
    assert hub.parse_id(source) == wanted


@pytest.mark.parametrize("source", ["hf-hub:", "hf-hub:name", "hf-hub:../x", "hf-hub:a/b/c", "hf-hub:a/b@", "hf-hub:-a/b"])
def test_ids_that_name_nothing(source):
    with pytest.raises(CheckpointError, match="expected hf-hub:OWNER/NAME"):
        hub.parse_id(source)


# From the cache, without any network


def test_a_model_in_the_cache_loads_offline(cache, files, model):
    lay_out(cache, ID, files)
    loaded = swinkit.from_pretrained(f"hf-hub:{ID}")
    assert same(loaded, model)
    assert loaded.labels == ("blue", "green", "red")
    assert loaded.origin == {"base_model": ID, "license": "cc-by-4.0"}
    assert swinkit.from_pretrained(f"hf_hub:{ID}@main", num_classes=7).num_classes == 7


def test_verbs_take_an_id(cache, files, pictures, capsys):
    lay_out(cache, ID, files)
    assert run(["predict", f"hf-hub:{ID}", str(pictures / "test" / "red" / "000.png"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] in ("blue", "green", "red")


def test_revisions_in_the_cache(cache, files, model):
    lay_out(cache, ID, files)
    old = lay_out(cache, ID, files | {"config.json": files["config.json"].replace(b"blue", b"cyan")}, revision="v1")
    assert swinkit.from_pretrained(f"hf-hub:{ID}").labels[0] == "blue"
    assert swinkit.from_pretrained(f"hf-hub:{ID}@v1").labels[0] == "cyan"
    assert hub.download(ID, old.name) == old
    with pytest.raises(
        CheckpointError, match=r"is not in the cache .* HF_HUB_OFFLINE is set.*`hf download somebody/colours --revision v2`"
    ):
        hub.download(ID, "v2")


@pytest.mark.parametrize("missing", ["model.safetensors", "shard"])
def test_a_cache_with_a_part_is_said_so(cache, files, missing):
    there = {name: content for name, content in files.items() if name != "model.safetensors"}
    if missing == "shard":
        there["model.safetensors.index.json"] = json.dumps(
            {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
        ).encode()
        there["model-1-of-2.safetensors"] = files["model.safetensors"]
    lay_out(cache, ID, there)
    with pytest.raises(CheckpointError, match="is only in part in the cache"):
        hub.download(ID)


def test_the_environment_decides(cache, files, tmp_path):
    """In a process of its own, where huggingface-hub reads it."""
    lay_out(tmp_path / "home" / "hub", ID, files)
    code = f"import swinkit; print(swinkit.from_pretrained('hf-hub:{ID}').labels[0]); swinkit.from_pretrained('hf-hub:some/other')"
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "blue"
    assert f"hf-hub:some/other is not in the cache {tmp_path / 'home' / 'hub'}, and HF_HUB_OFFLINE is set" in done.stderr


def test_a_name_without_the_prefix_is_not_downloaded(online, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"There is no somebody/colours; .* or hf-hub:somebody/colours for a model of the"):
        swinkit.from_pretrained(ID)
    assert online.seen == []


# Hashes


def test_hashes_are_compared_once(cache, files, monkeypatch):
    snapshot = lay_out(cache, ID, files)
    hashed = []
    digest = blobs.digest
    monkeypatch.setattr(blobs, "digest", lambda path, **kind: hashed.append(path.name) or digest(path, **kind))
    hub.download(ID)
    assert sorted(hashed) == ["README.md", "config.json", "model.safetensors"]
    hub.download(ID)
    assert len(hashed) == 3
    blob = (snapshot / "model.safetensors").resolve()
    blob.write_bytes(files["model.safetensors"][:-1] + b"\x7f")
    with pytest.raises(CheckpointError, match=f"model.safetensors of hf-hub:{ID} is broken: .*Delete {re.escape(str(blob))} and"):
        hub.download(ID)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_broken_blob_in_the_cache(cache, files, name):
    snapshot = lay_out(cache, ID, files)
    blob = (snapshot / name).resolve()
    blob.write_bytes(bytes([files[name][0] ^ 1]) + files[name][1:])
    with pytest.raises(CheckpointError, match=f"{name} of .* is broken"):
        swinkit.from_pretrained(f"hf-hub:{ID}")


def test_a_pinned_hash_counts(cache, files):
    lay_out(cache, ID, files)
    good = blobs.digest(lay_out(cache, "other/one", files) / "model.safetensors")
    hub.download(ID, sha256=good)
    with pytest.raises(CheckpointError, match=r"its hash begins .* instead of 000000000000"):
        hub.download(ID, sha256="0" * 64)


def test_hashes_are_gits_and_sha256(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"hello\n")
    assert blobs.digest(path, git=True) == "ce013625030ba8dba906f756967f9e9ca394464a", "git hash-object"
    assert blobs.digest(path) == "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03", "sha256sum"


def test_a_home_that_cannot_be_written_is_no_hindrance(cache, files, tmp_path):
    (tmp_path / "own").write_text("a file where a folder should be")
    lay_out(cache, ID, files)
    assert hub.download(ID) == hub.download(ID)


# From a hub


def test_download_takes_what_is_needed_and_no_more(online, files, model):
    unwanted = {
        "pytorch_model.bin": b"b" * 4000,
        "flax_model.msgpack": b"m",
        "tf_model.h5": b"h",
        "onnx/model.onnx": b"o",
        "optimizer.pt": b"p",
    }
    online.repos[ID] = Repo(files | unwanted)
    folder = hub.download(ID)
    assert {path.name for path in folder.iterdir()} == {"config.json", "README.md", "model.safetensors"}
    assert same(swinkit.from_pretrained(f"hf-hub:{ID}"), model)
    assert len(online.asked("model.safetensors")) <= 3, "asked for at each call, sent at the first"


def test_a_commit_in_the_cache_needs_no_hub(online, files):
    online.repos[ID] = Repo(files)
    commit = commit_of(files)
    first = hub.download(ID, commit)
    online.seen.clear()
    assert hub.download(ID, commit) == first
    assert online.seen == []


def test_a_new_version_is_noticed_and_the_old_one_is_used_when_the_hub_is_gone(online, files, monkeypatch):
    online.repos[ID] = Repo(dict(files))
    assert swinkit.from_pretrained(f"hf-hub:{ID}").labels[0] == "blue"
    online.repos[ID].files["config.json"] = files["config.json"].replace(b"blue", b"cyan")
    assert swinkit.from_pretrained(f"hf-hub:{ID}").labels[0] == "cyan"
    online.status = 503
    assert swinkit.from_pretrained(f"hf-hub:{ID}").labels[0] == "cyan"
    use("http://127.0.0.1:1", monkeypatch)
    assert swinkit.from_pretrained(f"hf-hub:{ID}").labels[0] == "cyan"


def test_a_token_opens_what_is_private(online, files, monkeypatch):
    online.repos[ID] = Repo(files, needs_token="hf_secret")
    with pytest.raises(CheckpointError, match=f"There is no hf-hub:{ID} at http://.*, or it is private; check the name, or set HF_TOKEN"):
        hub.download(ID)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert hub.download(ID).is_dir()


@pytest.mark.parametrize(
    ("repo", "revision", "status", "says"),
    [
        (None, None, 0, r"There is no hf-hub:somebody/colours at http"),
        ({"gated": True}, None, 0, r"Access to hf-hub:somebody/colours is restricted; ask for it at http.*HF_TOKEN"),
        ({}, "v9", 0, r"has no revision 'v9'; give a branch, a tag or a commit"),
        ({}, None, 500, r"answered 500 for hf-hub:somebody/colours .*try again later"),
        ({}, None, 401, r"HF_TOKEN"),
        ({}, None, 404, r"There is no hf-hub:somebody/colours"),
    ],
)
def test_what_the_hub_refuses(online, files, repo, revision, status, says):
    if repo is not None:
        online.repos[ID] = Repo(files, **repo)
    online.status = status
    with pytest.raises(CheckpointError, match=says) as caught:
        hub.download(ID, revision)
    assert "\n" not in str(caught.value)


def test_no_network(monkeypatch):
    use("http://127.0.0.1:1", monkeypatch)
    with pytest.raises(CheckpointError, match=r"is not in the cache .* and http://127.0.0.1:1 cannot be reached .*check the network"):
        hub.download(ID)
    close_session()


def test_a_repository_without_weights(online):
    online.repos[ID] = Repo({"config.json": b"{}", "tf_model.h5": b"h", "training_args.bin": b"t"})
    with pytest.raises(CheckpointError, match=r"holds no weights; expected model.safetensors.* it has config.json, tf_model.h5"):
        hub.download(ID)
    online.repos[ID] = Repo({"a.pth": b"a", "b.pth": b"b"})
    with pytest.raises(CheckpointError, match=r"holds several weights \(a.pth, b.pth\)"):
        hub.download(ID)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["pytorch_model.bin", "model.safetensors"], ["model.safetensors"]),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json", "pytorch_model.bin"],
            None,
        ),
        (["pytorch_model.bin", "config.json", "model.onnx"], ["config.json", "pytorch_model.bin"]),
        (["swin.pth", "rng_state.pth", "sub/model.safetensors"], ["swin.pth"]),
        (["a.safetensors", "b.pth"], ["a.safetensors"]),
    ],
)
def test_safetensors_come_first(names, chosen):
    wanted = [name for name in names if "safetensors" in name] if chosen is None else chosen
    assert sorted(hub._choose(names, hub.HubId(ID))) == sorted(wanted)


def test_a_spoiled_transfer_is_noticed(online, files):
    online.repos[ID] = Repo(files)
    online.spoil = "model.safetensors"
    with pytest.raises(CheckpointError, match=r"model.safetensors of .* is broken") as caught:
        hub.download(ID)
    for path in re.search(r"Delete (\S+) and (\S+), and load it again", str(caught.value)).groups():
        Path(path).unlink()
    online.spoil = ""
    assert hub.download(ID).is_dir()


def test_after_an_interruption_the_rest_is_fetched(online, files, model, cache):
    online.repos[ID] = Repo(files)
    online.cut_off = "model.safetensors"
    with pytest.raises(CheckpointError, match=r"The download of hf-hub:somebody/colours broke off .*run it again"):
        hub.download(ID)
    online.cut_off = ""
    online.seen.clear()
    assert same(swinkit.from_pretrained(f"hf-hub:{ID}"), model)
    assert ("GET", f"/{ID}/resolve/main/config.json") not in online.seen
    assert not list(cache.rglob("*.incomplete"))


def test_a_full_disk(online, files, monkeypatch):
    online.repos[ID] = Repo(files)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(CheckpointError, match=r"The disk of .*cache is full; make room, or set HF_HUB_CACHE"):
        hub.download(ID)


def test_a_cache_that_cannot_be_written(online, files, cache):
    online.repos[ID] = Repo(files)
    cache.write_text("a file where a folder should be")
    with pytest.raises(CheckpointError, match="hf-hub:somebody/colours"):
        hub.download(ID)


# pretrained=True


@pytest.fixture
def published(monkeypatch, cache, files):
    """A preset with public weights, in the cache."""
    tags = {NAME: ("new", "old")}
    for tag in tags[NAME]:
        entry = weights.Weights(NAME, tag, f"https://example.org/{tag}.pth", 50.0, 90.0, f"timm/{NAME}.{tag}")
        monkeypatch.setitem(weights.WEIGHTS, entry.full_name, entry)
    monkeypatch.setattr("swinkit.variants.TAGS", tags)
    monkeypatch.setitem(swinkit.variants.VARIANTS, NAME, swinkit.variants.VARIANTS[NAME] | {"num_classes": 3, "drop_path_rate": 0.3})
    lay_out(cache, f"timm/{NAME}.new", files)
    lay_out(cache, f"timm/{NAME}.old", files | {"config.json": files["config.json"].replace(b"blue", b"cyan")})


def test_pretrained_takes_the_default_tag_or_the_named_one(published, model):
    loaded = swinkit.create_model(NAME, pretrained=True)
    assert same(loaded, model)
    assert not loaded.training
    assert loaded.labels[0] == "blue"
    assert loaded.config.drop_path_rate == 0.3, "the configuration is the name's"
    assert loaded.origin == {"base_model": f"timm/{NAME}.new", "license": "mit"}
    assert swinkit.create_model(f"{NAME}.old", pretrained=True).labels[0] == "cyan"


def test_pretrained_with_changes(published, model):
    changed = swinkit.create_model(NAME, pretrained=True, num_classes=9, drop_path_rate=0.1)
    assert (changed.num_classes, changed.config.drop_path_rate) == (9, 0.1)
    assert torch.equal(changed.patch_embed.proj.weight, model.patch_embed.proj.weight)
    backbone = swinkit.create_model(NAME, pretrained=True, features_only=True, out_indices=1)
    assert isinstance(backbone, swinkit.SwinBackbone)


def test_pretrained_from_an_id(cache, files, model):
    lay_out(cache, ID, files)
    assert same(swinkit.create_model(f"hf-hub:{ID}", pretrained=True), model)
    with pytest.raises(CheckpointError, match="add pretrained=True"):
        swinkit.create_model(f"hf-hub:{ID}")


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        (NAME, CheckpointError, "has no public weights: it is a preset"),
        ("swin_tiny_c24_patch4_window8_256", CheckpointError, r"is not on the hub; download https://github.com/.*\.pth and give the file"),
        ("swin_tiny_patch4_window7_224", CheckpointError, r"hf-hub:timm/swin_tiny_patch4_window7_224.ms_in1k is not in the cache"),
        ("swin_base_patch4_window7_224_in22k", CheckpointError, r"hf-hub:timm/swin_base_patch4_window7_224.ms_in22k is not in the cache"),
        ("swin_tiny_patch4_window7_225", UnknownNameError, "Did you mean swin_tiny_patch4_window7_224"),
        ("swin_tiny_patch4_window7_224.ms_in2k", UnknownNameError, "There is no weight tag"),
        (swinkit.SwinConfig(), CheckpointError, "needs a name"),
    ],
)
def test_names_without_weights(name, kind, says):
    with pytest.raises(kind, match=says):
        swinkit.create_model(name, pretrained=True)


# push_to_hub


@pytest.fixture
def writer(online, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    online.writers.add("hf_writer")
    return online


def test_what_is_pushed_loads_again(writer, model):
    address = swinkit.push_to_hub(model, "me/mine", private=True, license="apache-2.0", commit_message="First")
    assert address.startswith(f"{writer.url}/me/mine/commit/")
    (created,) = writer.created
    # Which of the two depends on the client's version.
    assert created["repo_id"] == "me/mine"
    assert created.get("private") or created.get("visibility") == "private"
    (commit,) = writer.commits
    assert (commit["message"], commit["revision"]) == ("First", "main")
    assert set(commit["files"]) == {"README.md", "config.json", "model.safetensors"}
    card = commit["files"]["README.md"].decode()
    assert "license: apache-2.0" in card
    assert 'swinkit.from_pretrained("hf-hub:me/mine")' in card
    loaded = swinkit.from_pretrained("hf-hub:me/mine")
    assert same(loaded, model)
    assert loaded.origin == {"base_model": "me/mine", "license": "apache-2.0"}


def test_of_a_run_the_best_checkpoint_goes_up_and_nothing_else(writer, trained):
    swinkit.push_to_hub(trained.run, "me/run", revision="v1", license="mit")
    (commit,) = writer.commits
    assert set(commit["files"]) == {"README.md", "config.json", "model.safetensors"}
    assert commit["revision"] == "v1"
    assert commit["files"]["model.safetensors"] == (trained.run / "best" / "model.safetensors").read_bytes()
    data = ModelCard(commit["files"]["README.md"].decode()).data
    assert (data.license, data.eval_results[0].metric_value) == ("mit", pytest.approx(trained.scores.top1, abs=1e-6))
    assert "`mit`" in commit["files"]["README.md"].decode()


def test_a_pull_request(writer, model):
    writer.repos["other/theirs"] = Repo()
    assert swinkit.push_to_hub(model, "other/theirs", create_pr=True).endswith("/other/theirs/discussions/1")
    assert "create_pr=1" in writer.commits[0]["query"]


@pytest.mark.parametrize("own", [True, False])
def test_a_card_that_somebody_wrote_stays(writer, model, files, own):
    writer.repos["me/mine"] = Repo({"README.md": b"# By hand" if own else files["README.md"]})
    swinkit.push_to_hub(model, "me/mine")
    assert ("README.md" in writer.commits[0]["files"]) is not own


@pytest.mark.parametrize("case", ["name", "revision in name", "token", "offline", "folder", "license", "not finite", "front matter"])
def test_nothing_is_sent_of_what_cannot_be_right(online, model, files, tmp_path, monkeypatch, case):
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    folder, repo_id, license = tmp_path / "model", "me/mine", None
    swinkit.save_pretrained(model, folder)
    if case in ("name", "revision in name"):
        repo_id = "mine" if case == "name" else "me/mine@v1"
    elif case == "token":
        monkeypatch.delenv("HF_TOKEN")
    elif case == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif case == "folder":
        (folder / "model.safetensors").write_bytes(b"half")
    elif case == "license":
        license = "My Own!"
    elif case == "front matter":
        (folder / "README.md").write_text("---\na: [\n---\n# x")
    else:
        broken = swinkit.create_model(NAME, num_classes=3)
        torch.nn.init.constant_(broken.head.bias, float("nan"))
        swinkit.save_pretrained(broken, folder, overwrite=True)
    with pytest.raises(CheckpointError) as caught:
        swinkit.push_to_hub(folder, repo_id, license=license)
    assert "\n" not in str(caught.value)
    assert online.seen == []


def test_a_token_that_may_not_write(online, model, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    with pytest.raises(CheckpointError, match=r"The hub refuses to write to me/mine \(403\); use a token with the right"):
        swinkit.push_to_hub(model, "me/mine")


def test_calls_in_the_guide_fit():
    """Those that need a network are not run; their arguments are looked at."""
    page = (Path(__file__).parents[1] / "docs" / "hub.md").read_text()
    blocks = re.findall(r"^```py\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    calls = [node for block in blocks for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)]
    assert len(calls) >= 8
    for call in calls:
        assert call.func.value.id == "swinkit"
        signature = inspect.signature(getattr(swinkit, call.func.attr))
        signature.bind(*call.args, **{keyword.arg: keyword.value for keyword in call.keywords})
        if call.func.attr == "create_model":
            weights.find_weights(call.args[0].value)
