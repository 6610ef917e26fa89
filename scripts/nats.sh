#!/usr/bin/env bash
# A real NATS server for tests and demos. Needs Go.
#
#   scripts/nats.sh server           installs nats-server into target/nats, once; prints its path
#   scripts/nats.sh start DIR PORT   runs it on 127.0.0.1:PORT in the foreground with JetStream, its data in DIR;
#                                    with NATS_CONFIG=FILE it takes further settings from that file
#
# A server that is started again in the same DIR goes on with its data. Stop it with a signal.
set -euo pipefail

readonly VERSION=v2.15.2

root=$(cd "$(dirname "$0")/.." && pwd)
server=${NATS_SERVER:-$root/target/nats/nats-server-$VERSION}

fail() {
  echo "nats.sh: $*" >&2
  exit 1
}

server() {
  [[ -x $server ]] && return
  [[ -z ${NATS_SERVER:-} ]] || fail "NATS_SERVER names $server, which is no program"
  command -v go >/dev/null || fail "go is missing: install Go, or set NATS_SERVER to a nats-server"
  # Built aside first, so that what was interrupted isn't taken for whole.
  local new="$server.new.$$"
  mkdir -p "$new"
  GOTOOLCHAIN=${GOTOOLCHAIN:-auto} GOBIN="$new" \
    go install "github.com/nats-io/nats-server/v2@$VERSION" >&2
  mv "$new/nats-server" "$server"
  rmdir "$new"
}

start() {
  local dir=$1 port=$2
  server
  mkdir -p "$dir"
  local more=()
  [[ -z ${NATS_CONFIG:-} ]] || more=(-c "$NATS_CONFIG")
  exec "$server" "${more[@]}" -a 127.0.0.1 -p "$port" -js -sd "$dir"
}

case "${1:-}" in
server) [[ $# -eq 1 ]] || fail "usage: nats.sh server"; server; echo "$server" ;;
start) [[ $# -eq 3 ]] || fail "usage: nats.sh start DIR PORT"; start "$2" "$3" ;;
*) fail "usage: nats.sh server | nats.sh start DIR PORT" ;;
esac
