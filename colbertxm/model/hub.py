"""Models by name: `antoinelouis/colbert-xm`, any `owner/name[@revision]`, brought to a verified local folder.

    >>> folder = pull("antoinelouis/colbert-xm", languages=["en", "sw"])   # 1.2 GB of the 3.4 are fetched

Only what a model needs is fetched: configuration, tokenizer and safetensors, never a pickle and never code. Files lie
in `$COLBERTXM_CACHE`/hub/owner--name/COMMIT/ with a `pulled.json` that says what they are. A branch or tag is resolved
to its commit once, noted in refs/ beside the commits, and not asked for again: the second time there is no request. To
follow a branch that has moved, call with `refresh=True` or delete refs/.

With `languages`, only the tensors of those adapters (and the shared ones) are read, by byte ranges, and a smaller
safetensors file is written. The hub's sha256 is that of the whole file and cannot be checked then: checked are each
answer's length and place, the header against the file's size, and each tensor's dtype and shape. The smaller file's own
sha256 is noted, so that later damage shows.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from colbertxm.errors import UserError, nearest
from colbertxm.languages import ADAPTERS
from colbertxm.model import hub_http, slices
from colbertxm.model.adapters import name_of
from colbertxm.model.hub_http import RemoteFile, Repository
from colbertxm.sources import cache_folder, sha256

REVISIONS = {
    "antoinelouis/colbert-xm": "960de711799d210957d18df59c14c59a439b608a",
    "antoinelouis/dpr-xm": "main",
    "facebook/xmod-base": "main",
}
"""Which revision a bare name means. Where it is a branch, its commit is noted at the first download."""
WEIGHTS, INDEX, CONFIG, SETTINGS = "model.safetensors", "model.safetensors.index.json", "config.json", "colbertxm.json"
RECORD, RECORD_FORMAT = "pulled.json", 1
SMALL = frozenset(
    "config.json artifact.metadata tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json "
    "modules.json sentence_bert_config.json config_sentence_transformers.json colbertxm.json".split()
)
"""What a model needs beside its weights, in any of the layouts that are read."""
_MODULE = re.compile(r"\d+_[A-Za-z]+/(config\.json|model\.safetensors)")  # sentence-transformers: 1_Dense/...
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w][\w./-]*))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ADAPTER = re.compile(r"\.adapter_modules\.([^.]+)\.")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".pkl")


def looks_like_hub_name(base: str) -> bool:
    """Whether `base` has the form owner/name[@revision] and is not something that lies here."""
    return _NAME.fullmatch(base) is not None and ".." not in base and not Path(base).exists()


def pull(
    name: str,
    languages: Sequence[str] | None = None,
    revision: str | None = None,
    *,
    refresh: bool = False,
    verify: bool = True,
) -> Path:
    """The local folder of the model `name`, fetched where it is not there. With `languages` it holds at least their
    adapters; None means all. `verify` checks the sha256 of what lies there (about a second for a gigabyte).

    Raises UserError where name, revision or language do not exist, where the model is only there as a pickle, where it
    may not be read, and where hub or disk refuse."""
    repo, revision = _split(name, revision)
    root = cache_folder() / "hub" / repo.replace("/", "--")
    try:
        commit = None if refresh and not _COMMIT.fullmatch(revision) else _resolved(root, revision)
        if commit and (folder := _ready(root / commit, languages, verify)):
            return folder
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(str(root / ".lock")), hub_http.explained(repo, revision):
            if commit and (folder := _ready(root / commit, languages, verify)):
                return folder  # another process was faster
            found = hub_http.look_up(repo, commit or revision)
            folder = root / found.commit
            _fetch(found, folder, languages)
            if revision != found.commit:
                _write_json(root / "refs" / f"{revision.replace('/', '--')}.json", {"commit": found.commit})
    except OSError as error:
        raise UserError(
            f"cannot read or write {error.filename or root}: {error.strerror or error}; free space, mend its "
            "permissions, or set COLBERTXM_CACHE to another folder"
        ) from error
    return folder


def choose(files: Collection[str], name: str) -> tuple[list[str], list[str]]:
    """Of a repository's file names: what to fetch beside the weights, and the main weights (one file or its shards).
    Raises UserError where the only weights are a pickle, or there are none."""
    small = sorted(path for path in files if path in SMALL or _MODULE.fullmatch(path))
    if "tokenizer.json" not in files and "sentencepiece.bpe.model" in files:
        small.append("sentencepiece.bpe.model")
    if WEIGHTS in files:
        return small, [WEIGHTS]
    if INDEX in files and (shards := sorted(path for path in files if _SHARD.fullmatch(path))):
        return [*small, INDEX], shards
    if pickled := sorted(path for path in files if path.endswith(_PICKLED) and "/" not in path):
        raise UserError(
            f"{name} has its weights only in {pickled[0]}, a format that can run code and is never read: give a "
            f"revision that has {WEIGHTS} ({name.split('@')[0]}@refs/pr/1 is often one), or convert it where you trust "
            "it (load it with transformers, save_pretrained) and give the folder"
        )
    raise UserError(
        f"{name} holds no {WEIGHTS}: it is no model that can be read (it has {', '.join(sorted(files)[:5])})"
    )


def _split(name: str, revision: str | None) -> tuple[str, str]:
    """Repository and revision of owner/name[@revision]."""
    found = _NAME.fullmatch(name)
    if found is None or ".." in name:
        raise UserError(f"{name!r} is no name of a model: it is owner/name or owner/name@revision")
    repo, named = found["repo"], found["revision"]
    if named and revision and named != revision:
        raise UserError(f"{name} and revision={revision!r} contradict one another: give one")
    return repo, revision or named or REVISIONS.get(repo, "main")


def _resolved(root: Path, revision: str) -> str | None:
    """The commit that `revision` is, as far as is known here without asking."""
    if _COMMIT.fullmatch(revision):
        return revision
    note = root / "refs" / f"{revision.replace('/', '--')}.json"
    return str(read_json(note)["commit"]) if note.exists() else None


def _ready(folder: Path, languages: Sequence[str] | None, verify: bool) -> Path | None:
    """`folder` where everything asked for lies there whole, or None. Raises UserError for a damaged file."""
    if not (folder / RECORD).exists():
        return None
    record = read_json(folder / RECORD)
    have = record["adapters"]
    if have is not None:  # not the whole file
        known = _languages(record["originals"], folder.parent.name)
        if not set(adapters_of(languages, known, folder.parent.name) or known) <= set(have):
            return None
    for path, noted in record["files"].items():
        place = folder / path
        if (
            not place.exists()
            or place.stat().st_size != noted["bytes"]
            or (verify and sha256(place) != noted["sha256"])
        ):
            raise UserError(f"{place} is damaged or missing: delete {folder} and run again")
    if have is None and languages is not None:
        adapters_of(languages, read_json(folder / CONFIG).get("languages", []), folder.parent.name)
    return folder


def adapters_of(languages: Sequence[str] | None, known: Sequence[str], name: str) -> list[str] | None:
    """The adapters of `languages` among those that a model has, in the model's order; None for all of them. A language
    is spelled as anywhere else, or by its adapter's name; one that X-MOD never had is found where it was added."""
    if languages is None or not known:
        return None
    wanted = {spelling if spelling in known else name_of(spelling) for spelling in languages}
    if missing := sorted(wanted - set(known)):
        hint = nearest(missing[0], known) if missing[0] not in ADAPTERS else ""
        raise UserError(f"{name} has no adapter {', '.join(missing)}{hint}; it has {', '.join(sorted(known))}")
    return [adapter for adapter in known if adapter in wanted]


