"""Collections by their names in ir_datasets (`mmarco/v2/fr/dev/small`), their checksums verified by us.

ir_datasets checks a file's md5 while it downloads it, and never again: whatever lies at its path later is read, and so
is what it unpacked or indexed, indices being pickles. Here every downloaded file is held against the published md5
before it is read (`etc/downloads.json` in the library), every unpacked one against its archive, and indices are not
used. That costs one reading of the files per process. Mr. TyDi's archives are not kept by the library: unless you
place them where it looks for local copies (`downloads/MD5` in its folder), each check fetches them anew.
"""

from __future__ import annotations

import copy
import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from colbertxm.data.formats.fields import Ids
from colbertxm.data.formats.lines import Refused
from colbertxm.errors import MissingExtra, UserError, nearest
from colbertxm.languages import language
from colbertxm.records import Judgement, Text

Part = Literal["docs", "queries", "qrels"]


def read_ir_passages(name: str, lang: str | None = None) -> Iterator[Text]:
    """The passages of a collection, title before text as the library joins them. `lang` is needed only where the
    library does not say it. Raises UserError for what fails its checksum, and for an id that stands twice."""
    return _texts(name, "docs", lang)


def read_ir_queries(name: str, lang: str | None = None) -> Iterator[Text]:
    return _texts(name, "queries", lang)


def read_ir_qrels(name: str) -> Iterator[Judgement]:
    handler = _verified(name, "qrels")
    for row in _told(name, handler.qrels_iter()):
        yield Judgement(str(row.query_id), str(row.doc_id), int(row.relevance))


def _texts(name: str, part: Part, lang: str | None) -> Iterator[Text]:
    handler = _verified(name, part)
    spelt = lang or (handler.docs_lang() if part == "docs" else handler.queries_lang())
    if spelt is None:
        raise UserError(f"ir_datasets does not say the language of {name}'s {part}: name it, such as lang=en")
    code, ids = language(spelt).code, Ids()
    rows = _passages(name, handler) if part == "docs" else handler.queries_iter()
    for number, row in enumerate(_told(name, rows), 1):
        text_id = str(row[0])
        try:
            ids.add(text_id, number)
        except Refused as refused:
            raise UserError(f"{name}, {part}, row {number}: {refused}") from None
        yield Text(text_id, row.default_text(), code)


def _told(name: str, rows: Any) -> Iterator[Any]:
    """The library's rows, with what it raises for unreadable files as a UserError."""
    try:
        yield from rows
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError) as error:
        raise UserError(f"ir_datasets cannot read {name}: {' '.join(str(error).split())[:300]}") from None


def _passages(name: str, handler: Any) -> Iterator[Any]:
    """Rows out of the verified files. `docs_iter` prefers an index that was built before, which nobody can verify; so
    does `docs_count`, and a tsv is read no further than that."""
    plain = getattr(type(handler).docs_iter, "__wrapped__", None)
    handler = copy.copy(handler)
    handler.docs_count = lambda: None
    if plain is not None:
        return iter(plain(handler))
    for inner in ("_internal_docs_iter", "_docs_iter"):
        if hasattr(handler, inner):
            return iter(getattr(handler, inner)())
    store = handler.docs_store()
    if store.built():
        raise UserError(f"{name}: an index without a checksum lies at {store.path}: delete it, and run again")
    return iter(handler.docs_iter())


def _verified(name: str, part: Part) -> Any:
    """The library's handler of a part, all files below it verified."""
    try:
        import ir_datasets
    except ImportError:
        raise MissingExtra("ir_datasets", "ir_datasets") from None
    try:
        found = ir_datasets.load(name)
    except KeyError:
        close = nearest(name, ir_datasets.registry._registered)
        raise UserError(f"ir_datasets knows no {name!r}{close}: its names are listed on ir-datasets.com") from None
    if not getattr(found, f"has_{part}")():
        raise UserError(f"{name} has no {part} in ir_datasets: a part of it may have, such as {name}/dev")
    handler = getattr(found, f"{part}_handler")()
    for file in files_below(handler):
        verify(file)
    return handler


