"""Clients of brokers that are not ours: they write the inputs of tests and read the outputs.

    client.py nats-make  URL STREAM SUBJECT [DEDUPE_SECONDS]   makes a stream, if it isn't there
    client.py nats-feed  URL SUBJECT FIRST COUNT SECONDS       publishes messages FIRST.. evenly over SECONDS
    client.py nats-read  URL STREAM                            prints each stored message on a line
    client.py redis-feed URL STREAM FIRST COUNT SECONDS
    client.py redis-read URL STREAM
    client.py http-feed  URL FIRST COUNT SECONDS TOKEN         POSTs pieces of NDJSON with curl
    client.py http-post  URL TOKEN BODY                        POSTs once and prints the answer

A feeder goes on through outages of its server until everything is stored, and stores nothing twice: what it
isn't sure of it writes again under the same id, which the server then refuses.
"""

import asyncio
import json
import subprocess
import sys
import time

PIECE = 100


def message(n):
    kind = "ignore" if n % 10 == 9 else ["departed", "cancelled"][n % 2]
    return json.dumps(
        {
            "id": str(n),
            "type": kind,
            "timestamp": 1_700_000_000_000 + n * 10,
            "payload": {"n": n, "carrier": f"C{n % 7}"},
            "metadata": {"origin": "client.py"},
        }
    )


def pieces(first, count, seconds):
    """Numbers in pieces, each when its time has come."""
    begun = time.monotonic()
    for start in range(first, first + count, PIECE):
        due = begun + seconds * (start - first) / count
        time.sleep(max(0, due - time.monotonic()))
        yield range(start, min(start + PIECE, first + count))


def insist(write):
    """Tries again until it works."""
    until = time.monotonic() + 120
    while True:
        try:
            return write()
        except Exception as error:  # whatever a client throws when its server dies
            if time.monotonic() > until:
                raise
            print(f"again: {error!r}", file=sys.stderr)
            time.sleep(0.1)


async def nats_connect(url):
    import nats

    async def quiet(_):
        pass

    return await nats.connect(
        url, max_reconnect_attempts=-1, reconnect_time_wait=0.1, connect_timeout=2, error_cb=quiet
    )


async def nats_make(url, stream, subject, dedupe="120"):
    from nats.js.api import StreamConfig

    connection = await nats_connect(url)
    config = StreamConfig(name=stream, subjects=subject.split(","), duplicate_window=float(dedupe))
    await connection.jetstream().add_stream(config)
    await connection.close()


async def nats_feed(url, subject, first, count, seconds):
    connection = await nats_connect(url)
    stream = connection.jetstream(timeout=2)
    begun = time.monotonic()
    first, count, seconds = int(first), int(count), float(seconds)
    for start in range(first, first + count, PIECE):
        due = begun + seconds * (start - first) / count
        await asyncio.sleep(max(0, due - time.monotonic()))
        # Order matters to who judges it: within a piece each waits for the one before.
        for n in range(start, min(start + PIECE, first + count)):
            while True:
                try:
                    await stream.publish(subject, message(n).encode(), headers={"Nats-Msg-Id": f"in-{n}"})
                    break
                except Exception as error:
                    print(f"again: {error!r}", file=sys.stderr)
                    await asyncio.sleep(0.1)
    await connection.close()


async def nats_read(url, stream):
    from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
    from nats.errors import TimeoutError as Late

    connection = await nats_connect(url)
    context = connection.jetstream()
    left = (await context.stream_info(stream)).state.messages
    config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL, ack_policy=AckPolicy.NONE)
    reader = await context.pull_subscribe(">", durable=None, stream=stream, config=config) if left else None
    while left > 0:
        try:
            got = await reader.fetch(min(left, 1000), timeout=5)
        except Late:
            break
        for one in got:
            print(one.data.decode())
        left -= len(got)
    await connection.close()


def redis_connect(url):
    import redis

    return redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2)


def redis_feed(url, stream, first, count, seconds):
    import redis

    def write(numbers):
        client = redis_connect(url)
        for n in numbers:
            try:
                # An id of its own: written again it is refused.
                client.xadd(stream, {"message": message(n)}, id=f"{n + 1}-1")
            except redis.ResponseError as error:
                if "equal or smaller" not in str(error):
                    raise

    for numbers in pieces(int(first), int(count), float(seconds)):
        insist(lambda: write(numbers))


def redis_read(url, stream):
    client = redis_connect(url)
    after = "-"
    while got := client.xrange(stream, min=after, count=1000):
        for entry, fields in got:
            print(fields[b"message"].decode())
            after = f"({entry.decode()}"


def http_feed(url, first, count, seconds, token):
    def write(numbers):
        body = "\n".join(message(n) for n in numbers) + "\n"
        done = subprocess.run(
            ["curl", "-sS", "--fail-with-body", "--max-time", "5", "-X", "POST", url]
            + ["-H", f"Authorization: Bearer {token}", "-H", "Content-Type: application/x-ndjson"]
            + ["-H", f"Idempotency-Key: {numbers.start}", "--data-binary", "@-"],
            input=body.encode(),
            capture_output=True,
        )
        if done.returncode != 0:
            raise RuntimeError(done.stderr.decode() + done.stdout.decode())
        accepted = json.loads(done.stdout)["accepted"]
        assert accepted == len(numbers), done.stdout

    for numbers in pieces(int(first), int(count), float(seconds)):
        insist(lambda: write(numbers))


def http_post(url, token, body):
    """Prints the answer, whatever it is."""
    subprocess.run(
        ["curl", "-sS", "--max-time", "5", "-X", "POST", url, "-H", f"Authorization: Bearer {token}"]
        + ["-H", "Content-Type: application/x-ndjson", "--data-binary", "@-"],
        input=body.encode(),
        check=True,
    )


def main():
    name, *arguments = sys.argv[1:]
    work = globals()[name.replace("-", "_")](*arguments)
    if asyncio.iscoroutine(work):
        asyncio.run(work)


if __name__ == "__main__":
    main()
