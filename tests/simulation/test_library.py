"""The cache of compiled kernels loads no file that another user could have put there."""

import ctypes
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from transpike.simulation.engine import library

CC = shutil.which("cc") or shutil.which("gcc")
pytestmark = pytest.mark.skipif(
    CC is None or os.name != "posix", reason="needs a C compiler and a POSIX system"
)
HOSTILE = """
#include <stdio.h>
#include <stdint.h>
__attribute__((constructor)) static void planted(void) {
  FILE *f = fopen("%s", "w"); if (f) fclose(f);
}
int64_t transpike_scan_size(void) { return 0; }
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the cache folder of this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TRANSPIKE_NATIVE", raising=False)
    # These tests need no optimized code, and optimization would cost seconds per build.
    quick = tmp_path / "quick-cc"
    quick.write_text(f'#!/bin/bash\nexec "{CC}" "${{@/-O3/-O0}}"\n')
    quick.chmod(0o755)
    monkeypatch.setenv("CC", str(quick))
    return tmp_path / "transpike"


def _built(folder):
    loaded, reason = library.load("scan")
    assert loaded is not None, reason
    (path,) = folder.glob("scan-*.so")
    return path


def _plant(path, mark):
    """Replace a library by one that leaves a mark when it is loaded."""
    source = path.with_suffix(".c")
    source.write_text(HOSTILE % mark)
    path.unlink()
    subprocess.run([CC, "-shared", "-fPIC", str(source), "-o", str(path)], check=True)
    source.unlink()


def _fresh_process(code, **environment):
    """Run code in a new process, because a process loads a library only once."""
    env = {**os.environ, **environment, "PYTHONPATH": str(Path(library.__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


LOAD = """
from transpike.simulation.engine import library
loaded, reason = library.load("scan")
print(loaded.transpike_scan_size() if loaded else reason)
"""


def test_files_and_folder_belong_to_the_user_alone(folder):
    path = _built(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in (path, path.with_name(path.name + ".sha256")):
        assert not file.stat().st_mode & 0o077
    assert [f.name for f in folder.iterdir()].count(path.name) == 1
    assert len(list(folder.iterdir())) == 2  # No temporary file is left.


def test_an_open_folder_is_closed(folder):
    folder.mkdir()
    folder.chmod(0o777)
    assert library.cache_folder() == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("how", ["no digest", "wrong digest", "everybody may write", "digest open"])
def test_a_planted_library_is_not_loaded(folder, tmp_path, how):
    path, mark = _built(folder), tmp_path / "mark"
    digest = path.with_name(path.name + ".sha256")
    _plant(path, mark)
    if how == "no digest":
        digest.unlink()
    elif how != "wrong digest":
        digest.write_text(library._digest(path))
        (path if how == "everybody may write" else digest).chmod(0o666)
    size = _fresh_process(LOAD, XDG_CACHE_HOME=str(tmp_path))
    assert int(size) > 0 and not mark.exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("what", ["library", "folder"])
def test_what_another_user_owns_is_not_loaded(folder, tmp_path, what):
    path, mark = _built(folder), tmp_path / "mark"
    digest = path.with_name(path.name + ".sha256")
    _plant(path, mark)
    digest.write_text(library._digest(path))
    path.chmod(0o700)
    os.chown(path if what == "library" else folder, 54321, 54321)
    size = _fresh_process(LOAD, XDG_CACHE_HOME=str(tmp_path))
    assert int(size) > 0 and not mark.exists()


def test_a_link_is_not_loaded(folder, tmp_path):
    path = _built(folder)
    elsewhere = tmp_path / "elsewhere.so"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    _built(folder)
    assert not path.is_symlink()


@pytest.mark.parametrize("kept", [0, 100, 4096])
def test_a_truncated_library_is_built_again(folder, tmp_path, kept):
    path = _built(folder)
    whole = path.read_bytes()
    path.unlink()  # This process still uses the old file, which must not be overwritten.
    path.write_bytes(whole[:kept])
    path.chmod(0o700)
    assert int(_fresh_process(LOAD, XDG_CACHE_HOME=str(tmp_path))) > 0
    assert len(path.read_bytes()) > kept


def test_junk_does_not_cost_the_threads(folder, tmp_path):
    path = _built(folder)
    path.unlink()
    path.write_text("junk")
    path.chmod(0o700)
    assert int(_fresh_process(LOAD, XDG_CACHE_HOME=str(tmp_path))) > 0
    assert list(folder.glob("scan-*.so")) == [path]


def test_a_compiler_with_options(folder, monkeypatch):
    monkeypatch.setenv("CC", f"{os.environ['CC']} -O2")
    _built(folder)


def test_a_relative_cache_folder_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert library.cache_folder() == tmp_path / ".cache" / "transpike"
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("missing", ["home", "permission"])
def test_without_a_cache_folder_a_temporary_one_is_used_and_removed(folder, missing):
    code = "from transpike.simulation.engine import library\n"
    if missing == "home":
        code += (
            "import os, pwd\n"
            "def nobody(_): raise KeyError\n"
            "pwd.getpwuid = nobody\n"
            "os.environ.pop('HOME', None); os.environ.pop('XDG_CACHE_HOME', None)\n"
        )
    code += "print(library.load('scan')[0] is not None, library.cache_folder())\n"
    found, path = _fresh_process(code, XDG_CACHE_HOME="/dev/null").split()
    assert found == "True" and Path(path).name.startswith("transpike-")
    assert not Path(path).exists()


def test_the_loaded_library_is_the_one_that_was_built(folder):
    assert isinstance(ctypes.CDLL(str(_built(folder))), ctypes.CDLL)
