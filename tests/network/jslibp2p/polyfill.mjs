// Node.js 20 lacks what libp2p 3 uses of Node.js 22.
Promise.withResolvers ??= function () {
  let resolve, reject
  const promise = new Promise((ok, no) => { resolve = ok; reject = no })
  return { promise, resolve, reject }
}
