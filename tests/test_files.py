"""A file that is written over is never lost: every writer fails at every byte of it."""

import ast
import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

import transpike as tp
from transpike import files
from transpike.cli.mask_files import _many_png
from transpike.cli.output import write_json
from transpike.report import Samples, write_report
from transpike.report.figures import save_figure
from transpike.report.read import Results
from transpike.zoo import demo
from transpike.zoo.train.card import save_weights, write_card

resource = pytest.importorskip("resource")
SAVED = Path(__file__).parent / "spiking" / "saved"
OPENED = {}  # writers of masks by their folder
COSTLY = 6  # positions at which those fail that take long before they write


def _network(folder, new):
    snn = tp.load(SAVED / "outputs_a3ecc58")
    steps = {name: step * (2 if new else 1) for name, step in snn.steps.items()}
    changed = snn.changed(settings={"new": new}, steps=steps)
    return lambda: tp.save(changed, folder)


def _samples(folder, new):
    labels = np.array([0, 1, int(new)])
    image = np.full((1, 2, 2), 200 + new, np.uint8)
    names = ("a", "b")
    samples = Samples((1,), labels, labels, labels[None], image, np.array([0]), names)
    return lambda: samples.save(folder)


def _weights(folder, new):
    torch.manual_seed(new)
    model = nn.Linear(3, 4)
    return lambda: save_weights(model, folder / "w.safetensors")


def _mask(folder, new):
    if not (folder / "masks").exists():
        opened = _many_png(folder)
        OPENED[folder] = opened, opened.__enter__()
    return lambda: OPENED[folder][1]("z1", np.eye(8, dtype=bool) == new)


def _figure(folder, new):
    figure, axes = plt.subplots(figsize=(1, 1))
    axes.plot([0, 1 + new])
    plt.close(figure)
    return lambda: save_figure(figure, folder / "f.png")


def _demo(folder, new):
    evaluation = tp.evaluate(
        tp.load(SAVED / "staggered_b8d493c"), [(torch.randn(8, 3), torch.zeros(8).long())], 6
    )
    return lambda: demo.draw({f"new {new}": evaluation}, folder / "d.png")


WRITERS = {
    "network": _network,
    "samples": _samples,
    "weights": _weights,
    "mask": _mask,
    "figure": _figure,
    "demo": _demo,
    "recipe": lambda folder, new: (
        lambda: tp.Recipe(timesteps=2 + new, neuron=tp.IF(), threshold=tp.MaxAbs()).save(
            folder / "r.json"
        )
    ),
    "report": lambda folder, new: (
        lambda: write_report(Results((), (), {}), folder / "r.html", title=f"new {new}")
    ),
    "card": lambda folder, new: lambda: write_card(folder / "c.md", "net", {"new": str(new)}),
    "result": lambda folder, new: (
        lambda: write_json(folder / "e.json", {"command": "evaluate", "new": new})
    ),
    "head and data": lambda folder, new: (
        lambda: files.write_head_and_data(
            folder / "head.json",
            lambda digest: f"{new} {digest}",
            folder / "d.bin",
            b"data %d" % new,
        )
    ),
    "text": lambda folder, new: lambda: files.write_text(folder / "t.txt", f"new {new} ä"),
}


# It builds a library in a folder of its own and renames it there.
# The records of a study only grow, and a line that was cut is removed.
ELSEWHERE = {"files.py", "simulation/engine/library.py", "study/records.py"}
WRITING = {"write_text", "write_bytes", "savez", "save_file", "dump", "tofile", "truncate"}


def _writes(path):
    """Find the calls of methods that write a file, and of open() with a mode that does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            name = getattr(node.func, "attr", "")
            if name in WRITING:
                yield ast.unparse(node)
            if "open" in (name, getattr(node.func, "id", "")):
                values = [*node.args, *(keyword.value for keyword in node.keywords)]
                modes = [v.value for v in values if isinstance(v, ast.Constant)]
                if any(isinstance(mode, str) and set(mode) & set("wax+") for mode in modes):
                    yield ast.unparse(node)


def test_no_other_module_writes_files():
    root = Path(tp.__file__).parent
    found = {path.relative_to(root).as_posix(): list(_writes(path)) for path in root.rglob("*.py")}
    assert {path for path, calls in found.items() if calls} == ELSEWHERE, found


def _content(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@contextlib.contextmanager
def _full_after(size):
    """Let every write beyond so many bytes of a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("name", WRITERS)
