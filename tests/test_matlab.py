"""Arrays of MATLAB's files against scipy and h5py, and files that claim, hide or name what they must not."""

from __future__ import annotations

import resource
import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.io import savemat
from scipy.sparse import csc_matrix

from datasets.a2d import read_instances, read_masks
from datasets.jhmdb import read_puppet_masks
from util.files import matlab
from util.files.matlab import read_h5, read_mat

NUMBERS = ("uint8", "int8", "uint16", "int16", "int32", "uint32", "int64", "uint64", "float32", "float64", "bool")


def peak() -> int:
    """The most memory that this process ever had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


# --------------------------------------------------------------------------------------------------------------- .mat


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(NUMBERS), array_shapes(min_dims=2, max_dims=4, max_side=5), st.booleans(), st.data())
def test_reads_what_scipy_writes(tmp_path, kind, shape, compressed, data):
    array = data.draw(arrays(kind, shape))
    path = tmp_path / "x.mat"
    savemat(path, {"before": np.ones(3), "part_mask": array, "after": "text"}, do_compression=compressed)
    read = read_mat(path, "part_mask")
    assert read.shape == array.shape and np.array_equal(read, array, equal_nan=kind.startswith("float"))


def by_hand(order: str, *, flags: int = 9, name: bytes = b"part_mask", kind: int = 2, sizes=(2, 3), data=b"abcdef"):
    """A file with one matrix, of bytes 97 to 102; the name of up to four letters is a small element."""

    def element(number: int, content: bytes) -> bytes:
        if number == 1 and len(content) <= 4:
            return struct.pack(f"{order}I", len(content) << 16 | number) + content.ljust(4, b"\0")
        return struct.pack(f"{order}II", number, len(content)) + content + bytes(-len(content) % 8)

    parts = element(6, struct.pack(f"{order}II", flags, 0)) + element(5, struct.pack(f"{order}{len(sizes)}i", *sizes))
    head = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(f"{order}H", 0x0100) + {"<": b"IM", ">": b"MI"}[order]
    return head + element(14, parts + element(1, name) + element(kind, data))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("name", [b"part_mask", b"mask"])
def test_both_orders_of_bytes_and_small_elements(tmp_path, order, name):
    path = tmp_path / "x.mat"
    path.write_bytes(by_hand(order, name=name))
    assert read_mat(path, name.decode()).T.ravel().tolist() == list(b"abcdef")


def bomb(size: int) -> bytes:
    packer = zlib.compressobj()
    content = b"".join(packer.compress(bytes(2**20)) for _ in range(size >> 20)) + packer.flush()
    sound = by_hand("<")
    return sound[:128] + struct.pack("<II", 15, len(content)) + content


MATS = {
    "cells": (lambda p: savemat(p, {"part_mask": np.array([[1, "x"]], object)}), "not an array of real numbers"),
    "struct": (lambda p: savemat(p, {"part_mask": {"a": 1}}), "not an array of real numbers"),
    "text": (lambda p: savemat(p, {"part_mask": "text"}), "not an array of real numbers"),
    "complex": (lambda p: savemat(p, {"part_mask": np.ones((2, 2, 2)) * 1j}), "not an array of real numbers"),
    "sparse": (lambda p: savemat(p, {"part_mask": csc_matrix((10**4, 10**4))}), "not an array of real numbers"),
    "version 4": (lambda p: savemat(p, {"part_mask": np.ones((2, 2))}, format="4"), "no file of MATLAB's versions 5"),
    "version 7.3": (lambda p: h5py.File(p, "w", userblock_size=512).close(), "no file of MATLAB's versions 5 to 7"),
    "another array": (lambda p: savemat(p, {"x": np.ones(2)}), "there is no such array"),
    "nothing": (lambda p: p.write_bytes(b""), "no file of MATLAB's versions 5 to 7"),
    "too few values": (
        lambda p: p.write_bytes(by_hand("<", sizes=(60_000, 60_000, 60_000))),
        "has 6 values, but is of",
    ),
    "negative": (lambda p: p.write_bytes(by_hand("<", sizes=(-2, -3))), "has 6 values, but is of size"),
    "cut": (lambda p: p.write_bytes(by_hand("<")[:-9]), "its end is missing"),
    "a long name": (
        lambda p: p.write_bytes(by_hand("<").replace(b"\1\0\0\0\x09\0\0\0", b"\1\0\0\0\xff\xff\xff\xff")),
        "end",
    ),
    "a bomb": (lambda p: p.write_bytes(bomb(2**29)), "holds more than 268,435,456 bytes"),
    "damaged compression": (
        lambda p: p.write_bytes(by_hand("<")[:128] + struct.pack("<II", 15, 4) + b"abcd"),
        "damaged",
    ),
    "one axis": (lambda p: p.write_bytes(by_hand("<", sizes=(6,))), "must be height x width x frames, not"),
}


@pytest.mark.parametrize("case", MATS)
def test_other_puppet_masks_are_refused_with_a_line(tmp_path, case):
    write, message = MATS[case]
    path = tmp_path / "puppet_mask.mat"
    write(path)
    before = peak()
    with pytest.raises(ValueError, match=f"puppet_mask.mat: .*{message}.*see docs/data.md, JHMDB-Sentences"):
        read_puppet_masks(path)
    assert peak() - before < 800


# ----------------------------------------------------------------------------------------------------------------- h5


def masks_file(path: Path, **arrays) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in (
            {"instance": np.array([0.0, 1.0]), "reMask": np.ones((2, 4, 3), np.uint8)} | arrays
        ).items():
            if callable(value):
                value(file)
            elif value is not None:
                file[name] = value
    return path


@pytest.mark.parametrize(
    "options", [{}, {"compression": "gzip"}, {"compression": "gzip", "shuffle": True, "fletcher32": 1}]
)
def test_compressed_masks_are_read(tmp_path, options):
    sound = np.random.default_rng(0).integers(0, 2, (2, 40, 30)).astype(np.uint8)
    path = masks_file(tmp_path / "x.h5", reMask=lambda f: f.create_dataset("reMask", data=sound, **options))
    assert (read_masks(path, [0, 1]) == sound.transpose(0, 2, 1)).all()


def chunk_of_zeros(file: h5py.File) -> None:
    """A chunk of 12 bytes whose compressed data gives 300 MB."""
    made = file.create_dataset("reMask", (2, 2, 3), "u1", chunks=(2, 2, 3), compression="gzip")
    packer = zlib.compressobj()
    made.id.write_direct_chunk((0, 0, 0), b"".join(packer.compress(bytes(2**20)) for _ in range(300)) + packer.flush())


def elsewhere(file: h5py.File) -> None:
    """An array whose bytes are those of another file."""
    secret = Path(file.filename).with_name("secret")
    secret.write_bytes(b"s" * 24)
    kept = h5p.create(h5p.DATASET_CREATE)
    kept.set_external(str(secret).encode(), 0, 24)
    h5d.create(file.id, b"reMask", h5t.NATIVE_UINT8, h5s.create_simple((2, 4, 3)), kept)


def virtual(file: h5py.File) -> None:
    with h5py.File(Path(file.filename).with_name("other.h5"), "w") as other:
        other["x"] = np.ones((2, 4, 3), np.uint8)
    layout = h5py.VirtualLayout((2, 4, 3), np.uint8)
    layout[:] = h5py.VirtualSource("other.h5", "x", (2, 4, 3))
    file.create_virtual_dataset("reMask", layout)


def linked(file: h5py.File) -> None:
    with h5py.File(Path(file.filename).with_name("other.h5"), "w") as other:
        other["x"] = np.ones((2, 4, 3), np.uint8)
    file["reMask"] = h5py.ExternalLink("other.h5", "x")


H5S = {
    "no masks": ({"reMask": None}, "there is no reMask"),
    "a group": ({"reMask": lambda f: f.create_group("reMask")}, "reMask is not an array of numbers"),
    "texts": ({"reMask": ["a", "b"]}, "reMask is not an array of numbers"),
    "a record": ({"reMask": np.zeros((2, 4, 3), [("a", "u1")])}, "reMask is not an array of numbers"),
    "complex": ({"reMask": np.ones((2, 4, 3)) * 1j}, "reMask is not an array of numbers"),
    "nothing in it": ({"reMask": h5py.Empty("u1")}, "reMask is not an array of numbers"),
    "a claim": (
        {"reMask": lambda f: f.create_dataset("reMask", (2, 10**6, 10**6), "u1", chunks=True)},
        "more than 268,",
    ),
    "many numbers": ({"instance": np.zeros(10**5)}, "holds more than 65,536 bytes"),
    "numbers that are none": ({"instance": [0.0, np.nan]}, "its instances are no whole numbers"),
    "another file": ({"reMask": elsewhere}, "the values of reMask lie in another file"),
    "an array of another file": ({"reMask": virtual}, "the values of reMask lie in another file"),
    "a link to another file": ({"reMask": linked}, "there is no reMask, or it is only a link"),
    "a bomb": ({"reMask": chunk_of_zeros}, "holds more than 16 bytes"),
    "another compression": (
        {"reMask": lambda f: f.create_dataset("reMask", data=np.ones((2, 4, 3)), compression="lzf")},
        "compressed in a way that is not read here",
    ),
}


@pytest.mark.parametrize("case", H5S)
def test_other_masks_of_a_frame_are_refused_with_a_line(tmp_path, case):
    arrays_, message = H5S[case]
    path = masks_file(tmp_path / "00001.h5", **arrays_)
    before = peak()
    with pytest.raises(
        ValueError, match=f"00001.h5: cannot be read as h5 .*{message}.*see docs/data.md, A2D-Sentences"
    ):
        read_masks(path, read_instances(path))
    assert peak() - before < 100


def test_a_file_that_is_read_stays_closed_to_others(tmp_path):
    """h5py itself follows the link: what the reader refuses is what it would get."""
    path = masks_file(tmp_path / "x.h5", reMask=linked)
    with h5py.File(path) as file:
        assert file["reMask"].shape == (2, 4, 3)
        with pytest.raises(ValueError, match="only a link"):
            read_h5(file, "reMask")
    assert matlab.MOST_BYTES > 40 * 240 * 320 * 8  # JHMDB's longest masks, as doubles
