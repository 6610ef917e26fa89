#!/usr/bin/env bash
# Builds guest crates to WebAssembly components.
#
#   scripts/build-plugins.sh [CRATE…]
#
# plugins/NAME goes to target/plugins/NAME.wasm, tests/programs/NAME to target/programs/NAME.wasm.
# Without names: all of plugins/ and tests/programs/. Does nothing, quickly, when nothing changed.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly TARGET=wasm32-unknown-unknown
readonly GUEST_DIR=target/guest
readonly PACK=target/release/wasmill-pack

say() { echo "build-plugins: $*" >&2; }
die() { say "$*"; exit 1; }

[ $# -gt 0 ] || set -- plugins/*/ tests/programs/*/
declare -A folder_of=()
for name in "$@"; do
  name=$(basename "$name")
  if [ -f "plugins/$name/Cargo.toml" ]; then folder_of[$name]=plugins
  elif [ -f "tests/programs/$name/Cargo.toml" ]; then folder_of[$name]=tests/programs
  else die "no guest crate named '$name' in plugins/ or tests/programs/"
  fi
done

output_of() { case ${folder_of[$1]} in plugins) echo "target/plugins/$1.wasm" ;; *) echo "target/programs/$1.wasm" ;; esac; }

# Whether a file is there and nothing under the other paths is newer.
is_newer_than() {
  local file=$1
  shift
  [ -f "$file" ] && [ -z "$(find "$@" -newer "$file" -type f -print -quit)" ]
}

is_fresh() {
  is_newer_than "$(output_of "$1")" "${folder_of[$1]}/$1" sdk/frame/src sdk/frame/Cargo.toml sdk/rust sdk/pack wit \
    Cargo.toml scripts/build-plugins.sh
}

stale=()
find_stale() {
  stale=()
  local name
  for name in "${!folder_of[@]}"; do is_fresh "$name" || stale+=("$name"); done
}

find_stale
[ ${#stale[@]} -gt 0 ] || exit 0

mkdir -p "$GUEST_DIR" target/plugins target/programs
# One build at a time; whoever waited finds most of the work done.
exec 9>"$GUEST_DIR/.build-plugins.lock"
flock 9
find_stale
[ ${#stale[@]} -gt 0 ] || exit 0

has_target() { [ -d "$("${1:-rustc}" --print sysroot)/lib/rustlib/$TARGET/lib" ]; }

install_debian_sources() {
  local packages=(rustc-web rust-web-src) as_root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null && [ -t 0 ] ||
      die "the target $TARGET is missing. Either 'rustup target add $TARGET', or as root 'apt-get install ${packages[*]}'"
    read -r -p "build-plugins: the target $TARGET is missing; install ${packages[*]} (115 MB) with sudo apt-get? [y/N] " answer
    [ "$answer" = y ] || die "stopped: 'rustup target add $TARGET' is the other way"
    as_root=(sudo)
  fi
  say "installing ${packages[*]} (115 MB) with apt-get, for the library of $TARGET"
  "${as_root[@]}" apt-get -qq update
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${packages[@]}" >/dev/null
}

command -v cargo >/dev/null || die "cargo is missing: install Rust 1.95 or newer from https://rustup.rs"

# Paths of this machine have no place in a panic's text, nor in a digest.
sysroot=$(rustc --print sysroot)
flags=("--remap-path-prefix=$PWD/=")
for registry in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/; do flags+=("--remap-path-prefix=$registry=deps/"); done
flags+=("--remap-path-prefix=$sysroot/lib/rustlib/src/rust/=rust/" "--remap-path-prefix=/usr/lib/rustlib/src/rust/=rust/")
environment=("CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; echo "${flags[*]}")")
build=(cargo build --quiet --profile guest --target "$TARGET" --target-dir "$GUEST_DIR")

if ! has_target && ! { [ -f "$GUEST_DIR/.no-rustup-target" ] && [ -x /usr/bin/rustc ]; }; then
  if command -v rustup >/dev/null; then
    say "adding the target $TARGET with rustup"
    timeout 20 rustup target add "$TARGET" >/dev/null 2>&1 ||
      say "rustup can't reach its server; building the target's library from source instead"
  fi
fi
if ! has_target; then
  if ! [ -x /usr/bin/rustc ] || ! [ -d /usr/lib/rustlib/src/rust ]; then
    [ -f /etc/debian_version ] || die "the target $TARGET is missing: run 'rustup target add $TARGET' where there is a network"
    install_debian_sources
  fi
  touch "$GUEST_DIR/.no-rustup-target"
  # Debian's compiler has its library's sources beside it; its linker is rustup's.
  host=$(rustc -vV | sed -n 's/^host: //p')
  linker="$sysroot/lib/rustlib/$host/bin/rust-lld"
  [ -x "$linker" ] || die "no linker at $linker: install Rust with rustup"
  environment+=(RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER="$linker")
  build+=(-Zbuild-std=std,panic_abort)
fi

packages=()
for name in "${stale[@]}"; do packages+=(-p "$name"); done
env "${environment[@]}" "${build[@]}" "${packages[@]}"

is_newer_than "$PACK" sdk/pack Cargo.toml || { cargo build --quiet --release -p wasmill-pack && touch "$PACK"; }
for name in "${stale[@]}"; do
  "$PACK" "$GUEST_DIR/$TARGET/guest/${name//-/_}.wasm" "$(output_of "$name")"
done
