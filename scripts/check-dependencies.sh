#!/usr/bin/env bash
# Checks the dependencies' licences, bans and sources against deny.toml.
#
# cargo-deny is taken as it is there; where it is missing it is built once, into the user's cache.
# Advisories are not checked here: their database comes from a git host that CI can't rely on.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly VERSION=0.20.2
readonly TOOLS=${XDG_CACHE_HOME:-$HOME/.cache}/wasmill-tools

say() { echo "check-dependencies: $*" >&2; }

deny=$(command -v cargo-deny || true)
if [ -z "$deny" ]; then
  deny=$TOOLS/bin/cargo-deny
  if ! [ -x "$deny" ]; then
    say "building cargo-deny $VERSION into the user's cache; this takes some minutes, once"
    # Unoptimised and without debug information: it is built faster than an optimised one would ever make up for.
    CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0 cargo install --quiet --locked --debug --root "$TOOLS" "cargo-deny@$VERSION"
  fi
fi
"$deny" --all-features check --hide-inclusion-graph bans licenses sources
say "bans, licences and sources are right; advisories were not run (cargo deny check advisories does it)"
