//! What a container's process may do is the same for Wasm as for Linux, and what
//! a hostile guest can reach is the container's and nothing else.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use support::{Containerd, Driver, Pod, text};

const PROBE: &str = include_str!("fixtures/probe.wat");

/// WASI's numbers of errors.
const OK: u16 = 0;
const ACCES: u16 = 2;
const NOENT: u16 = 44;
const PERM: u16 = 63;
/// What wasmtime makes of EROFS and of EXDEV.
const IO: u16 = 29;

fn start() -> Containerd {
    let containerd = Containerd::start_real();
    let links = [
        ("absolute", "/etc/inside"),
        ("relative", "etc/inside"),
        ("var/run", "/run"),
    ];
    let files = [
        ("probe.wat", PROBE.as_bytes()),
        ("etc/inside", b"from the image"),
    ];
    containerd.import_with_links("probe", &files, &links, &["/probe.wat"]);
    containerd
}

/// Has a guest try `ops`, and gives what came of each: the error and what was read.
fn probe(pod: &Pod, name: &str, ops: &[&str], more: Value) -> Vec<(String, u16, String)> {
    let id = pod.run_with(name, "probe", ops, more);
    assert_eq!(pod.exit_code(&id), 0, "{}", pod.log(name));
    let last = ops.last().unwrap();
    let log = pod.wait_log(name, &format!("{last}: "));
    let result = |op: &&str| {
        let prefix = format!("{op}: ");
        let line = log.lines().find_map(|line| line.strip_prefix(&prefix));
        let line = line.unwrap_or_else(|| panic!("no answer to {op} in\n{log}"));
        let (error, read) = line.split_once(' ').unwrap_or((line, ""));
        ((*op).to_owned(), error.parse().unwrap(), read.to_owned())
    };
    ops.iter().map(result).collect()
}

/// Fails unless each operation gave the error that is expected of it.
fn expect(pod: &Pod, name: &str, more: Value, expected: &[(&str, u16)]) {
    let ops: Vec<_> = expected.iter().map(|(op, _)| *op).collect();
    let results = probe(pod, name, &ops, more);
    let wrong: Vec<_> = results
        .iter()
        .zip(expected)
        .filter(|((_, error, _), (_, wanted))| error != wanted)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What the kernel says of a container's process, in a form that is the same for
/// a Wasm and a Linux container with the same spec.
fn confinement(pod: &Pod, id: &str, volumes: &[&str]) -> BTreeMap<String, String> {
    let pid = pod.pid(id);
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
    let mut all = BTreeMap::new();
    let fields = [
        "Uid",
        "Gid",
        "Groups",
        "NoNewPrivs",
        // Not Seccomp_filters: a profile is one filter of runc's, and may be two of the shim's.
        "Seccomp",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "Umask",
    ];
    for line in read("status").unwrap().lines() {
        let (field, value) = line.split_once(':').unwrap();
        if fields.contains(&field) {
            all.insert(field.to_owned(), value.trim().to_owned());
        }
    }
    all.insert("limits".into(), read("limits").unwrap());
    all.insert("oom_score_adj".into(), read("oom_score_adj").unwrap());
    // Where the host has AppArmor; elsewhere reading fails.
    let profile = read("attr/current").unwrap_or_default();
    all.insert("AppArmor".into(), profile);
    let cgroup = read("cgroup").unwrap();
    all.insert("cgroup".into(), cgroup.replace(id, "ID"));
    if let Some(path) = cgroup.lines().find_map(|line| line.split_once(":devices:")) {
        let list = format!("/sys/fs/cgroup/devices{}/devices.list", path.1);
        if let Ok(list) = fs::read_to_string(list) {
            all.insert("devices".into(), list);
        }
    }
    let sandbox = pod.sandbox_pid();
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
        let own = of(&pid.to_string());
        let whose = match () {
            () if own == of("self") => "the host's",
            () if own == of(&sandbox.to_string()) => "the Pod's",
            () => "its own",
        };
        all.insert(format!("{name} namespace"), whose.into());
    }
    let mountinfo = read("mountinfo").unwrap();
    let guest = mountinfo.lines().any(|line| line.contains(" /guest "));
    for line in mountinfo.lines() {
        let fields: Vec<_> = line.split(' ').collect();
        let (root, place, options) = (fields[3], fields[4], fields[5]);
        // A masked directory is an empty tmpfs, a masked file /dev/null.
        if place.starts_with("/proc/") || place.starts_with("/sys/") && !place.contains("cgroup") {
            all.insert(format!("mount {place}"), format!("{root} {options}"));
        }
        let inside = if guest {
            place.strip_prefix("/guest")
        } else {
            Some(place)
        };
        match inside {
            Some("" | "/") => {
                let readonly = options.split(',').any(|option| option == "ro");
                all.insert("read-only root".into(), readonly.to_string());
            }
            Some(place) if volumes.contains(&place) => {
                all.insert(format!("volume {place}"), format!("{root} {options}"));
            }
            _ => {}
        }
    }
    all
}