def _languages(originals: Mapping[str, str], name: str) -> list[str]:
    """The adapters that a repository's config names; none where it is no X-MOD."""
    try:
        known = json.loads(originals.get(CONFIG, "{}")).get("languages") or []
        json.loads(originals.get(SETTINGS, "{}"))
    except (ValueError, AttributeError) as error:
        raise UserError(f"{CONFIG} or {SETTINGS} of {name} is no JSON object ({error}): it is damaged there") from None
    return [str(adapter) for adapter in known]


def _fetch(found: Repository, folder: Path, languages: Sequence[str] | None) -> None:
    """Bring what is asked for of `found` into `folder`; the record is written last."""
    small, weights = choose(found.files, f"{found.name}@{found.commit[:7]}")
    record: dict[str, Any] = {"files": {}, "originals": {}, "fetched": 0, "adapters": None}
    if (folder / RECORD).exists():
        record = read_json(folder / RECORD)
    originals: dict[str, str] = dict(record["originals"])
    missing = [path for path in small if path not in record["files"]]
    with _bar(found, sum(found.files[path].size for path in missing), "settings and tokenizer") as advance:
        for path in missing:
            hub_http.download(found.files[path], folder / path, advance)
    if not originals:
        originals = {path: (folder / path).read_bytes().decode() for path in (CONFIG, SETTINGS, INDEX) if path in small}
    known = _languages(originals, found.name)
    adapters = adapters_of(languages, known, found.name)
    if adapters is not None:
        adapters = [a for a in known if a in adapters or a in (record["adapters"] or [])]
    fetched, tensors = None, None
    if adapters is not None and len(adapters) < len(known):
        try:
            fetched, tensors = _fetch_slices(found, weights, folder, adapters)
        except hub_http.NoRanges:
            print(f"{hub_http.endpoint()} gives no parts of files: fetching all of {found.name}", file=sys.stderr)
    if fetched is None:
        adapters, fetched = None, _fetch_whole(found, weights, folder)
    _write_settings(folder, originals, adapters)
    files = _note_files(found, folder, small, weights, adapters)
    total = sum(found.files[path].size for path in weights)
    note = {"format": RECORD_FORMAT, "repository": found.name, "endpoint": hub_http.endpoint(), "commit": found.commit}
    note |= {"adapters": adapters, "weights_bytes": total, "fetched": int(record["fetched"]) + fetched}
    _write_json(folder / RECORD, {**note, "tensors": tensors, "files": files, "originals": originals})


