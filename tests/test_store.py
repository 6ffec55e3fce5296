"""The index on disk: what is written comes back, the old or the new one stands, damage is refused by name."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from colbertxm.engine.store import Index, read_index, verify_index, write_index
from colbertxm.errors import UserError

META = {"model": "small", "name": ["Licht \u2028 ein", "消す"], "rate": 1e-05, "sizes": {"9": 1, "10": [2]}}


def example(seed: int = 0, passages: int = 50, dim: int = 16) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 6, (passages,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    vectors = torch.randn(int(offsets[-1]), dim, generator=generator)
    return (
        vectors,
        offsets,
        [f"id-{seed}-{n}-é" for n in range(passages)],
        ["en", "de"] * (passages // 2),
        META,
    )


def assert_holds(index: Index, contents: tuple[Any, ...], dtype: torch.dtype) -> None:
    vectors, offsets, ids, langs, meta = contents
    assert index.vectors.dtype == dtype
    assert torch.equal(index.vectors, vectors.to(dtype))
    assert torch.equal(index.offsets, offsets)
    assert (index.ids, index.langs, index.meta) == (ids, langs, meta)
    assert index.texts == [""] * len(ids)


def data_file(folder: Path, name: str) -> Path:
    (path,) = folder.glob("manifest.json" if name == "manifest" else f"{name}-*")
    return path


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_written_comes_back(tmp_path: Path, dtype: str) -> None:
    contents = example()
    write_index(tmp_path / "index", *contents, dtype=dtype)
    assert_holds(read_index(tmp_path / "index"), contents, getattr(torch, dtype))
    verify_index(tmp_path / "index")
    stems = sorted(p.name.split("-")[0] for p in (tmp_path / "index").iterdir() if p.name != ".lock")
    assert stems == ["ids", "langs", "manifest.json", "offsets", "texts", "vectors"]


def test_texts_come_back(tmp_path: Path) -> None:
    contents = example(passages=2)
    texts = ["Licht \u2028 ein\r\n", "消す \x00"]
    write_index(tmp_path, *contents, texts=texts)
    assert read_index(tmp_path).texts == texts
    with pytest.raises(UserError, match="1 texts for 2 passages"):
        write_index(tmp_path, *contents, texts=texts[:1])


def test_the_same_index_twice_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_index(tmp_path / name, *example())
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("a", "b"))
    assert one == two


@pytest.mark.parametrize("passages", [0, 2])
def test_an_index_without_vectors(tmp_path: Path, passages: int) -> None:
    contents = (
        torch.empty(0, 4),
        torch.zeros(passages + 1, dtype=torch.int64),
        ["a", "b"][:passages],
        ["en"] * passages,
        {},
    )
    write_index(tmp_path / "index", *contents)
    assert_holds(read_index(tmp_path / "index"), contents, torch.float16)


def test_blocks_join_without_seams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("colbertxm.engine.store.BLOCK", 300)
    contents = example()
    write_index(tmp_path / "index", *contents, dtype="float32")
    assert_holds(read_index(tmp_path / "index"), contents, torch.float32)
    verify_index(tmp_path / "index")


def test_a_reader_cannot_change_the_file(tmp_path: Path) -> None:
    write_index(tmp_path / "index", *example())
    read_index(tmp_path / "index").vectors.zero_()
    verify_index(tmp_path / "index")


def test_a_new_index_takes_the_place_of_the_old(tmp_path: Path) -> None:
    write_index(tmp_path, *example(0))
    (tmp_path / "notes-of-mine.txt").write_text("kept")
    opened = read_index(tmp_path)
    write_index(tmp_path, *example(1), dtype="float32")
    assert_holds(read_index(tmp_path), example(1), torch.float32)
    assert_holds(opened, example(0), torch.float16)  # whoever had the old one open goes on with it
    assert len(list(tmp_path.glob("vectors*"))) == 1 and (tmp_path / "notes-of-mine.txt").exists()


def test_writing_again_mends_a_damaged_index(tmp_path: Path) -> None:
    write_index(tmp_path, *example())
    for path in list(tmp_path.iterdir()):
        path.write_bytes(b"rubbish")
    write_index(tmp_path, *example())
    verify_index(tmp_path)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel refuses to let any file grow beyond `size` bytes: a full disk, as write() sees it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 100, 400, 1000, 3000])
@pytest.mark.parametrize("old", [False, True])
def test_a_full_disk_leaves_the_old_index_or_nothing(tmp_path: Path, size: int, old: bool) -> None:
    folder = tmp_path / "index"
    if old:
        write_index(folder, *example(0, passages=10))
    before = sorted(tmp_path.rglob("*"))
    with (
        largest_file(size),
        pytest.raises(UserError, match=r"cannot write the index .*File too large; free some"),
    ):
        write_index(folder, *example(1))
    assert sorted(tmp_path.rglob("*")) == before
    if old:
        assert_holds(read_index(folder), example(0, passages=10), torch.float16)


def _write_until_killed(folder: Path, calls: int) -> None:
    """Kill this process at the `calls`-th rename or flush to disk."""
    left = calls

    def counted(function: Any) -> Any:
        def call(*args: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args)

        return call

    os.replace, os.fsync = counted(os.replace), counted(os.fsync)  # type: ignore[assignment]
    write_index(folder, *example(1))


@pytest.mark.parametrize("calls", [1, 2, 5, 10, 11, 12])
def test_a_killed_writer_leaves_the_old_index(tmp_path: Path, calls: int) -> None:
    write_index(tmp_path, *example(0))
    process = multiprocessing.get_context("fork").Process(target=_write_until_killed, args=(tmp_path, calls))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    verify_index(tmp_path)
    assert_holds(read_index(tmp_path), example(0), torch.float16)
    write_index(tmp_path, *example(1))
    assert_holds(read_index(tmp_path), example(1), torch.float16)
    assert len([p for p in tmp_path.iterdir() if p.name != ".lock"]) == 6


@pytest.mark.parametrize("name", ["vectors", "offsets", "ids", "langs", "texts", "manifest"])
@pytest.mark.parametrize("seed", range(6))
def test_truncated_files_are_refused(tmp_path: Path, name: str, seed: int) -> None:
    write_index(tmp_path, *example())
    path = data_file(tmp_path, name)
    os.truncate(path, random.Random(seed).randrange(path.stat().st_size) if seed else 0)
    for check in (read_index, verify_index):
        with pytest.raises(UserError, match=f"{path.name}.* index the passages again"):
            check(tmp_path)


@pytest.mark.parametrize("name", ["offsets", "ids", "langs", "texts", "manifest"])
@pytest.mark.parametrize("seed", range(20))
def test_flipped_bits_are_refused_when_opened(tmp_path: Path, name: str, seed: int) -> None:
    write_index(tmp_path, *example())
    path = data_file(tmp_path, name)
    flip(path, random.Random(seed).randrange(path.stat().st_size * 8))
    with pytest.raises(UserError, match=path.name):
        read_index(tmp_path)


@pytest.mark.parametrize("seed", range(30))
def test_flipped_bits_of_vectors_are_refused_when_verified(tmp_path: Path, seed: int) -> None:
    write_index(tmp_path, *example())
    path = data_file(tmp_path, "vectors")
    flip(path, random.Random(seed).randrange(path.stat().st_size * 8))
    with pytest.raises(UserError, match=path.name):
        verify_index(tmp_path)


@pytest.mark.parametrize("bit", [*range(64, 80), *range(0, 128 * 8, 13)])
def test_a_damaged_array_header_is_no_traceback(tmp_path: Path, bit: int) -> None:
    """Opening does not read the vectors' checksum: it may accept what changes nothing, or refuse."""
    contents = example(passages=4)
    write_index(tmp_path, *contents)
    flip(data_file(tmp_path, "vectors"), bit)
    try:
        index = read_index(tmp_path)
    except UserError:
        return
    assert_holds(index, contents, torch.float16)


