"""What went wrong with the Hugging Face hub, in one sentence that says what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

from swinkit.errors import CheckpointError


def explain(error: Exception, repo_id: str, revision: str | None, started: bool = False) -> CheckpointError:
    """The error to raise instead. started: the hub had answered, so what fails is the transfer."""
    from huggingface_hub import constants, errors

    if isinstance(error, CheckpointError):
        return error
    name, status = f"hf-hub:{repo_id}", _status(error)
    if isinstance(error, errors.RevisionNotFoundError):
        return CheckpointError(f"{name} has no revision {revision!r}; give a branch, a tag or a commit that it has, or leave it out.")
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return CheckpointError(
            f"Access to {name} is restricted; ask for it at {constants.ENDPOINT}/{repo_id}, then set HF_TOKEN to a token of that account."
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        return CheckpointError(
            f"There is no {name} at {constants.ENDPOINT}, or it is private; check the name, or set HF_TOKEN to a token that may read it."
        )
    if status == 401:
        return CheckpointError(f"The hub refused the token for {name} (401); set HF_TOKEN to a valid one, or unset it.")
    if constants.HF_HUB_OFFLINE:
        return not_in_cache(repo_id, revision)
    return _about_the_way(error, name, status, started)


def not_in_cache(repo_id: str, revision: str | None, how: str = "not ") -> CheckpointError:
    """For a model that would have to be downloaded, where nothing can be."""
    from huggingface_hub import constants

    where = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} cannot be reached"
    command = f"hf download {repo_id}" + (f" --revision {revision}" if revision else "")
    return CheckpointError(
        f"hf-hub:{repo_id} is {how}in the cache {constants.HF_HUB_CACHE}, and {where}. Where there is a network, run `{command}`; "
        "HF_HUB_CACHE names another cache."
    )


def _about_the_way(error: Exception, name: str, status: int | None, started: bool) -> CheckpointError:
    from huggingface_hub import constants

    if any(getattr(one, "errno", None) in (errno.ENOSPC, errno.EDQUOT) for one in _chain(error)):
        return CheckpointError(
            f"The disk of {constants.HF_HUB_CACHE} is full; make room, or set HF_HUB_CACHE to another place, and run it again."
        )
    if isinstance(error, PermissionError):
        return CheckpointError(f"{error.filename} cannot be written ({error.strerror}); set HF_HUB_CACHE to a folder that can.")
    says = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if status is not None:
        return CheckpointError(f"{constants.ENDPOINT} answered {status} for {name} ({says}); try again later.")
    if started:
        return CheckpointError(f"The download of {name} broke off ({says}); run it again: files that arrived whole are kept.")
    return CheckpointError(
        f"{name} is not in the cache {constants.HF_HUB_CACHE}, and {constants.ENDPOINT} cannot be reached ({says}); check the network, "
        "the proxy and HF_ENDPOINT."
    )


def _status(error: Exception) -> int | None:
    response: Any = getattr(error, "response", None)
    return getattr(response, "status_code", None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
