# syntax=docker/dockerfile:1
FROM rust:1.95-bookworm AS build
# librdkafka is built by its own configure script, with OpenSSL and zlib of the system.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends bash g++ gcc libssl-dev make perl pkg-config python3 zlib1g-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN scripts/build-plugins.sh processed-at drop-ignored count-types \
 && cargo build --release --locked --workspace --bin wasmill

FROM debian:bookworm-slim
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --no-log-init --no-create-home --shell /usr/sbin/nologin wasmill \
 && install -d -o wasmill -g wasmill /plugins /data
COPY --from=build /src/target/release/wasmill /usr/local/bin/wasmill
COPY --from=build --chown=wasmill:wasmill /src/target/plugins/ /plugins/
USER 10001:10001
WORKDIR /data
# Plugins are looked for, and state is kept, where the volumes are, whatever a spec says.
ENV PLUGIN_DIR=/plugins \
    DATA_DIR=/data \
    XDG_CACHE_HOME=/data/.cache \
    WASMILL_HTTP=0.0.0.0:9464 \
    ENVIRONMENT=production
VOLUME ["/plugins", "/data"]
EXPOSE 9464
# The image has no HTTP client: bash speaks enough of it.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
  CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9464 && printf 'GET /live HTTP/1.0\\r\\n\\r\\n' >&3 && grep -q '200 OK' <&3"]
ENTRYPOINT ["wasmill"]
# Without a file: the pipeline that the environment names.
CMD ["run"]
