"""Archives that name places outside, bring links and devices, claim or unpack to more than there is, or lie."""

import gzip
import io
import os
import re
import struct
import tarfile
import time
import zipfile

import pytest
from attack_watch import harmless, refused

from ndsnn.data import containers, files
from ndsnn.data.cifar import CIFAR10
from ndsnn.data.events.archives import unpack_tar, unpack_zip_member
from ndsnn.data.trees import FolderTree, ZipTree
from ndsnn.errors import DataError

WANTED = re.compile(r"Top/([A-Za-z0-9][A-Za-z0-9_-]*\.(?:aedat|csv|txt))")
LIMIT = 1 << 20


def silent(what, done, total):
    pass


def member(name, content=b"x", kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, link
    return info, content


def write_tar(path, *members):
    with tarfile.open(path, "w:gz", format=tarfile.GNU_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


def raw_tar(path, *blocks):
    """A .tar.gz of raw blocks, each filled up to 512 bytes."""
    path.write_bytes(gzip.compress(b"".join(block.ljust(-(-len(block) // 512) * 512, b"\0") for block in blocks)))
    return path


def header(name, size, kind):
    """A header that claims `size` bytes, whatever follows."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def unpack(path, target):
    unpack_tar(path, target, WANTED, LIMIT, silent)


@pytest.mark.parametrize(
    "name",
    ["../evil.txt", "/etc/evil.txt", "Top/../evil.txt", "Top/a/../../evil.txt", "Top/..\\evil.txt", "Top/.txt"],
)
def test_names_that_lead_outside_are_passed_over(tmp_path, name):
    path = write_tar(tmp_path / "a.tar.gz", member("Top/good.txt"), member(name))
    target = tmp_path / "in" / "Top"
    with harmless(tmp_path / "in"):
        unpack(path, target)
    assert [entry.name for entry in target.iterdir()] == ["good.txt"]
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.SYMTYPE, "../../.."),
        (tarfile.LNKTYPE, "/etc/passwd"),
        (tarfile.LNKTYPE, "Top/good.txt"),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
        (tarfile.FIFOTYPE, ""),
        (tarfile.DIRTYPE, ""),
    ],
)
def test_links_and_devices(tmp_path, kind, link):
    path = write_tar(tmp_path / "a.tar.gz", member("Top/good.txt"), member("Top/user.txt", b"", kind, link))
    with refused(DataError, r"user\.txt is a link, a special file", tmp_path / "in"):
        unpack(path, tmp_path / "in" / "Top")
    assert not (tmp_path / "in" / "Top").exists()
    with refused(DataError, r"user\.txt is a link or a special file"):
        files.read_tar_members(path, ["Top/user.txt"], LIMIT)


def test_a_link_cannot_be_written_through(tmp_path):
    """A link, then a file of the same name: written through it, the file would land outside."""
    outside = tmp_path / "outside.txt"
    link = member("Top/a.txt", b"", tarfile.SYMTYPE, str(outside))
    path = write_tar(tmp_path / "a.tar.gz", link, member("Top/a.txt", b"evil"))
    with refused(DataError, r"a\.txt is a link", tmp_path / "in"):
        unpack(path, tmp_path / "in" / "Top")
    assert not outside.exists()


def test_a_link_that_lies_in_the_way(tmp_path):
    """Where the unpacked files are to be put together, somebody has put a link to another folder."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.txt").write_text("mine")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "Top.unpacking").symlink_to(outside)
    path = write_tar(tmp_path / "a.tar.gz", member("Top/mine.txt", b"evil"))
    with refused(DataError, "cannot be unpacked", tmp_path / "in"):
        unpack(path, tmp_path / "in" / "Top")
    assert (outside / "mine.txt").read_text() == "mine"


def test_doubled_members(tmp_path):
    path = write_tar(
        tmp_path / "a.tar.gz", member("Top/a.txt", b"1"), member("Top/a.txt", b"2"), member("Top/b.txt")
    )
    with refused(DataError, "doubled", tmp_path / "in"):
        unpack(path, tmp_path / "in" / "Top")
    with refused(DataError, "doubled"):
        files.read_tar_members(path, ["Top/a.txt", "Top/b.txt"], LIMIT)


@pytest.mark.parametrize("name", ["CON.txt", "nul.csv", "Aux.aedat", "com1.txt"])
def test_devices_of_windows(tmp_path, name):
    path = write_tar(tmp_path / "a.tar.gz", member(f"Top/{name}"))
    with refused(DataError, "device on Windows", tmp_path / "in"):
        unpack(path, tmp_path / "in" / "Top")


def test_a_bomb_of_a_wanted_member(tmp_path):
    path = write_tar(tmp_path / "a.tar.gz", member("Top/a.txt", bytes(LIMIT + 1)))
    assert path.stat().st_size < 5000
    with refused(DataError, f"more than the {LIMIT} bytes", tmp_path / "in"):
        unpack(path, tmp_path / "in" / "Top")
    with refused(DataError, "more than the expected"):
        files.read_tar_members(path, ["Top/a.txt"], LIMIT)


def test_a_bomb_of_a_member_that_nobody_wants(tmp_path):
    """Passing over a member means unpacking it, so that counts, too."""
    path = write_tar(tmp_path / "a.tar.gz", member("Top/bomb.bin", bytes(16 << 20)), member("Top/a.txt"))
    with refused(DataError, "unpacks to more than", tmp_path / "in"):
        unpack(path, tmp_path / "in" / "Top")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("size", [64 << 20, 2**33 - 1])
def test_a_header_that_claims_gigabytes(tmp_path, kind, size):
    """Extended headers are read into memory whole, as large as they say."""
    path = raw_tar(tmp_path / "a.tar.gz", header("x", size, kind), bytes(16 << 20))
    with refused(DataError, "corrupt", tmp_path / "in"):
        unpack(path, tmp_path / "in" / "Top")


def test_a_chain_of_headers(tmp_path):
    """Each long name may announce another one; Python's reader goes down into each."""
    long = header("x", 4, tarfile.GNUTYPE_LONGNAME), b"name"
    path = raw_tar(tmp_path / "a.tar.gz", *(long * 5000))
    with refused(DataError, "corrupt", tmp_path / "in"):
        unpack(path, tmp_path / "in" / "Top")


def test_a_sparse_member_that_claims_a_petabyte(tmp_path):
    info = tarfile.TarInfo("Top/a.txt")
    info.size, info.type = 0, tarfile.GNUTYPE_SPARSE
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[483:495] = b"\x80" + (2**50).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    path = raw_tar(tmp_path / "a.tar.gz", bytes(block), bytes(1024))
    began = time.monotonic()
    with refused(DataError, "more than", tmp_path / "in"):
        unpack(path, tmp_path / "in" / "Top")
    assert time.monotonic() - began < 20


def write_zip(path, *members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def open_zip(path):
    tree = ZipTree(path, "Top", None, "get it again", LIMIT)
    return {name: tree.read(name) for name in tree.names()}


@pytest.mark.parametrize(
    "name",
    ["../evil", "/evil", "Top/../../evil", "Top\\..\\evil", "Top/a\\..\\..\\evil", "C:\\evil", "other/evil"],
)
def test_zip_names_that_lead_outside(tmp_path, name):
    path = write_zip(tmp_path / "a.zip", ("Top/good", b"1"), (name, b"evil"))
    with refused(DataError, "leads outside"):
        open_zip(path)


def test_a_zip_name_with_a_nul(tmp_path):
    """The name ends at the NUL; what is left is a second member of that name."""
    path = write_zip(tmp_path / "a.zip", ("Top/good", b"1"), ("Top/goodX.txt", b"evil"))
    path.write_bytes(path.read_bytes().replace(b"Top/goodX.txt", b"Top/good\0.txt"))
    with refused(DataError, "two members have this name"):
        open_zip(path)


@pytest.mark.parametrize("name", ["Top/CON", "Top/a/nul.txt", "Top/lpt1.bin"])
def test_zip_names_of_windows_devices(tmp_path, name):
    path = write_zip(tmp_path / "a.zip", (name, b"x"))
    with refused(DataError, "device on Windows"):
        open_zip(path)


def test_a_zip_bomb_of_overlapping_members(tmp_path):
    """Many entries of the directory share the bytes of one member."""
    path = write_zip(tmp_path / "a.zip", ("Top/a", bytes(LIMIT)), ("Top/b", bytes(LIMIT)))
    data = bytearray(path.read_bytes())
    second = data.rindex(b"PK\x01\x02")
    data[second + 42 : second + 46] = struct.pack("<I", 0)  # where the member of the second entry begins
    path.write_bytes(data)
    with refused(DataError, "lie upon each other"):
        open_zip(path)
    with refused(DataError, "lie upon each other"):
        unpack_zip_member(path, "Top/b", tmp_path / "out", LIMIT)


def test_a_zip_member_larger_than_it_says(tmp_path):
    path = write_zip(tmp_path / "a.zip", ("Top/a", bytes(4 * LIMIT)))
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<I", 4 * LIMIT), struct.pack("<I", 10)))
    with refused(DataError, "corrupt or truncated|more than"):
        open_zip(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, 99])
def test_other_compressions(tmp_path, method):
    """A dictionary of LZMA may be gigabytes, as the member says."""
    path = write_zip(tmp_path / "a.zip", ("Top/a", b"1" * 100))
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02")
    data[place + 10 : place + 12] = struct.pack("<H", method)
    path.write_bytes(data)
    with refused(DataError, "not by deflate"):
        open_zip(path)


def test_a_zip_link_is_only_text(tmp_path):
    """A zip marks links by attributes; read in place, such a member is the text of its target."""
    info = zipfile.ZipInfo("Top/link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with harmless():
        assert open_zip(tmp_path / "a.zip") == {"link": b"/etc/passwd"}


def test_a_zip_directory_of_bad_text(tmp_path):
    path = write_zip(tmp_path / "a.zip", ("Top/ä", b"1"))
    path.write_bytes(path.read_bytes().replace("ä".encode(), b"\xff\xfe"))
    with refused(DataError, "corrupt"):
        open_zip(path)


@pytest.mark.parametrize("special", ["/dev/zero", "pipe"])
def test_devices_in_a_folder(tmp_path, special):
    """Opening a pipe that nobody writes to never returns."""
    (tmp_path / "in").mkdir()
    if special == "pipe":
        os.mkfifo(tmp_path / "in" / "a.bin")
    else:
        (tmp_path / "in" / "a.bin").symlink_to(special)
    with refused(DataError, "no plain file"):
        FolderTree(tmp_path / "in", LIMIT).read("a.bin")


def test_a_gzip_bomb(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(64 << 20)))
    with refused(DataError, "more than the expected 1000 bytes"):
        files.gunzip_bounded(tmp_path / "a.gz", 1000)


def test_an_archive_is_read_only_once_its_checksum_is_right(tmp_path, monkeypatch):
    path = write_tar(tmp_path / CIFAR10.archive, member("cifar-10-batches-py/test_batch"))
    monkeypatch.setattr(containers.tarfile, "open", None)
    with refused(DataError, "its MD5 is"):
        CIFAR10.load_test(path.parent, None, None)
