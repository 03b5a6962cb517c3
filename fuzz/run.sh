#!/usr/bin/env bash
# Plays every reader, or the one that is named, under libFuzzer for so many seconds each. What breaks is kept in work/.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-60}
only=${2:-}
host=$(rustc -vV | sed -n 's/^host: //p')
command -v c++ >/dev/null || { echo "make fuzz needs a C++ compiler, such as g++" >&2; exit 2; }

# Works with a stable compiler: the coverage that libFuzzer is guided by, and no sanitizer. `--target` keeps it out of build scripts.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table --cfg fuzzing"
cargo build --target "$host"
fuzzer=${CARGO_TARGET_DIR:-target}/$host/debug/fuzz

# Names and folders of seeds, as src/targets.rs has them.
sed -nE 's/^ *target\("([a-z-]+)", &\[([^]]*)\].*/\1 \2/p' src/targets.rs | tr -d '",' | while read -r name seeds; do
  if [[ -n $only && $only != "$name" ]]; then continue; fi
  mkdir -p "work/$name"
  folders=()
  for folder in $seeds; do folders+=("../$folder"); done
  echo "== $name: $seconds s"
  set +e
  FUZZ_TARGET=$name "$fuzzer" "work/$name" "${folders[@]}" -dict=dictionary.txt -max_total_time="$seconds" \
    -max_len=65536 -rss_limit_mb=1024 -timeout=20 -artifact_prefix="work/$name-" -print_final_stats=1 -verbosity=0 2>&1 \
    | grep -E "panicked|assertion|ERROR|SUMMARY|Test unit|stat::number_of_executed_units|stat::peak_rss_mb"
  # What the fuzzer says; of the other, that nothing in its output was to be shown is no failure.
  status=${PIPESTATUS[0]}
  set -e
  if compgen -G "work/$name-*" >/dev/null; then echo "$name: something broke; the input is in fuzz/work" >&2; exit 1; fi
  if [[ $status -ne 0 ]]; then echo "$name: the fuzzer ended with $status and left no input" >&2; exit 1; fi
done
echo "nothing broke"
