#!/bin/sh
# Builds everything with the CUDA backend on this machine, runs all that needs a GPU and prints a line a suite; logs lie
# in BUILD_DIR/gpu_suite.  Needs what tools/setup.sh installs, and CUDA 13.
#   tools/gpu_suite.sh [BUILD_DIR]
# SHAPES and PIECES of the environment name the models that are timed and the pieces that their prompts go in.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
build=${1:-$root/build/cuda}
logs=$build/gpu_suite
failed=0

suite() {  # suite NAME COMMAND...
  name=$1
  shift
  if "$@" > "$logs/$name.log" 2>&1; then
    echo "ok      $name  $(grep -E '^\[  PASSED|ERROR SUMMARY|hazards|^perplexity|against the reference' "$logs/$name.log" | tail -1)"
  else
    echo "FAILED  $name  (see $logs/$name.log)"
    failed=1
  fi
}

mkdir -p "$logs"
suite configure cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DMAMBA2_CUDA=ON \
  -DCMAKE_CUDA_ARCHITECTURES="${CUDA_ARCHITECTURES:-90a-real}"
suite build cmake --build "$build" --target mamba2 model_test cuda_backend_test cuda_test cuda_bench
[ "$failed" = 0 ] || exit 1

mamba2=$build/bin/mamba2
suite doctor "$mamba2" doctor --device cuda --deterministic
suite doctor-fast "$mamba2" doctor --device cuda
suite ops "$build/tests/cuda/cuda_backend_test" --gtest_brief=1
suite kernels "$build/tests/cuda/cuda_test" --gtest_brief=1
suite goldens "$build/tests/model/model_test" --gtest_brief=1 --gtest_filter='*on_cuda*'
suite split "$build/tests/cuda/cuda_backend_test" --gtest_brief=1 --gtest_filter='OneRank*:*SplitOverRanks*'
suite ahead "$build/tests/model/model_test" --gtest_brief=1 --gtest_filter='*/cuda'
suite engine "$mamba2" bench --device cuda --shape 130m --prompt 16 --batch 1,64 --generate 128 --engine

small='GatedRms*:*CrossEntropy*:*Replayed*:*MixerOf*:*Rope*:*LinearOfFewRows*'
for tool in memcheck racecheck synccheck; do
  check="compute-sanitizer --tool $tool --error-exitcode 9"
  suite $tool-ops $check "$build/tests/cuda/cuda_backend_test" --gtest_filter="*$small"
  suite $tool-kernels $check "$build/tests/cuda/cuda_test" --gtest_filter='-*ByChance*:*MoreSequencesThan*'
done

suite kernel-benchmark "$build/benchmarks/cuda/cuda_bench" decode decode_chain decode_layers rows ssd_scan
cat "$logs/kernel-benchmark.log"
suite lengths "$build/benchmarks/cuda/cuda_bench" --json lengths
suite picture "$root/tools/roofline_svg.py" "$logs/lengths.log" "$logs/ssd-roofline.svg"
for shape in ${SHAPES:-130m 370m 2.7b}; do
  suite "prefill-$shape" "$mamba2" bench --device cuda --shape "$shape" --prompt 512,4096,16384 \
    --piece "${PIECES:-0}" --generate 0 --repeat 5
  suite "decode-$shape" "$mamba2" bench --device cuda --shape "$shape" --prompt 16 --batch 1,8,64,256 --engine --repeat 5
  cat "$logs/prefill-$shape.log" "$logs/decode-$shape.log"
done
exit $failed