fn same_confinement(
    pod: &Pod,
    name: &str,
    more: &Value,
    volumes: &[&str],
) -> BTreeMap<String, String> {
    let linux = pod.run_with(&format!("{name}-linux"), "linux", &["serve"], more.clone());
    let wasm = pod.run_with(&format!("{name}-wasm"), "probe", &["z"], more.clone());
    let linux = confinement(pod, &linux, volumes);
    let wasm = confinement(pod, &wasm, volumes);
    let differ = |key: &&String| linux.get(*key) != wasm.get(*key);
    let keys: std::collections::BTreeSet<_> = linux.keys().chain(wasm.keys()).collect();
    let different: Vec<_> = keys
        .into_iter()
        .filter(differ)
        .map(|key| {
            format!(
                "{key}: Linux {:?}, Wasm {:?}",
                linux.get(key),
                wasm.get(key)
            )
        })
        .collect();
    assert!(different.is_empty(), "{name}: {different:#?}");
    for volume in volumes {
        assert!(
            wasm.contains_key(&format!("volume {volume}")),
            "no {volume}: {wasm:#?}"
        );
    }
    wasm
}

const MASKED: [&str; 3] = ["/proc/kcore", "/proc/keys", "/proc/scsi"];
const READONLY: [&str; 2] = ["/proc/bus", "/proc/sys"];

