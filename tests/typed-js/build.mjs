// build.mjs SOURCE WIT WORLD OUT: makes a component of a JavaScript module. Node finds packages from where
// a module stands, so a copy of it runs beside node_modules.

import { readFile, rename, writeFile } from 'node:fs/promises';
import { componentize } from '@bytecodealliance/componentize-js';

const [source, witPath, worldName, out] = process.argv.slice(2);
const { component } = await componentize(await readFile(source, 'utf8'), {
  witPath,
  worldName,
  disableFeatures: ['stdio', 'random', 'clocks', 'http', 'fetch-event'],
});
// Renamed into place, so that a host which watches the folder never sees half a file.
await writeFile(`${out}.part`, component);
await rename(`${out}.part`, out);
