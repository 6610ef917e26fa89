#!/usr/bin/env bash
# As cargo's RUSTC_WORKSPACE_WRAPPER: compiles a crate with what libFuzzer counts, and with checks of overflow.
set -euo pipefail
case " $* " in
  # What runs in the compiler, or before it, is linked without the fuzzer.
  *" build_script_build "* | *" --crate-type proc-macro "*) exec "$@" ;;
esac
counters=(-Cpasses=sancov-module)
for arg in level=4 inline-8bit-counters pc-table trace-compares; do
  counters+=("-Cllvm-args=-sanitizer-coverage-$arg")
done
exec "$@" "${counters[@]}" -Cdebug-assertions=on -Coverflow-checks=on
