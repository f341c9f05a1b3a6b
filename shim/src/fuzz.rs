//! What the shim reads that others wrote, for the targets in shim/fuzz. Each takes
//! bytes, and panics only when something is wrong with the shim.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use serde_json::{Value, json};
use wasmkind_engine::config::RunnerConfig;
use wasmkind_engine::spin::{AllowedHosts, App, Prepared, Routes};
use wasmkind_engine::{Digest, Kind, Kinds};

use crate::bootstrap::{Params, Reply};
use crate::flags::{self, Action, Flags};
use crate::guest::{self, Guest, submounts};
use crate::spec::Spec;
use crate::task;

/// containerd's parameters, runtime options and arguments, and a shim's reply.
pub fn bootstrap(bytes: &[u8]) {
    let flags = Flags {
        namespace: "k8s.io".into(),
        id: "one".into(),
        ..Flags::default()
    };
    let env = |name: &str| (name == "TTRPC_ADDRESS").then(|| "/run/ttrpc".to_owned());
    if let Ok(params) = Params::decode(bytes, &flags, env) {
        let socket = params.socket_path("k8s.io", "wasmkind-one");
        let name = Path::new(&socket).file_name().expect("a socket's name");
        assert_eq!(name.len(), 64, "{socket}");
        let reply = params.encode_reply(&socket).expect("a reply");
        let reply = Reply::decode(&reply).expect("what we say can be read");
        assert_eq!(reply.address, format!("unix://{socket}"));
    }
    let _ = Reply::decode(bytes);
    let options = Any::parse_from_bytes(bytes).unwrap_or_else(|_| Any {
        type_url: "containerd.runc.v1.Options".into(),
        value: bytes.to_vec(),
        ..Any::default()
    });
    let _ = task::runc_options(Some(&options), true);
    let text = String::from_utf8_lossy(bytes);
    if let Ok((action, flags)) = flags::parse(text.lines().map(str::to_owned))
        && !matches!(action, Action::Info | Action::Version | Action::Mount)
    {
        for name in [&flags.namespace, &flags.id] {
            let parts: Vec<_> = Path::new(name).components().collect();
            assert!(matches!(parts[..], [Component::Normal(_)]), "{name:?}");
        }
    }
}

/// The manifest of an artifact, or an index of them.
pub fn artifact(bytes: &[u8]) {
    guest::artifact::check(bytes);
}

/// A module that no container may find.
const OUTSIDE: &[u8] = b"\0asm outside";
const INSIDE: &[u8] = b"\0asm inside";

/// A container's image and volumes, full of links that lead out of them.
pub struct Sandbox<'a> {
    dir: &'a Path,
}

impl<'a> Sandbox<'a> {
    /// `dir` is empty, and empty again afterwards.
    ///
    /// # Panics
    /// When `dir` cannot be written.
    pub fn new(dir: &'a Path) -> Self {
        let sandbox = Sandbox { dir };
        fs::write(dir.join("out.wasm"), OUTSIDE).expect("write");
        for place in [sandbox.rootfs(), sandbox.volume()] {
            fs::create_dir_all(place.join("d/e")).expect("create");
            fs::write(place.join("f.wasm"), INSIDE).expect("write");
            for (name, target) in [
                ("up", ".."),
                ("root", "/"),
                ("abs", "/d"),
                ("out", "../out.wasm"),
                ("d/proc", "/proc/self"),
                ("d/loop", "loop"),
                ("gone", "/nowhere/deep"),
                ("d/far", "../../../../../../d"),
            ] {
                symlink(target, place.join(name)).expect("link");
            }
        }
        sandbox
    }

    fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    fn volume(&self) -> PathBuf {
        self.dir.join("volume")
    }

    /// The bytes are a spec in JSON.
    pub fn spec(&self, bytes: &[u8]) {
        if let Ok(document) = serde_json::from_slice(bytes) {
            self.check(document);
        }
    }

