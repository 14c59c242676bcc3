"""What several test files share."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import raphson

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261120)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """set_num_threads, undone afterwards."""
    before = raphson.get_num_threads()
    yield raphson.set_num_threads
    raphson.set_num_threads(before)


def optional_module(name: str) -> ModuleType:
    """The module, or a skip. Frameworks warn about their own code when loaded, which is no concern of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(name, exc_type=ImportError)
        return importlib.import_module(name)


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    return optional_module("torch")


@pytest.fixture(scope="session")
def jax() -> ModuleType:
    return optional_module("jax")


@pytest.fixture(scope="session")
def ml_dtypes() -> ModuleType:
    return optional_module("ml_dtypes")


def child_environment(**changes: str | None) -> dict[str, str]:
    """This environment without raphson's settings, with the same raphson importable; None removes a variable."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAPHSON_")}
    package = str(Path(raphson.__file__).parents[1])
    env["PYTHONPATH"] = os.pathsep.join([package, *filter(None, [env.get("PYTHONPATH")])])
    for name, value in changes.items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    return env


@pytest.fixture(scope="session")
def child_env() -> Callable[..., dict[str, str]]:
    return child_environment


@pytest.fixture(scope="session")
def run_python() -> RunPython:
    """run_python(code, *arguments, NAME=value…) in a fresh interpreter; a bad exit fails unless check=False."""

    def run(code: str, *arguments: str, check: bool = True, **env: str | None) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=child_environment(**env),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run
