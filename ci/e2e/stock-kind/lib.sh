# Read after ../lib.sh by the scripts that run stock kind.
# shellcheck shell=bash

bounded_runtime=wasmkind-bounded
daemon_config=/etc/docker/daemon.json

# Lets `docker run --privileged` work, as all of stock kind depends on it. On a host whose bounding
# set lacks a capability, dockerd gets a runtime for the length of the test that does without.
allow_privileged() {
  local answer pid
  if answer=$(try_privileged); then return; fi
  [[ $answer == *"unable to apply caps"* ]] || die "docker run --privileged fails: $answer"
  pid=$(cat /var/run/docker.pid 2>/dev/null) && [ "$(id -u)" = 0 ] && [ -d "/proc/$pid" ] \
    || die "this host lacks a capability of docker run --privileged, which stock kind needs; the test could give dockerd a runtime that does without, but only as root and with a local dockerd"
  say "this host lacks a capability that docker run --privileged asks for: while this test runs, dockerd's default runtime is one that drops it"
  mkdir -p "$cache/bounded-runc" "$(dirname $daemon_config)"
  # A copy: Docker runs it for as long as a container lives.
  install ci/e2e/stock-kind/bounded-runc "$cache/bounded-runc/runc"
  if [ -e $daemon_config ]; then cp -p $daemon_config "$work/daemon.json"; fi
  defer restore_runtime "$pid"
  configure_daemon "$pid" "$(original_daemon_config | jq --arg name $bounded_runtime --arg path "$cache/bounded-runc/runc" \
    '.runtimes[$name] = {path: $path} | ."default-runtime" = $name')"
  within 10 equals $bounded_runtime docker info -f '{{.DefaultRuntime}}' >"$work/output" || die "dockerd did not take the runtime: $(cat "$work/output")"
  answer=$(try_privileged) || die "docker run --privileged still fails: $answer"
}

try_privileged() { docker run --rm --privileged --network none --entrypoint /bin/true "$image" 2>&1; }

original_daemon_config() { if [ -e "$work/daemon.json" ]; then cat "$work/daemon.json"; else echo '{}'; fi; }

configure_daemon() {
  printf '%s\n' "$2" >$daemon_config
  kill -HUP "$1"
}

restore_runtime() {
  local default restored
  default=$(original_daemon_config | jq -r '."default-runtime" // "runc"')
  # What the file no longer names stays as it was, so the first reload names it.
  restored=$(original_daemon_config | jq --arg default "$default" '."default-runtime" = $default')
  if docker ps -aq | xargs -r docker inspect -f '{{.HostConfig.Runtime}}' | grep -qx $bounded_runtime; then
    say "a container uses the runtime $bounded_runtime still: dockerd keeps it until it restarts"
  else
    restored=$(jq '.runtimes //= {}' <<<"$restored")
  fi
  configure_daemon "$1" "$restored"
  within 10 equals "$default" docker info -f '{{.DefaultRuntime}}'
  if [ -e "$work/daemon.json" ]; then cp -p "$work/daemon.json" $daemon_config; else rm -f $daemon_config; fi
}

# kubelets from 1.35 on refuse cgroup v1 unless told, and systemd does not manage it for them.
cgroup_patches() {
  [ "$(docker info -f '{{.CgroupVersion}}')" = 1 ] || return 0
  cat <<'EOT'
kubeadmConfigPatches:
- |
  kind: KubeletConfiguration
  failCgroupV1: false
  cgroupDriver: cgroupfs
EOT
}