#[test]
fn a_guests_process_is_confined_as_a_linux_one_is() {
    let containerd = start();
    let pod = containerd.run_pod("confined");
    let volume = containerd.dir.path().join("volume");
    fs::create_dir(&volume).unwrap();
    let profile = containerd.dir.path().join("profile.json");
    fs::write(&profile, r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#).unwrap();
    let mounts = json!([
        {"container_path": "/data", "host_path": volume},
        {"container_path": "/data-ro", "host_path": volume, "readonly": true},
    ]);
    let own = json!({"network": 2, "pid": 1});

    let plain = json!({"mounts": mounts, "linux": {"resources": {"oom_score_adj": 500}, "security_context": {"namespace_options": own}}});
    let view = same_confinement(&pod, "plain", &plain, &["/data", "/data-ro"]);
    assert_eq!(view["Uid"], "0\t0\t0\t0");
    assert_eq!(view["pid namespace"], "its own");
    assert_eq!(view["ipc namespace"], "the Pod's");
    assert!(view["volume /data-ro"].contains(" ro"), "{view:#?}");

    let restricted = json!({"mounts": mounts, "linux": {
    "resources": {"oom_score_adj": 500},
    "security_context": {
        "run_as_user": {"value": 1000}, "run_as_group": {"value": 2000},
        "supplemental_groups": [3000, 4000],
        "no_new_privs": true, "readonly_rootfs": true,
        "capabilities": {"drop_capabilities": ["ALL"]},
        "seccomp": {"profile_type": 0},
        "masked_paths": MASKED, "readonly_paths": READONLY,
        "namespace_options": own,
    }}});
    let view = same_confinement(&pod, "restricted", &restricted, &["/data", "/data-ro"]);
    for (key, value) in [
        ("Uid", "1000\t1000\t1000\t1000"),
        ("Gid", "2000\t2000\t2000\t2000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("oom_score_adj", "500\n"),
        ("read-only root", "true"),
    ] {
        assert_eq!(view[key], value, "{key}");
    }
    assert!(view["Groups"].contains("3000 4000"), "{view:#?}");
    assert!(
        view.contains_key("mount /proc/keys") && view.contains_key("mount /proc/sys"),
        "{view:#?}"
    );

    let unconfined = json!({"linux": {"resources": {"oom_score_adj": 500}, "security_context": {
        "capabilities": {"add_capabilities": ["NET_ADMIN"], "drop_capabilities": ["CHOWN"]},
        "seccomp": {"profile_type": 1},
        "namespace_options": own,
    }}});
    let view = same_confinement(&pod, "unconfined", &unconfined, &[]);
    assert_eq!(view["Seccomp"], "0");
    let caps = u64::from_str_radix(&view["CapEff"], 16).unwrap();
    assert_eq!(
        (caps >> 12 & 1, caps & 1),
        (1, 0),
        "NET_ADMIN and not CHOWN"
    );

    let localhost = json!({"linux": {"resources": {"oom_score_adj": 500}, "security_context": {
        "seccomp": {"profile_type": 2, "localhost_ref": profile},
        "namespace_options": own,
    }}});
    let view = same_confinement(&pod, "localhost", &localhost, &[]);
    assert_eq!(view["Seccomp"], "2");
    pod.remove();
}

#[test]
fn host_namespaces_shared_ones_and_sysctls() {
    let containerd = start();
    for (name, options, whose) in [
        (
            "host",
            json!({"network": 2, "pid": 2, "ipc": 2}),
            "the host's",
        ),
        (
            "shared",
            json!({"network": 2, "pid": 0, "ipc": 0}),
            "the Pod's",
        ),
    ] {
        let security = json!({"namespace_options": options});
        let mut linux = json!({"security_context": security});
        if name == "shared" {
            linux["sysctls"] = json!({"kernel.shm_rmid_forced": "1"});
        }
        let pod = containerd
            .request_pod(name, Driver::Cgroupfs, json!({"linux": linux}))
            .0
            .unwrap();
        let more =
            json!({"linux": {"resources": {"oom_score_adj": 500}, "security_context": security}});
        let view = same_confinement(&pod, name, &more, &[]);
        for kind in ["pid", "ipc"] {
            assert_eq!(view[&format!("{kind} namespace")], whose, "{kind}");
        }
        assert_eq!(view["net namespace"], "the host's");
        if name == "shared" {
            let id = pod.run("sysctl", "probe", &["z"]);
            let output = Command::new("nsenter")
                .args(["--ipc", "--target", &pod.pid(&id).to_string()])
                .args(["cat", "/proc/sys/kernel/shm_rmid_forced"])
                .output()
                .unwrap();
            assert_eq!(text(&output).trim(), "1");
        }
        pod.remove();
    }
}

#[test]
fn user_namespaces_are_refused() {
    let containerd = start();
    let mapping = json!([{"host_id": 100_000, "container_id": 0, "length": 65536}]);
    let users = json!({"mode": 0, "uids": mapping, "gids": mapping});
    let linux =
        json!({"security_context": {"namespace_options": {"network": 2, "userns_options": users}}});
    let more = json!({"linux": linux});
    let (pod, output) = containerd.request_pod("users", Driver::Cgroupfs, more);
    assert!(pod.is_none(), "a Pod with a user namespace ran");
    let error = text(&output);
    assert!(error.contains("user namespace"), "{error}");
}

#[test]
fn a_guest_reaches_its_container_and_nothing_else() {
    let containerd = start();
    let dir = containerd.dir.path();
    let (volume, outside) = (dir.join("volume"), dir.join("outside"));
    fs::create_dir(&volume).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "SECRET").unwrap();
    fs::write(volume.join("file"), "from the volume").unwrap();
    symlink(outside.join("secret"), volume.join("absolute")).unwrap();
    symlink("../outside/secret", volume.join("relative")).unwrap();
    symlink(
        "../../../../../../../../../../proc/self/status",
        volume.join("climbing"),
    )
    .unwrap();
    symlink("/proc/self", volume.join("proc")).unwrap();
    symlink("/guest", volume.join("guest")).unwrap();
    symlink("file", volume.join("inside")).unwrap();
    symlink("../etc/inside", volume.join("across")).unwrap();
    let pod = containerd.run_pod("reach");
    let mounts = json!({"mounts": [
        {"container_path": "/data", "host_path": volume},
        {"container_path": "/one", "host_path": volume.join("file"), "readonly": true},
    ]});
    let results = probe(
        &pod,
        "reads",
        &[
            "retc/inside",
            "rrelative",
            "rdata/file",
            "rdata/inside",
            "rdata/across",
            "rone",
            "f",
        ],
        mounts.clone(),
    );
    for (op, error, read) in &results[..6] {
        let from = if op.contains("inside") && !op.contains("data")
            || op == "rrelative"
            || op.contains("across")
        {
            "from the image"
        } else {
            "from the volume"
        };
        assert_eq!((*error, read.as_str()), (OK, from), "{op}");
    }
    // Standard streams and the root; none of the runner's own.
    assert!(
        pod.log("reads").contains("f: 000 001 002 003 000\n"),
        "{}",
        pod.log("reads")
    );

    expect(
        &pod,
        "escapes",
        mounts,
        &[
            // Its root has no parent, and links lead within it.
            ("rabsolute", OK),
            ("r/etc/inside", OK),
            ("r../etc/inside", OK),
            ("rdata/../../runner", NOENT),
            ("rrunner", NOENT),
            ("rproc/self/status", NOENT),
            ("odev/pts", NOENT),
            ("osys/fs", NOENT),
            ("rguest/etc/inside", NOENT),
            ("rdata/absolute", NOENT),
            ("rdata/relative", NOENT),
            ("rdata/climbing", NOENT),
            ("rdata/proc/status", NOENT),
            ("rdata/guest/etc/inside", NOENT),
            ("wdata/absolute", NOENT),
            ("wdata/relative", NOENT),
            ("tdata/absolute", NOENT),
            // Links of the guest's own making.
            ("s/proc/self>mine", PERM),
            ("s../../..>up", OK),
            ("rup/proc/self/status", NOENT),
            ("sdata/../../../runner>climb", OK),
            ("rclimb", NOENT),
            ("setc>link", OK),
            ("mlink>up2", OK),
            ("rup2/inside", OK),
            // What is there cannot be moved out, nor in from elsewhere.
            ("metc>../etc", OK),
            ("m../../runner>runner", NOENT),
            ("letc/inside>../inside", OK),
            ("rinside", OK),
            ("lone>hard", IO),
            ("ldata/file>hard", IO),
            ("mdata/file>moved", IO),
            // What is read-only stays so, whichever way it is tried.
            ("wone", IO),
            ("aone", IO),
            ("tone", IO),
        ],
    );
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"SECRET");
    assert_eq!(fs::read(volume.join("file")).unwrap(), b"from the volume");
    pod.remove();
}

