#!/usr/bin/env bash
# Feeds what reads bytes from outside what a fuzzer makes up: scripts/fuzz.sh [SECONDS-EACH] [NAME...], as many at once as
# there are cores, or FUZZ_JOBS. Needs no other toolchain: the coverage counters are the stable compiler's. The inputs that it keeps are in
# target/fuzz/corpus, and what made something fail in target/fuzz/artifacts: once that is mended, it belongs into the
# tests of what failed, or into fuzz/seeds/NAME.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-10}
shift || true
jobs_max=${FUZZ_JOBS:-$(nproc)}

say() { echo "fuzz: $*" >&2; }

# Names, each with what it is and its settings.
targets=$(grep -v -e '^#' -e '^$' fuzz/targets.txt)
for name in "$@"; do
  if ! grep -q "^$name " <<<"$targets"; then
    say "no $name in fuzz/targets.txt, which has: $(cut -d' ' -f1 <<<"$targets" | paste -sd' ')"
    exit 2
  fi
done

# Our own crates have the counters; what they depend on is built once, for the host and for this. The program goes aside,
# for a build of the whole writes another one in its place.
RUSTC_WORKSPACE_WRAPPER=$PWD/scripts/with-counters.sh cargo build --release --quiet --locked --workspace --bin wasmill-fuzz
mkdir -p target/fuzz
cp target/release/wasmill-fuzz target/fuzz/wasmill-fuzz
binary=$PWD/target/fuzz/wasmill-fuzz

fuzz() {
  local name=$1 spec=$2 log=target/fuzz/$1.log corpus=target/fuzz/corpus/$1 artifacts=target/fuzz/artifacts/$1/
  mkdir -p "$corpus" "$artifacts"
  if ! WASMILL_TARGET=$spec "$binary" "$corpus" "fuzz/seeds/$name" -max_total_time="$seconds" -max_len=4096 -timeout="${FUZZ_TIMEOUT:-10}" \
    -rss_limit_mb=2048 -artifact_prefix="$artifacts" -print_final_stats=1 </dev/null >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    say "$name failed: the input is in $artifacts, the whole output in $log"
    return 1
  fi
  local runs coverage
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  coverage=$(sed -n 's/.*DONE *cov: \([0-9]*\) .*/\1/p' "$log")
  say "$name: $runs inputs, $coverage places of the code reached"
  touch "target/fuzz/$name.passed"
}

# Each runs to its end, so that one that fails hides no other.
asked=("$@")
if [ $# -eq 0 ]; then readarray -t asked < <(cut -d' ' -f1 <<<"$targets"); fi
for name in "${asked[@]}"; do rm -f "target/fuzz/$name.passed"; done
for name in "${asked[@]}"; do
  while [ "$(jobs -rp | wc -l)" -ge "$jobs_max" ]; do wait -n || true; done
  fuzz "$name" "$(sed -n "s/^$name //p" <<<"$targets")" &
done
wait
for name in "${asked[@]}"; do [ -e "target/fuzz/$name.passed" ] || exit 1; done
