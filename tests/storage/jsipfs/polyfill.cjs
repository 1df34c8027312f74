// Node.js 20 lacks Promise.withResolvers, which a transitive dependency of ipfs@0.66.1 uses by now
if (!Promise.withResolvers) {
  Promise.withResolvers = function () {
    let resolve, reject
    const promise = new this((a, b) => { resolve = a; reject = b })
    return { promise, resolve, reject }
  }
}
