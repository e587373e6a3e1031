#!/bin/sh
# Builds the CUDA kernels with their tests and benchmarks on this machine, runs everything on its GPU and prints a line a
# suite; logs lie beside the build.  Needs CUDA, CMake, ninja, fmt and GoogleTest.
#   tools/gpu_suite.sh [BUILD_DIR]
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
build=${1:-$root/build/cuda-kernels}
failed=0

suite() {  # suite NAME COMMAND...
  name=$1
  shift
  if "$@" > "$build/$name.log" 2>&1; then
    echo "ok      $name  $(grep -E '^\[  PASSED|ERROR SUMMARY|hazards' "$build/$name.log" | tail -1)"
  else
    echo "FAILED  $name  (see $build/$name.log)"
    failed=1
  fi
}

mkdir -p "$build"
suite configure cmake -S "$root/mamba2/cuda" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_CUDA_ARCHITECTURES="${CUDA_ARCHITECTURES:-90a-real}"
suite build cmake --build "$build"
[ "$failed" = 0 ] || exit 1
suite test "$build/tests/cuda_test"
small=--gtest_filter='-*ByChance*'
suite memcheck compute-sanitizer --tool memcheck --error-exitcode 9 "$build/tests/cuda_test" "$small"
suite racecheck compute-sanitizer --tool racecheck --error-exitcode 9 "$build/tests/cuda_test" "$small"
suite synccheck compute-sanitizer --tool synccheck --error-exitcode 9 "$build/tests/cuda_test" "$small"
suite benchmark "$build/benchmarks/cuda_bench"
cat "$build/benchmark.log"
exit $failed
