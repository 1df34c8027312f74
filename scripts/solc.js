#!/usr/bin/env node
// The part of the native `solc` command line that py-solc-x, Slither and forge call, on npm's WebAssembly `solc`,
// which works offline. Knows --version, --standard-json and --combined-json with the options that go with them.
'use strict';
const fs = require('fs');
const path = require('path');

const WITH_VALUE = new Set([
  '--base-path', '--include-path', '-I', '--allow-paths', '--combined-json', '--optimize-runs', '--evm-version',
  '--metadata-hash', '--revert-strings', '--output-dir', '-o',
]);

function parse(argv) {
  const parsed = { options: {}, includes: [], remappings: [], files: [] };
  for (let i = 0; i < argv.length; i++) {
    let [name, value] = argv[i].startsWith('--') ? split(argv[i]) : [argv[i], undefined];
    if (WITH_VALUE.has(name) && value === undefined) value = argv[++i];
    if (name === '--include-path' || name === '-I') parsed.includes.push(value);
    else if (name.startsWith('-') && name !== '-') parsed.options[name] = value === undefined ? true : value;
    else if (name.includes('=') && !fs.existsSync(name)) parsed.remappings.push(name);
    else parsed.files.push(name);
  }
  return parsed;
}

function split(argument) {
  const at = argument.indexOf('=');
  return at < 0 ? [argument, undefined] : [argument.slice(0, at), argument.slice(at + 1)];
}

function loadCompiler() {
  const compiler = require('solc/wrapper.js')(require('solc/soljson.js'));
  process.removeAllListeners('uncaughtException'); // soljson installs one that hides our own errors
  return compiler;
}

function importer(parsed) {
  const roots = [parsed.options['--base-path'] || '.', ...parsed.includes, path.join(__dirname, '..', 'node_modules')];
  return (name) => {
    const candidates = path.isAbsolute(name) ? [name] : roots.map((root) => path.resolve(root, name));
    const found = candidates.find((file) => fs.existsSync(file) && fs.statSync(file).isFile());
    return found ? { contents: fs.readFileSync(found, 'utf8') } : { error: `not found: ${candidates.join(', ')}` };
  };
}

function standardJson(compiler, parsed) {
  const named = parsed.files.find((file) => file !== '-');
  const input = JSON.parse(fs.readFileSync(named || 0, 'utf8'));
  const read = importer(parsed);
  for (const [name, source] of Object.entries(input.sources || {})) {
    if (source.content !== undefined || !source.urls) continue; // soljson itself can't follow {"urls": [...]}
    const found = source.urls.map((url) => read(url.replace(/^file:\/\//, ''))).find((one) => one.contents !== undefined);
    if (found) input.sources[name] = { content: found.contents };
  }
  return compiler.compile(JSON.stringify(input), { import: read });
}

function settingsFrom(parsed) {
  const { options } = parsed;
  const outputs = ['abi', 'metadata', 'devdoc', 'userdoc', 'storageLayout', 'evm'];
  const settings = {
    remappings: parsed.remappings,
    optimizer: { enabled: Boolean(options['--optimize']), runs: Number(options['--optimize-runs'] || 200) },
    outputSelection: { '*': { '': ['ast'], '*': outputs } },
  };
  if (options['--evm-version']) settings.evmVersion = options['--evm-version'];
  if (options['--via-ir']) settings.viaIR = true;
  if (options['--metadata-hash']) settings.metadata = { bytecodeHash: options['--metadata-hash'] };
  return settings;
}

function legacyFields(contract) {
  const { evm } = contract;
  return {
    abi: contract.abi, metadata: contract.metadata, devdoc: contract.devdoc, userdoc: contract.userdoc,
    bin: evm.bytecode.object, 'bin-runtime': evm.deployedBytecode.object, srcmap: evm.bytecode.sourceMap,
    'srcmap-runtime': evm.deployedBytecode.sourceMap, hashes: evm.methodIdentifiers, opcodes: evm.bytecode.opcodes,
    asm: evm.legacyAssembly, 'storage-layout': contract.storageLayout,
  };
}

function combinedJson(compiler, parsed) {
  const base = path.resolve(parsed.options['--base-path'] || '.');
  const sources = {};
  for (const file of parsed.files) {
    const inside = path.relative(base, path.resolve(file));
    sources[inside.startsWith('..') ? path.resolve(file) : inside] = { content: fs.readFileSync(file, 'utf8') };
  }
  const input = { language: 'Solidity', sources, settings: settingsFrom(parsed) };
  const output = JSON.parse(compiler.compile(JSON.stringify(input), { import: importer(parsed) }));
  for (const error of output.errors || []) process.stderr.write(`${error.formattedMessage}\n`);
  if ((output.errors || []).some((error) => error.severity === 'error')) process.exit(1);
  return JSON.stringify(combined(output, parsed.options['--combined-json'].split(','), compiler.version()));
}

function combined(output, wanted, version) {
  const result = { contracts: {}, sourceList: [], sources: {}, version };
  for (const [name, source] of Object.entries(output.sources).sort((a, b) => a[1].id - b[1].id)) {
    result.sourceList.push(name);
    result.sources[name] = wanted.includes('ast') ? { AST: source.ast } : {};
  }
  for (const [file, contracts] of Object.entries(output.contracts || {})) {
    for (const [name, contract] of Object.entries(contracts)) {
      const fields = Object.entries(legacyFields(contract)).filter(([key]) => wanted.includes(key));
      result.contracts[`${file}:${name}`] = Object.fromEntries(fields);
    }
  }
  return result;
}

function main() {
  const parsed = parse(process.argv.slice(2));
  const { options } = parsed;
  if (options['--help']) {
    // crytic-compile reads from this list what it may ask for
    process.stdout.write('solc\n  --combined-json abi,ast,bin,bin-runtime,devdoc,hashes,metadata,srcmap,srcmap-runtime,userdoc\n');
    return;
  }
  const compiler = loadCompiler();
  if (options['--version']) {
    process.stdout.write(`solc, the solidity compiler commandline interface\nVersion: ${compiler.version()}\n`);
  } else if (options['--standard-json']) {
    fs.writeFileSync(1, `${standardJson(compiler, parsed)}\n`);
  } else if (options['--combined-json']) {
    fs.writeFileSync(1, `${combinedJson(compiler, parsed)}\n`);
  } else {
    process.stderr.write(`solc.js knows --version, --standard-json and --combined-json, not: ${process.argv.slice(2).join(' ')}\n`);
    process.exitCode = 1;
  }
}

main();
