#!/usr/bin/env python3
"""Holds the includes of mamba2/ to the layers: a file includes only from its own folder and from lower rows.

Usage: check_layers.py [ROOT]    ROOT is the repository, default: the one this script lies in.

Prints one line for each offence, FILE:LINE: what is wrong, and exits with 1 if there is any.
"""

import pathlib
import re
import sys

# Lowest row first; folders of one row are siblings and never include each other. docs/architecture.md draws it.
ROWS = [
    ["base"],
    ["tensor", "tokenizer"],
    ["ops", "checkpoint", "hub"],
    ["reference", "cpu", "cuda"],
    ["model"],
    ["generate"],
    ["train"],
    ["pipeline"],
    ["serve"],
    ["devices"],
    ["app", "capi", "python"],
]
# Layers that only these may include: everybody else works on the interface in ops and never knows which backend runs.
ONLY_FOR = {backend: {"devices", "app", "capi", "python"} for backend in ("reference", "cpu", "cuda")}
RANK = {layer: rank for rank, row in enumerate(ROWS) for layer in row}
SOURCES = {".h", ".hpp", ".cpp", ".cc", ".cu", ".cuh", ".inc"}
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')


def check_include(layer: str, quote: str, target: str) -> str | None:
    """What is wrong with this include of a file of this layer; None if nothing is."""
    parts = target.split("/")
    if parts[0] != "mamba2":
        return f'"{target}" hides its layer, write "mamba2/{layer}/..."' if quote == '"' else None
    if len(parts) < 3 or ".." in parts:
        return f'"{target}" is no "mamba2/LAYER/FILE"'
    used = parts[1]
    if used not in RANK:
        return f"{layer} includes {used}, which is no layer"
    if used == layer:
        return None
    if RANK[used] < RANK[layer]:
        users = sorted(ONLY_FOR.get(used, {layer}))
        return None if layer in users else f"{layer} includes {target}, but {used} is only for {', '.join(users)}"
    relation = "a sibling" if RANK[used] == RANK[layer] else "above it"
    return f"{layer} includes {target}, but {used} is {relation}"


def check_file(path: pathlib.Path, layer: str) -> list[str]:
    offences = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        include = INCLUDE.match(line)
        offence = include and check_include(layer, include[1], include[2])
        if offence:
            offences.append(f"{path}:{number}: {offence}")
    return offences


def check_tree(root: pathlib.Path) -> list[str]:
    offences = []
    for path in sorted((root / "mamba2").rglob("*")):
        if path.suffix not in SOURCES:
            continue
        layer = path.relative_to(root / "mamba2").parts[0]
        if layer in RANK:
            offences += check_file(path, layer)
        elif path.parent != root / "mamba2":
            offences.append(f"{path}:1: mamba2/{layer} is no layer, give it a row in {pathlib.Path(__file__).name}")
    return offences


def main() -> int:
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parent.parent
    if not (root / "mamba2").is_dir():
        print(f"error: {root} has no folder mamba2", file=sys.stderr)
        return 2
    offences = check_tree(root)
    for offence in offences:
        print(offence)
    return 1 if offences else 0


if __name__ == "__main__":
    sys.exit(main())
