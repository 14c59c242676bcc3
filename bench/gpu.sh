#!/usr/bin/env bash
# One command for a machine with a GPU: builds the CUDA module and its tests, runs them, then the benches. About nine
# minutes on one H200 with 16 cores. What it needs is what a CUDA image has: nvcc, cmake, ninja, pybind11, pytest, torch;
# and doctest.h, which .gpu/include may bring (bench/gpu.sh --carry copies it there from the system). Tables and logs go
# to $OUT, or build-gpu/out.
set -uo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" = --carry ]; then
  mkdir -p .gpu/include && cp -r /usr/include/doctest .gpu/include/ && echo "run on the device with carry=[\".gpu\"]"
  exit
fi
out=${OUT:-$PWD/build-gpu/out}
mkdir -p "$out"
failed=0
step() { # NAME SECONDS COMMAND...
  local name=$1 limit=$2 start=$SECONDS
  shift 2
  if timeout "$limit" "$@" >"$out/$name.log" 2>&1; then
    printf 'ok    %4d s  %s\n' $((SECONDS - start)) "$name"
  else
    printf 'FAIL  %4d s  %s\n' $((SECONDS - start)) "$name"
    tail -n 25 "$out/$name.log"
    failed=1
  fi
}
python=$(command -v python3)
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
step configure 60 cmake -S . -B build-gpu -G Ninja -DRAPHSON_PYTHON=ON -DRAPHSON_TESTS=ON -DRAPHSON_CUDA=ON \
  -DCMAKE_CUDA_ARCHITECTURES=90a-real -DRAPHSON_ONLY_ISA=x86-64-v3 -DDOCTEST_INCLUDE_DIR="$([ -d .gpu/include ] && echo "$PWD/.gpu/include" || echo /usr/include)" \
  -DPYBIND11_FINDPYTHON=ON -DPython_EXECUTABLE="$python" -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)"
step build 240 cmake --build build-gpu --target raphson_cuda_tests _core _cuda
package=build-gpu/package
rm -rf $package && mkdir -p $package && cp -r python/raphson $package/ && cp build-gpu/cpp/bindings/_c*.so $package/raphson/
export PYTHONPATH=$PWD/$package
step cpp_tests 90 build-gpu/tests/cuda/raphson_cuda_tests
if command -v compute-sanitizer >/dev/null; then
  step memcheck 60 compute-sanitizer --error-exitcode 1 build-gpu/tests/cuda/raphson_cuda_tests \
    -tc="cuda products: symmetric*,cuda orthogonalize: strides*,cuda window: strides*,cuda fisher: inverse*,cuda matrix functions: a singular*,cuda rows: sweeps*,cuda sketch: SRHT*,cuda ot: a level of*"
fi
step python_tests 120 "$python" -m pytest -q -p no:cacheprovider tests/python/test_cuda_*.py
tail -n 1 "$out/python_tests.log"
timeout 200 "$python" -m bench.gpu --json "$out/gpu.json" 2>&1 | tee "$out/gpu.txt"
exit $failed
