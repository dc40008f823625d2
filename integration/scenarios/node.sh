#!/usr/bin/env bash
# docker/node.Dockerfile on a Debian made on the spot, with a small CLI of Node in it, and
# docker/run_in_container, which runs it on a directory.
source "$(dirname "$0")/../lib.sh"
source integration/debian.sh

world
cli=$id-cli
debian_base services "$id-base"
context=$work/context
mkdir -p "$context/package"
build_programs "$context"
printf 'FROM scratch\nCOPY egress-init /\n' >"$work/egress-init.Dockerfile"
build_image "$id-egress-init" "$context" --file "$work/egress-init.Dockerfile"
cp docker/guard.cjs "$context/"
printf 'api.example.org\n' >"$context/allowed_domains.txt"
printf '{ "name": "beacon", "version": "1.0.0", "bin": { "beacon": "beacon.cjs" } }\n' >"$context/package/package.json"
cat >"$context/package/beacon.cjs" <<'JAVASCRIPT'
#!/usr/bin/env node
require('/etc/beacon-code/guard.cjs');
const fs = require('node:fs');
const net = require('node:net');
const connect = (to) => new Promise((done) => {
  const [host, port] = to.split(':');
  const socket = net.connect({ host, port, timeout: 2000 }, () => { done('ok'); socket.destroy(); });
  socket.on('error', (error) => done(`failed ${error.code}`));
  socket.on('timeout', () => { done('failed timeout'); socket.destroy(); });
});
const [action, ...words] = process.argv.slice(2);
const actions = {
  arguments: () => console.log(JSON.stringify(words)),
  get: async () => { for (const to of words) console.log(`get ${to} ${await connect(to)}`); },
  about: () => console.log(`about ${process.cwd()} ${process.getuid()}:${process.getgid()} tty=${!!process.stdin.isTTY}`
    + ` ${process.env.HOME} ${process.env.CODE_HOME} ${process.env.BEACON_UNSAFE_ALLOW_NO_SANDBOX} key=${process.env.OPENAI_API_KEY}`),
  status: () => console.log(fs.readFileSync('/proc/self/status', 'utf8')),
  exit: () => process.exit(Number(words[0])),
  echo: () => process.stdout.write(fs.readFileSync(0, 'utf8')),
  append: () => { fs.appendFileSync(words[0], words[1]); console.log(fs.readFileSync(words[0], 'utf8')); },
  wait: () => { console.log('waiting'); setInterval(() => {}, 1000); },
};
actions[action]();
JAVASCRIPT
chmod +x "$context/package/beacon.cjs"
tar --create --gzip --file "$context/beacon.tgz" --directory "$context" package
build_image "$cli" "$context" --file docker/node.Dockerfile --network none \
    --build-arg BASE="$id-base" --build-arg EGRESS_INIT="$id-egress-init"

run_image=$cli
everywhere=(get api.example.org:443 "$api4:444" "$other4:443" other.example.org:443)
four() { # the four connections of $everywhere: ok or failed each
    says "^get api.example.org:443 $1" && says "^get $(escaped "$api4"):444 $2" &&
        says "^get $(escaped "$other4"):443 $3" && says "^get other.example.org:443 $4"
}

scenario 'docker/node.Dockerfile'
run --env BEACON_CONTAINER=0 --entrypoint beacon -- "${everywhere[@]}"
row 'control: without egress-init everything is reached' four ok ok ok ok
before=$(arrivals other)
run --cap-add NET_ADMIN -- beacon "${everywhere[@]}"
row 'behind it the listed server alone' four ok failed failed failed
run --cap-add NET_ADMIN --env OPENAI_ALLOWED_DOMAINS=other.example.org -- beacon "${everywhere[@]}"
row 'OPENAI_ALLOWED_DOMAINS says which instead' four failed failed ok ok
row 'nothing else arrived at the other server' test 2 -eq $(($(arrivals other) - before))
run --cap-add NET_ADMIN -- beacon status
row 'the CLI is uid 1000 and has no capability' \
    eval 'says "^Uid:	1000	1000	1000	1000" && test 5 -eq "$(grep --count "^Cap.*:	0000000000000000" <<<"$output")"'
