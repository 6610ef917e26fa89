#!/usr/bin/env bash
# Runs all tests and tells which lines of this workspace they reach.
#
#   scripts/coverage.sh [ARGUMENTS OF cargo test…]
#
# Default arguments: --workspace --tests. A summary goes to stdout, pages to target/coverage/html. Only the
# workspace's own crates are instrumented, so dependencies are not built again; what a killed process
# reached is not known.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly OUT=$PWD/target/coverage

say() { echo "coverage: $*" >&2; }
die() { say "$*"; exit 1; }

# cargo calls this script again as the wrapper of every compilation of the workspace's own crates. A
# guest can't be instrumented: its target has no profiler.
if [ "${WASMILL_COVERAGE_WRAPS:-}" = yes ]; then
  [[ " $* " == *" wasm32-unknown-unknown "* ]] || set -- "$@" -Cinstrument-coverage
  exec "$@"
fi

[ $# -gt 0 ] || set -- --workspace --tests

host=$(rustc -vV | sed -n 's/^host: //p')
llvm=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
of_rust=$(rustc --print sysroot)/lib/rustlib/$host/bin
tool() {
  local candidate
  for candidate in "$of_rust/$1" "/usr/lib/llvm-$llvm/bin/$1"; do
    if [ -x "$candidate" ]; then echo "$candidate"; return; fi
  done
  return 1
}

# The tools must be of the compiler's own LLVM: rustup's, else Debian's of the same number.
if ! tool llvm-profdata >/dev/null; then
  if command -v rustup >/dev/null; then
    say "adding llvm-tools with rustup"
    timeout 60 rustup component add llvm-tools >/dev/null 2>&1 || say "rustup can't reach its server"
  fi
  if ! tool llvm-profdata >/dev/null && [ -f /etc/debian_version ] && [ "$(id -u)" = 0 ]; then
    say "installing llvm-$llvm (19 MB) with apt-get"
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "llvm-$llvm" >/dev/null ||
      say "there is no package llvm-$llvm"
  fi
fi
profdata=$(tool llvm-profdata) && cov=$(tool llvm-cov) ||
  die "llvm-profdata and llvm-cov of LLVM $llvm are missing: run 'rustup component add llvm-tools', or on Debian 'apt-get install llvm-$llvm' as root"

rm -rf "$OUT"
mkdir -p "$OUT"
# An instrumented binary would leave files wherever it is run: the usual one takes its place again.
# shellcheck disable=SC2317
restore() {
  unset RUSTC_WORKSPACE_WRAPPER WASMILL_COVERAGE_WRAPS LLVM_PROFILE_FILE
  cargo build --quiet --release
}
trap restore EXIT
export WASMILL_COVERAGE_WRAPS=yes RUSTC_WORKSPACE_WRAPPER=$PWD/scripts/coverage.sh
# %c would write as it goes, but not on every system; %m keeps binaries apart, %p their runs.
export LLVM_PROFILE_FILE="$OUT/%m-%p.profraw"
built=$(cargo test --release --no-run --message-format json-render-diagnostics "$@")
objects=()
while read -r object; do objects+=(--object "$object"); done < <(
  sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' <<<"$built" | sort -u
)
[ ${#objects[@]} -gt 0 ] || die "nothing was built to be tested"
# What the build scripts and macros reached is nobody's test.
rm -f "$OUT"/*.profraw
failed=0
cargo test --release --no-fail-fast "$@" >&2 || failed=$?

"$profdata" merge --sparse "$OUT"/*.profraw --output "$OUT/all.profdata"
rm -f "$OUT"/*.profraw
view=("${objects[@]}" --instr-profile "$OUT/all.profdata" --ignore-filename-regex '/(\.cargo|rustc|rustlib|target)/|/tests/')
"$cov" show "${view[@]}" --format html --output-dir "$OUT/html" --show-instantiations=false
"$cov" report "${view[@]}" | tee "$OUT/summary.txt" | awk '/^Filename|^---|^TOTAL/ || /\.rs/ { print }' | cut -c1-200
say "every line: target/coverage/html/index.html"
exit "$failed"
