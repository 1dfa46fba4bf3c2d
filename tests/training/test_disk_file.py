"""The file on a fast disk, its buffers, and what a disk is told when it cannot be used."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import threading

import pytest
import torch

from foldase_models.errors import ModelError
from foldase_models.training.clock import Clock
from foldase_models.training.ledger import Ledger
from foldase_models.training.offload.disk import PART_BYTES, DiskFile
from foldase_models.training.offload.pinned import BLOCK, PinnedPool, aligned
from foldase_models.training.offload.probe import probe

SIZE = 5 * PART_BYTES // 2


def numbers(size):
    buffer = aligned(size)
    return buffer.copy_(torch.randint(0, 256, (buffer.numel(),), dtype=torch.uint8))


def there_and_back(file):
    written, found = numbers(SIZE), aligned(SIZE)
    file.write(BLOCK, written).wait()
    file.read(BLOCK, found).wait()
    return torch.equal(written, found)


def resident_pages(file):
    """Of a file, in the page cache."""
    pages = file.size // mmap.PAGESIZE
    view = mmap.mmap(file.fileno(), file.size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    found = (ctypes.c_ubyte * pages)()
    address = ctypes.addressof(ctypes.c_char.from_buffer(view))
    assert ctypes.CDLL(None).mincore(ctypes.c_void_p(address), ctypes.c_size_t(file.size), found) == 0
    return sum(page & 1 for page in found)


@pytest.fixture
def refused(monkeypatch):
    """Makes opening with a flag fail with an error."""

    def refuse(flag, code):
        plain = os.open

        def opened(path, flags, *rest, **named):
            if flags & flag == flag:
                raise OSError(code, os.strerror(code))
            return plain(path, flags, *rest, **named)

        monkeypatch.setattr(os, "open", opened)

    return refuse


def bad_disk(folder, size=SIZE):
    with pytest.raises(ModelError) as caught:
        DiskFile(folder, size)
    assert (caught.value.code, caught.value.location) == ("bad_disk", "offload.folder")
    assert caught.value.hint
    return caught.value.message


def test_what_is_written_comes_back_and_the_rest_is_zeros(tmp_path):
    clock, ledger = Clock(), Ledger(torch.device("cpu"))
    file = DiskFile(tmp_path, 2 * SIZE, clock=clock, ledger=ledger, owner="moments")
    assert there_and_back(file)
    rest = numbers(BLOCK)
    file.read(0, rest).wait()
    assert not rest.any()
    assert ledger.held("disk") == {"moments": file.size}
    assert (file.written_bytes, file.read_bytes) == (SIZE, SIZE + BLOCK)
    assert clock.take()["disk_seconds"] > 0
    file.close()
    assert ledger.held("disk") == {}


@pytest.mark.parametrize("unnamed", [True, False])
def test_a_process_that_is_killed_leaves_nothing_behind(tmp_path, refused, unnamed):
    """The file has no name while it is open, also where the file system gives every file one."""
    if not unnamed:
        refused(os.O_TMPFILE, errno.EOPNOTSUPP)
    file = DiskFile(tmp_path, SIZE + BLOCK)
    assert list(tmp_path.iterdir()) == []
    assert there_and_back(file)
    file.close()


def test_transfers_pass_the_page_cache_by(tmp_path):
    file = DiskFile(tmp_path, SIZE + BLOCK)
    if not file.direct:
        pytest.skip("this disk takes no direct transfers")
    assert there_and_back(file)
    assert resident_pages(file) == 0
    file.close()


def test_without_direct_transfers_the_page_cache_is_left_again(tmp_path, refused):
    refused(os.O_DIRECT, errno.EINVAL)
    file = DiskFile(tmp_path, SIZE + BLOCK)
    assert not file.direct
    assert "no direct transfers" in file.notes[0]
    assert there_and_back(file)
    assert resident_pages(file) == 0
    file.close()


def test_a_missing_or_closed_folder_is_named(tmp_path, refused):
    assert "is not there" in bad_disk(tmp_path / "missing")
    (tmp_path / "file").touch()
    assert "no folder" in bad_disk(tmp_path / "file")
    refused(os.O_RDWR, errno.EROFS)
    assert "cannot be written to: Read-only" in bad_disk(tmp_path)


def test_a_disk_that_is_too_small_is_known_before_the_first_step(tmp_path):
    said = bad_disk(tmp_path, 2**60)
    assert "is full" in said
    assert f"needs {2**60:,} bytes" in said


def test_a_quota_is_known_before_the_first_step(tmp_path):
    """Space there is, but not for this user: the limit on files of a process stands for that."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, limits[1]))
    try:
        assert "is full" in bad_disk(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_that_becomes_full_ends_the_transfer_with_its_name(tmp_path, monkeypatch):
    file = DiskFile(tmp_path, SIZE)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(ModelError, match=r"is full.*a write of") as caught:
        file.write(0, numbers(SIZE)).wait()
    assert caught.value.location == "offload.folder"
    file.close()


def test_short_transfers_are_continued(tmp_path, monkeypatch):
    file = DiskFile(tmp_path, SIZE + BLOCK)
    read, write = os.preadv, os.pwritev
    monkeypatch.setattr(os, "preadv", lambda fd, parts, at: read(fd, [parts[0][: 3 * BLOCK]], at))
    monkeypatch.setattr(os, "pwritev", lambda fd, parts, at: write(fd, [parts[0][: 5 * BLOCK]], at))
    assert there_and_back(file)
    file.close()


def test_a_file_that_was_cut_short_is_an_error(tmp_path):
    file = DiskFile(tmp_path, SIZE)
    os.ftruncate(file.fileno(), BLOCK)
    with pytest.raises(ModelError, match=r"the file ends at byte 4,096") as caught:
        file.read(0, aligned(SIZE)).wait()
    assert caught.value.code == "bad_disk"
    file.close()


def test_a_disk_that_does_not_answer_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    file = DiskFile(tmp_path, SIZE, deadline_seconds=0.05)
    answers, plain = threading.Event(), os.pwritev

    def slow(*given):
        answers.wait()
        return plain(*given)

    monkeypatch.setattr(os, "pwritev", slow)
    with pytest.raises(ModelError, match="did not end a write") as caught:
        file.write(0, numbers(SIZE)).wait()
    assert caught.value.code == "bad_disk"
    answers.set()
    file.close()


def test_a_probe_measures_and_leaves_nothing(tmp_path):
    found = probe(tmp_path, size=2**20, seconds=0.01)
    assert min(found.read, found.write, found.mixed, found.free_bytes) > 0
    assert found.alignment in (1, BLOCK)
    assert str(tmp_path) in found.explain()
    assert list(tmp_path.iterdir()) == []


def test_a_pool_lends_each_buffer_once_and_makes_no_more():
    ledger = Ledger(torch.device("cpu"))
    pool = PinnedPool(2, 10_000, ledger, "staging", deadline_seconds=0.05)
    assert ledger.held("pinned") == {"staging": 2 * 12_288}
    first, second = pool.take(), pool.take()
    assert first.data_ptr() % BLOCK == second.data_ptr() % BLOCK == 0
    assert first.data_ptr() != second.data_ptr()
    with pytest.raises(ModelError, match="none of the 2 buffers of staging") as caught:
        pool.take()
    assert caught.value.code == "offload_stalled"
    pool.give(second)
    with pool.lent() as third:
        assert third.data_ptr() == second.data_ptr()
    pool.give(first)
    del first, second, third
    pool.close()
    assert ledger.held("pinned") == {}


def test_who_waits_for_a_buffer_gets_the_next_one_given_back():
    pool = PinnedPool(1, BLOCK, Ledger(torch.device("cpu")), "staging")
    buffer = pool.take()
    found = []
    waiting = threading.Thread(target=lambda: found.append(pool.take().data_ptr()))
    waiting.start()
    pool.give(buffer)
    waiting.join()
    assert found == [buffer.data_ptr()]
