"""The tests that need a GPU, run where the figures come from."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from parts.setting import Setting

ROOT = Path(__file__).parents[2]


def tests(setting: Setting) -> None:
    """Hands on pytest's last words; a failure is an error of this part."""
    spread = ["-n", "8"] if importlib.util.find_spec("xdist") else []
    words = ["pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *spread, "tests"]
    if setting.smoke:
        words.append("--collect-only")
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    setting.report(command=" ".join(["python", "-m", *words]), said=lines[-1] if lines else "")
    if done.returncode:
        raise RuntimeError("\n".join([*(x for x in lines if x.startswith(("FAILED", "ERROR"))), done.stderr[-500:]]))
