#!/usr/bin/env bash
# The flights over Kafka: a broker of its own, one wasmill that feeds it, one that shows results arriving.
#
#   scripts/demo-kafka.sh
#
# Needs the built host and plugins (`make build plugins`) and Java 17; Kafka itself is fetched once. All
# that it starts it stops, and it leaves nothing behind. DEMO_SECONDS (20) is how long it shows results.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly WASMILL=$PWD/target/release/wasmill
readonly EXAMPLE=examples/kafka
seconds=${DEMO_SECONDS:-20}

say() { echo "demo-kafka: $*" >&2; }
die() { say "$*"; exit 1; }

[ -x "$WASMILL" ] || die "$WASMILL is missing: run 'make build'"
command -v java >/dev/null || die "java is missing: install Java 17 or newer"
scripts/kafka.sh jars

work=$(mktemp -d)
pids=()
finish() {
  # The last started first: the broker goes when nobody needs it any more.
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
    kill "${pids[i]}" 2>/dev/null || true
    wait "${pids[i]}" 2>/dev/null || true
  done
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

read -r port controller http < <(python3 -c '
import socket
sockets = [socket.socket() for _ in range(3)]
for s in sockets: s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))')
export KAFKA_BROKERS=127.0.0.1:$port DATA_DIR=$work/state

say "starting a broker on $KAFKA_BROKERS"
CONTROLLER_PORT=$controller scripts/kafka.sh start "$work/broker" "$port" >"$work/broker.log" 2>&1 &
pids+=($!)
topic() {
  java -cp "${KAFKA_LIB:-target/kafka/lib}/*" -Dorg.slf4j.simpleLogger.defaultLogLevel=error \
    org.apache.kafka.tools.TopicCommand --bootstrap-server "$KAFKA_BROKERS" --create --if-not-exists --topic "$@" \
    >"$work/topic.log" 2>&1 || { cat "$work/topic.log" >&2; die "the topic $1 can't be created"; }
}
for _ in $(seq 300); do
  (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
  kill -0 "${pids[0]}" 2>/dev/null || { cat "$work/broker.log" >&2; die "the broker ended"; }
  sleep 0.2
done
say "creating the topics flights, delays, delays-dead"
# The flights are of 2013: without this the broker would remove them as too old.
topic flights --partitions 4 --config retention.ms=-1
topic delays --partitions 4 --config retention.ms=-1
topic delays-dead --partitions 1 --config retention.ms=-1

say "delays by carrier and day, as they arrive:"
WASMILL_HTTP=127.0.0.1:$http "$WASMILL" run "$EXAMPLE/pipeline.yaml" 2>"$work/pipeline.log" &
host=$!
pids+=("$host")
env -u DATA_DIR WASMILL_HTTP=off "$WASMILL" run "$EXAMPLE/feed.yaml" >"$work/feed.log" 2>&1 &
feed=$!
pids+=("$feed")

for _ in $(seq "$((seconds * 5))"); do
  kill -0 "$host" 2>/dev/null || { cat "$work/pipeline.log" >&2; die "the pipeline ended"; }
  sleep 0.2
done
wait "$feed" || { cat "$work/feed.log" >&2; die "the feed failed"; }
kill -TERM "$host"
wait "$host" || { cat "$work/pipeline.log" >&2; die "the pipeline did not end in order"; }
say "done; every process is stopped"
