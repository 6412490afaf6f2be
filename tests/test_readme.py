"""What the README shows is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_script_is_python_and_its_imports_work() -> None:
    (script,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    compile(script, "README.md", "exec")
    assert len(script.splitlines()) <= 20
    for line in script.splitlines():
        if line.startswith("from ray_st"):
            exec(line, {})


def test_the_tree_names_what_is_there_and_nothing_is_left_out() -> None:
    tree = re.findall(r"```\n(ray_st/\n.*?)```", README, re.DOTALL)[0]
    inside = set(re.findall(r"^    ([\w.]+/?)  ", tree, re.MULTILINE)) | {"quantization.py"}
    there = {
        path.name + "/" * path.is_dir()
        for path in (ROOT / "ray_st").iterdir()
        if not path.name.startswith("_")
    }
    assert inside == there - {"py.typed"}
    for name in re.findall(r"^(\w+)/", tree, re.MULTILINE):
        assert (ROOT / name).is_dir()


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert all((ROOT / link).exists() for link in links if "://" not in link)
