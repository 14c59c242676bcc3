"""What holds for the whole process: build information, instruction sets, random numbers, the words of results."""

from __future__ import annotations

import re

import raphson

# ---- build_info -----------------------------------------------------------------------------------------------------


def test_build_info_has_the_keys_and_types_of_the_contract():
    info = raphson.build_info()
    kinds = {
        "version": str,
        "isa": str,
        "isas": list,
        "cuda_built": bool,
        "cuda_available": bool,
        "threads": int,
        "eigen": str,
    }
    assert {key: type(value) for key, value in info.items()} == kinds
    assert info["isa"] in info["isas"]
    assert len(set(info["isas"])) == len(info["isas"]) >= 1
    assert re.fullmatch(r"\d+\.\d+\.\d+", info["version"])
    assert info["version"] == raphson.__version__
    assert re.match(r"\d+\.\d+\.\d+", info["eigen"])
    assert info["cuda_built"] or not info["cuda_available"]


def test_build_info_is_the_callers_own():
    raphson.build_info()["isas"].clear()
    assert raphson.build_info()["isas"]


def test_build_info_says_how_many_threads(threads):
    for count in (1, 5):
        threads(count)
        assert raphson.build_info()["threads"] == raphson.get_num_threads() == count


def test_every_public_name_is_there():
    for name in raphson.__all__:
        assert getattr(raphson, name) is not None


def test_importing_raphson_imports_no_framework(run_python):
    heavy = [
        "torch",
        "jax",
        "jaxlib",
        "scipy",
        "sklearn",
        "cupy",
        "ml_dtypes",
        "matplotlib",
        "tqdm",
        "pandas",
        "raphson._cuda",
    ]
    code = f"import sys, raphson; print([m for m in {heavy} if m in sys.modules])"
    assert run_python(code).stdout.strip() == "[]"
    call = code.replace("; print", "; import numpy; raphson.orthogonalize(numpy.eye(3)); print")
    assert run_python(call).stdout.strip() == "[]"
