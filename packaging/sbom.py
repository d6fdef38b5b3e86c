#!/usr/bin/env python3
"""Writes a bill of materials (CycloneDX 1.5, JSON) of the host from Cargo.lock, or licences.

    packaging/sbom.py [--target TRIPLE] > host.cdx.json
    packaging/sbom.py --licences [--target TRIPLE] > THIRD-PARTY

The list is what `cargo metadata --locked --offline` resolves for the package with the binary,
without dependencies of tests. Cargo resolves features for the whole workspace there, so a few
crates may be listed that only tests switch on; none is missing. Crates that only build scripts and
macros use have the scope "excluded": they run while the host is built and are not in it.

Licences are the texts that the sources of the crates in the program hold, also those of what a
crate brings along in another language. Each text is there once, below the crates that it is of.

The same Cargo.lock gives the same bytes; the time is that of SOURCE_DATE_EPOCH.
"""

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import textwrap
import tomllib
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "lattice-host"
# Files with the text of a licence, or with what a licence wants to be told.
LICENCE = re.compile(r"(un)?(licen[cs]es?|copying|notice|copyright)([-_.].*)?", re.IGNORECASE)
CODE = {".rs", ".c", ".h", ".py"}
WIDTH = 80


def metadata(target):
    command = ["cargo", "metadata", "--locked", "--offline", "--format-version", "1"]
    if target:
        command += ["--filter-platform", target]
    told = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return json.loads(told.stdout)


def checksums():
    """Returns the hash of each crate's archive, as Cargo.lock has it."""
    with open(ROOT / "Cargo.lock", "rb") as file:
        packages = tomllib.load(file)["package"]
    return {(p["name"], p["version"]): p["checksum"] for p in packages if "checksum" in p}


def is_macro(package):
    return any("proc-macro" in target["kind"] for target in package["targets"])


def edges(node, packages):
    """Yields what a package needs, and whether that is part of the program."""
    for dependency in node["deps"]:
        kinds = {kind["kind"] for kind in dependency["dep_kinds"]}
        if kinds & {None, "build"}:
            yield dependency["pkg"], None in kinds and not is_macro(packages[dependency["pkg"]])


def reachable(root, nodes, packages):
    """Returns each package the root needs, with whether it is part of the program."""
    found = {root: True}
    waiting = [(root, True)]
    while waiting:
        package, is_inside = waiting.pop()
        for needed, stays_inside in edges(nodes[package], packages):
            inside = is_inside and stays_inside
            if needed not in found or (inside and not found[needed]):
                found[needed] = inside
                waiting.append((needed, inside))
    return found


def reference(package):
    return f"pkg:cargo/{package['name']}@{package['version'].replace('+', '%2B')}"


def component(package, is_inside, hashes):
    told = {
        "type": "library",
        "bom-ref": reference(package),
        "name": package["name"],
        "version": package["version"],
        "purl": reference(package),
        "scope": "required" if is_inside else "excluded",
    }
    if package.get("description"):
        told["description"] = " ".join(package["description"].split())
    # Crates of earlier years write a slash for OR.
    if package.get("license"):
        expression = " OR ".join(part.strip() for part in package["license"].split("/"))
        told["licenses"] = [{"expression": expression}]
    checksum = hashes.get((package["name"], package["version"]))
    if checksum:
        told["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package.get("repository"):
        told["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return told


def resolved(target):
    """Returns all packages and nodes by their id, and what the package with the binary needs."""
    told = metadata(target)
    packages = {package["id"]: package for package in told["packages"]}
    nodes = {node["id"]: node for node in told["resolve"]["nodes"]}
    root = next(p["id"] for p in told["packages"] if p["name"] == PACKAGE and p["source"] is None)
    return packages, nodes, root, reachable(root, nodes, packages)


def bill(target):
    packages, nodes, root, found = resolved(target)
    hashes = checksums()
    of = lambda id: reference(packages[id])
    components = [component(packages[i], found[i], hashes) for i in found if i != root]
    dependencies = [
        {"ref": of(id), "dependsOn": sorted({of(needed) for needed, _ in edges(nodes[id], packages)})}
        for id in found
    ]
    top = component(packages[root], True, hashes)
    top["type"] = "application"
    moment = datetime.datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), datetime.UTC)
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "tools": {"components": [{"type": "application", "name": "packaging/sbom.py"}]},
            "component": top,
        },
        "components": sorted(components, key=lambda c: c["bom-ref"]),
        "dependencies": sorted(dependencies, key=lambda d: d["ref"]),
    }
    content = json.dumps(document, sort_keys=True)
    document["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_URL, content).urn
    return document


def licence_texts(package):
    """Yields the texts of licences in the sources of a package, always in the same order."""
    folder = Path(package["manifest_path"]).parent
    for path in sorted(folder.rglob("*")):
        if LICENCE.fullmatch(path.name) and path.suffix not in CODE and path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            yield "\n".join(line.rstrip() for line in lines).strip("\n")


def under(heading, text):
    return "\n".join(["=" * WIDTH, textwrap.fill(heading, WIDTH, break_on_hyphens=False), "-" * WIDTH, text, "", ""])


def licences(target):
    """Returns the licences of the crates in the program that others have written."""
    packages, _, _, found = resolved(target)
    crates = [packages[id] for id in found if found[id] and packages[id]["source"]]
    texts, without = {}, []
    for crate in sorted(crates, key=lambda crate: (crate["name"], crate["version"])):
        name, is_without = f"{crate['name']} {crate['version']}", True
        for text in licence_texts(crate):
            is_without = False
            # The same words in other lines are the same text.
            names = texts.setdefault(" ".join(text.split()), (text, []))[1]
            if name not in names:
                names.append(name)
        if is_without:
            by = ", ".join(crate["authors"]) or "its authors"
            without.append(f"{name}: {crate['license']}, by {by}")
    parts = ["Licences of the crates in the program, each text below the crates that it is of.\n\n"]
    parts += [under(", ".join(names), text) for text, names in texts.values()]
    if without:
        parts.append(under("Crates that bring no text, with the licence that each names", "\n".join(without)))
    return "".join(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", help="only what this target needs")
    parser.add_argument("--licences", action="store_true", help="write the texts of licences instead")
    options = parser.parse_args()
    if options.licences:
        sys.stdout.reconfigure(encoding="utf-8")
        sys.stdout.write(licences(options.target))
    else:
        json.dump(bill(options.target), sys.stdout, indent=2, sort_keys=True)
        print()


if __name__ == "__main__":
    main()
