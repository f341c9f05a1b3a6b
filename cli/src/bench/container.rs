//! Create and start of a container, through containerd's own API: no Pod, no network.

use std::time::Instant;

use serde_json::{Value, json};

use super::api::{self, Empty, Id};
use super::node::{Node, Side, containers, milliseconds, snapshots, tasks};
use super::report::Row;
use super::{Interrupt, Options, Result, in_turns};

const STAGES: [&str; 2] = ["create", "start"];
const SIGKILL: u32 = 9;

/// A row for each call, and one for their sum.
pub(super) async fn rounds(
    node: &Node,
    sides: &[Side; 2],
    options: &Options,
    interrupt: &Interrupt,
) -> Result<Vec<Row>> {
    in_turns(STAGES, sides, options, interrupt, async |side, round| {
        let id = format!("wasmkind-bench-{}-{}-{round}", node.run, side.handler);
        let times = start(node, side, &id).await?;
        remove(node, id).await?;
        Ok(times)
    })
    .await
}

/// Starts a container of the default form, and gives the milliseconds of the task's two calls.
async fn start(node: &Node, side: &Side, id: &str) -> Result<[f64; 2]> {
    let container = api::Container {
        id: id.to_owned(),
        labels: node.labels(),
        image: side.image.clone(),
        runtime: Some(api::Runtime {
            name: side.runtime.clone(),
        }),
        spec: Some(api::Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".to_owned(),
            value: spec(side, id).to_string().into_bytes(),
        }),
        snapshotter: node.snapshotter.clone(),
        snapshot_key: id.to_owned(),
    };
    let request = api::OneContainer {
        container: Some(container),
    };
    let _: api::OneContainer = node.call(&containers("Create"), &request).await?;
    let request = api::PrepareSnapshotRequest {
        snapshotter: node.snapshotter.clone(),
        key: id.to_owned(),
        parent: side.chain_id.clone(),
        labels: node.labels(),
    };
    let snapshot: api::PrepareSnapshotResponse = node.call(&snapshots("Prepare"), &request).await?;

    let mut times = [0.0; 2];
    let began = Instant::now();
    let request = api::CreateTaskRequest {
        container_id: id.to_owned(),
        rootfs: snapshot.mounts,
    };
    let _: Empty = node.call(&tasks("Create"), &request).await?;
    times[0] = milliseconds(began.elapsed());

    let began = Instant::now();
    let request = Id { id: id.to_owned() };
    let _: Empty = node.call(&tasks("Start"), &request).await?;
    times[1] = milliseconds(began.elapsed());
    Ok(times)
}

/// Removes a container as far as it came to be.
pub(super) async fn remove(node: &Node, id: String) -> Result<()> {
    let kill = api::KillRequest {
        container_id: id.clone(),
        signal: SIGKILL,
        all: true,
    };
    let only_id = Id { id: id.clone() };
    // Neither is there when the task could not be created.
    if node.call::<_, Empty>(&tasks("Kill"), &kill).await.is_ok() {
        let _: Empty = node.call(&tasks("Wait"), &only_id).await?;
    }
    let task = node.call::<_, Empty>(&tasks("Delete"), &only_id).await;
    let _: Empty = node.call(&containers("Delete"), &only_id).await?;
    let request = api::RemoveSnapshotRequest {
        snapshotter: node.snapshotter.clone(),
        key: id,
    };
    let snapshot = node.call::<_, Empty>(&snapshots("Remove"), &request).await;
    // A snapshot that is not there is no loss; one in use says that the task is still there.
    match (task, snapshot) {
        (Err(task), Err(_)) => Err(task),
        _ => Ok(()),
    }
}

/// containerd's default spec (pkg/oci, populateDefaultUnixSpec), but for the resources.
fn spec(side: &Side, id: &str) -> Value {
    let args = [side.config.entrypoint.clone(), side.config.cmd.clone()].concat();
    let capabilities = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE"
    ]);
    let mount = |target: &str, kind: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": kind, "options": options});
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": side.config.env,
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "root": {"path": "rootfs"},
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "cgroupsPath": format!("/wasmkind-bench/{id}"),
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"},
            ],
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
