"""The house rules that a search can check; DESIGN's "dependencies run one way"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CPP = ROOT / "cpp"
if not (CPP / "src").is_dir():
    pytest.skip("the source tree is not there", allow_module_level=True)

FAMILIES = ["newton_schulz", "ot", "ihvp", "sketch", "newton"]
MAY_INCLUDE = {"newton": {"sketch"}}
CODE = {".h", ".hpp", ".cpp", ".cu", ".cuh", ".py", ".pyi", ".cmake"}
FAST_MATH = [
    "-ffast" + "-math",
    "-O" + "fast",
    "-funsafe-math" + "-optimizations",
    "/fp:" + "fast",
    "--use_fast" + "_math",
]


def files(*folders: str, suffixes: set[str]) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            inside = path.relative_to(ROOT).parts
            if "third_party" in inside or "__pycache__" in inside or "build" in inside or not path.is_file():
                continue
            if path.suffix in suffixes:
                yield path


def own_files() -> list[Path]:
    found = list(files("cpp", "python", "tests", "bench", suffixes=CODE))
    return [*found, *ROOT.glob("*.cmake"), *files("cpp", "tests", "bench", suffixes={".txt"}), ROOT / "CMakeLists.txt"]


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]', path.read_text(encoding="utf-8"), re.MULTILINE)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def offenders(paths: list[Path], pattern: str) -> list[str]:
    return [f"{name(p)}: {i}" for p in paths for i in includes(p) if re.match(pattern, i)]


SOURCES = list(files("cpp/src", suffixes={".h", ".cpp", ".cu", ".cuh"}))
BINDINGS = list(files("cpp/bindings", suffixes={".h", ".cpp", ".cu", ".cuh"}))
PUBLIC = list(files("cpp/include", suffixes={".h", ".hpp"}))


def test_the_search_finds_something():
    assert len(SOURCES) > 20
    assert len(PUBLIC) >= 4
    assert len(BINDINGS) > 8
    assert any(includes(p) for p in PUBLIC)
    assert any("Eigen/" in i for p in SOURCES for i in includes(p))


def test_public_headers_are_plain_cpp():
    assert offenders(PUBLIC, r"Python\.h|pybind11|dlpack|Eigen|cuda|cublas|cutlass|immintrin") == []
    assert offenders(PUBLIC, r"(common|gemm|table|isa|dispatch|" + "|".join(FAMILIES) + r")[./]") == []


def test_the_core_knows_no_python():
    assert offenders(SOURCES, r"Python\.h|pybind11|dlpack|numpy/") == []
    words = [
        name(p) for p in SOURCES + PUBLIC if re.search(r"\bPyObject\b|\bpy::|\bPy_\w+\(", p.read_text(encoding="utf-8"))
    ]
    assert words == []


def test_bindings_know_no_eigen_and_no_passes():
    assert offenders(BINDINGS, r"Eigen/|.*passes\.h|.*core\.h|gemm/") == []


def test_only_isa_files_and_their_own_headers_see_eigen():
    assert offenders([p for p in SOURCES if p.suffix == ".cpp" and not p.name.endswith(".isa.cpp")], r"Eigen/") == []
    guilty = {p for p in SOURCES if p.suffix == ".h" and any(i.startswith("Eigen/") for i in includes(p))}
    while True:  # whoever includes such a header sees Eigen as well
        reached = {str(p.relative_to(CPP / "src")) for p in guilty}
        more = {p for p in SOURCES if p not in guilty and reached & set(includes(p))}
        if not more:
            break
        assert [name(p) for p in more if not p.name.endswith((".isa.cpp", ".h"))] == []
        guilty |= {p for p in more if p.suffix == ".h"}
        if not any(p.suffix == ".h" for p in more):
            break


def test_isa_files_stand_behind_the_wall():
    isa_files = [p for p in SOURCES if p.name.endswith(".isa.cpp")]
    assert isa_files
    for path in isa_files:
        text = path.read_text(encoding="utf-8")
        assert "RAPHSON_ISA_BEGIN" in text, name(path)
        assert text.count("RAPHSON_ISA_BEGIN") == text.count("RAPHSON_ISA_END"), name(path)
        assert not re.search(r"^namespace raphson\b", text, re.MULTILINE), (
            f"{name(path)} defines things outside the wall"
        )
    listed = (CPP / "CMakeLists.txt").read_text(encoding="utf-8")
    assert [name(p) for p in isa_files if str(p.relative_to(CPP)) not in listed] == []


def test_headers_with_isa_code_stand_behind_the_wall():
    isa_only = [p for p in SOURCES if p.suffix == ".h" and "isa.h" in includes(p)]
    assert [name(p) for p in isa_only if "RAPHSON_ISA_BEGIN" not in p.read_text(encoding="utf-8")] == []


def test_families_do_not_include_each_other():
    breaches = []
    for path in SOURCES:
        family = path.relative_to(CPP / "src").parts[0]
        others = [f for f in FAMILIES if f != family and f not in MAY_INCLUDE.get(family, set())]
        if family not in FAMILIES:
            if family not in {"common", "gemm"}:
                continue  # table.h and dispatch.cpp hold them all together
            others = FAMILIES + (["gemm"] if family == "common" else [])
        breaches += offenders([path], rf"(raphson/)?({'|'.join(others)})(/|\.h)")
    assert breaches == []


def test_includes_run_downwards():
    assert offenders(SOURCES, r".*bindings") == []
    assert (
        offenders([p for p in SOURCES if p.name.startswith(("passes", "core."))], r"pybind11|.*check\.h|dispatch") == []
    )


def test_every_source_is_listed_by_name():
    for path in files("cpp", "tests", "bench", suffixes={".txt", ".cmake"}):
        if path.parent.name == "consumer":  # it looks for whatever headers were installed
            continue
        assert not re.search(r"file\s*\(\s*GLOB", path.read_text(encoding="utf-8")), name(path)
    listed = "".join(p.read_text(encoding="utf-8") for p in files("cpp", suffixes={".txt", ".cmake"}))
    assert [name(p) for p in SOURCES + BINDINGS if p.suffix in {".cpp", ".cu"} and p.name not in listed] == []


def test_no_flag_loosens_arithmetic():
    candidates = [*own_files(), ROOT / ".ci" / "run", ROOT / "pyproject.toml"]
    found = [(name(p), f) for p in candidates for f in FAST_MATH if f in p.read_text(encoding="utf-8", errors="ignore")]
    assert found == []
    assert "-ffp-contract" in (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("pattern", "limit"), [("**/*", 500), ("CMakeLists.txt", 150), ("cpp/bindings/module.cpp", 40)]
)
def test_no_file_grows_over_its_limit(pattern, limit):
    paths = own_files() if pattern == "**/*" else [ROOT / pattern]
    lengths = {name(p): len(p.read_text(encoding="utf-8").splitlines()) for p in paths}
    assert {n: length for n, length in lengths.items() if length > limit} == {}


def test_the_core_package_imports_no_framework():
    allowed = ("torch", "jax", "sklearn", "demo", "__main__")
    for path in files("python", suffixes={".py"}):
        inside = path.relative_to(ROOT / "python" / "raphson").parts
        if inside[0].removesuffix(".py") in allowed:
            continue
        text = path.read_text(encoding="utf-8")
        assert not re.search(
            r"^(import|from) (torch|jax|scipy|sklearn|cupy|pandas|matplotlib)\b", text, re.MULTILINE
        ), name(path)


def test_licences_travel_with_what_they_cover():
    project = pytest.importorskip("tomllib").loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"].startswith("Apache-2.0")
    for part in (CPP / "third_party").iterdir():
        if not part.is_dir():
            continue
        assert (part / "VERSION").is_file(), part.name
        covered = {path for pattern in project["license-files"] for path in ROOT.glob(pattern)}
        assert any(part in path.parents for path in covered), part.name
    assert (ROOT / "LICENSE").is_file()
