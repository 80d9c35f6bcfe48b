import functools
import gzip
import hashlib
import http.server
import io
import tarfile
import threading
import tracemalloc

import pytest

from ndsnn.data import files
from ndsnn.errors import DataError

CONTENT = bytes(range(256)) * 4096
MD5 = files.Checksum("md5", hashlib.md5(CONTENT).hexdigest())


class _Handler(http.server.BaseHTTPRequestHandler):
    ranges = True
    cut_at: int | None = None
    requests: list[str | None] = []  # noqa: RUF012 - one server at a time

    def do_GET(self):
        asked = self.headers.get("Range")
        self.requests.append(asked)
        first = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges else 0
        if first >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(CONTENT) - first))
        self.end_headers()
        self.wfile.write(CONTENT[first : self.cut_at])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    handler = type("Handler", (_Handler,), {"requests": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        handler.url = f"http://127.0.0.1:{running.server_port}/file"
        yield handler
        running.shutdown()
        thread.join()


def fetch(server, target, checksum=MD5, limit=1 << 20):
    told = []
    files.download(server.url, target, checksum, limit, lambda *what: told.append(what))
    return told


def test_download(server, tmp_path):
    told = fetch(server, tmp_path / "deep" / "file")
    assert (tmp_path / "deep" / "file").read_bytes() == CONTENT
    assert told[-1][1:] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]


@pytest.mark.parametrize("ranges", [True, False])
def test_interrupted_download_is_continued(server, tmp_path, ranges):
    server.ranges, server.cut_at = ranges, 300_000
    with pytest.raises(DataError, match=r"300000 of 1048576 bytes.*run the command again"):
        fetch(server, tmp_path / "file")
    assert not (tmp_path / "file").exists()
    server.cut_at = None
    fetch(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.requests == [None, "bytes=300000-"]


def test_left_over_part_that_is_too_long_is_dropped(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT + b"x")
    fetch(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_wrong_checksum_keeps_nothing(server, tmp_path):
    with pytest.raises(DataError, match=r"/file is corrupt.*MD5.*expected 0000"):
        fetch(server, tmp_path / "file", files.Checksum("md5", "0000"))
    assert not list(tmp_path.iterdir())


def test_endless_download_is_stopped(server, tmp_path):
    with pytest.raises(DataError, match="more than the expected 1000 bytes"):
        fetch(server, tmp_path / "file", limit=1000)
    assert not (tmp_path / "file").exists()


def test_no_server_and_not_found(tmp_path):
    with pytest.raises(DataError, match=r"download of http://127.0.0.1:9/x failed.*put it at"):
        files.download("http://127.0.0.1:9/x", tmp_path / "x", MD5, 10, lambda *_: None)


def test_gzip_is_bounded(tmp_path):
    bomb = tmp_path / "bomb.gz"
    with gzip.open(bomb, "wb") as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
    assert bomb.stat().st_size < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"bomb.gz.*more than the expected 1000 bytes"):
            files.gunzip_bounded(bomb, 1000)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_bad_gzip(tmp_path):
    whole = gzip.compress(CONTENT)
    flipped = bytearray(whole)
    flipped[-6] ^= 1
    for content in (whole[:-100], b"no gzip", bytes(flipped)):
        (tmp_path / "f.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"f.gz is corrupt or truncated"):
            files.gunzip_bounded(tmp_path / "f.gz", len(CONTENT))
    with pytest.raises(DataError, match=r"absent.gz cannot be read: No such file"):
        files.gunzip_bounded(tmp_path / "absent.gz", 10)


def tar_of(path, *members: tarfile.TarInfo) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))


def member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info


def test_tar_members(tmp_path):
    path = tmp_path / "a.tar.gz"
    tar_of(
        path,
        member("../evil", 3),
        member("d/one", 5),
        member("d/big", 2000),
        member("d/link", 0, tarfile.SYMTYPE, "/etc/passwd"),
    )
    read = functools.partial(files.read_tar_members, path, limit=1000)
    assert read(["d/one", "d/none"]) == {"d/one": bytes(5)}
    with pytest.raises(DataError, match=r"a.tar.gz!d/link is a link"):
        read(["d/link"])
    with pytest.raises(DataError, match=r"a.tar.gz!d/big .* more than the expected 1000"):
        read(["d/big"])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.tar.gz"]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"a.tar.gz is corrupt or truncated"):
        read(["d/none"])