#[test]
fn read_only_roots_and_volumes_stay_as_they_are() {
    let containerd = start();
    let volume = containerd.dir.path().join("volume");
    fs::create_dir_all(volume.join("sub")).unwrap();
    fs::write(volume.join("file"), "kept").unwrap();
    let pod = containerd.run_pod("readonly");
    let more = json!({
        "mounts": [
            {"container_path": "/ro", "host_path": volume, "readonly": true},
            {"container_path": "/rw", "host_path": volume.join("sub")},
        ],
        "linux": {"resources": {"oom_score_adj": 500}, "security_context": {
            "readonly_rootfs": true, "namespace_options": {"network": 2, "pid": 1},
        }},
    });
    expect(
        &pod,
        "writes",
        more,
        &[
            ("wnew", IO),
            ("aetc/inside", IO),
            ("tetc/inside", IO),
            ("knew", IO),
            ("uetc/inside", IO),
            ("metc>old", IO),
            ("letc/inside>hard", IO),
            ("setc>link", IO),
            ("wro/new", IO),
            ("aro/file", IO),
            ("tro/file", IO),
            ("uro/file", IO),
            ("mro/file>ro/moved", IO),
            ("xro/sub", IO),
            ("wrw/new", OK),
        ],
    );
    assert_eq!(fs::read(volume.join("file")).unwrap(), b"kept");
    assert_eq!(fs::read(volume.join("sub/new")).unwrap(), b"pwned");
    pod.remove();
}

