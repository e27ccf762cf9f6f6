"""Prints constraints that pin every dependency of pyproject.toml to its lower bound, for `make test-oldest`."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
extras = project["optional-dependencies"]
for requirement in [*project["dependencies"], *extras["quantized"], *extras["dev"]]:
    if found := re.match(r"([\w.-]+)(?:\[.*?\])?>=([\w.]+)", requirement):
        print(f"{found[1]}=={found[2]}")
