"""Models of the Hugging Face hub: `hf-hub:OWNER/NAME`, or `hf-hub:OWNER/NAME@REVISION`, to a folder on disk.

Everything goes through huggingface-hub and its cache, so HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN and HF_ENDPOINT act as everywhere
(they are read when huggingface-hub is first imported). Where the hub does not answer or refuses, what the cache holds is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from swinkit.checkpoints.hub.blobs import check_blob
from swinkit.checkpoints.hub.errors import explain, not_in_cache
from swinkit.errors import CheckpointError

PREFIXES = ("hf-hub:", "hf_hub:")
COMPANIONS = ("config.json", "preprocessor_config.json", "README.md")
KINDS = (
    ("model.safetensors",),
    ("model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("*.safetensors",),
    ("pytorch_model.bin",),
    ("pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
    ("*.bin",),
    ("*.pth",),
    ("*.pt",),
)
"""Files with weights, the most wanted kind first; of the others nothing is downloaded."""
NOT_WEIGHTS = ("training_args.bin", "optimizer.*", "scheduler.*", "scaler.*", "rng_state*", "adapter_model.*")
CLIENT = "swinkit"


@dataclass(frozen=True)
class HubId:
    """What `hf-hub:OWNER/NAME@REVISION` says."""

    repo_id: str
    revision: str | None = None
    """A branch, a tag or a commit; None: main."""

    def __str__(self) -> str:
        return f"{PREFIXES[0]}{self.repo_id}" + (f"@{self.revision}" if self.revision else "")


def parse_id(source: str | Path) -> HubId | None:
    """The repository meant by a source; None for one that has no `hf-hub:` in front. Errors: CheckpointError if no name follows."""
    text = str(source)
    if not text.startswith(PREFIXES):
        return None
    found = re.fullmatch(r"(?P<repo_id>\w[\w.-]*/[\w.-]+)(?:@(?P<revision>[^@\s]+))?", text.split(":", 1)[1])
    if not found:
        raise CheckpointError(f"{text} names no model of the hub; expected hf-hub:OWNER/NAME or hf-hub:OWNER/NAME@REVISION.")
    return HubId(**found.groupdict())


def local(source: str | Path) -> Path:
    """A source on this disk: what is on the hub is downloaded, a path stays what it is. Errors: those of `download`."""
    wanted = parse_id(source)
    return Path(source).expanduser() if wanted is None else download(wanted.repo_id, wanted.revision)


def download(repo_id: str, revision: str | None = None, *, sha256: str | None = None) -> Path:
    """A folder of the cache with config.json, the weights and preprocessor_config.json of a repository, as far as it has them.

    Of the weights, the first kind of KINDS that is there, at the top of the repository; safetensors are preferred. Every file's hash is
    compared with the hub's, once (see blobs.py), and the weights' with `sha256` where that is given.
    Errors: CheckpointError that says what to do, if there is no such repository, revision or network, no right to it, no weights in it,
    nothing in the cache when offline, no room on the disk, or a hash is wrong.
    """
    wanted = HubId(repo_id, revision)
    folder = _complete_commit(wanted)
    hashes: dict[str, str] = {}
    if folder is None:
        try:
            hashes = _listing(wanted)
        except Exception as error:  # the client's errors have no common root, and differ between its versions
            folder = _fall_back(wanted, error)
        else:
            folder = _fetch(wanted, _choose(hashes, wanted))
    for path in _present(folder, wanted):
        given = sha256 if sha256 and path.name == "model.safetensors" else hashes.get(path.name, "")
        check_blob(path, given, str(wanted))
    return folder


def _listing(wanted: HubId) -> dict[str, str]:
    """The repository's files at that revision -> SHA-256, or for small files git's hash; empty where the hub does not say."""
    from huggingface_hub import HfApi, constants

    api = HfApi(library_name=CLIENT)
    info = api.model_info(wanted.repo_id, revision=wanted.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    return {file.rfilename: str(file.lfs.sha256 if file.lfs else file.blob_id or "") for file in info.siblings or ()}


def _choose(names: Mapping[str, str] | Sequence[str], wanted: HubId) -> list[str]:
    """The files to have, of those there are. Errors: CheckpointError if none holds weights, or if one would have to guess which."""
    top = sorted(name for name in names if "/" not in name and not any(fnmatchcase(name, other) for other in NOT_WEIGHTS))
    for patterns in KINDS:
        found = [name for name in top if any(fnmatchcase(name, pattern) for pattern in patterns)]
        if len(found) > 1 and len(patterns) == 1:
            raise CheckpointError(f"{wanted} holds several weights ({', '.join(found[:5])}); download the one you want and give its path.")
        if found:
            return [name for name in COMPANIONS if name in top] + found
    listed = ", ".join(top[:6]) or "nothing at its top"
    raise CheckpointError(f"{wanted} holds no weights; expected model.safetensors, pytorch_model.bin or one .pth, and it has {listed}.")


def _fetch(wanted: HubId, names: Sequence[str]) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        paths = [Path(hf_hub_download(wanted.repo_id, name, revision=wanted.revision, library_name=CLIENT)) for name in names]
    except Exception as error:  # as above
        raise explain(error, wanted.repo_id, wanted.revision, started=True) from error
    return paths[0].parent


def _fall_back(wanted: HubId, error: Exception) -> Path:
    """What the cache holds, where the hub does not help. Errors: CheckpointError about `error` if that is not enough."""
    from huggingface_hub.errors import RevisionNotFoundError

    folder = None if isinstance(error, RevisionNotFoundError) else _cached(wanted)
    if folder is None:
        raise explain(error, wanted.repo_id, wanted.revision) from error
    if not _is_complete(folder, wanted):
        raise not_in_cache(wanted.repo_id, wanted.revision, "only in part ")
    return folder


def _complete_commit(wanted: HubId) -> Path | None:
    """The folder of a revision that cannot change and is there: nobody need be asked."""
    if not re.fullmatch(r"[0-9a-f]{40}", wanted.revision or ""):
        return None
    folder = _cached(wanted)
    return folder if folder and _is_complete(folder, wanted) else None


def _cached(wanted: HubId) -> Path | None:
    """The folder that the cache has for this revision, whatever is in it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        # A pattern that nothing matches: else the client may ask for files that are of no use here.
        return Path(snapshot_download(wanted.repo_id, revision=wanted.revision, local_files_only=True, allow_patterns=["-"]))
    except (LocalEntryNotFoundError, OSError):
        return None


def _is_complete(folder: Path, wanted: HubId) -> bool:
    """Whether weights are there, and all parts of them."""
    try:
        names = _choose([path.name for path in folder.iterdir()], wanted)
        parts = [name for index in names if index.endswith(".index.json") for name in _parts(folder / index)]
    except (CheckpointError, OSError, ValueError, AttributeError):
        return False
    has_index = not any("-of-" in name for name in names) or bool(parts)
    return has_index and all((folder / name).is_file() for name in (*names, *parts))


def _parts(index: Path) -> set[Any]:
    return set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())


def _present(folder: Path, wanted: HubId) -> list[Path]:
    return [folder / name for name in _choose([path.name for path in folder.iterdir()], wanted)]
