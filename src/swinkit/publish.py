"""Putting a model on the Hugging Face hub: its three files, after everything that can be wrong here was looked for."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml

from swinkit.build import save_pretrained
from swinkit.checkpoints import native
from swinkit.checkpoints.card import CARD, check_license, front_matter, is_generated, make_card
from swinkit.checkpoints.hub import CLIENT, HubId, parse_id
from swinkit.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn


def push_to_hub(
    model: nn.Module | str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    commit_message: str = "Upload a swinkit model",
    token: str | None = None,
    create_pr: bool = False,
    license: str | None = None,
) -> str:
    """Upload a model, or what a run folder or a folder of `save_pretrained` holds; returns the address of the commit or pull request.

    repo_id: OWNER/NAME; commit_message: of the commit; create_pr: as a pull request instead.
    config.json, model.safetensors and README.md (the card) are uploaded in one commit, nothing else of a run. The repository is made if
    there is none; private: so that only its owner sees it. revision: a branch, made if there is none. token: by default HF_TOKEN or that
    of `hf auth login`. license: for the card of what is uploaded. A card on the hub that swinkit did not write stays as it is.
    Errors: CheckpointError, before anything is sent if the model, its card, the name or the token cannot be right.
    """
    repo_id = _checked_name(repo_id)
    with TemporaryDirectory() as place:
        folder = Path(place) / repo_id.rpartition("/")[2]
        if isinstance(model, str | Path):
            folder = native.locate(model)
        else:
            save_pretrained(model, folder, license=license)
        card = _at_home(_checked_card(folder, license), repo_id)
        token = _checked_token(token)
        files: dict[str, Path | bytes] = {
            native.WEIGHTS: folder / native.WEIGHTS,
            native.CONFIG: folder / native.CONFIG,
            CARD: card.encode(),
        }
        return _upload(repo_id, files, private, revision, commit_message, token, create_pr)


def _checked_name(repo_id: str) -> str:
    wanted = parse_id(repo_id if repo_id.startswith("hf") and ":" in repo_id else f"{HubId(repo_id)}")
    if wanted is None or wanted.revision:
        raise CheckpointError(f"{repo_id!r} names no repository to upload to; give OWNER/NAME, and a branch as revision=.")
    return wanted.repo_id


def _checked_card(folder: Path, license: str | None) -> str:
    """The card to upload: the folder's own, or a new one where there is none, for a model that can be read."""
    saved = native.read(folder)
    if broken := [name for name, tensor in saved.tensors.items() if not tensor.isfinite().all()]:
        raise CheckpointError(f"{folder} holds weights that are not finite ({broken[0]}); it is not uploaded.")
    path = folder / CARD
    text = path.read_text(encoding="utf-8") if path.is_file() else make_card(saved)
    front_matter(text)
    return _with_license(text, check_license(license)) if license else text


def _at_home(text: str, repo_id: str) -> str:
    """A card of ours, with the address that the model will have in its example."""
    if not is_generated(text):
        return text
    return re.sub(r'"FOLDER"(\)  # or "hf-hub:OWNER/NAME")?', lambda found: f'"hf-hub:{repo_id}"' + (")" if found[1] else ""), text)


def _with_license(text: str, license: str) -> str:
    """The card under another licence; only the front matter and the sentence of a card of ours change."""
    front = {"license": license} | {key: value for key, value in front_matter(text).items() if key != "license"}
    body = re.sub(r"\A---\r?\n.*?^---\s*$", "", text, flags=re.DOTALL | re.MULTILINE).lstrip("\n")
    if is_generated(text):
        body = re.sub(r"^## Licence\n\n.*", f"## Licence\n\n`{license}`.", body, flags=re.MULTILINE)
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000)}---\n\n{body}"


def _checked_token(token: str | None) -> str:
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise CheckpointError("HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it.")
    token = token or get_token()
    if not token:
        raise CheckpointError("Uploading needs a token that may write; set HF_TOKEN, or log in with `hf auth login`.")
    return token


def _upload(
    repo_id: str, files: dict[str, Path | bytes], private: bool, revision: str | None, message: str, token: str, create_pr: bool
) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token, library_name=CLIENT)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        if _has_own_card(api, repo_id, revision):
            del files[CARD]
        additions = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()]
        done = api.create_commit(repo_id, additions, commit_message=message, revision=revision, create_pr=create_pr)
    except Exception as error:  # the client's errors have no common root
        raise _explained(error, repo_id) from error
    return str(done.pr_url or done.commit_url)


def _has_own_card(api: Any, repo_id: str, revision: str | None) -> bool:
    """Whether the repository has a card that somebody wrote."""
    if not api.file_exists(repo_id, CARD, revision=revision):
        return False
    path = api.hf_hub_download(repo_id, CARD, revision=revision)
    return not is_generated(Path(path).read_text(encoding="utf-8", errors="replace"))


def _explained(error: Exception, repo_id: str) -> CheckpointError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    says = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if status in (401, 403):
        return CheckpointError(f"The hub refuses to write to {repo_id} ({status}); use a token with the right to write there.")
    return CheckpointError(f"{repo_id} could not be uploaded ({says}); nothing was changed there, except that it may have been made.")
