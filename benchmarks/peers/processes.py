"""Starts a contestant in a process of its own, and describes the machine.

Set BENCHMARK_VERBOSE=1 to see what the processes print.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OURS, PEERS = ROOT / ".venv/bin/python", ROOT / ".venv-peers/bin/python"
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16")


class Ended(RuntimeError):
    """The process ended. Most likely it was killed because memory ran out."""


class Worker:
    """One contestant on one network, kept alive between requests.

    Attributes:
        hello: its first answer: settings and versions, or the reason why it is not available.
    """

    def __init__(self, setup: dict[str, Any]) -> None:
        peer = setup["contestant"].startswith(("spikingjelly", "braincog"))
        python = PEERS if peer else OURS
        if not python.exists():
            self.hello: dict[str, Any] = {"ready": False, "reason": f"no {python.parent.parent}"}
            return
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}",
            "OMP_NUM_THREADS": str(setup["threads"]),
            "TQDM_DISABLE": "1",
        }
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.peers.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("BENCHMARK_VERBOSE") else subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.hello = self.ask(setup)

    @property
    def ready(self) -> bool:
        return bool(self.hello.get("ready"))

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Ended(f"the process ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        if hasattr(self, "_process"):
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()


def machine(device: str) -> dict[str, Any]:
    """Name, vector units and cores of the CPU, and the name of the GPU if it is used."""
    info = Path("/proc/cpuinfo").read_text()
    name = next((x.split(":")[1].strip() for x in info.splitlines() if "model name" in x), "?")
    flags = next((x.split(":")[1].split() for x in info.splitlines() if x.startswith("flags")), [])
    facts: dict[str, Any] = {
        "cpu": name,
        "cores": len(os.sched_getaffinity(0)),
        "flags": {flag: flag in flags for flag in FLAGS},
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
    }
    if device == "cuda":
        import torch

        facts["gpu"] = torch.cuda.get_device_name()
    return facts