def _fetch_whole(found: Repository, weights: Sequence[str], folder: Path) -> int:
    """The weights as they are, checked by the hub's sha256."""
    total = sum(found.files[path].size for path in weights)
    with _bar(found, total, f"{total / 1e9:.2f} GB") as advance:
        for path in weights:
            hub_http.download(found.files[path], folder / path, advance)
    if WEIGHTS not in weights:
        (folder / WEIGHTS).unlink(missing_ok=True)  # of some languages, from an earlier call
    return total


def _fetch_slices(
    found: Repository, weights: Sequence[str], folder: Path, adapters: Sequence[str]
) -> tuple[int, list[str]]:
    """Only the shared tensors and those of `adapters`, as one file: bytes fetched, and the tensors' names. Tensors that
    an earlier call has brought here are copied and not fetched again."""
    headers = 0

    def part(file: RemoteFile) -> Any:
        def read(begin: int, end: int) -> bytes:
            nonlocal headers
            headers += end - begin
            return hub_http.read_range(file, begin, end)

        return read

    slots = [
        slot for path in weights for slot in slices.read_slots(path, found.files[path].size, part(found.files[path]))
    ]
    wanted = [slot for slot in slots if (a := _ADAPTER.search(slot.name)) is None or a[1] in adapters]
    absent = set(adapters) - {a[1] for slot in wanted if (a := _ADAPTER.search(slot.name))}
    if absent:
        raise UserError(f"{found.name} names the languages {', '.join(sorted(absent))} but has no weights of theirs")
    have = folder / WEIGHTS if (folder / RECORD).exists() else None
    size, total = sum(s.end - s.begin for s in wanted), sum(found.files[path].size for path in weights)
    reused = {slot.name for slot in slices.local_slots(have)} if have else set()
    todo = sum(s.end - s.begin for s in wanted if s.name not in reused)
    what = f"{', '.join(adapters)}: {size / 1e9:.2f} of {total / 1e9:.2f} GB"
    with _bar(found, todo, what) as advance:
        fetched = slices.assemble(
            folder / WEIGHTS,
            wanted,
            lambda piece: hub_http.read_range(found.files[piece.file], piece.begin, piece.end),
            have,
            found.commit,
            advance,
        )
    return headers + fetched, [slot.name for slot in wanted]


def _write_settings(folder: Path, originals: Mapping[str, str], adapters: Sequence[str] | None) -> None:
    """config.json (and our own settings with their checksums) as the repository has them, or for `adapters` alone."""
    for path, text in originals.items():
        if path != INDEX or adapters is None:
            write_text(folder / path, text)
        else:
            (folder / path).unlink(missing_ok=True)  # one smaller file stands for the shards
    if adapters is None:
        return
    config = json.loads(originals[CONFIG])
    config["languages"] = list(adapters)
    if config.get("default_language") not in adapters:
        config["default_language"] = None
    _write_json(folder / CONFIG, config)
    if SETTINGS in originals:
        settings = json.loads(originals[SETTINGS])
        for path in (CONFIG, WEIGHTS):
            settings["sha256"][path] = sha256(folder / path)
        _write_json(folder / SETTINGS, settings)


def _note_files(
    found: Repository, folder: Path, small: Sequence[str], weights: Sequence[str], adapters: Sequence[str] | None
) -> dict[str, dict[str, Any]]:
    """Size and sha256 of what lies in `folder`, and against what each file was checked when it came."""
    paths = [path for path in [*small, *(weights if adapters is None else [WEIGHTS])] if (folder / path).exists()]
    noted = {}
    for path in paths:
        changed = adapters is not None and path in (CONFIG, SETTINGS, WEIGHTS)
        against = "size" if found.files.get(path) is None or found.files[path].blob is None else "git's sha1"
        if changed:
            against = "lengths, header, dtypes and shapes" if path == WEIGHTS else "written here for these adapters"
        elif found.files[path].sha256:
            against = "sha256"
        noted[path] = {"bytes": (folder / path).stat().st_size, "sha256": sha256(folder / path), "checked": against}
    return noted


@contextmanager
def _bar(found: Repository, total: int, what: str) -> Iterator[hub_http.Advance]:
    """A line that says what is fetched, and a bar of bytes in a terminal."""
    if not total:
        yield lambda n: None
        return
    print(f"fetching {found.name} {found.commit[:7]} ({what})", file=sys.stderr, flush=True)
    with tqdm(total=total, unit="B", unit_scale=True, disable=not sys.stderr.isatty(), desc=found.name) as bar:
        yield bar.update


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError for anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): delete or replace it and run again") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged (no JSON object): delete or replace it and run again")
    return found


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """All of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
