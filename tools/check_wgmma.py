#!/usr/bin/env python3
"""Fails unless every symmetric product of the CUDA module multiplies on Hopper's tensor cores, out of registers.

    check_wgmma.py ENVIRONMENT MODULE

ENVIRONMENT holds the wheels nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm. A kernel of sm_90a named symmetric_kernel
must contain HGMMA, the copy engine's loads (UTMALDG), and no access to local memory, where spilled registers go.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path


def tools(environment: str) -> Path:
    found = sorted(Path(environment).glob("lib/python*/site-packages/nvidia/*/bin/cuobjdump"))
    if not found:
        sys.exit(f"no cuobjdump under {environment}")
    for path in found[-1].parent.iterdir():
        path.chmod(path.stat().st_mode | 0o111)
    return found[-1].parent


def main() -> None:
    environment, module = sys.argv[1:]
    bin_dir = tools(environment)
    env = os.environ | {"PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}"}
    command = [bin_dir / "cuobjdump", "--dump-sass", "-arch", "sm_90a", module]
    sass = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    kernels = dict(re.findall(r"Function : (\S+)\n(.*?)(?=Function : |\Z)", sass, re.DOTALL))
    symmetric = {name: code for name, code in kernels.items() if "symmetric_kernel" in name}
    if len(symmetric) < 4:
        sys.exit(f"{len(symmetric)} symmetric kernels among {len(kernels)}; there should be 4")
    for name, code in symmetric.items():
        counts = {word: len(re.findall(rf"\b{word}\b", code)) for word in ("HGMMA", "UTMALDG", "LDL", "STL")}
        print(name[-60:], counts)
        if counts["HGMMA"] == 0 or counts["UTMALDG"] == 0 or counts["LDL"] + counts["STL"] > 0:
            sys.exit("this one does not")


if __name__ == "__main__":
    main()
