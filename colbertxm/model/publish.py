"""A model folder to the hub: only what `hub.pull` reads again, and a card; never checkpoints, pickles or code.

huggingface_hub sends it: it knows the hub's large-file transfers (LFS, Xet) and goes on with an interrupted one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from colbertxm.errors import UserError
from colbertxm.model.card import MARK
from colbertxm.model.hub import SETTINGS, choose, read_json, write_text
from colbertxm.model.hub_http import endpoint, explained, look_up
from colbertxm.sources import sha256

CARD = "README.md"


def sendable(folder: Path) -> list[str]:
    """The files of a model folder that are sent, the card not among them. Raises UserError where it holds no model, or
    a file is not the one whose checksum the folder notes."""
    if not folder.is_dir():
        raise UserError(f"no model at {folder}: train one with `colbertxm train`, or give checkpoint=FOLDER")
    small, weights = choose([p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()], str(folder))
    if SETTINGS in small:
        noted = read_json(folder / SETTINGS).get("sha256", {})
        for name, digest in noted.items():
            if not (folder / name).is_file() or sha256(folder / name) != digest:
                raise UserError(
                    f"{folder / name} is damaged or missing: train or copy the model again before you send it"
                )
    return sorted([*small, *weights])


def write_card(folder: Path, text: str) -> Path:
    """Write the card into the model folder. Raises UserError where one lies there that was not made here."""
    place = folder / CARD
    if place.exists() and MARK not in place.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"{place} was written by hand: give card={place} to send it as it is, or remove it")
    write_text(place, text)
    return place


def publish(folder: Path, repo: str, files: Sequence[str], private: bool, message: str) -> str:
    """Create the repository where it is not there, and send `files` of `folder`; then compare what the hub lists with
    what lies here. Returns the address. Raises UserError without a token, or where the hub refuses."""
    from huggingface_hub import HfApi, get_token

    if not get_token():
        raise UserError(
            f"no token: make one with the right to write at {endpoint()}/settings/tokens and set HF_TOKEN to it"
        )
    api = HfApi(endpoint=endpoint(), library_name="colbertxm")
    with explained(repo, "main"):
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise UserError(
                f"{endpoint()}/{repo} is public already: choose another name, or make it private there first"
            )
        api.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=list(files), commit_message=message)
        sent = look_up(repo, "main")
    if lacking := sorted(
        name for name in files if name not in sent.files or not sent.files[name].matches(folder / name)
    ):
        raise UserError(f"{endpoint()}/{repo} does not hold {', '.join(lacking)} as it lies here: push again")
    return f"{endpoint()}/{repo}/tree/{sent.commit}"
