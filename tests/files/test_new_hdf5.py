"""HDF5 files on a disk that ends: an error, no crash, and elsewhere what h5py itself writes."""

import errno
import multiprocessing
import resource
import signal

import h5py
import numpy as np
import pytest

from n3match.files.new_hdf5 import NewHdf5
from n3match.files.whole import whole_file

_CONTEXT = multiprocessing.get_context("fork")


def fill(file, many=40):
    for i in range(many):
        group = file.create_group(f"a/{i}")
        data = np.arange(300.0) + i
        group.create_dataset("packed", data=data, chunks=(100,), compression="gzip")
        group["plain"] = data
        group.attrs["name"] = "ü" * 50
    del file["a/3"]
    file["a/5/plain"][:] = 7.0


def content(path):
    found = {}
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: found.update(
            {name: item[()].tolist() if isinstance(item, h5py.Dataset) else dict(item.attrs)}
        ))
    return found


@pytest.mark.parametrize("options", [{}, {"libver": ("v110", "v110")}])
def test_it_holds_what_h5py_writes(tmp_path, options):
    with h5py.File(tmp_path / "wanted.h5", "w", **options) as file:
        fill(file)
    (tmp_path / "found.h5").write_bytes(b"longer than nothing")
    with NewHdf5(tmp_path / "found.h5", **options) as file:
        fill(file)
        file.check()
    wanted, found = (tmp_path / f"{name}.h5" for name in ("wanted", "found"))
    assert content(found) == content(wanted) and len(content(found)) > 80
    assert found.stat().st_size <= 1.02 * wanted.stat().st_size
    file.close()  # once more is nothing


def write_on_full_disk(path, most, told):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    try:
        with whole_file(path) as temporary, NewHdf5(temporary) as file:
            fill(file)
        told.send(None)
    except OSError as error:
        told.send((error.errno, error.filename))


@pytest.mark.parametrize("most", [0, 1, 90, 800, 1924, 2048, 5000, 5900, 20_000, 70_000])
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, most):
    told, tell = _CONTEXT.Pipe(duplex=False)
    path = tmp_path / "new.h5"
    process = _CONTEXT.Process(target=write_on_full_disk, args=(path, most, tell))
    process.start()
    tell.close()
    assert told.recv() == (errno.EFBIG, str(path))
    process.join()
    assert process.exitcode == 0
    assert not list(tmp_path.iterdir())


def test_a_check_tells_early_and_what_was_written_can_still_be_read(tmp_path):
    with pytest.raises(OSError) as caught, NewHdf5(tmp_path / "new.h5") as file:
        file["first"] = np.arange(1000)
        file.flush()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        handled = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
            file["second"] = np.arange(3000)
            file.flush()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, handled)
        assert file["first"][999] == 999 and file["second"][2999] == 2999
        file.check()
        raise AssertionError("the check said nothing")
    assert caught.value.errno == errno.EFBIG
