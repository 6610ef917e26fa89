// A transform, a filter and an aggregate in the typed width, by a toolchain that is not ours: componentize-js. Their
// rules are those of tests/typed-py; the transform's are tests/programs/router's, as far as both have them.

const decoder = new TextDecoder();
const encoder = new TextEncoder();

function several(...routed) {
  return { tag: 'several', val: routed };
}

function rule(message) {
  switch (message.type) {
    case 'keep':
      return { tag: 'keep' };
    case 'drop':
    case 'ignore':
      return { tag: 'drop' };
    case 'fail':
      return { tag: 'fail', val: `asked to: ${decoder.decode(message.payload)}` };
    case 'boom':
      throw new Error(`boom in message ${message.id}`);
    case 'alert':
      return several({ message, output: 'alerts' });
    case 'payload': {
      const text = decoder.decode(message.payload).toUpperCase();
      return { tag: 'replace', val: { ...message, payload: encoder.encode(text) } };
    }
    case 'key':
      return { tag: 'replace', val: { ...message, key: encoder.encode(message.id) } };
    case 'no_key':
      return { tag: 'replace', val: { ...message, key: undefined } };
    case 'id':
      return { tag: 'replace', val: { ...message, id: `${message.id}-again` } };
    case 'copy':
      return several(
        { message: added(message, 'original'), output: undefined },
        { message: { ...added(message, 'copied'), id: 'copy' }, output: undefined },
      );
    default:
      return { tag: 'replace', val: added(message, 'processed') };
  }
}

function added(message, name) {
  const others = message.metadata.filter((entry) => entry.name !== name);
  return { ...message, metadata: [...others, { name, value: 'true', json: false }] };
}

export const transformTyped = {
  process(messages) {
    return messages.map(rule);
  },
};

export const filterTyped = {
  process(messages) {
    return messages.map((message) => {
      switch (message.type) {
        case 'ignore':
          return { tag: 'drop' };
        case 'refuse':
          return { tag: 'fail', val: `refused: ${message.id}` };
        default:
          return { tag: 'keep' };
      }
    });
  },
};

// The message's `n`, or null where it has none.
function number(message) {
  try {
    const { n } = JSON.parse(decoder.decode(message.payload));
    return Number.isSafeInteger(n) ? n : null;
  } catch {
    return null;
  }
}

// An accumulator is the text of the count, a space, and that of the sum.
function read(accumulator) {
  const [count, total] = decoder.decode(accumulator).split(' ').map(Number);
  return { count, total };
}

function written({ count, total }) {
  return encoder.encode(`${count} ${total}`);
}

export const aggregateTyped = {
  describe() {
    return { commutative: true, stateVersion: 1, initial: encoder.encode('0 0') };
  },
  fold(messages, groups) {
    const failed = [];
    const accumulators = groups.map((group) => {
      const sum = read(group.accumulator);
      for (const place of group.messages) {
        const n = number(messages[place]);
        if (n === null) {
          failed.push({ message: place, reason: `${messages[place].id} has no whole number \`n\`` });
        } else {
          sum.count += 1;
          sum.total += n;
        }
      }
      return written(sum);
    });
    return { accumulators, failed };
  },
  merge(pairs) {
    return pairs.map((pair) => {
      const [left, right] = [read(pair.left), read(pair.right)];
      return written({ count: left.count + right.count, total: left.total + right.total });
    });
  },
  finish(accumulators) {
    return accumulators.map((accumulator) => {
      const { count, total } = read(accumulator);
      return JSON.stringify({ count, sum: total });
    });
  },
};