run --cap-add NET_ADMIN -- beacon about
row 'it finds the variables it knows' \
    says '^about /home/node 1000:1000 tty=false /home/node /home/node/.beacon-code 1 key=undefined'
run --entrypoint sh -- -c 'for tool in sudo iptables ip6tables ipset dig nft; do command -v $tool; done; true'
row 'there is no sudo, iptables, ipset, dig or nft in it' eval 'exits 0 && test -z "$output"'

scenario 'docker/node.Dockerfile with EGRESS_INIT_SUPERVISE=1'
before=$(arrivals other)
run --cap-add NET_ADMIN --env EGRESS_INIT_SUPERVISE=1 -- beacon "${everywhere[@]}"
row 'the listed server alone is reached' four ok failed failed failed
row 'by egress-init'"'"'s own DNS' says '^egress-init: firewall ready: .*dns proxy'
row 'nothing arrived at the other server' test "$before" -eq "$(arrivals other)"
run --cap-add NET_ADMIN --env EGRESS_INIT_SUPERVISE=1 -- beacon status
row 'the CLI is uid 1000 and has no capability' \
    eval 'says "^Uid:	1000	1000	1000	1000" && test 5 -eq "$(grep --count "^Cap.*:	0000000000000000" <<<"$output")"'

scenario 'the guard of a Node CLI'
run --entrypoint beacon -- arguments x
row 'without a firewall the CLI refuses to start' eval 'exits 1 && says "there is no sentinel" && not says x$'
printf '{}' >"$work/copied" && chmod 0444 "$work/copied"
run --mount "type=bind,source=$work/copied,target=/etc/beacon-code/firewall.ready,readonly" --entrypoint beacon -- arguments x
row 'a file in the place of the sentinel is no firewall' eval 'exits 1 && not says "\[\"x\"\]"'
run --env BEACON_ALLOW_UNSAFE_NO_FIREWALL=1 --entrypoint beacon -- arguments x
row 'the emergency bypass lets it start, and says so' eval 'exits 0 && says "BEACON_ALLOW_UNSAFE_NO_FIREWALL" && says "\[\"x\"\]"'
run --env BEACON_CONTAINER=0 --entrypoint beacon -- arguments x
row 'outside of a container it does not ask' exits 0
start agent --cap-add NET_ADMIN -- beacon wait
row 'behind the firewall it starts' until_true logged agent '^waiting'
exec_in agent -- beacon arguments x
row 'docker exec of a second one starts too' exits 0
as_root nsenter --target "$(docker inspect --format '{{.State.Pid}}' "$id-agent")" --net nft flush ruleset
exec_in agent -- beacon arguments x
row 'but not when the rules are gone' exits 1

# ------------------------------------------------------------------------------------------------

export BEACON_IMAGE=$cli CODE_HOME_VOLUME=$id-home OPENAI_API_KEY='sk-a key'
export DOCKER_RUN_OPTIONS="--network $net --dns $dns4 ${labels[*]}"
docker volume create "${labels[@]}" --name "$id-labelled" >/dev/null
trap 'left=$?; set +e; docker ps --all --quiet --filter "volume=$id-home" | xargs --no-run-if-empty docker rm --force >/dev/null; docker volume rm "$id-home" >/dev/null 2>&1; (exit "$left"); finish' EXIT
project="$work/a project, with \"quotes\""
mkdir "$project"
chmod a+x "$work"
as_root chown 4242:4343 "$project"
in_container() {
    code=0
    output=$(timeout 60 docker/run_in_container "$@" 2>&1 </dev/null) || code=$?
}
containers() { docker ps --all --quiet --filter "ancestor=$cli" --filter "volume=$id-home"; }

