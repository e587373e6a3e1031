#!/usr/bin/env bash
# The checks that read sources.
#   tools/lint.sh format                   formats every C++ and CUDA file in place
#   tools/lint.sh all BUILD                layers, format, and clang-tidy on every .cpp file that BUILD compiles
#   tools/lint.sh since REVISION BUILD     the same, clang-tidy only on files that differ from REVISION
# BUILD holds compile_commands.json of the lint preset. LINT_SECONDS bounds clang-tidy: when it is over, the files not
# yet begun are left out and counted.
set -euo pipefail
cd "$(dirname "$0")/.."

clang_format=$(command -v clang-format-14 || command -v clang-format)
clang_tidy=$(command -v clang-tidy-14 || command -v clang-tidy || true)

# Tracked and new files, without those deleted but not yet committed.
sources() {
  git ls-files --cached --others --exclude-standard -- '*.cpp' '*.h' '*.cu' '*.cuh' | xargs -r ls -d 2> /dev/null
}

# .cpp files that are not committed or differ from the revision, latest change first.
changed_since() {
  { git diff --name-only HEAD -- '*.cpp'
    if git cat-file -e "$1^{commit}" 2> /dev/null; then set -- "$1..HEAD"; else set -- HEAD; fi
    git log --format= --name-only "$1" -- '*.cpp'
  } | awk '!seen[$0]++'
}

tidy() {  # reads names of .cpp files, one a line
  local listed clean failed
  export build=$1 clang_tidy deadline=$(($(date +%s) + ${LINT_SECONDS:-86400})) results
  results=$(mktemp -d)
  touch "$results/clean" "$results/failed"
  grep -Fxf <(grep -o '"file": "[^"]*"' "$build/compile_commands.json" | cut -d'"' -f4 | sed "s|^$PWD/||") |
    tee "$results/listed" | xargs -r -P "$(nproc)" -I{} bash -c '
      [ "$(date +%s)" -lt "$deadline" ] || exit 0
      output=$("$clang_tidy" --quiet -p "$build" {} 2> /dev/null) && echo {} >> "$results/clean" && exit 0
      printf "%s\n" "$output"
      echo {} >> "$results/failed"'
  listed=$(wc -l < "$results/listed") clean=$(wc -l < "$results/clean") failed=$(wc -l < "$results/failed")
  rm -rf "$results"
  echo "clang-tidy: $clean clean, $failed with findings, $((listed - clean - failed)) left out for time"
  [ "$failed" -eq 0 ]
}

check() {
  local build=$1 status=0
  python3 tools/check_layers.py || status=1
  sources | xargs "$clang_format" --dry-run --Werror || status=1
  tidy "$build" || status=1
  return $status
}

case ${1:-} in
  format) sources | xargs "$clang_format" -i ;;
  all) git ls-files -- '*.cpp' | check "$2" ;;
  since) changed_since "$2" | check "$3" ;;
  *) sed -n '2,7s/^# \?//p' "$0" >&2; exit 2 ;;
esac
