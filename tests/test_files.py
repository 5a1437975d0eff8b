import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from shared import files
from shared.cli import _describe
from shared.files import (
    UnwritableError,
    atomic_path,
    make_folder_of,
    naming,
    place_of,
    remove_stale_temporaries,
    sha256_of,
    temporary_folder,
    write_json,
    write_text,
)


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "file"
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"new")
        assert not path.exists()

    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail_halfway():
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail_halfway()

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def full(*args, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_told_of_with_the_name_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UnwritableError) as found:
        write_text(tmp_path / "report.html", "text")
    assert found.value.filename == str(tmp_path / "report.html")
    assert _describe(found.value).endswith(
        "(No space left on device); make room, or choose another place"
    )

    def write_both() -> None:
        with naming(tmp_path / "there", tmp_path / "folder"):
            write_text(tmp_path / "folder" / "inside", "text")

    with pytest.raises(UnwritableError) as found:
        write_both()
    assert found.value.filename == str(tmp_path / "there")
    assert not list(tmp_path.iterdir())


def test_a_device_or_a_pipe_is_never_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for special in (pipe, Path("/dev/null"), Path("/dev/stdout"), Path("/dev/none")):
        with pytest.raises(UnwritableError) as error, atomic_path(special):
            raise AssertionError("written to")
        assert error.value.filename == str(special)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_other_errors_of_the_block_keep_their_words(tmp_path):
    def read_nothing() -> None:
        with naming(tmp_path):
            (tmp_path / "nothing").read_text()

    with pytest.raises(FileNotFoundError):
        read_nothing()


def test_a_folder_that_is_no_more_than_begun_goes(tmp_path, monkeypatch):
    path = tmp_path / "dreams.h5"
    with temporary_folder(path) as folder:
        (folder / "dreams-00000-of-00001.h5").touch()
        assert place_of(folder / "dreams.h5") == path
        remove_stale_temporaries(path)
        assert folder.exists()
        monkeypatch.setattr(files, "_is_running", lambda process: False)
        remove_stale_temporaries(path)
        assert not folder.exists()
    assert place_of(path) == path


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    path = tmp_path / "file"
    script = (
        "import os, sys; from pathlib import Path; from shared.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as t: t.write_bytes(b'x'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"mine")
        assert len(list(tmp_path.iterdir())) == 2
        remove_stale_temporaries(path)
        assert list(tmp_path.iterdir()) == [temporary]


def test_json_is_json(tmp_path):
    write_json(tmp_path / "a.json", {"x": [1, 2.5, None]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, 2.5, None]}

    with pytest.raises(ValueError, match=r"NaN|nan|Out of range"):
        write_json(tmp_path / "b.json", {"x": float("nan")})
    assert not (tmp_path / "b.json").exists()


def test_sha256_of_a_known_text(tmp_path):
    write_text(tmp_path / "abc", "abc")

    # FIPS 180-2, appendix B.1.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "abc") == expected


def test_what_is_left_of_several_files_is_found_in_one_listing(tmp_path):
    paths = [tmp_path / name for name in ("a.h5", "b[1].h5", "c.h5")]
    dead = 2**22 + 1  # above the largest process id of Linux
    host = socket.gethostname()
    leftovers = [tmp_path / f".{path.name}.{host}.{dead}.tmp" for path in paths]
    elsewhere = tmp_path / f".a.h5.another-host.{dead}.tmp"
    for file in (*leftovers, elsewhere):
        file.write_bytes(b"")
    remove_stale_temporaries(paths[0], paths[1])

    assert sorted(tmp_path.iterdir()) == sorted([leftovers[2], elsewhere])


def test_the_file_itself_is_named_where_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "nowhere" / "a.txt", tmp_path / "file" / "a.txt"):
        with pytest.raises(UnwritableError) as caught:
            write_text(path, "x")
        assert caught.value.filename == str(path)
        assert caught.value.strerror in ("No such file or directory", "Not a directory")


def test_other_errors_of_the_block_go_through(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match="other"),
        atomic_path(tmp_path / "a"),
        (tmp_path / "other").open(),
    ):
        pass


def test_folders_are_made(tmp_path: Path) -> None:
    make_folder_of(tmp_path / "a" / "b" / "c.txt")
    assert (tmp_path / "a" / "b").is_dir()

    (tmp_path / "file").touch()
    with pytest.raises(UnwritableError, match=r"c\.txt"):
        make_folder_of(tmp_path / "file" / "b" / "c.txt")