#[test]
fn files_are_the_pods_users_and_groups() {
    let containerd = start();
    let volume = containerd.dir.path().join("volume");
    fs::create_dir(&volume).unwrap();
    // As the kubelet leaves a volume with fsGroup 3000.
    std::os::unix::fs::chown(&volume, Some(0), Some(3000)).unwrap();
    fs::set_permissions(&volume, PermissionsExt::from_mode(0o2770)).unwrap();
    let pod = containerd.run_pod("groups");
    let more = |groups: &[u32]| {
        json!({
            "mounts": [{"container_path": "/data", "host_path": volume}],
            "linux": {"resources": {"oom_score_adj": 500}, "security_context": {
                "run_as_user": {"value": 1000}, "supplemental_groups": groups,
                "namespace_options": {"network": 2, "pid": 1},
            }},
        })
    };
    expect(
        &pod,
        "outsider",
        more(&[]),
        &[("wdata/file", ACCES), ("odata", ACCES)],
    );
    expect(
        &pod,
        "member",
        more(&[3000]),
        &[("wdata/file", OK), ("odata", OK), ("wetc/new", ACCES)],
    );
    let file = fs::metadata(volume.join("file")).unwrap();
    assert_eq!((file.uid(), file.gid()), (1000, 3000));
    pod.remove();
}

#[test]
fn special_files_in_volumes_give_nothing() {
    let containerd = start();
    let volume = containerd.dir.path().join("volume");
    fs::create_dir(&volume).unwrap();
    let node = |name: &str, kind: &str, numbers: &[&str]| {
        let made = Command::new("mknod")
            .arg(volume.join(name))
            .arg(kind)
            .args(numbers)
            .status();
        assert!(made.unwrap().success(), "mknod {name}");
    };
    // /dev/mem, a loop device, /dev/kmsg: the device cgroup allows none of them.
    node("mem", "c", &["1", "1"]);
    node("loop", "b", &["7", "0"]);
    node("kmsg", "c", &["1", "11"]);
    node("null", "c", &["1", "3"]);
    let _socket = std::os::unix::net::UnixListener::bind(volume.join("socket")).unwrap();
    let pod = containerd.run_pod("special");
    let more = json!({"mounts": [{"container_path": "/data", "host_path": volume}]});
    let results = probe(
        &pod,
        "special",
        &[
            "rdata/mem",
            "wdata/mem",
            "rdata/loop",
            "rdata/kmsg",
            "rdata/socket",
            "rdata/null",
        ],
        more,
    );
    for (op, error, read) in &results[..5] {
        assert!(*error != OK && read.is_empty(), "{op}: {error} {read}");
    }
    assert_eq!(results[5].1, OK, "what every container may use");
    pod.remove();
}

#[test]
fn a_neighbour_that_swaps_files_for_links_wins_nothing() {
    let containerd = start();
    let (volume, outside) = (
        containerd.dir.path().join("volume"),
        containerd.dir.path().join("outside"),
    );
    fs::create_dir(&volume).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::create_dir(volume.join("real")).unwrap();
    fs::write(volume.join("real/file"), "harmless").unwrap();
    fs::write(outside.join("file"), "SECRET").unwrap();
    symlink(&outside, volume.join("link")).unwrap();
    symlink("../outside", volume.join("up")).unwrap();
    symlink("/proc/self", volume.join("proc")).unwrap();
    symlink("/proc/self/environ", volume.join("real/link")).unwrap();
    let pod = containerd.run_pod("race");
    let more = json!({"mounts": [{"container_path": "/data", "host_path": volume}]});
    let stop = AtomicBool::new(false);
    let swapped = std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            let mut swaps = 0u64;
            let names = ["link", "up", "proc"].map(|name| volume.join(name));
            while !stop.load(Ordering::Relaxed) {
                for name in &names {
                    exchange(&volume.join("real"), name);
                    exchange(&volume.join("real"), name);
                    swaps += 1;
                }
            }
            swaps
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            probe(
                &pod,
                "race",
                &["hdata/real/file>S", "hdata/real/../real/file>S"],
                more,
            )
        }));
        stop.store(true, Ordering::Relaxed);
        let swaps = swapper.join().unwrap();
        for (op, error, read) in result.unwrap() {
            assert_ne!(error, OK, "{op} read {read}");
        }
        swaps
    });
    assert!(swapped > 1000, "only {swapped} swaps");
    pod.remove();
}