def files_below(handler: Any) -> list[Any]:
    """The library's file objects that a handler reads, each after those that it is made from."""
    found: dict[int, Any] = {}
    looked_at: set[int] = set()

    def walk(node: Any, depth: int) -> None:
        ours = type(node).__module__.startswith("ir_datasets") or isinstance(node, (list, tuple, dict))
        if not ours or id(node) in looked_at or depth > 12:
            return
        looked_at.add(id(node))
        if isinstance(node, dict):
            below = list(node.values())
        elif isinstance(node, (list, tuple)):
            below = list(node)
        else:
            below = list(getattr(node, "__dict__", {}).values())
            # A subset's queries are those of its qrels, which only a closure knows.
            function = node.__dict__.get("_fn") if type(node).__name__ == "Lazy" else None
            below += [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
        for child in below:
            walk(child, depth + 1)
        if type(node).__name__ in _CHECKS:
            found[id(node)] = node

    walk(handler, 0)
    return list(found.values())


def verify(file: Any) -> None:
    """Raises UserError where a file of the library's cache is not what was published. One that is not there yet is
    fine: the library checks what it downloads, and unpacks it from there."""
    try:
        _CHECKS[type(file).__name__](file)
    except (OSError, RuntimeError, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
        what = (
            getattr(file, "_path", None) or getattr(file, "_extract_path", None) or getattr(file, "_cache_path", None)
        )
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"{what} cannot be held against its published checksum ({said}): delete it, and run again"
        ) from None


def _download(file: Any) -> None:
    if file._cache_path is None or not Path(file._cache_path).exists():
        return
    path = Path(file._cache_path)
    if path.is_dir():
        return  # a folder that the user was asked to place there
    if not file.expected_md5:
        raise UserError(f"no checksum was published for {path}: it cannot be verified; read it with a reader of ours")
    state = path.stat()
    if md5_of(path, state.st_size, state.st_mtime_ns) != file.expected_md5:
        raise UserError(
            f"{path} is not the file that was published (its md5 is not {file.expected_md5}): delete it, and "
            "ir_datasets fetches it again"
        )


def _unpacked(file: Any) -> None:
    """A single file that the library made of others, by making it once more."""
    path = Path(file._path)
    if not path.exists():
        return
    with path.open("rb") as there, file._streamer.stream() as made:
        if md5(there) != md5(made):
            raise UserError(f"{path} is not what its archive holds: delete it, and ir_datasets unpacks it again")


def _untarred(file: Any) -> None:
    """A folder that the library unpacked: every file of the archive that is there must be the archive's."""
    root = Path(file._extract_path)
    if not root.exists():
        return
    opened = cast(Any, tarfile.open)  # its overloads want the mode as a literal
    with (
        file._streamer.stream() as stream,
        opened(fileobj=stream, mode=f"r|{file._compression or ''}") as archive,
    ):
        for member in archive:
            path, content = root / member.name, archive.extractfile(member)
            if content is None or not path.is_file():
                continue
            with path.open("rb") as there:
                if md5(there) != md5(content):
                    raise UserError(f"{path} is not what its archive holds: delete {root}, and run again")


def _unverifiable(file: Any) -> None:
    path = Path(getattr(file, "extract_path", None) or file._output_file)
    if path.exists():
        raise UserError(f"{path} was unpacked earlier and cannot be verified: delete it, and run again")


_CHECKS = {
    "Download": _download,
    "Cache": _unpacked,
    "TarExtractAll": _untarred,
    "ZipExtractCache": _unverifiable,
    "ReTar": _unverifiable,
}


@cache
def md5_of(path: Path, size: int, changed_ns: int) -> str:
    """A file's md5; size and time are there so that another file under its name is read anew."""
    with path.open("rb") as file:
        return md5(file)


def md5(file: BinaryIO) -> str:
    digest = hashlib.md5(usedforsecurity=False)  # what the library publishes; guards against accidents, not forgers
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
