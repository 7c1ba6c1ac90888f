#!/usr/bin/env python3
"""Prints the notices of the crates that are linked into the programs: their licences ask for it."""

import json
import os
import pathlib
import subprocess
import sys

PROJECT = pathlib.Path(__file__).resolve().parents[1]
NOTICES = ("LICEN", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE")


def linked(metadata):
    """The packages that a build for this machine links, the project itself apart."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    found, waiting = set(), [root]
    while waiting:
        for dependency in nodes[waiting.pop()]["deps"]:
            normal = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            if normal and dependency["pkg"] not in found:
                found.add(dependency["pkg"])
                waiting.append(dependency["pkg"])
    packages = (package for package in metadata["packages"] if package["id"] in found - {root})
    return sorted(packages, key=lambda package: (package["name"], package["version"]))


def notices(package):
    folder = pathlib.Path(package["manifest_path"]).parent
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.name.upper().startswith(NOTICES):
            yield "\n".join(line.rstrip() for line in file.read_text(errors="replace").strip().splitlines())


def main():
    triple = f"{os.uname().machine}-unknown-linux-gnu"
    command = ["cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={triple}"]
    done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, timeout=300, check=True)
    users = {}
    print("bearerd is linked with the following libraries. The texts of their licences come after the list.\n")
    for package in linked(json.loads(done.stdout)):
        name = f"{package['name']} {package['version']}"
        print(f"{name}: {package['license'] or 'see below'}, {package['repository'] or 'no repository stated'}")
        for text in notices(package):
            users.setdefault(text, []).append(name)
    for text, names in users.items():
        print(f"\n{'-' * 80}\n{', '.join(names)}:\n\n{text}")


if __name__ == "__main__":
    sys.exit(main())
