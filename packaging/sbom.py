#!/usr/bin/env python3
"""A bill of materials in CycloneDX 1.5, from Cargo.lock and the program.

Usage: sbom.py CARGO_LOCK PROGRAM

It names every crate that may be in the program, with version and the sum that Cargo checks; crates of tests alone
are among them, since Cargo.lock does not tell them apart. Needs nothing but Python 3.11.
"""
import hashlib
import json
import os
import sys
import time
import tomllib
import uuid


def main() -> None:
    lock, program = sys.argv[1:3]
    with open(lock, "rb") as file:
        packages = tomllib.load(file)["package"]
    with open(program, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    own = next(p for p in packages if p["name"] == "fansync")
    key = {}
    for package in packages:
        key.setdefault(package["name"], []).append(package)

    def ref(package: dict) -> str:
        return f"pkg:cargo/{package['name']}@{package['version']}"

    def found(dependency: str) -> dict:
        name, _, version = dependency.partition(" ")
        version = version.split(" ")[0]
        return next(p for p in key[name] if not version or p["version"] == version)

    components = []
    for package in packages:
        if package is own:
            continue
        component = {
            "type": "library",
            "bom-ref": ref(package),
            "name": package["name"],
            "version": package["version"],
            "purl": ref(package),
        }
        if "checksum" in package:
            component["hashes"] = [{"alg": "SHA-256", "content": package["checksum"]}]
        components.append(component)
    stamp = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, digest)}",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(stamp)),
            "component": {
                "type": "application",
                "bom-ref": ref(own),
                "name": "fansync",
                "version": own["version"],
                "purl": ref(own),
                "hashes": [{"alg": "SHA-256", "content": digest}],
                "licenses": [{"expression": "MIT OR Apache-2.0"}],
            },
        },
        "components": components,
        "dependencies": [
            {"ref": ref(p), "dependsOn": sorted({ref(found(d)) for d in p.get("dependencies", [])})} for p in packages
        ],
    }
    json.dump(bill, sys.stdout, indent=1)
    print()


main()
