// Compiles and tests the contract with the compiler that npm brought: nothing is downloaded.
const { subtask } = require('hardhat/config');
const { TASK_COMPILE_SOLIDITY_GET_SOLC_BUILD } = require('hardhat/builtin-tasks/task-names');
const { version } = require('solc/package.json');
const { settings } = require('./contracts/compiler.json');

subtask(TASK_COMPILE_SOLIDITY_GET_SOLC_BUILD, async () => ({
  compilerPath: require.resolve('solc/soljson.js'),
  isSolcJs: true,
  version,
  longVersion: require('solc').version().replace('.Emscripten.clang', ''),
}));

/** @type import('hardhat/config').HardhatUserConfig */
module.exports = {
  solidity: { version, settings },
  networks: {
    hardhat: { chainId: 31337 },
    localhost: { url: process.env.RPC_URL || 'http://127.0.0.1:8545' },
  },
  paths: { sources: 'contracts', tests: 'tests/contracts', cache: 'cache/hardhat', artifacts: 'cache/hardhat-artifacts' },
  mocha: { timeout: 60000 },
};