fn exchange(a: &Path, b: &Path) {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).unwrap();
}

/// A volume is mounted inside another, at a place that the other makes a link.
#[test]
fn a_volume_cannot_divert_what_is_mounted_inside_it() {
    let containerd = start();
    let pod = containerd.run_pod("divert");
    for (i, target) in [
        "/",
        "/runner",
        "/dev",
        "/proc",
        "/etc",
        "/guest",
        "../../runner",
        "../..",
    ]
    .iter()
    .enumerate()
    {
        let dir = containerd.dir.path().join(format!("case{i}"));
        let (outer, inner) = (dir.join("outer"), dir.join("inner"));
        fs::create_dir_all(&outer).unwrap();
        fs::create_dir_all(inner.join("guest")).unwrap();
        fs::write(inner.join("file"), "inner").unwrap();
        // What would run in the runner's place, and what it would take for the guest's root.
        fs::copy(support::fixture("linux"), inner.join("runner")).unwrap();
        symlink(target, outer.join("sub")).unwrap();
        let more = json!({"mounts": [
            {"container_path": "/data", "host_path": outer},
            {"container_path": "/data/sub", "host_path": inner, "readonly": true},
        ]});
        let name = format!("divert{i}");
        let id = pod.create(&name, "probe", &["z"], more);
        let output = containerd.crictl(&["start", &id]);
        // Within the guest's root it may lead where it likes, if there is such a directory.
        if output.status.success() {
            let mounts = mountpoints(&pod, &id, &inner);
            assert_eq!(mounts.len(), 1, "{target}: {mounts:?}");
            assert!(mounts[0].starts_with("/guest"), "{target}: {mounts:?}");
            let exe = fs::read_link(format!("/proc/{}/exe", pod.pid(&id))).unwrap();
            assert_eq!(exe, Path::new("/runner"), "{target}");
            containerd.cri(&["stop", "--timeout", "0", &id]);
        } else {
            assert!(
                text(&output).contains("mount "),
                "{target}: {}",
                text(&output)
            );
        }
        let untouched: Vec<_> = fs::read_dir(&inner)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(untouched.len(), 3, "{target}: {untouched:?}");
    }
    pod.remove();
}

/// Where in the container something of `source` is mounted.
fn mountpoints(pod: &Pod, id: &str, source: &Path) -> Vec<PathBuf> {
    let mountinfo = fs::read_to_string(format!("/proc/{}/mountinfo", pod.pid(id))).unwrap();
    let source = source.to_str().unwrap();
    mountinfo
        .lines()
        .filter_map(|line| {
            let fields: Vec<_> = line.split(' ').collect();
            fields[3]
                .ends_with(source)
                .then(|| PathBuf::from(fields[4]))
        })
        .collect()
}

#[test]
fn volumes_inside_volumes_and_over_system_directories_are_the_guests() {
    let containerd = start();
    let dir = containerd.dir.path();
    for name in ["outer", "inner", "proc", "dev"] {
        fs::create_dir(dir.join(name)).unwrap();
        fs::write(dir.join(name).join("file"), format!("{name}'s")).unwrap();
    }
    let pod = containerd.run_pod("nested");
    let mount = |place: &str, source: &str, readonly: bool| json!({"container_path": place, "host_path": dir.join(source), "readonly": readonly});
    let more = json!({"mounts": [
        mount("/data", "outer", false),
        mount("/data/made/sub", "inner", true),
        mount("/data/one", "inner/file", true),
        // The image has it as a link to /run.
        mount("/var/run/x", "inner", false),
        mount("/proc", "proc", false),
        mount("/dev", "dev", false),
        mount("/sys/fs/cgroup", "inner", true),
    ]});
    let ops = [
        ("rdata/file", "outer's"),
        ("rdata/made/sub/file", "inner's"),
        ("rdata/one", "inner's"),
        ("rrun/x/file", "inner's"),
        ("rproc/file", "proc's"),
        ("rdev/file", "dev's"),
        ("rsys/fs/cgroup/file", "inner's"),
    ];
    let names: Vec<_> = ops.iter().map(|(op, _)| *op).collect();
    for ((op, error, read), (_, wanted)) in
        probe(&pod, "reads", &names, more.clone()).iter().zip(ops)
    {
        assert_eq!((*error, read.as_str()), (OK, wanted), "{op}");
    }
    expect(
        &pod,
        "writes",
        more,
        &[
            ("wdata/made/sub/file", IO),
            ("adata/one", IO),
            ("wdata/made/new", OK),
            ("wproc/new", OK),
        ],
    );
    pod.remove();
}

