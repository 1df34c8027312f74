// js-ipfs with yamux beside its own mplex, which fl-node does not speak: `node bitswap.mjs REPOSITORY`.
// Prints {"id", "address"}, then obeys JSON lines: {"connect": ADDRESS}, {"cat": CID}, {"add": {NAME: BASE64}}.
import { create } from 'ipfs-core'
import { yamux } from '@chainsafe/libp2p-yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createInterface } from 'node:readline'

const loopback = '/ip4/127.0.0.1/tcp/0'
const ipfs = await create({
  repo: process.argv[2],
  silent: true,
  init: { emptyRepo: true, profiles: ['test'] },
  preload: { enabled: false },
  libp2p: { streamMuxers: [yamux()] },
  config: {
    Addresses: { Swarm: [loopback], API: '', Gateway: '', RPC: '', Delegates: [] },
    Bootstrap: [],
    Discovery: { MDNS: { Enabled: false }, webRTCStar: { Enabled: false } },
    Routing: { Type: 'none' },
    Pubsub: { Enabled: false }
  }
})

async function obey ({ connect, cat, add }) {
  if (connect) {
    await ipfs.swarm.connect(multiaddr(connect))
    return {}
  }
  if (cat) {
    const parts = []
    for await (const part of ipfs.cat(cat, { timeout: 30000 })) parts.push(part)
    return { content: Buffer.concat(parts).toString('base64') }
  }
  const files = Object.entries(add).map(([path, content]) => ({ path, content: Buffer.from(content, 'base64') }))
  const options = { cidVersion: 1, rawLeaves: true, chunker: 'size-262144', wrapWithDirectory: true }
  let root
  for await (const entry of ipfs.addAll(files, options)) root = entry
  return { cid: root.cid.toString() }
}

const { id, addresses } = await ipfs.id()
console.log(JSON.stringify({ id: id.toString(), address: addresses.map(String).find(one => one.includes('/tcp/')) }))
for await (const line of createInterface({ input: process.stdin })) {
  const answer = await obey(JSON.parse(line)).catch(error => ({ error: String(error) }))
  console.log(JSON.stringify(answer))
}
process.exit(0)
