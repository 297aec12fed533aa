"""Submissions and folders of masks that were made to do harm: one line each, nothing large, nothing outside."""

# ruff: noqa: F811 (fixtures of another file)

from __future__ import annotations

import os
import shutil
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import eval_ytvos
from tests.test_damaged_scores import FRAMES, both, data, davis, results, scored  # noqa: F401 (fixtures)
from util.masks.results import Results, claim_results, is_complete, mask_name, write_mask_png, write_scores
from util.masks.submission import validate_submission, write_submission_zip
from util.run.cli import INCOMPLETE

SIZE = (20, 30)
FIRST, SECOND = "Annotations/v/0/00000.png", "Annotations/v/0/00001.png"
VIDEOS = {"v": {"expressions": {"0": {"exp": "it"}}, "frames": ["00000", "00001"]}}
LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"


def mask() -> bytes:
    return png(SIZE[1], SIZE[0], zlib.compress(b"".join(b"\0" + bytes(SIZE[1]) for _ in range(SIZE[0]))))


def png(width: int, height: int, pixels: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """A grey PNG with any header and any compressed pixels."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), *more, (b"IDAT", pixels), (b"IEND", b"")]
    packed = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def zeros(size: int) -> bytes:
    """So many zeros by deflate, as a zip's entry has them."""
    packer = zlib.compressobj(wbits=-15)
    return b"".join([*(packer.compress(bytes(2**20)) for _ in range(size >> 20)), packer.flush()])


def pack(path: Path, content: bytes | None = None, method: int = zipfile.ZIP_DEFLATED, *more: str) -> None:
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        archive.writestr(FIRST, mask() if content is None else content, method)
        for name in (SECOND, *more):
            archive.writestr(name, mask())


def patched(*changes: tuple[bytes, int, bytes], **how) -> Callable[[Path], None]:
    """A zip whose first entry has other bytes in its header or in the directory: (signature, place, bytes)."""

    def write(path: Path) -> None:
        pack(path, **how)
        content = bytearray(path.read_bytes())
        for signature, place, new in changes:
            at = content.index(signature) + place
            content[at : at + len(new)] = new
        path.write_bytes(content)

    return write


def bomb(claimed: int) -> Callable[[Path], None]:
    """An entry that inflates to 64 MiB, and says another size."""

    def write(path: Path) -> None:
        body = zeros(2**26)
        pack(path, body, zipfile.ZIP_STORED)
        content = bytearray(path.read_bytes())
        for signature, shift in ((LOCAL, 0), (CENTRAL, 2)):
            at = content.index(signature) + shift
            content[at + 8 : at + 10] = struct.pack("<H", zipfile.ZIP_DEFLATED)
            content[at + 22 : at + 26] = struct.pack("<I", claimed)
        path.write_bytes(content)

    return write


U4 = struct.Struct("<I").pack
ENTRIES = {
    "encrypted": (patched((CENTRAL, 8, b"\1")), "encrypted"),
    "strongly encrypted": (patched((CENTRAL, 8, b"\x41")), "strong encryption"),
    "patched": (patched((CENTRAL, 8, b"\x20")), "compressed patched data"),
    "an unknown method": (patched((CENTRAL, 10, b"\x61")), "packed by wavpack"),
    "bzip2": (lambda p: pack(p, None, zipfile.ZIP_BZIP2), "packed by bzip2"),
    "damaged lzma": (patched((LOCAL, 60, bytes(20)), method=zipfile.ZIP_LZMA), "packed by lzma"),
    "damaged deflate": (patched((LOCAL, 55, b"\xff\xff\xff")), "decompress"),
    "a wrong checksum": (patched((CENTRAL, 16, b"abcd")), "Bad CRC-32"),
    "no header": (patched((LOCAL, 0, b"XXXX")), "Bad magic number"),
    "a header of another name": (patched((LOCAL, 31, b"X")), "differ"),
    "a header beyond the end": (patched((CENTRAL, 42, U4(2**31))), "cannot be read"),
    "a size too large": (patched((CENTRAL, 24, U4(900))), "another size than the zip says"),
    "a size too small": (patched((CENTRAL, 24, U4(50))), "cannot be read"),
    "a packed size too large": (patched((CENTRAL, 20, U4(2**31)), method=zipfile.ZIP_STORED), ""),
    "a size of 4 GB": (patched((CENTRAL, 24, U4(2**32 - 2))), "4,294,967,294 bytes, but at most"),
    "a bomb that says so": (bomb(2**26), "67,108,864 bytes, but at most"),
    "a bomb that hides it": (bomb(5000), "Bad CRC-32"),
    "a name that is there twice": (lambda p: pack(p, None, 0, FIRST), "occurs 2 times"),
    "a picture of 10 gigapixels": (lambda p: pack(p, png(10**5, 10**5, b"")), "more than 134,217,728 pixels"),
    "a picture of 100 megapixels": (lambda p: pack(p, png(10**4, 10**4, b"")), "is 10000x10000, but"),
    "a text that is a bomb": (
        lambda p: pack(p, png(30, 20, b"", (b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26))))),
        "cannot be decoded",
    ),
    "a profile that is a bomb": (
        lambda p: pack(p, png(30, 20, b"", (b"iCCP", b"a\0\0" + zlib.compress(bytes(2**26))))),
        "cannot be decoded",
    ),
    "postscript": (lambda p: pack(p, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 30 20\n"), "not readable as JPEG"),
}


@pytest.mark.parametrize("case", ENTRIES)
def test_a_bad_entry_of_a_submission_is_one_line_and_costs_nothing(case, tmp_path):
    write, message = ENTRIES[case]
    write(tmp_path / "s.zip")
    tracemalloc.start()
    problems = validate_submission(tmp_path / "s.zip", VIDEOS, {"v": SIZE})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if case == "a packed size too large":  # zipfile reads what the other size says
        assert len(problems) <= 1
    else:
        (problem,) = problems
        assert problem.startswith(FIRST) and message in problem and "\n" not in problem
    assert peak < 2**23


def test_names_that_lead_elsewhere_are_only_not_asked_for(tmp_path):
    names = ["../x.png", "/etc/x.png", "Annotations\\v\\0\\00000.png", "a\nb.png", f"{FIRST}~x"]
    pack(tmp_path / "s.zip", None, 0, *names)
    content = (tmp_path / "s.zip").read_bytes()
    (tmp_path / "s.zip").write_bytes(content.replace(b"00000.png~x", b"00000.png\0x"))
    problems = validate_submission(tmp_path / "s.zip", VIDEOS, {"v": SIZE})
    assert len(problems) == 5 and all(problem.endswith("is not asked for") for problem in problems)
    assert not any("\n" in problem or "\0" in problem for problem in problems)


DIRECTORIES = {
    "a damaged entry": patched((CENTRAL, 0, b"XXXX")),
    "a later version": patched((CENTRAL, 6, b"\xff")),
    "a name in no encoding": patched((CENTRAL, 8, b"\0\x08"), (CENTRAL, 46, b"\xff\xff")),
    "a place before the file": patched((b"PK\x05\x06", 12, U4(2**31))),
    "cut off": lambda path: (pack(path), path.write_bytes(path.read_bytes()[:-30])),
    "empty": lambda path: path.touch(),
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("case", DIRECTORIES)
def test_what_is_no_zip_is_one_line(case, tmp_path):
    DIRECTORIES[case](tmp_path / "s.zip")
    with pytest.raises(ValueError, match=r"s\.zip: not a folder and not a readable zip"):
        validate_submission(tmp_path / "s.zip", VIDEOS, {"v": SIZE})


# ----------------------------------------------------------------------------------------------------------- scoring


@pytest.mark.parametrize("damage", ["bomb", "encrypted", "a picture of 10 gigapixels"])
def test_a_bad_entry_scores_0_as_a_missing_mask(damage, results, data, tmp_path, monkeypatch, capsys):
    name = mask_name("aa", "0", FRAMES[0])
    if damage != "encrypted":
        (results / name).write_bytes(bytes(2**21) if damage == "bomb" else png(10**5, 10**5, b""))
    write_submission_zip(results, tmp_path / "s.zip")
    if damage == "encrypted":
        content = bytearray((tmp_path / "s.zip").read_bytes())
        content[content.index(CENTRAL) + 8] = 1  # of the first name
        (tmp_path / "s.zip").write_bytes(content)
    code, scores = scored(eval_ytvos, tmp_path, monkeypatch, tmp_path / "s.zip", "--ytvos_path", data)
    assert code == INCOMPLETE and scores["videos"]["aa"]["0"]["J&F"] == 0.75
    warned = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warned) == 1 and f"{tmp_path / 's.zip'}: {name}" in warned[0]


def link(path: Path) -> None:
    """The right mask, by a link."""
    path.rename(path.with_suffix(".kept"))
    path.symlink_to(path.with_suffix(".kept"))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def sparse(path: Path) -> None:
    os.truncate(path, 2**40)


ODD = {"is a link": link, "is a pipe": pipe, "1,099,511,627,776 bytes": sparse}


@pytest.mark.parametrize("message", ODD)
def test_links_pipes_and_endless_files_are_not_read(message, results, data, tmp_path, monkeypatch, capsys):
    ODD[message](results / mask_name("aa", "0", FRAMES[0]))
    code, scores = scored(eval_ytvos, tmp_path, monkeypatch, results, "--ytvos_path", data)
    assert code == INCOMPLETE and scores["videos"]["aa"]["0"]["J&F"] == 0.75
    assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match=message):
        write_submission_zip(results, tmp_path / "s.zip")
    assert not is_complete(results, "aa", "0", FRAMES) and is_complete(results, "aa", "1", FRAMES)