/// It is the Pod's author who gives it, and the README warns of it.
#[test]
fn the_hosts_proc_is_the_guests_only_as_a_volume() {
    let containerd = start();
    let pod = containerd.run_pod("proc");
    let more = json!({"mounts": [{"container_path": "/host", "host_path": "/proc"}]});
    let results = probe(
        &pod,
        "proc",
        &["rhost/self/status", "rproc/self/status"],
        more,
    );
    assert_eq!((results[0].1, results[1].1), (OK, NOENT));
    pod.remove();
}

#[test]
fn a_localhost_profile_applies_to_the_guest() {
    let containerd = start();
    let dir = containerd.dir.path();
    let profile = |name: &str, calls: &[&str], action: &str| {
        let path = dir.join(format!("profile-{name}"));
        let rule = json!({"names": calls, "action": action});
        let text = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
        fs::write(&path, text.to_string()).unwrap();
        json!({"linux": {"resources": {"oom_score_adj": 500}, "security_context": {
            "seccomp": {"profile_type": 2, "localhost_ref": path},
            "namespace_options": {"network": 2, "pid": 1},
        }}})
    };
    let pod = containerd.run_pod("seccomp");
    expect(&pod, "free", json!({}), &[("setc>link", OK)]);
    let more = profile("errno.json", &["symlink", "symlinkat"], "SCMP_ACT_ERRNO");
    expect(
        &pod,
        "errno",
        more,
        &[("setc>link", PERM), ("retc/inside", OK)],
    );

    // What the runner cannot do without.
    for (name, action, says) in [
        ("killed", "SCMP_ACT_KILL_PROCESS", "seccomp"),
        ("denied", "SCMP_ACT_ERRNO", "Operation not permitted"),
    ] {
        let more = profile(&format!("{name}.json"), &["epoll_create1"], action);
        let id = pod.create(name, "probe", &["z"], more);
        let output = containerd.crictl(&["start", &id]);
        assert!(!output.status.success(), "{name} started");
        let error = text(&output);
        assert!(
            error.contains(says) && error.contains("/probe.wat"),
            "{name}: {error}"
        );
    }
    pod.remove();
}

#[test]
fn the_shims_own_files_are_roots() {
    let containerd = start();
    let pod = containerd.run_pod("modes");
    let id = pod.run("guest", "probe", &["z"]);
    let mode = |path: &Path| {
        let meta = fs::symlink_metadata(path).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (0, 0), "{}", path.display());
        meta.permissions().mode() & 0o7777
    };
    let state = pod.state_dir();
    let container = state.join("containers").join(&id);
    // Directories can be passed and not listed: runc enters the root as the Pod's user.
    for dir in [
        &state,
        &state.join("containers"),
        &container,
        &container.join("root"),
    ] {
        assert_eq!(mode(dir), 0o711, "{}", dir.display());
    }
    for file in ["shim.json", "lock"] {
        assert_eq!(mode(&state.join(file)) & 0o077, 0, "{file}");
    }
    for file in ["config.json", "member.json"] {
        assert_eq!(mode(&container.join(file)), 0o600, "{file}");
    }
    let shim: Value = serde_json::from_slice(&fs::read(state.join("shim.json")).unwrap()).unwrap();
    let socket = PathBuf::from(shim["socket"].as_str().unwrap());
    assert_eq!(mode(&socket), 0o600);
    pod.remove();
}
