// A transform in the typed width, by a toolchain that is not ours: componentize-js. Its rules are those
// of tests/programs/router, as far as both have them.

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
