#!/usr/bin/env bash
# Builds examples, runs what was built, and compares what it prints with the example's expected.txt.
#   examples/build.sh NAME… | all [-- OPTIONS OF arkwright build]
# Works in the store that arkwright uses by default, or in that of ARKWRIGHT_ROOT; missing bases are made.
# The host's proxies, package indexes and certificate authorities go into the steps that download.
set -euo pipefail
examples=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
umask 022
all=(monorepo onbuild heredocs apt-cache secrets-ssh django node-lockfile multi-arch java go-dag)

usage() { sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; echo "  NAME: ${all[*]}"; }
die() { printf 'build.sh: %s\n' "$*" >&2; exit 1; }

# The program: ARKWRIGHT (words split at spaces), the clone's own, or what PATH has.
program=(arkwright)
if [ -n "${ARKWRIGHT:-}" ]; then
  read -ra program <<<"$ARKWRIGHT"
elif [ -x "$examples/../.venv/bin/python" ]; then
  program=("$examples/../.venv/bin/python" -m arkwright)
fi
arkwright() { "${program[@]}" "$@"; }

names=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    all) names+=("${all[@]}") ;;
    *) [[ " ${all[*]} " = *" $1 "* ]] || { usage >&2; die "no example $1"; }; names+=("$1") ;;
  esac
  shift
done
[ ${#names[@]} -gt 0 ] || { usage >&2; exit 2; }
[ $# -eq 0 ] || shift
options=("$@")

work=$(mktemp -d "${TMPDIR:-/tmp}/arkwright-examples.XXXXXX")
clean_up() {
  [ -z "${SSH_AGENT_PID:-}" ] || [ -z "${own_agent:-}" ] || kill "$SSH_AGENT_PID" 2>/dev/null || true
  rm -rf "$work"
}
trap clean_up EXIT

base() { arkwright inspect "$1" >/dev/null 2>&1 || arkwright bootstrap --quiet "$1" >/dev/null; }

# What downloads need here. Values that are nobody's business are secrets, and never build arguments.
host_settings() {
  local name authorities index registry
  proxies=() settings=()
  for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
    [ -z "${!name:-}" ] || proxies+=(--build-arg "$name")
  done
  printf '[global]\n' >"$work/pip.conf"
  : >"$work/npmrc"
  authorities=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
  if [ -r "$authorities" ]; then
    settings+=(--secret "id=ca.crt,src=$authorities")
    echo 'cert = /run/secrets/ca.crt' >>"$work/pip.conf"
    echo 'cafile=/run/secrets/ca.crt' >>"$work/npmrc"
  fi
  index=${PIP_INDEX_URL:-$(pip config get global.index-url 2>/dev/null || true)}
  [ -z "$index" ] || echo "index-url = $index" >>"$work/pip.conf"
  registry=${npm_config_registry:-$(npm config get registry 2>/dev/null || true)}
  if [[ "$registry" = http* ]]; then
    echo "registry=$registry" >>"$work/npmrc"
    settings+=(--build-arg "NPM_REGISTRY=$(sed 's|//[^/]*@|//|; s|/$||' <<<"$registry")")
  fi
  settings+=(--secret "id=pip.conf,src=$work/pip.conf" --secret "id=npmrc,src=$work/npmrc")
}

# An agent with a key made for the occasion, or with that of EXAMPLES_SSH_KEY.
start_agent() {
  command -v ssh-agent >/dev/null || die "secrets-ssh needs ssh-agent: apt-get install openssh-client"
  own_agent=1
  eval "$(ssh-agent -s -a "$work/agent.sock")" >/dev/null
  if [ -n "${EXAMPLES_SSH_KEY:-}" ]; then
    (umask 077 && cat "$EXAMPLES_SSH_KEY" >"$work/key")
  else
    ssh-keygen -q -t ed25519 -N '' -C examples -f "$work/key"
  fi
  ssh-add -q "$work/key"
}

# image NAME DIRECTORY OPTIONS…: build it, show the end of the log, or all of it if it failed.
image() {
  local log=$work/$1.log
  if ! arkwright build --progress plain --tag "$1" "${@:3}" "$2" >"$log" 2>&1; then
    cat "$log" >&2
    die "$1 was not built"
  fi
  tail -n 1 "$log"
}

# built NAME OPTIONS…: build an example's directory.
built() { image "example-$1" "$examples/$1" "${proxies[@]}" "${@:2}" "${options[@]}" >&2; }

# One function an example: it builds, and prints what the result prints.
build_apt-cache() { built apt-cache; arkwright run example-apt-cache; }
build_heredocs() { built heredocs; arkwright run example-heredocs; }
build_java() { built java; arkwright run example-java; }
build_monorepo() { built monorepo; arkwright run example-monorepo; }

build_onbuild() {
  image onbuild-base "$examples/onbuild/base" >&2
  image example-onbuild "$examples/onbuild/app" "${options[@]}" --build-arg SITE_TITLE='All about tea' >&2
  arkwright run example-onbuild show
}

build_go-dag() { built go-dag --build-arg VERSION=1.4.0; arkwright run example-go-dag -version; }

build_multi-arch() {
  built multi-arch --platform linux/amd64,linux/arm64
  arkwright run example-multi-arch
}

build_node-lockfile() {
  built node-lockfile "${settings[@]}"
  arkwright run example-node-lockfile node src/server.js --once
}

build_django() {
  built django "${settings[@]}"
  arkwright run -e DJANGO_SECRET_KEY=only-to-look -e GUESTBOOK_DB=:memory: example-django python manage.py smoke
}

build_secrets-ssh() {
  local DEPLOY_TOKEN
  start_agent >&2
  printf 'machine %s login ci password %s\n' git.example.com "${EXAMPLES_PASSWORD:-one-of-two}" \
    artifacts.example.com "${EXAMPLES_PASSWORD:-two-of-two}" >"$work/netrc"
  export DEPLOY_TOKEN=${EXAMPLES_TOKEN:-deploy:0123456789abcdef}
  built secrets-ssh --secret "id=netrc,src=$work/netrc" --secret id=deploy-token,env=DEPLOY_TOKEN --ssh default
  arkwright run example-secrets-ssh
}

# What programs print about their architecture is written down for amd64.
expected() {
  case "$(uname -m)" in
    aarch64) sed 's/amd64/arm64/; s/x86_64/aarch64/' "$examples/$1/expected.txt" ;;
    *) cat "$examples/$1/expected.txt" ;;
  esac
}

host_settings
for name in "${names[@]}"; do
  printf '# %s\n' "$name"
  case "$name" in monorepo | onbuild) base busybox ;; *) base debian:bookworm ;; esac
  start=$EPOCHREALTIME
  "build_$name" >"$work/printed.txt"
  end=$EPOCHREALTIME
  sed 's/^/  /' "$work/printed.txt"
  diff -u --label expected --label printed <(expected "$name") "$work/printed.txt" >&2 ||
    die "$name printed something else"
  printf 'ok %s, %d ms\n' "$name" $(((${end/./} - ${start/./}) / 1000))
done
