#!/usr/bin/env bash
# Runs one fuzz target on its seeds: fuzz/run.sh NAME_fuzz SECONDS. Build it first (preset asan).
#
# Seeds are the files that the line "// Seeds: GLOB..." of fuzz/NAME_fuzz.cpp names, seen from the repository's root,
# and fuzz/corpus/NAME_fuzz/, where every input that once broke something is kept. What the run finds grows in
# build/asan/fuzz/corpus/NAME_fuzz; an input that breaks the target stays in build/asan/fuzz/findings/.
set -euo pipefail
cd "$(dirname "$0")/.."
name=${1:?usage: fuzz/run.sh NAME_fuzz SECONDS} seconds=${2:?usage: fuzz/run.sh NAME_fuzz SECONDS}

corpus=build/asan/fuzz/corpus/$name findings=build/asan/fuzz/findings
mkdir -p "$corpus" "$findings"
for glob in $(sed -n 's|^// Seeds: ||p' "fuzz/$name.cpp") "fuzz/corpus/$name/*"; do
  for seed in $glob; do
    # 256 KiB: with longer seeds a target gets through too few inputs a second.
    if [ -f "$seed" ] && [ "$(stat -c %s "$seed")" -le 262144 ]; then
      cp "$seed" "$corpus/$(sha1sum < "$seed" | cut -d' ' -f1)"
    fi
  done
done

# No input may take over 10 s or a gigabyte.
exec "build/asan/bin/$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
  -artifact_prefix="$findings/$name-" "$corpus"
