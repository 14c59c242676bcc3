#!/usr/bin/env python3
"""Fail when the objects of two instruction sets define one weak symbol, or when one of them runs code at start-up.

    tools/check_isa_wall.py BUILD LIBRARY... [--generic TARGET]... [--allow-std]

BUILD is a CMake build tree. LIBRARY is a name that raphson_add_isas() was given: its objects lie in directories
LIBRARY_<isa>.dir. TARGET is one whose objects any CPU runs. Objects of one ISA are taken together over all libraries.

The linker keeps one copy of a weak symbol (an inline function, a template's instance, a vtable), whichever it meets
first. Two objects compiled for different instruction sets must therefore share none: the copy that is kept may hold
instructions that the CPU in use lacks. Our own code stays apart by its namespace, Eigen by being renamed.

An optimised build shares nothing but DW.ref.__gxx_personality_v0, the compiler's pointer to the exception personality:
data, the same in every object. Without optimisation (-O0) the small inline functions of the standard library stay in
the objects; --allow-std lets those and nothing else pass. Such builds are for debugging, and even there the archive
lists its objects lowest ISA first.

Initialisers of global variables run when the program starts, on whatever CPU: an object of an ISA must have none.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

WEAK = set("WVu")  # weak function, weak object, unique global; lower case w and v are references, not definitions
ALWAYS = {"DW.ref.__gxx_personality_v0"}
# Mangled names in namespace std or __gnu_cxx, tables and guards included; placement new and delete.
STD = re.compile(r"_Z(?:TV|TT|TI|TS|GV|GR)?N?[rVK]*[RO]?(?:St|S[absiod]|9__gnu_cxx)|_Z(?:n[wa]mPv|d[la]PvS_)$")
INITIALISER = re.compile(r"_GLOBAL__(?:sub_)?I_|__cxx_global_var_init")
ANY_CPU = "any CPU"


def objects_by_isa(build: Path, libraries: list[str], generic: list[str]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for directory in build.glob("**/CMakeFiles/*.dir"):
        name = directory.name.removesuffix(".dir")
        isas = [name.removeprefix(f"{library}_") for library in libraries if name.startswith(f"{library}_")]
        if name in generic:
            isas = [ANY_CPU]
        for isa in isas:
            found[isa] += [path for path in directory.rglob("*") if path.suffix in (".o", ".obj")]
    return {isa: sorted(paths) for isa, paths in found.items() if paths}


def symbols_of(objects: list[Path]) -> list[tuple[str, str]]:
    """Name and kind of every symbol that the objects define."""
    listing = subprocess.run(
        ["nm", "--defined-only", "--format=posix", *map(str, objects)], check=True, capture_output=True, text=True
    ).stdout
    rows = [line.split() for line in listing.splitlines() if not line.endswith(":")]
    return [(row[0], row[1]) for row in rows if len(row) >= 2]


def demangled(names: list[str]) -> list[str]:
    lines = subprocess.run(["c++filt"], input="\n".join(names), check=True, capture_output=True, text=True).stdout
    return lines.split("\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("build", type=Path)
    parser.add_argument("library", nargs="+")
    parser.add_argument("--generic", action="append", default=[], metavar="TARGET", help="objects that any CPU runs")
    parser.add_argument("--allow-std", action="store_true", help="for -O0: let the standard library's symbols pass")
    args = parser.parse_args()

    objects = objects_by_isa(args.build, args.library, args.generic)
    if len(objects) < 2:
        sys.exit(f"check_isa_wall: objects of {len(objects)} instruction sets under {args.build}, nothing to compare")
    defined_in: dict[str, list[str]] = defaultdict(list)
    initialisers: list[str] = []
    for isa, paths in sorted(objects.items()):
        symbols = symbols_of(paths)
        if not symbols:
            sys.exit(f"check_isa_wall: no symbol in the {len(paths)} objects of {isa}")
        weak = {name for name, kind in symbols if kind in WEAK} - ALWAYS
        for name in weak:
            defined_in[name].append(isa)
        if isa != ANY_CPU:
            initialisers += [f"{name}  [{isa}]" for name, _ in symbols if INITIALISER.match(name)]
        print(f"{isa}: {len(paths)} objects, {len(symbols)} symbols defined, {len(weak)} of them weak")

    shared = sorted(name for name, isas in defined_in.items() if len(isas) > 1)
    passed = [name for name in shared if args.allow_std and STD.match(name)]
    broken = [name for name in shared if name not in set(passed)]
    for name, text in zip(broken[:40], demangled(broken[:40]), strict=False):
        print(f"  {text}  [{', '.join(defined_in[name])}]")
    print(f"{len(broken)} weak symbols shared" + (f", {len(passed)} of the standard library aside" if passed else ""))
    for name in initialisers:
        print(f"  runs at start-up: {name}")
    return 1 if broken or initialisers else 0


if __name__ == "__main__":
    sys.exit(main())