def test_a_failure_at_any_byte_leaves_the_old_content(tmp_path, name):
    WRITERS[name](tmp_path, False)()
    old = _content(tmp_path)
    write = WRITERS[name](tmp_path, True)
    write()
    new = _content(tmp_path)
    assert old and new != old
    WRITERS[name](tmp_path, False)()
    assert _content(tmp_path) == old  # otherwise, equal content below would say nothing
    largest = max(len(content) for content in new.values())
    step = -(-largest // COSTLY) if name in ("network", "report", "figure", "demo") else 1
    for size in range(0, largest, step):
        with _full_after(size), pytest.raises((tp.FileError, OSError)):
            write()
        assert _content(tmp_path) == old, f"after {size} bytes"
    write()
    assert _content(tmp_path) == new


@pytest.mark.parametrize("broken", ["fsync", "fdopen"])
@pytest.mark.parametrize("name", WRITERS)
def test_other_failures_leave_the_old_content(tmp_path, name, broken, monkeypatch):
    WRITERS[name](tmp_path, False)()
    old = _content(tmp_path)
    write = WRITERS[name](tmp_path, True)

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files.os, broken, fail)
    with pytest.raises((tp.FileError, OSError)):
        write()
    monkeypatch.undo()
    assert _content(tmp_path) == old


def test_a_network_loads_after_a_failed_save(tmp_path):
    write = _network(tmp_path, False)
    write()
    sizes = sorted(file.stat().st_size for file in tmp_path.iterdir())
    for size in (0, sizes[0] - 1, sizes[0], sizes[1] - 9):
        with _full_after(size), pytest.raises(tp.FileError, match="cannot write to"):
            _network(tmp_path, True)()
        assert tp.load(tmp_path).settings == {"new": False}


def test_an_interrupt_leaves_the_old_content(tmp_path):
    file = tmp_path / "a"
    file.write_text("old")
    with pytest.raises(KeyboardInterrupt), files.replacing(file) as opened:
        opened.write(b"new")
        raise KeyboardInterrupt
    assert _content(tmp_path) == {"a": b"old"}


def test_a_killed_process_leaves_the_old_content(tmp_path):
    file = tmp_path / "a"
    file.write_text("old")
    code = (
        "import os, signal, sys\n"
        "from transpike.files import replacing\n"
        "with replacing(sys.argv[1]) as opened:\n"
        "    opened.write(b'new')\n"
        "    opened.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], check=False)
    assert done.returncode == -signal.SIGKILL and file.read_text() == "old"


def test_a_link_is_followed(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    files.write_text(tmp_path / "link", "new")
    assert (tmp_path / "real").read_text() == "new" and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o666])
def test_permissions_are_kept(tmp_path, mode):
    file = tmp_path / "a"
    file.write_text("old")
    file.chmod(mode)
    files.write_text(file, "new")
    assert file.stat().st_mode & 0o777 == mode and file.read_text() == "new"


def test_a_read_only_file_is_not_replaced(tmp_path, monkeypatch):
    file = tmp_path / "a"
    file.write_text("old")
    monkeypatch.setattr(files.os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(PermissionError, match="Permission denied"):
        files.write_text(file, "new")
    assert _content(tmp_path) == {"a": b"old"}


def test_a_folder_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError):
        files.write_text(tmp_path / "a", "new")


def test_devices_and_pipes_are_written_to(tmp_path):
    files.write_text(os.devnull, "new")
    assert not Path(os.devnull).is_file()
    pipe, found = tmp_path / "pipe", io.StringIO()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.write(pipe.read_text()))
    reader.start()
    files.write_text(pipe, "new")
    reader.join()
    assert found.getvalue() == "new" and pipe.is_fifo()


def test_a_figure_without_an_end_of_the_name_is_a_png(tmp_path):
    figure = plt.figure(figsize=(1, 1))
    plt.close(figure)
    save_figure(figure, tmp_path / "f")
    save_figure(figure, tmp_path / "g.svg")
    assert (tmp_path / "f.png").read_bytes()[1:4] == b"PNG"
    assert "<svg" in (tmp_path / "g.svg").read_text()
    with pytest.raises(ValueError, match="Format 'xyz' is not supported"):
        save_figure(figure, tmp_path / "h.xyz")
    assert len(list(tmp_path.iterdir())) == 2
