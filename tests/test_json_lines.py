"""Rows that are appended, cut off and read again."""

from ndsnn.json_lines import append_rows, read_rows


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
