"""Puts a hierax folder on the hub, through huggingface_hub."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError


def publish(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    message: str = "Upload with hierax",
) -> str:
    """Upload a folder as a model repository, creating the repository if there is none.

    Args:
        folder: What `Predictor.save` wrote.
        repo_id: "name" or "organisation/name".
        private: Whether a new repository is private; None is the account's own default.
        token: Hub token; None is the one that is logged in.
        revision: Branch to write to, which must exist; None is the main one.
        message: Of the commit.

    Returns:
        Address of the commit.

    Raises:
        CheckpointError: The hub refused, or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import HfHubHTTPError, HFValidationError

    api = HfApi(token=token, library_name="hierax")
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message, repo_type="model"
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{repo_id!r} could not be published: {reason}. Log in with `hf auth login`, or pass token= of an account "
            "that may write there."
        ) from error
    return str(commit.commit_url)
