"""docs/architecture.md's table of packages: each is there, with what it imports and nothing else."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nvlm_trt"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
TABLE = {
    name: {one for one in listed.strip().split(", ") if one}
    for name, listed in re.findall(r"^\| `(\w+)/?` \| .+ \|(.*)\|$", PAGE, re.MULTILINE)
}
EVERYBODYS = {"errors", "resources"}


def imports() -> dict[str, set[str]]:
    """By package or module at the top, what it imports of the others, as "package.module"."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in PACKAGE.rglob("*.py"):
        own = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nvlm_trt"):
                for alias in node.names:
                    words = [*str(node.module).split("."), alias.name][1:]
                    if words[0] in TABLE and words[0] != own:
                        found[own].add(".".join(words))
    return found


def covers(listed: str, imported: str) -> bool:
    return f"{imported}.".startswith(f"{listed}.")


def test_every_package_is_in_the_table() -> None:
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert set(TABLE) == there - {"__init__", "__main__"}


def test_a_package_imports_what_the_table_lists_and_nothing_else() -> None:
    found = imports()
    for name, listed in TABLE.items():
        if name == "cli":
            continue
        imported = {one for one in found[name] if one.split(".")[0] not in EVERYBODYS}
        assert [one for one in imported if not any(covers(other, one) for other in listed)] == [], name
        assert [one for one in listed if not any(covers(one, other) for other in imported)] == [], name
