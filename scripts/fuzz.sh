#!/usr/bin/env bash
# Feeds each decoder what a fuzzer makes up: scripts/fuzz.sh [SECONDS-EACH] [CODEC...]. Needs no other toolchain: the
# coverage counters are the stable compiler's. The inputs that it keeps are in target/fuzz/corpus, and what made a
# decoder panic in target/fuzz/artifacts: put it into fuzz/seeds/CODEC once it is mended.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-10}
shift || true
host=$(rustc -vV | sed -n 's/^host: //p')
# Each codec with its settings, as JSON.
codecs=$(grep -v '^#' fuzz/codecs.txt)
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
cargo build --release --quiet --locked --manifest-path fuzz/Cargo.toml --target "$host" --target-dir target/fuzz/build
binary=$PWD/target/fuzz/build/$host/release/wasmill-fuzz
while read -r name spec; do
	if [ $# -gt 0 ] && [[ " $* " != *" $name "* ]]; then continue; fi
	corpus=target/fuzz/corpus/$name artifacts=target/fuzz/artifacts/$name/
	mkdir -p "$corpus" "$artifacts"
	seeds=()
	[ -d "fuzz/seeds/$name" ] && seeds=("fuzz/seeds/$name")
	if ! WASMILL_CODEC=$spec "$binary" "$corpus" "${seeds[@]}" -max_total_time="$seconds" -max_len=4096 -timeout=10 \
		-rss_limit_mb=2048 -artifact_prefix="$artifacts" -print_final_stats=1 >"target/fuzz/$name.log" 2>&1; then
		tail -n 40 "target/fuzz/$name.log" >&2
		echo "fuzz: the decoder of $name failed: see $artifacts and target/fuzz/$name.log" >&2
		exit 1
	fi
	runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "target/fuzz/$name.log")
	echo "fuzz: $name took $runs inputs in $seconds s"
done <<<"$codecs"
