// The first line of a CLI: require('/etc/beacon-code/guard.cjs'). In a container it ends the process
// unless the firewall's sentinel verifies and its rules are live; `check` says why on stderr.
const { spawnSync } = require('node:child_process');
const guarded = process.env.BEACON_CONTAINER === '1';
if (guarded && spawnSync('/egress-init', ['check'], { stdio: 'inherit' }).status !== 0) process.exit(1);
