"""The shape of the code: who imports whom, what no module may be called, how long a file may be.

An import under `if TYPE_CHECKING` is for readers and doesn't count.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

FOLDERS = ("sapo_vl", "data", "rewards", "scripts", "tests")
MOST_LINES = 450

LAYERS = [
    *(
        "errors",
        "plugins",
        "schema",
        "config",
        "system",
        "runs",
        "rewards",
        "data",
        "algorithm",
        "model",
    ),
    *("learner", "generator", "evaluation", "pages", "training", "sft", "train", "lab", "cli"),
]
"""Rooms and single files, lowest first. A file imports its own layer and lower ones only."""

# The standard library's or a package's own names; a module of ours would hide them.
TAKEN = {"math", "types", "datasets", "random", "logging", "json"}
PLUGIN_CLASSES = {"Options"}
"""What every objective's file may define: a plug-in's options are found by this name."""
HEAVY = ("torch", "vllm", "transformers", "deepspeed", "datasets")


def sources() -> list[Path]:
    """Return every Python file's path below the root, once: the two links are not followed."""
    found = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            below = path.relative_to(ROOT)
            if below.parts[:2] not in (("sapo_vl", "data"), ("sapo_vl", "rewards")):
                found.append(below)
    return found


def runtime_imports(path: Path) -> set[str]:
    """Return the dotted names a file imports when it runs; `from a import b` is a.b."""
    names = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, (
                f"{path}:{node.lineno}: write the whole name, not a relative one"
            )
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse((ROOT / path).read_text(encoding="utf-8"), str(path)))
    return names


def own_parts(path: Path) -> set[str]:
    """Return the first name below sapo_vl of each import of ours: {"schema", "data", ...}."""
    names = (name.split(".") for name in runtime_imports(path))
    return {parts[1] for parts in names if parts[0] == "sapo_vl" and len(parts) > 1}


def test_the_links_are_links_and_the_list_is_whole():
    for name in ("data", "rewards"):
        link = ROOT / "sapo_vl" / name
        assert link.is_symlink()
        assert link.resolve() == ROOT / name
    assert {Path("sapo_vl/schema.py"), Path("rewards/rubric.py")} <= set(sources())


def test_imports_under_type_checking_do_not_count(tmp_path):
    path = tmp_path / "x.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "def f():\n    from sapo_vl.config import load\n    import a.b\n"
    )
    assert runtime_imports(path) == {"typing.TYPE_CHECKING", "sapo_vl.config.load", "a.b"}
    assert own_parts(path) == {"config"}


def layer(path: Path) -> str:
    """Return the layer a file of the package belongs to."""
    return path.parts[0] if path.parts[0] in ("data", "rewards") else path.with_suffix("").parts[1]


def package() -> list[Path]:
    """Return the files of the package, the map in its __init__ left out."""
    return [p for p in sources() if p.parts[0] in ("sapo_vl", "data", "rewards")
            and p != Path("sapo_vl/__init__.py")]  # fmt: skip


def test_every_module_is_in_a_layer():
    assert {layer(path) for path in package()} == set(LAYERS)


def test_imports_go_down_only():
    upward = {
        (str(path), other)
        for path in package()
        for other in own_parts(path)
        if LAYERS.index(other) > LAYERS.index(layer(path))
    }
    assert upward == set()


@pytest.mark.parametrize(
    ("room", "below"),
    [
        ("data", {"schema", "errors", "plugins", "rewards"}),
        ("rewards", {"schema", "errors", "plugins", "config"}),
        ("algorithm", {"schema", "errors", "plugins", "config"}),
    ],
)
def test_the_light_and_the_pure_rooms_know_little(room, below):
    for path in package():
        if layer(path) == room:
            assert own_parts(path) <= below | {room}, path


def test_the_packages_top_stays_small():
    entries = {p.name for p in (ROOT / "sapo_vl").iterdir()} - {"__pycache__", "__init__.py"}
    assert len(entries - {"py.typed"}) <= 20, sorted(entries)


def test_no_class_name_is_used_twice():
    places: dict[str, list[str]] = {}
    for path in package():
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name not in PLUGIN_CLASSES:
                places.setdefault(node.name, []).append(f"{path}:{node.lineno}")
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_no_module_is_imported_under_another_name():
    renamed = set()
    for path in package():
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sapo_vl"):
                renamed |= {
                    f"{path}:{node.lineno}: {alias.name} as {alias.asname}"
                    for alias in node.names
                    if alias.asname and alias.name.islower() and is_module(node.module, alias.name)
                }
    assert renamed == set()


def is_module(package_name: str, name: str) -> bool:
    """Return whether `from package_name import name` imports a module of ours."""
    base = ROOT.joinpath(*package_name.split("."), name)
    return base.is_dir() or base.with_suffix(".py").exists()


def test_the_map_in_contributing_names_each_module_and_no_other():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = text.split("```")[1]
    room, listed = "", set()
    for line in block.splitlines():
        if line and not line.startswith(" "):
            room = line.split()[0].rstrip("/")
        elif line.startswith("  * "):
            listed |= {f"{room}/{name}" for name in line.split()[1:]}
        elif line.startswith("  "):
            listed.add(f"{room}/{line.split()[0]}")
    modules = {
        str(path.with_suffix(""))
        for path in package()
        if path.name not in ("__init__.py", "__main__.py")
    }
    assert listed == modules


def test_data_and_rewards_are_never_top_level_names():
    for path in sources():
        tops = {name.split(".")[0] for name in runtime_imports(path)}
        assert not tops & {"data", "rewards"}, f"{path}: both names exist on the package index"


def test_no_module_hides_another():
    for path in sources():
        taken = {*path.with_suffix("").parts} & TAKEN
        assert not taken, path


def test_no_file_is_too_long():
    lengths = {p: (ROOT / p).read_text(encoding="utf-8").count("\n") for p in sources()}
    assert {p: n for p, n in lengths.items() if n > MOST_LINES} == {}


def test_the_light_modules_import_nothing_heavy():
    code = (
        "import sys\n"
        "import sapo_vl.cli.parser, sapo_vl.config, sapo_vl.schema, sapo_vl.data, sapo_vl.rewards\n"
        f"print([name for name in {HEAVY} if name in sys.modules])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert run.stdout.strip() == "[]", run.stderr
