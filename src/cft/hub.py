"""Adapters for others: a finished adapter's folder as a repository on the Hugging Face hub."""

import json
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import HFValidationError

from cft import CftError
from cft.provenance import replacing, write_run

CARD = "README.md"
FILES = ["adapter_model.safetensors", "adapter_config.json", "train_log.csv", CARD]  # run.json names machines


def push(adapter: Path, repo: str, private: bool, out: Path) -> None:
    """Upload an adapter with its card as one commit, and write repo, commit and URL to `out` as JSON.

    The repository is made where there is none; its visibility is that of its making.
    Raises CftError when a file is missing, the card most of all, or the hub refuses.
    """
    missing = [name for name in FILES if not (adapter / name).is_file()]
    if missing:
        hint = "; write the card with `cft card`" if CARD in missing else ""
        raise CftError(f"{adapter} has no {', '.join(missing)}{hint}")
    api = HfApi()
    try:
        made = api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=made.repo_id, folder_path=adapter, allow_patterns=FILES, commit_message=f"Adapter {adapter}"
        )
    except LocalTokenNotFoundError:
        raise CftError(f"{repo}: log in with `hf auth login`, or set HF_TOKEN to a token that may write")
    except HFValidationError as error:
        raise CftError(f"{repo} is no name of a repository: {error}")
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = "; HF_TOKEN must be a token that may write there" if status in (401, 403) else ""
        raise CftError(f"{repo}: the hub answered {status}: {str(error).splitlines()[0]}{hint}")
    except Exception as error:  # the hub's client and its transfer library have errors of their own kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CftError(f"{repo}: the hub cannot be reached ({reason}); nothing was published")
    record = {"repo": made.repo_id, "commit": commit.oid, "url": str(commit.commit_url)}
    with replacing(out) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")
    write_run(out, **record)
