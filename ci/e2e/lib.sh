# Read by the end-to-end scripts: results as lines, clean-up at the end, and the programs they need.
# shellcheck shell=bash
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit

cache=${WASMKIND_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/wasmkind}
wasmkind=${WASMKIND:-bin/wasmkind}
work=$(mktemp -d)
# Messages reach the caller from inside a redirection too.
exec 3>&2
failures=0
# A cluster of the caller's must not be touched, nor be where a test looks by mistake.
export KUBECONFIG=$work/kubeconfig
unset KIND_CLUSTER_NAME KIND_EXPERIMENTAL_PROVIDER

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&3; }
die() { say "$*" && exit 1; }
# Ends a script that lacks what it tests, before it checks anything; ci/test says so.
skip() { say "$*" && exit 77; }

# defer COMMAND...: runs at the end whatever happens, the last one first.
deferred=()
defer() { deferred+=("$(printf '%q ' "$@")"); }
finish() {
  local code=$? index
  trap '' INT TERM
  for ((index = ${#deferred[@]} - 1; index >= 0; index--)); do
    eval "${deferred[index]}" >>"$work/clean-up" 2>&1 || say "clean-up failed: ${deferred[index]}: $(tail -n 3 "$work/clean-up")"
  done
  rm -rf "$work"
  [ "$failures" = 0 ] || code=1
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# check NAME COMMAND...: one behaviour, with its time. What the command printed shows why it failed.
# Its variables have names of their own, as the functions that it calls see them.
check() {
  local check_name=$1 check_began=$SECONDS
  shift
  if "$@" >"$work/output" 2>&1; then
    echo "ok $check_name ($((SECONDS - check_began)) s)"
  else
    echo "not ok $check_name ($((SECONDS - check_began)) s): $*"
    tail -n 40 "$work/output" | sed 's/^/    /'
    failures=$((failures + 1))
    return 1
  fi
}

# within SECONDS COMMAND...: until it succeeds; then prints what it printed last.
within() {
  local end=$((SECONDS + $1)) answer
  shift
  until answer=$("$@" 2>&1); do
    if [ $SECONDS -ge $end ]; then
      printf '%s\n' "$answer"
      return 1
    fi
    sleep 0.5
  done
  printf '%s\n' "$answer"
}

# equals EXPECTED COMMAND...: its standard output is that, but for the last line's end.
equals() {
  local expected=$1 answer
  shift
  answer=$("$@") || return
  [ "$answer" = "$expected" ] || { printf 'expected: %s\nanswer:   %s\n' "$expected" "$answer" && return 1; }
}

# contains TEXT COMMAND...
contains() {
  local text=$1 answer
  shift
  answer=$("$@" 2>&1) || { printf '%s\n' "$answer" && return 1; }
  [[ $answer == *"$text"* ]] || { printf 'without %s: %s\n' "$text" "$answer" && return 1; }
}

# parts: containers of the cluster $name and their volumes; removed LIST: none of them exists any more.
parts() {
  docker ps -aq --filter label=io.x-k8s.kind.cluster=$name \
    | xargs -r docker inspect -f '{{.Id}}{{range .Mounts}}{{if eq .Type "volume"}} {{.Name}}{{end}}{{end}}'
}
removed() {
  local part
  [ -n "$1" ] || { echo "there was nothing to remove" && return 1; }
  for part in $1; do fails docker inspect "$part" || return; done
}

# fails COMMAND...: it must not succeed.
fails() { if "$@"; then echo "succeeded: $*" && return 1; fi; }

# built MODULE BINARY: path of a program built from its Go module in ci/e2e, once per go.sum.
built() {
  local module=$1 binary=$2 package sum path
  package=$(awk '$1 == "tool" { print $2 }' "ci/e2e/$module/go.mod")
  sum=$(cat "ci/e2e/$module/go.mod" "ci/e2e/$module/go.sum" | sha256sum | cut -c1-16)
  path=$cache/e2e-$module-$sum/$binary
  if [ ! -x "$path" ]; then
    say "building $binary from its Go module"
    (cd "ci/e2e/$module" && CGO_ENABLED=0 GOFLAGS='' GOWORK=off go build -mod=readonly -trimpath -ldflags '-s -w' -o "$path.new" "$package") >&2 \
      && mv "$path.new" "$path" || die "go build $package failed"
  fi
  echo "$path"
}

# node_image: sets $image to wasmkind's node image, which is built if its inputs changed.
node_image() {
  image=${WASMKIND_NODE_IMAGE:-}
  if [ -z "$image" ]; then
    image=wasmkind/node:latest
    [ -x $wasmkind ] || die "$wasmkind is not built: make build"
    $wasmkind build node-image --image $image >"$work/build" 2>&1 || die "$wasmkind build node-image failed: $(tail -n 5 "$work/build")"
  fi
  # A machine without kubectl has the one that was built for the node.
  if ! command -v kubectl >/dev/null; then
    mkdir "$work/bin"
    ln -s "$(ls -t "$cache"/go-kubernetes-*/kube | head -n 1)" "$work/bin/kubectl" || die "kubectl is not installed, and the offline base, which has one, is not built"
    PATH=$work/bin:$PATH
  fi
}

# The conformance suite: its outcomes by case, in columns.
expected=cli/src/conformance/expected.tsv

# conformance_cluster ARGUMENT...: the cluster $name, with a RuntimeClass that runs no Wasm as well.
conformance_cluster() {
  defer $wasmkind delete cluster --name $name
  $wasmkind create cluster --name $name "$@" >"$work/create" 2>&1 || die "$(cat "$work/create")"
  printf 'apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: { name: runc }\nhandler: runc\n' \
    | kubectl --context kind-$name apply -f - >"$work/create" 2>&1 || die "$(cat "$work/create")"
}

# outcomes REPORT [INDEX]: a line a case with its outcome in that column of the report, by name. A case
# that failed when its time was over has `waited`: on a busy machine it may be no more than slow.
outcomes() {
  jq -r --argjson index "${2:-0}" '.cases | sort_by(.name)[] | .results[$index] as $run
    | [.name, if $run.timed_out then "waited" else $run.outcome end] | @tsv' "$1"
}

# column NAME: the same of the table.
column() {
  awk -F '\t' -v name="$1" '
    NR == 1 { for (i = 2; i <= NF; i++) if ($i == name) column = i; if (!column) exit 1; next }
    { print $1 "\t" $column }' $expected
}

# as_expected REPORT COLUMN [INDEX]: the outcomes are those of the table, but for who waited in either.
as_expected() {
  local differences
  differences=$(diff <(column "$2") <(outcomes "$1" "${3:-0}") | grep '^[<>]' | sort -k 2 \
    | awk '$2 != name { name = $2; line = $0; waited = /waited/; next } !waited && !/waited/ { print line "\n" $0 }')
  [ -z "$differences" ] || { printf 'in the table (<) and found (>):\n%s\n' "$differences" && return 1; }
}

# bless COLUMN: puts the outcomes on stdin into the table.
bless() {
  awk -F '\t' -v OFS='\t' -v name="$1" '
    FNR == NR { found[$1] = $2; next }
    FNR == 1 { for (i = 2; i <= NF; i++) if ($i == name) column = i; if (!column) { column = NF + 1; $column = name } print; next }
    { $column = found[$1]; print }' - $expected >"$work/table" && cp "$work/table" $expected
}