scenario 'docker/run_in_container'
in_container --work_dir "$project" -- arguments 'a b' "it's" '"q"' '$HOME' '' $'two\nlines' '--allow' '*' 'é'
row 'arguments arrive as they are' says '^\["a b","it'\''s","\\"q\\"","\$HOME","","two\\nlines","--allow","\*","é"\]$'
in_container --work_dir "$project" about
row "it works in the directory, as its owner, without a terminal" \
    says "^about /app$(escaped "$project") 4242:4343 tty=false /home/node /home/node/.beacon-code 1 key=sk-a key"
in_container --work_dir "$project" append result 'made here'
row 'what it writes there is there, and the owner'\''s' \
    eval 'test "made here" = "$(as_root cat "$project/result")" && test 4242:4343 = "$(stat --format %u:%g "$project/result")"'
in_container --work_dir="$project" append /home/node/.beacon-code/state one
in_container --work_dir "$project" append /home/node/.beacon-code/state ,two
row 'CODE_HOME is kept from one run to the next' says '^one,two$'
in_container --work_dir "$project" exit 42
row 'the exit code is that of the CLI' exits 42
code=0
output=$(printf 'from\nstdin' | docker/run_in_container --work_dir "$project" echo 2>/dev/null) || code=$?
row 'standard input arrives, standard output has nothing else in it' test "$output" = $'from\nstdin'
in_container --work_dir "$project" "${everywhere[@]}"
row 'the listed server is reached, no other' four ok failed failed failed
in_container --work_dir "$project" --allow "other.example.org:443" --allow="$api4:444" "${everywhere[@]}"
row '--allow says what instead' four failed ok ok ok
OPENAI_ALLOWED_DOMAINS=other.example.org in_container --work_dir "$project" "${everywhere[@]}"
row 'and so does OPENAI_ALLOWED_DOMAINS' four failed failed ok ok
in_container --supervise --work_dir "$project" --allow '*.example.org' --allow other.example.org "${everywhere[@]}"
row '--supervise takes a wildcard; a private address takes a name of its own' four failed failed ok ok
in_container --supervise --work_dir "$project" exit 42
row '--supervise: the exit code is that of the CLI' exits 42
in_container --work_dir "$project" status
row 'the CLI has no capability and no new privileges' \
    eval 'says "^NoNewPrivs:	1" && test 5 -eq "$(grep --count "^Cap.*:	0000000000000000" <<<"$output")"'
in_container --work_dir "$project" --allow nowhere.example.org arguments x
row 'a name that does not exist: 125, and the CLI does not start' eval 'exits 125 && says nowhere.example.org && not says "^\["'
in_container --work_dir "$work/none" arguments x
row 'a directory that does not exist: 125, it is named' eval 'exits 125 && says "$work/none"'
if [[ $(script --version 2>&1) ]]; then
    output=$(script --quiet --return --command "docker/run_in_container --work_dir '$project' about" /dev/null </dev/null 2>&1)
    row 'on a terminal it has one' says 'tty=true'
fi
(cd "$project" && exec "$OLDPWD/docker/run_in_container" wait) >"$work/one" 2>&1 &
one=$!
(cd "$project" && exec "$OLDPWD/docker/run_in_container" wait) >"$work/two" 2>&1 &
two=$!
waits() { grep --quiet waiting "$1"; }
row 'two on one directory do not collide' eval 'until_true waits "$work/one" && until_true waits "$work/two"'
kill -INT "$one"
code=0
wait "$one" || code=$?
output=$(cat "$work/one")
row 'Ctrl-C ends one of them: 130' exits 130
row 'the other goes on' test 1 -eq "$(containers | wc --lines)"
kill -TERM "$two"
code=0
wait "$two" || code=$?
output=$(cat "$work/two")
row 'SIGTERM ends it: 143' exits 143
gone() { [[ -z $(containers) ]]; }
row 'no container is left of any of them' until_true gone
