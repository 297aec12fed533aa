"""Weights by name: ``owner/name`` is a repository on the Hugging Face hub, where no file has this name.

The functions and exceptions are those of the package huggingface_hub (its file_download.py, hf_api.py and errors.py).
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path

from huggingface_hub import (
    HfApi,
    constants,
    get_hf_file_metadata,
    get_token,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from util.run import dist
from util.run.cli import cause

WEIGHTS, CARD = constants.SAFETENSORS_SINGLE_FILE, constants.REPOCARD_NAME  # model.safetensors, README.md
HUB = "the Hugging Face hub"
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
_LOG_IN = "log in (hf auth login, or the variable HF_TOKEN)"


def is_name(text: str) -> bool:
    """Whether this may be the name of a repository: one slash, no suffix, and only characters that the hub allows."""
    if text.count("/") != 1 or Path(text).suffix:
        return False
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


def located(path: str | Path) -> Path:
    """The file that is meant by a path, or by the name of a repository on the hub.

    What exists under this path comes first, and what lies in a folder that exists is no name. The file of a repository
    is downloaded once and then read from the hub's cache, without a network. All ranks may call it at once: the hub's
    client locks its files.

    Returns:
        A path. There may be nothing, where it can be no name of a repository.

    Raises:
        FileNotFoundError: there is no such path, and the repository, its weights or the hub cannot be reached.
    """
    name = str(path)
    if Path(path).exists() or Path(path).parent.is_dir() or not is_name(name):
        return Path(path)
    if isinstance(cached := try_to_load_from_cache(name, WEIGHTS), str):
        return Path(cached)
    try:
        # asked once and without retries, so that an absent network is told at once
        get_hf_file_metadata(hf_hub_url(name, WEIGHTS))
        if dist.is_main():
            print(f"{name}: no such file here; fetching it from {HUB}, once", file=sys.stderr, flush=True)
        return Path(hf_hub_download(name, WEIGHTS))
    except MemoryError:
        raise
    except Exception as error:  # of the hub's client and of its transport, which differs between versions
        raise FileNotFoundError(f"there is no file {name}, and {_why_not(name, error)}") from error


def why_not_a_name(path: Path) -> str:
    """Why nothing that could be the name of a repository was looked up on the hub; empty for any other path."""
    if not is_name(str(path)):
        return ""
    return f"; it was not looked up on {HUB}, because a folder {path.parent} is here"


def _why_not(name: str, error: Exception) -> str:
    """Why there are no weights of a repository, with the mend."""
    if isinstance(error, OfflineModeIsEnabled):
        return (
            f"no weights of a repository {name} in the cache of {HUB}, {constants.HF_HUB_CACHE}, while HF_HUB_OFFLINE "
            "or TRANSFORMERS_OFFLINE forbids to ask for them; give another path, or unset it once"
        )
    if isinstance(error, GatedRepoError):  # before RepositoryNotFoundError, of which it is one
        return f"the repository {name} on {HUB} asks for permission: request it on its page there, and {_LOG_IN}"
    if isinstance(error, RepositoryNotFoundError):
        return f"no repository {name} on {HUB}; check the name, or, if the repository is private, {_LOG_IN}"
    if isinstance(error, EntryNotFoundError) and isinstance(error, HfHubHTTPError):  # the hub's word, not the cache's
        return f"the repository {name} on {HUB} has no {WEIGHTS}, as tools/export.py --push writes it"
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        return (
            f"the weights of a repository {name} cannot be written to the cache of {HUB}, {constants.HF_HUB_CACHE} "
            f"({error.strerror}): free some space, or set HF_HUB_CACHE to a folder that can be written to"
        )
    return (
        f"a repository {name} on {HUB} cannot be fetched ({cause(error)}); give another path, or try again with a "
        "network"
    )


def check_can_push(name: str) -> None:
    """Raises ValueError, before the work begins, where nothing can be pushed to a repository of this name."""
    if not is_name(name):
        raise ValueError(
            f"--push {name} is no name under which weights can be found: give owner/name, of letters, digits, - and _"
        )
    if constants.HF_HUB_OFFLINE:
        raise ValueError(f"--push {name}: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set; unset it")
    if not get_token():
        raise ValueError(f"--push {name}: you are not known to {HUB}; {_LOG_IN}")


def newer(name: str) -> str:
    """The command that fetches the newest weights of a repository. :func:`located` goes on with those in the cache."""
    return f"hf download {name} {WEIGHTS}"


def push(folder: Path, name: str) -> str:
    """Makes the repository, unless it exists, and uploads all files of a folder to it; returns its address.

    Raises:
        OSError: the hub refuses, or cannot be reached.
    """
    api = HfApi()
    try:
        address = api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Weights and model card")
    except MemoryError:
        raise
    except Exception as error:  # as in `located`
        code = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        mend = {
            401: f"{HUB} does not accept the token; {_LOG_IN}",
            403: f"the token may not write there; take one with the right to write, of {name.partition('/')[0]}",
        }.get(code, "try again when it can be reached")
        raise OSError(f"--push {name} failed ({cause(error)}): {mend}") from error
    return str(address)
