"""A transform, a filter and an aggregate in the typed width, by a toolchain that is not ours: componentize-py.
Their rules are those of tests/typed-js; the transform's are tests/programs/router's, as far as both have them."""

import json
from dataclasses import replace

from wit_world import exports
from wit_world.exports.aggregate_typed import Failed, Folded
from wit_world.imports.aggregate_types import Description
from wit_world.imports.types import (
    MetadataEntry,
    Outcome_Drop,
    Outcome_Fail,
    Outcome_Keep,
    Outcome_Replace,
    Outcome_Several,
    Routed,
    Verdict_Drop,
    Verdict_Fail,
    Verdict_Keep,
)


def added(message, name):
    others = [entry for entry in message.metadata if entry.name != name]
    return replace(message, metadata=[*others, MetadataEntry(name, "true", False)])


def transformed(message):
    match message.type:
        case "keep":
            return Outcome_Keep()
        case "drop" | "ignore":
            return Outcome_Drop()
        case "fail":
            return Outcome_Fail(f"asked to: {message.payload.decode()}")
        case "boom":
            raise RuntimeError(f"boom in message {message.id}")
        case "alert":
            return Outcome_Several([Routed(message, "alerts")])
        case "payload":
            return Outcome_Replace(replace(message, payload=message.payload.decode().upper().encode()))
        case "key":
            return Outcome_Replace(replace(message, key=message.id.encode()))
        case "no_key":
            return Outcome_Replace(replace(message, key=None))
        case "id":
            return Outcome_Replace(replace(message, id=f"{message.id}-again"))
        case "copy":
            copied = replace(added(message, "copied"), id="copy")
            return Outcome_Several([Routed(added(message, "original"), None), Routed(copied, None)])
        case _:
            return Outcome_Replace(added(message, "processed"))


def judged(message):
    match message.type:
        case "ignore":
            return Verdict_Drop()
        case "refuse":
            return Verdict_Fail(f"refused: {message.id}")
        case _:
            return Verdict_Keep()


def number(message):
    """The message's `n`, or the reason why it has none."""
    try:
        n = json.loads(message.payload)["n"]
    except (ValueError, KeyError, TypeError):
        n = None
    if isinstance(n, bool) or not isinstance(n, int):
        raise ValueError(f"{message.id} has no whole number `n`")
    return n


# An accumulator is the text of the count, a space, and that of the sum.
def read(accumulator):
    count, total = accumulator.decode().split(" ")
    return int(count), int(total)


def written(count, total):
    return f"{count} {total}".encode()


class TransformTyped(exports.TransformTyped):
    def process(self, messages):
        return [transformed(message) for message in messages]


class FilterTyped(exports.FilterTyped):
    def process(self, messages):
        return [judged(message) for message in messages]


class AggregateTyped(exports.AggregateTyped):
    def describe(self):
        return Description(commutative=True, state_version=1, initial=b"0 0")

    def fold(self, messages, groups):
        accumulators, failed = [], []
        for group in groups:
            count, total = read(group.accumulator)
            for place in group.messages:
                try:
                    total += number(messages[place])
                    count += 1
                except ValueError as reason:
                    failed.append(Failed(place, str(reason)))
            accumulators.append(written(count, total))
        return Folded(accumulators, failed)

    def merge(self, pairs):
        both = [(read(pair.left), read(pair.right)) for pair in pairs]
        return [written(left[0] + right[0], left[1] + right[1]) for left, right in both]

    def finish(self, accumulators):
        values = [read(accumulator) for accumulator in accumulators]
        return [json.dumps({"count": count, "sum": total}) for count, total in values]
