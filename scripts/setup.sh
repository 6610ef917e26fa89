#!/usr/bin/env bash
# Gets a machine ready; does nothing, quickly, when it is.
#
#   scripts/setup.sh [build] [test] [lint]
#
# build: Rust, a C and a C++ compiler with make, which compile librdkafka and a part of wasmtime, and
# OpenSSL's headers. test: python3 too, for the oracles; redis-server, and Java with Maven, which fetches
# Kafka and a schema registry, Go, which builds a NATS server, and PostgreSQL, for real servers; kcat, curl, and python3's venv, for clients
# that aren't ours; openssl, for a server with TLS; strace, to see what reaches the disk before an answer. lint: rustfmt
# and clippy too. System packages are installed on Debian and its kin only, as root, or with sudo after asking on a terminal;
# elsewhere the script says what to install.
# scripts/build-plugins.sh sees to the WebAssembly target by itself.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly RUST_MIN=1.95

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

missing=()
# Notes a package for a command that isn't there.
want() {
  has "$1" || missing+=("$2")
}

want cc gcc
# A compiler alone is not enough: programs need the C library's own files.
if has cc && ! echo 'int main(void){return 0;}' | cc -x c -o /dev/null - >/dev/null 2>&1; then missing+=(libc6-dev); fi
want c++ g++
want make make
want pkg-config pkg-config
if ! pkg-config --exists openssl 2>/dev/null; then missing+=(libssl-dev); fi
want flock util-linux
rust_parts=()
for purpose in "${@:-build}"; do
  case $purpose in
    build) ;;
    test)
      want python3 python3
      # For the clients of scripts/clients.sh.
      if ! python3 -c 'import ensurepip' >/dev/null 2>&1; then missing+=(python3-venv); fi
      want redis-server redis-server
      # Its programs are beside the PATH on Debian.
      if ! has initdb && ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then missing+=(postgresql); fi
      want kcat kcat
      want openssl openssl
      want curl curl
      want strace strace
      want java default-jre-headless
      want mvn maven
      # nats-server needs a newer Go than Debian's: that one fetches it (GOTOOLCHAIN).
      want go golang-go
      ;;
    lint) rust_parts+=(fmt:rustfmt clippy:clippy) ;;
    *) die "unknown purpose '$purpose': expected build, test or lint" ;;
  esac
done

install_packages() {
  local packages=("$@") as_root=()
  [ -f /etc/debian_version ] ||
    die "these are missing: ${packages[*]} (their names on Debian); install them by your system's package manager"
  if [ "$(id -u)" != 0 ]; then
    has sudo && [ -t 0 ] || die "these packages are missing: run as root 'apt-get install ${packages[*]}'"
    read -r -p "setup: install ${packages[*]} with sudo apt-get? [y/N] " answer
    [ "$answer" = y ] || die "stopped: nothing was installed"
    as_root=(sudo)
  fi
  say "installing with apt-get: ${packages[*]}"
  "${as_root[@]}" apt-get -qq update
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -qq install -y --no-install-recommends "${packages[@]}" >/dev/null
}

if [ ${#missing[@]} -gt 0 ]; then
  [[ " ${missing[*]} " != *" gcc "* ]] || missing+=(libc6-dev)
  install_packages "${missing[@]}"
fi

has cargo || die "Rust is missing. Install it as https://rustup.rs says:
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh
then open a new shell, or run: . \"\$HOME/.cargo/env\""
version=$(rustc --version | cut -d' ' -f2)
[ "$(printf '%s\n' "$RUST_MIN" "$version" | sort -V | head -n1)" = "$RUST_MIN" ] ||
  die "Rust $version is too old: wasmill needs $RUST_MIN or newer. With rustup: rustup update stable"

for part in "${rust_parts[@]}"; do
  cargo "${part%%:*}" --version >/dev/null 2>&1 && continue
  has rustup || die "cargo ${part%%:*} is missing: install the component ${part##*:} of your Rust"
  say "adding ${part##*:} with rustup"
  timeout 120 rustup component add "${part##*:}" || die "rustup could not add ${part##*:}: is there a network?"
done
