#!/usr/bin/env bash
# A real Kafka broker for tests and demos. Needs Java 17 and Maven.
#
#   scripts/kafka.sh jars              fetches Kafka into target/kafka/lib, once
#   scripts/kafka.sh start DIR PORT    runs a broker on 127.0.0.1:PORT in the foreground, its data in DIR;
#                                      its controller listens on CONTROLLER_PORT (default: PORT + 1);
#                                      with PROXIED=PORT:TOLD it also listens on that port, and tells who
#                                      comes there to go on at the port TOLD: where a proxy stands before it;
#                                      with SECURED=SASL_SSL:SCRAM:MUTUAL it also listens on these three ports:
#                                      users by PLAIN and SCRAM over TLS; users by SCRAM-SHA-256 without TLS;
#                                      clients with a certificate. DIR/tls has broker.pem, its key and
#                                      certificate, and ca.pem, by which it knows clients. The users are
#                                      SECURED_USERS, as `plain:password scram:password`
#
# A broker that is started again in the same DIR goes on with its data. Stop it with a signal.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
lib=${KAFKA_LIB:-$root/target/kafka/lib}

fail() {
  echo "kafka.sh: $*" >&2
  exit 1
}

jars() {
  compgen -G "$lib/kafka_2.13-*.jar" >/dev/null && return
  command -v mvn >/dev/null || fail "mvn is missing: install Maven, or set KAFKA_LIB to a folder with Kafka's jars"
  # Copied aside first, so that a copy that was interrupted isn't taken for whole.
  local new="$lib.new.$$"
  mvn -q -f "$root/tests/kafka/pom.xml" dependency:copy-dependencies -DoutputDirectory="$new" >&2
  mkdir -p "$(dirname "$lib")"
  mv -T "$new" "$lib" 2>/dev/null || rm -rf "$new"
}

start() {
  local dir=$1 port=$2
  local controller=${CONTROLLER_PORT:-$((port + 1))}
  command -v java >/dev/null || fail "java is missing: install Java 17 or newer"
  jars
  mkdir -p "$dir"
  local listeners=PLAINTEXT://127.0.0.1:$port told=PLAINTEXT://127.0.0.1:$port
  if [[ -n ${PROXIED:-} ]]; then
    listeners+=,PROXIED://127.0.0.1:${PROXIED%:*}
    told+=,PROXIED://127.0.0.1:${PROXIED#*:}
  fi
  local scram=()
  local secured='' maps=''
  if [[ -n ${SECURED:-} ]]; then
    local names=(SASL_SSL SCRAM MUTUAL) ports i
    IFS=: read -ra ports <<<"$SECURED"
    for i in 0 1 2; do
      listeners+=,${names[i]}://127.0.0.1:${ports[i]}
      told+=,${names[i]}://127.0.0.1:${ports[i]}
    done
    maps=,SASL_SSL:SASL_SSL,SCRAM:SASL_PLAINTEXT,MUTUAL:SSL
    local user
    for user in ${SECURED_USERS:-}; do
      secured+=" user_${user%%:*}=\"${user#*:}\""
      scram+=(--add-scram "SCRAM-SHA-256=[name=${user%%:*},password=${user#*:}]"
        --add-scram "SCRAM-SHA-512=[name=${user%%:*},password=${user#*:}]")
    done
    local modules=org.apache.kafka.common.security
    secured="
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.scram.sasl.enabled.mechanisms=SCRAM-SHA-256
listener.name.sasl_ssl.plain.sasl.jaas.config=$modules.plain.PlainLoginModule required$secured;
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=$modules.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=$modules.scram.ScramLoginModule required;
listener.name.scram.scram-sha-256.sasl.jaas.config=$modules.scram.ScramLoginModule required;
listener.name.mutual.ssl.client.auth=required
ssl.keystore.type=PEM
ssl.keystore.location=$dir/tls/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location=$dir/tls/ca.pem"
  fi
  cat >"$dir/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=$listeners,CONTROLLER://127.0.0.1:$controller
advertised.listeners=$told
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT$maps
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs=$dir/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
num.network.threads=2
num.io.threads=2
background.threads=2
num.recovery.threads.per.data.dir=1
log.cleaner.dedupe.buffer.size=8388608$secured
PROPERTIES
  local options=(-Xmx512m -Xms128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1
    -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$lib/*")
  if [[ ! -e $dir/data/meta.properties ]]; then
    java "${options[@]}" kafka.tools.StorageTool format -t "$(java "${options[@]}" kafka.tools.StorageTool random-uuid)" \
      -c "$dir/server.properties" "${scram[@]}" >"$dir/format.log" 2>&1 || fail "formatting failed: see $dir/format.log"
  fi
  exec java "${options[@]}" kafka.Kafka "$dir/server.properties"
}

case "${1:-}" in
jars) [[ $# -eq 1 ]] || fail "usage: kafka.sh jars"; jars ;;
start) [[ $# -eq 3 ]] || fail "usage: kafka.sh start DIR PORT"; start "$2" "$3" ;;
*) fail "usage: kafka.sh jars | kafka.sh start DIR PORT" ;;
esac