    /// The bytes are lines: a letter that says what of a spec follows, and its
    /// text, so that whatever becomes of the bytes is a spec again.
    pub fn container(&self, bytes: &[u8]) {
        let (mut args, mut env, mut cwd) = (Vec::new(), Vec::new(), "/");
        let (mut mounts, mut readonly) = (Vec::new(), false);
        let mut annotations = serde_json::Map::new();
        let text = String::from_utf8_lossy(bytes);
        for line in text.lines() {
            let Some(kind) = line.chars().next() else {
                continue;
            };
            let rest = &line[kind.len_utf8()..];
            match kind {
                'a' => args.push(rest),
                'e' => env.push(rest),
                'c' => cwd = rest,
                'r' => readonly = true,
                'n' => {
                    let (key, value) = rest.split_once(' ').unwrap_or((rest, ""));
                    annotations.insert(key.to_owned(), value.into());
                }
                kind => {
                    let mut words = rest.split(' ');
                    mounts.push(json!({
                        "destination": words.next(),
                        "type": if kind == 't' { "tmpfs" } else { "bind" },
                        // One mount in three is of a file.
                        "source": if kind == 'f' { "f.wasm" } else { "" },
                        "options": words.collect::<Vec<_>>(),
                    }));
                }
            }
        }
        self.check(json!({
            "process": {"args": args, "env": env, "cwd": cwd},
            "root": {"readonly": readonly},
            "mounts": mounts,
            "annotations": annotations,
        }));
    }

    /// The bytes are the lock file of a Spin application; after a zero byte comes the archive that
    /// its files are in.
    pub fn application(&self, bytes: &[u8]) {
        let mut parts = bytes.splitn(2, |byte| *byte == 0);
        let lock_file = parts.next().unwrap_or_default();
        let archive = parts.next().unwrap_or_default();
        let env = |name: &str| (name == "SPIN_VARIABLE_TOKEN").then_some("{{ token }}");
        let app = match App::parse(lock_file, env) {
            Ok(app) => app,
            Err(error) => {
                assert_eq!(error.to_string().lines().count(), 1, "{error}");
                return;
            }
        };
        let component = (Kind::Http, false, Some("/guest/files".into()));
        let config = app.config(Prepared {
            components: vec![component; app.components.len()],
            store: "/guest/store".into(),
        });
        let json = serde_json::to_vec(&config).expect("a configuration can be written");
        assert_eq!(config, serde_json::from_slice(&json).expect("and read"));
        let routes = Routes::new(&config.base, &config.routes).expect("the routes were checked");
        for path in config.routes.iter().map(|route| route.route.as_str()) {
            for path in [path, "", "/", "*", "/a/b/../c", "//"] {
                if let Some(found) = routes.find(path) {
                    assert!(found.component < config.components.len());
                }
            }
        }
        for component in &config.components {
            let hosts = AllowedHosts::parse(&component.allowed_hosts).expect("they were checked");
            assert!(
                !component.allowed_hosts.is_empty() || !hosts.allows("http", "localhost", 80),
                "a host that nobody named is allowed"
            );
        }
        guest::spin::lay_out(&app, archive, &self.rootfs());
        self.check_outside();
    }

    fn check(&self, mut document: Value) {
        // Where volumes lie is the kubelet's to say, not the Pod's.
        if let Some(mounts) = document.get_mut("mounts").and_then(Value::as_array_mut) {
            for mount in mounts.iter_mut().filter(|mount| mount.is_object()) {
                let file = mount["source"] == "f.wasm";
                let name = if file { "f.wasm" } else { "" };
                mount["source"] = json!(self.volume().join(name));
            }
        }
        let Ok(mut spec) = Spec::parse(document) else {
            return;
        };
        spec.clamp_oom_score_adj();
        let _ = (spec.sandbox_id(), spec.is_sandbox(), spec.systemd_cgroup());

        let found = match guest::find(&spec, &self.rootfs()) {
            Ok(guest::Found::Wasm(guest)) => Some(guest),
            _ => None,
        };
        let guest = found.unwrap_or_else(|| Guest {
            name: "/f.wasm".into(),
            export: None,
            bytes: INSIDE.into(),
            digest: Digest::of(INSIDE),
            spin: None,
        });
        assert_ne!(guest.bytes, OUTSIDE, "a module from outside was found");
        for kind in [
            Kind::CommandP1,
            Kind::CommandP2,
            Kind::CommandP3,
            Kind::Http,
            Kind::HttpP3,
        ] {
            let kinds = [Kinds::NONE.with(kind)];
            if let Ok(config) = guest::runner_config(&spec, &guest, &kinds, &self.rootfs()) {
                check_config(&config);
            }
        }
        let root = self.dir.join("runner");
        let runner = Path::new("/libexec/runner");
        if let Ok(rewritten) = guest::rewrite(&spec, &self.rootfs(), &root, runner) {
            check_rewritten(&rewritten, &root);
        }
        self.check_outside();
    }

