// A js-libp2p peer that knows nothing of fl-node: pings, identifies, and asks on the exchange protocol.
// usage: node client.mjs MULTIADDR HEX_OF_A_FRAME; prints one line of JSON.
import './polyfill.mjs'
import { createLibp2p } from 'libp2p'
import { tcp } from '@libp2p/tcp'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { multiaddr } from '@multiformats/multiaddr'

const [address, frame] = process.argv.slice(2)
const node = await createLibp2p({
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), ping: ping() }
})
await node.start()
const connection = await node.dial(multiaddr(address))
const milliseconds = await node.services.ping.ping(multiaddr(address))
const identified = await node.services.identify.identify(connection)
const stream = await connection.newStream('/fl-node/exchange/1')
stream.send(Buffer.from(frame, 'hex'))
const received = []
for await (const piece of stream) received.push(piece.subarray())
console.log(JSON.stringify({
  milliseconds,
  muxer: connection.multiplexer,
  encryption: connection.encryption,
  agent: identified.agentVersion,
  protocols: identified.protocols,
  reply: Buffer.concat(received).toString('hex')
}))
await node.stop()
