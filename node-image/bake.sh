#!/bin/sh
# Runs in a build container made from the base image and leaves there what becomes the next layer:
# images imported and unpacked where nodes use them in place, and their Wasm compiled.
#
# /wasmkind-bake is a volume: scratch space that can hold overlay mounts and is not committed.
# Prints lines for a person; the last, which starts with "components ", is JSON.
set -eu

scratch=/wasmkind-bake
inputs=/wasmkind-build
shared=/kind/containerd
root=$scratch/root
containerd_root=/var/lib/containerd
snapshotter=io.containerd.snapshotter.v1.overlayfs
# Deprecation warnings of ctr would end up among the answers.
exec 2>&1
export CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=true CONTAINERD_ADDRESS=$scratch/containerd.sock CONTAINERD_NAMESPACE=k8s.io

fail() {
	echo "error: $*"
	exit 1
}

# The state of the base, if it has one: kind's images carry their content there.
mkdir -p $root $scratch/state
if [ -d $containerd_root ]; then cp -a $containerd_root/. $root/; fi

containerd --config /etc/containerd/config.toml --root $root --state $scratch/state --address $CONTAINERD_ADDRESS >$scratch/containerd.log 2>&1 &
containerd_pid=$!
tries=0
until ctr version >/dev/null 2>&1; do
	tries=$((tries + 1))
	if [ $tries -gt 100 ] || ! kill -0 $containerd_pid 2>/dev/null; then
		fail "containerd of the base image did not start: $(grep -v level=info $scratch/containerd.log | tail -n 1)"
	fi
	sleep 0.1
done

for archive in $inputs/images/*.tar; do
	[ -e "$archive" ] || continue
	echo "importing $(basename "$archive" .tar)"
	ctr images import --local --label io.cri-containerd.pinned=pinned --snapshotter overlayfs "$archive" >$scratch/import.log 2>&1 ||
		fail "$(basename "$archive"): $(tail -n 1 $scratch/import.log)"
	rm "$archive"
done

# kind's own images are only fetched, not unpacked: each node would pay for it at its start.
ctr images ls | awk 'NR > 1 { print $1, $3 }' | sort -u -k2,2 >$scratch/images
while read -r image digest; do
	case $image in sha256:*) continue ;; esac
	if ctr images check name=="$image" 2>/dev/null | grep -q ' false$'; then
		echo "unpacking $image"
		ctr snapshots unpack "$digest" >/dev/null 2>$scratch/unpack.log || fail "$image: $(tail -n 1 $scratch/unpack.log)"
	fi
done <$scratch/images

# Directories that are a layer already, as part of the base: "CHAIN_ID FOLDER". Looking for a
# snapshot's folder makes a view, whose own folder may outlive it.
newest=$(ls $root/$snapshotter/snapshots 2>/dev/null | sort -n | tail -n 1)
: >$scratch/links
for list in /kind/layers/*.chain; do
	[ -e "$list" ] || continue
	while read -r chain folder; do
		ctr snapshots info "$chain" >/dev/null 2>&1 || continue
		# The topmost folder of the snapshot: the first lower layer of an overlay, or the one bind.
		fs=$(ctr snapshots view --mounts "wasmkind-look-$chain" "$chain" 2>/dev/null | tr -d ' \n\t' |
			sed -E 's|.*lowerdir=([^:",]*).*|\1|; s|.*"Source":"([^"]*)".*|\1|')
		ctr snapshots rm "wasmkind-look-$chain" >/dev/null 2>&1 || true
		echo "$fs $folder" >>$scratch/links
	done <"$list"
done

kill $containerd_pid
wait $containerd_pid 2>/dev/null || true
rm -rf $root/io.containerd.grpc.v1.introspection $root/tmpmounts

mkdir -p $shared/snapshots $shared/blobs
while read -r fs folder; do
	case $fs in "$root"/*) ;; *) fail "unexpected snapshot folder $fs" ;; esac
	rm -rf "$fs"
	ln -s "$folder" "$fs"
done <$scratch/links

for fs in $root/$snapshotter/snapshots/*/fs; do
	[ -d "$fs" ] && [ ! -L "$fs" ] || continue
	name=$(basename "$(dirname "$fs")")
	if [ "$name" -gt "$newest" ]; then
		rm -rf "$(dirname "$fs")"
		continue
	fi
	# A whiteout, a device 0:0, cannot be made in a layer of an image: it would hide itself. Such a
	# snapshot stays in /var, and each node copies it.
	if [ -n "$(find "$fs" -type c -print -quit)" ]; then continue; fi
	rm -rf "${shared:?}/snapshots/$name"
	cp -a "$fs" "$shared/snapshots/$name"
	rm -rf "$fs"
	ln -s "$shared/snapshots/$name" "$fs"
done
for blob in $root/io.containerd.content.v1.content/blobs/sha256/*; do
	[ -f "$blob" ] && [ ! -L "$blob" ] || continue
	# Manifests and configurations stay: a link would save nothing.
	if [ "$(stat -c %s "$blob")" -le 65536 ]; then continue; fi
	cp -a "$blob" "$shared/blobs/"
	ln -sf "$shared/blobs/$(basename "$blob")" "$blob"
done
rm -rf $containerd_root
mkdir -p $containerd_root
cp -a $root/. $containerd_root/

compiler=/usr/local/libexec/wasmkind/wasmkind-compiler
if [ -x $compiler ]; then
	find $shared/snapshots -xdev -type f \( -name '*.wasm' -o -name '*.wat' \) | while read -r module; do
		echo "compiling $(basename "$module")"
		$compiler compile --cache /var/lib/wasmkind/cache --name "/$(basename "$module")" "$module" >/dev/null 2>$scratch/compile.log || {
			# Not this image's fault: the Pod that runs it reports it.
			echo "skipped: $(tail -n 1 $scratch/compile.log)"
		}
	done
fi

version() { "$@" 2>/dev/null | head -n 1 | grep -oE '[0-9]+\.[0-9]+\.[0-9]+[^ ,]*' | head -n 1; }
kubernetes=$(cat /kind/version)
names=$(kubeadm config images list --kubernetes-version "$kubernetes" 2>/dev/null)
pause=$(sed -nE 's/^ *(sandbox_image|sandbox) = ["'"'"']([^"'"'"']+)["'"'"'].*/\2/p' /etc/containerd/config.toml | head -n 1)
{
	printf 'components {"kubernetes":"%s","containerd":"%s","runc":"%s","images":{' "$kubernetes" "$(version containerd --version)" "$(version runc --version)"
	for name in kube-apiserver kube-controller-manager kube-scheduler kube-proxy etcd coredns; do
		printf '"%s":"%s",' $name "$(echo "$names" | grep "/$name:" | head -n 1)"
	done
	printf '"pause":"%s"}}\n' "${pause:-$(echo "$names" | grep '/pause:' | head -n 1)}"
}
rm -rf $inputs