def test_a_folder_that_is_a_link_is_not_entered(results, data, tmp_path, monkeypatch, capsys):
    (tmp_path / "link").symlink_to(results)  # the results themselves may be one
    (results / "Annotations/aa").rename(tmp_path / "aa")
    (results / "Annotations/aa").symlink_to(tmp_path / "aa")
    with Results(tmp_path / "link") as opened:
        assert not any(name.startswith("Annotations/aa/") for name in opened.names)
    code, scores = scored(eval_ytvos, tmp_path, monkeypatch, tmp_path / "link", "--ytvos_path", data)
    assert code == INCOMPLETE and scores["J&F"] == 0.5


@pytest.mark.parametrize("message", ["is in a folder that is a link", *ODD])
def test_label_maps_are_read_from_files_alone(message, davis, tmp_path, monkeypatch, capsys):
    folder = davis[1] / "anno_2" / "bb"
    if message in ODD:
        ODD[message](folder / f"{FRAMES[1]}.png")
    else:
        folder.rename(tmp_path / "bb")
        folder.symlink_to(tmp_path / "bb")
    code, plain, semi = both(davis, tmp_path, monkeypatch)
    assert code == INCOMPLETE and message in capsys.readouterr().err
    lost = (1, 1) if message in ODD else (4, 2)
    assert (plain["incomplete"]["predictions"], semi["incomplete"]["predictions"]) == lost
    shutil.move(davis[1] / "anno_3", tmp_path / "anno_3")
    (davis[1] / "anno_3").symlink_to(tmp_path / "anno_3")
    with pytest.raises(ValueError, match="anno_3 is a link"):
        both(davis, tmp_path, monkeypatch)


@pytest.mark.parametrize("place", ["Annotations", "Annotations/v", "Annotations/v/0", "scores", "scores/v.json"])
def test_nothing_is_deleted_through_a_link(place, tmp_path):
    out = tmp_path / "out"
    claim_results(out, {"checkpoint": "a"}, replace=False, asked={"v": "1"})
    write_mask_png(out / FIRST, np.zeros(SIZE, bool))
    write_scores(out, "v", ["0"], [0.5], [True])
    (out / place).rename(tmp_path / "mine")
    (out / place).symlink_to(tmp_path / "mine")
    if (tmp_path / "mine").is_dir():
        (tmp_path / "mine/.00000.7.part.png").touch()
    before = sorted(tmp_path.glob("mine/**/*"))
    for run, replace, asked in (({"checkpoint": "a"}, False, {"v": "2"}), ({"checkpoint": "b"}, True, {"v": "1"})):
        with pytest.raises(ValueError, match=f"{out}: {place} is .*link.*remove it"):
            claim_results(out, run, replace=replace, asked=asked)
    assert sorted(tmp_path.glob("mine/**/*")) == before and (tmp_path / "mine").exists()
