"""Rows that are appended, cut off and read again."""

import hashlib

import pytest

from ndsnn.errors import RunError
from ndsnn.json_lines import RowLog, append_rows, read_rows


def test_rows_come_back(tmp_path):
    append_rows(tmp_path / "rows", [{"a": 1}, {"a": "ü"}])
    append_rows(tmp_path / "rows", [{"a": None}])
    assert read_rows(tmp_path / "rows") == ([{"a": 1}, {"a": "ü"}, {"a": None}], [])
    assert (tmp_path / "rows").read_bytes().count(b"\n") == 3


def test_a_missing_file_has_no_rows(tmp_path):
    assert read_rows(tmp_path / "rows") == ([], [])


def test_a_row_that_was_cut_off_is_left_out_and_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "rows"
    path.write_text('{"a": 1}\n{"a": ')
    assert read_rows(path) == ([{"a": 1}], [])
    append_rows(path, [{"a": 3}])
    rows, broken = read_rows(path)
    assert rows == [{"a": 1}, {"a": 3}]
    assert len(broken) == 1
    assert f"{path} line 2" in broken[0]


def test_a_line_that_is_no_object(tmp_path):
    (tmp_path / "rows").write_text('[1]\n7\n{"a": 1}\n')
    rows, broken = read_rows(tmp_path / "rows")
    assert rows == [{"a": 1}]
    assert [text.split(" is ")[0][-1] for text in broken] == ["1", "2"]


def test_a_log_knows_what_it_has_written(tmp_path):
    path = tmp_path / "rows"
    path.touch()
    log = RowLog(path)
    log.append([{"a": 1}])
    earlier = log.written
    log.append([{"a": 2}, {"a": 3}])
    whole = path.read_bytes()
    assert whole == b'{"a": 1}\n{"a": 2}\n{"a": 3}\n'
    assert log.written == {"bytes": len(whole), "sha256": hashlib.sha256(whole).hexdigest()}
    other = RowLog(path)
    assert other.begins_with(earlier)
    other.keep(earlier["bytes"])
    assert path.read_bytes() == b'{"a": 1}\n'
    assert other.written == earlier
    assert not other.begins_with(log.written)
    other.append([{"a": 4}])
    assert path.read_bytes() == b'{"a": 1}\n{"a": 4}\n'


def test_a_log_has_one_writer(tmp_path):
    path = tmp_path / "rows"
    path.touch()
    log = RowLog(path)
    log.append([{"a": 1}])
    append_rows(path, [{"a": 2}])
    with pytest.raises(RunError, match="has 18 bytes where this run has written 9"):
        log.append([{"a": 3}])
    path.unlink()
    with pytest.raises(FileNotFoundError):
        log.append([{"a": 3}])
    assert not path.exists()
    assert not log.begins_with(log.written)