    /// Nothing outside of the image and the volume has come or gone.
    fn check_outside(&self) {
        let entries = fs::read_dir(self.dir).expect("list");
        let mut names: Vec<_> = entries.map(|e| e.expect("list").file_name()).collect();
        names.sort();
        names.retain(|name| name != "runner");
        assert_eq!(names, ["out.wasm", "rootfs", "volume"]);
        let in_volume = fs::read_dir(self.volume()).expect("list").count();
        assert_eq!(in_volume, 7, "a volume was written to");
    }
}

impl Drop for Sandbox<'_> {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
        }
    }
}

fn check_config(config: &RunnerConfig) {
    let json = serde_json::to_vec(config).expect("a configuration can be written");
    let read: RunnerConfig = serde_json::from_slice(&json).expect("and read");
    assert_eq!(read, *config);
    assert!(config.cwd.starts_with('/'), "{}", config.cwd);
    if let Some(log) = &config.termination_log {
        assert!(is_guests(log), "{}", log.display());
    }
}

fn check_rewritten(document: &Value, root: &Path) {
    let own = [
        "/proc",
        "/sys",
        "/dev",
        "/dev/pts",
        "/dev/mqueue",
        "/etc/hosts",
        "/etc/resolv.conf",
    ];
    let mounts = document["mounts"].as_array().expect("mounts");
    let (runner, others) = mounts.split_last().expect("a runner");
    assert_eq!(runner["destination"], "/runner");
    for needed in ["/proc", "/dev", "/guest"] {
        let is_it = |mount: &&Value| {
            mount["destination"]
                .as_str()
                .is_some_and(|place| Path::new(place) == Path::new(needed))
        };
        assert!(others.iter().any(|mount| is_it(&mount)), "no {needed}");
    }
    let mut places: Vec<PathBuf> = Vec::new();
    for mount in others {
        let place = Path::new(mount["destination"].as_str().expect("a destination"));
        if own.iter().any(|own| Path::new(own) == place) {
            // A volume must not be what the runner trusts.
            let bind = mount["type"] == "bind";
            assert!(!bind || place.starts_with("/etc"), "{mount}");
            continue;
        }
        assert!(is_guests(place), "{mount}");
        // runc would follow the outer volume's links.
        let inside = |outer: &PathBuf| place.starts_with(outer) && place != outer;
        assert!(!places.iter().any(inside), "{mount} in a volume");
        if place != Path::new("/guest") {
            places.push(place.to_owned());
        }
    }
    assert_eq!(document["root"]["path"], json!(root));
    assert_eq!(document["process"]["args"], json!(["/runner"]));
    assert_eq!(document["process"]["env"], json!([]));
    if let Some(plan) = document["hooks"]["createContainer"][0]["args"][2].as_str() {
        submounts::check(plan);
    }
}

/// Whether the runner's path is `/guest` or below it.
fn is_guests(path: &Path) -> bool {
    let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    path.starts_with("/guest") && path.components().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeds(target: &str, mut run: impl FnMut(&[u8])) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        let entries = fs::read_dir(dir.join(target)).unwrap();
        let mut count = 0;
        for entry in entries {
            run(&fs::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "no seeds for {target}");
    }

    #[test]
    fn what_fuzzing_began_with_and_found_holds() {
        let dir = tempfile::tempdir().unwrap();
        seeds("bootstrap", bootstrap);
        seeds("artifact", artifact);
        seeds("application", |bytes| {
            Sandbox::new(dir.path()).application(bytes)
        });
        seeds("spec", |bytes| Sandbox::new(dir.path()).spec(bytes));
        seeds("container", |bytes| {
            Sandbox::new(dir.path()).container(bytes)
        });
    }
}