@pytest.mark.parametrize("name", ["vectors", "offsets", "ids", "langs", "texts", "manifest"])
def test_missing_files_are_named(tmp_path: Path, name: str) -> None:
    write_index(tmp_path, *example())
    path = data_file(tmp_path, name)
    path.unlink()
    with pytest.raises(UserError, match=path.name):
        read_index(tmp_path)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"name": "a web app"}, "not a colbertxm index"),
        ([1, 2], "not a colbertxm index"),
        ({"format": "colbertxm-index", "version": 99}, "format version 99, this colbertxm reads 1"),
        ({"format": "colbertxm-index", "version": 1}, "own checksum"),
    ],
)
def test_foreign_manifests_are_refused(tmp_path: Path, manifest: object, message: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(manifest, indent=1))
    with pytest.raises(UserError, match=message):
        read_index(tmp_path)


def test_paths_that_are_no_index(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="colbertxm index"):
        read_index(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot read"):
        read_index(tmp_path / "file")
    with pytest.raises(UserError, match="cannot write"):
        write_index(tmp_path / "file", *example())


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(UserError, match="another process"):
        write_index(tmp_path, *example())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.full((3, 2), 1e6)}, "not finite in float16"),
        ({0: torch.full((3, 2), torch.nan)}, "not finite"),
        ({1: torch.tensor([0, 1, 2])}, "rise from 0"),
        ({2: ["a", "a"]}, "'a' occurs twice"),
        ({3: ["en"]}, "1 languages"),
    ],
)
def test_contents_that_would_not_search_are_refused(tmp_path: Path, change: dict[int, Any], message: str) -> None:
    contents: list[Any] = [torch.ones(3, 2), torch.tensor([0, 1, 3]), ["a", "b"], ["en", "de"], {}]
    for position, value in change.items():
        contents[position] = value
    with pytest.raises(UserError, match=message):
        write_index(tmp_path / "index", *contents)
    assert not (tmp_path / "index").exists()


def test_unknown_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="float16 or float32, not 'int8'"):
        write_index(tmp_path / "index", *example(), dtype="int8")
