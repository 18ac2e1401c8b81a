"""HDF5 files of others: nothing outside them is opened; headers are read before memory is taken."""

import h5py
import numpy as np
import pytest

from n3match.files.hdf5 import copy_plain, member, members, open_hdf5, read_array, read_texts


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.h5"
    with h5py.File(path, "w") as file:
        file["data"] = np.arange(5.0)
    return path


def hostile(tmp_path, write) -> h5py.File:
    path = tmp_path / "given.h5"
    with h5py.File(path, "w") as file:
        write(file)
    return open_hdf5(path)


def test_what_lies_in_the_file_is_found_by_its_way(tmp_path):
    def write(file):
        file["a/b/c"] = np.arange(3)

    with hostile(tmp_path, write) as file:
        assert read_array(member(file, "a/b/c")).tolist() == [0, 1, 2]
        assert member(file, "/a/b").name == "/a/b"
        assert [name for name, _ in members(file)] == ["a"]
        for name in ("x", "a/x/c", "a/b/c/d", "a/../a", "a/\0"):
            assert member(file, name) is None


@pytest.mark.parametrize("way", ["external", "soft", "through"])
def test_links_are_not_followed(tmp_path, secret, way):
    def write(file):
        if way == "external":
            file["a/keypoints"] = h5py.ExternalLink(str(secret), "/data")
        elif way == "soft":
            file["b"] = np.ones(3)
            file["a/keypoints"] = h5py.SoftLink("/b")
        else:
            file["a"] = h5py.ExternalLink(str(secret), "/")

    with hostile(tmp_path, write) as file:
        with pytest.raises(ValueError, match=r"given\.h5: a.* is a link to another"):
            member(file, "a/keypoints")
        with pytest.raises(ValueError, match="is a link"):
            list(members(file["a"] if way != "through" else file))


def test_data_of_other_files_is_not_read(tmp_path, secret):
    layout = h5py.VirtualLayout((5,), "f8")
    layout[:] = h5py.VirtualSource(str(secret), "data", (5,))

    def write(file):
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("elsewhere", (8,), "u1", external=[("/etc/hostname", 0, 8)])

    with hostile(tmp_path, write) as file:
        for name in ("virtual", "elsewhere"):
            with pytest.raises(ValueError, match=f"{name}: its data lie in another file"):
                read_array(member(file, name))


def test_sizes_are_checked_before_memory_is_taken(tmp_path):
    def write(file):
        file.create_dataset("huge", (10**9, 128), "f4", chunks=(1, 128))
        file.create_dataset("unwritten", (10**8,), "f4", chunks=(1000,))
        file.create_dataset("chunk", (1,), "f8", maxshape=(None,), chunks=(10**8,))
        packed = file.create_dataset("packed", (10**5,), "f4", chunks=(10**5,), compression="gzip")
        packed[:] = 0
        file["texts"] = ["a", "bé"]

    with hostile(tmp_path, write) as file:
        with pytest.raises(ValueError, match="huge: 512000000000 bytes of shape"):
            read_array(file["huge"])
        with pytest.raises(ValueError, match=r"unwritten: 400000000 bytes of .* of which 0 are"):
            read_array(file["unwritten"])
        with pytest.raises(ValueError, match="chunk: chunks of shape"):
            read_array(file["chunk"])
        assert not read_array(file["packed"]).any()  # as gzip really packs zeros
        with pytest.raises(ValueError, match="texts: found type object, wanted numbers"):
            read_array(file["texts"])
        assert read_texts(file["texts"]) == ["a", "bé"]
        with pytest.raises(ValueError, match="packed: found float32"):
            read_texts(file["packed"])


def test_only_data_is_copied(tmp_path, secret):
    def write(file):
        file["pair/matches0"], file["pair/more/deep"] = np.arange(3), np.ones(2)
        file["pair"].attrs["method"] = "nn"
        file["bad/x"] = h5py.ExternalLink(str(secret), "/data")

    with hostile(tmp_path, write) as file, h5py.File(tmp_path / "out.h5", "w") as out:
        copy_plain(file["pair"], out.require_group("pair"), but=("matches0",))
        assert list(out["pair"]) == ["more"] and out["pair"].attrs["method"] == "nn"
        with pytest.raises(ValueError, match="is a link to another file"):
            copy_plain(file["bad"], out.require_group("bad"))
        assert not list(out["bad"])


def test_what_is_no_file_of_hdf5_is_said_by_its_name(tmp_path):
    (tmp_path / "x.h5").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"x\.h5: not a readable HDF5 file"):
        open_hdf5(tmp_path / "x.h5")
    with pytest.raises(FileNotFoundError, match=r"y\.h5: no such file"):
        open_hdf5(tmp_path / "y.h5")


@pytest.mark.parametrize("way", ["a circle", "two names"])
def test_groups_with_other_names_are_not_copied_without_end(tmp_path, way):
    def write(file):
        below = file.create_group("pair/below")
        below["x"] = np.arange(3)
        file["pair/again"] = file["pair"] if way == "a circle" else below

    refused = pytest.raises(ValueError, match=r"given\.h5: .* has another name too")
    with hostile(tmp_path, write) as file, h5py.File(tmp_path / "out.h5", "w") as out, refused:
        copy_plain(file["pair"], out.require_group("pair"))


def test_one_text_that_all_entries_are_is_no_gigabyte(tmp_path):
    path = tmp_path / "given.h5"
    with h5py.File(path, "w") as file:
        data = ["x" * 100_000, *["y"] * 499]
        texts = file.create_dataset("texts", data=data, dtype=h5py.string_dtype())
        start = texts.id.get_offset()
    with path.open("r+b") as file:  # 16 bytes an entry: its length, and where it lies
        file.seek(start)
        first = file.read(16)
        file.seek(start)
        file.write(500 * first)
    refused = pytest.raises(ValueError, match="texts: found more text than the file has bytes")
    with open_hdf5(path) as file, refused:
        read_texts(file["texts"])
