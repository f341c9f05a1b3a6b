//! The OCI runtime spec of a bundle: a typed view of what the shim decides by,
//! beside the document itself, so that what the shim does not know stays in it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";
const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";

#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) document: Value,
    pub(crate) view: View,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct View {
    pub(crate) process: Process,
    pub(crate) root: Root,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) annotations: HashMap<String, String>,
    pub(crate) linux: Linux,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Process {
    pub(crate) terminal: bool,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) oom_score_adj: Option<i32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Root {
    pub(crate) readonly: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Mount {
    pub(crate) destination: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) source: String,
    pub(crate) options: Vec<String>,
    /// Fields that the shim does not look at.
    #[serde(flatten)]
    pub(crate) rest: serde_json::Map<String, Value>,
}

impl Mount {
    pub(crate) fn is_bind(&self) -> bool {
        self.kind == "bind" || self.options.iter().any(|o| o == "bind" || o == "rbind")
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Linux {
    pub(crate) cgroups_path: String,
    pub(crate) namespaces: Vec<Namespace>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Namespace {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) path: PathBuf,
}

impl Spec {
    /// Reads `config.json` of `bundle`.
    pub(crate) fn load(bundle: &Path) -> Result<Self> {
        let path = bundle.join("config.json");
        let load =
            || -> Result<Self> { Spec::parse(serde_json::from_slice(&std::fs::read(&path)?)?) };
        load().with_context(|| format!("read the OCI spec {}", path.display()))
    }

    pub(crate) fn parse(document: Value) -> Result<Self> {
        if !document.is_object() {
            // A list would be read as the fields in their order.
            bail!("it is no JSON object");
        }
        let view = View::deserialize(&document)?;
        Ok(Spec { document, view })
    }

    /// The same container with another process in it, in the form of the spec's
    /// `process`.
    pub(crate) fn with_process(&self, process: Value) -> Result<Self> {
        let mut document = self.document.clone();
        document["process"] = process;
        Spec::parse(document).context("parse the exec's process")
    }

    /// What the process runs, as the spec names it; empty when it names nothing.
    pub(crate) fn program(&self) -> &str {
        self.view.process.args.first().map_or("", String::as_str)
    }

    /// The Pod's id; a container that CRI did not make is a Pod of its own.
    pub(crate) fn sandbox_id(&self) -> Option<&str> {
        self.view.annotations.get(SANDBOX_ID).map(String::as_str)
    }

    pub(crate) fn is_sandbox(&self) -> bool {
        self.view
            .annotations
            .get(CONTAINER_TYPE)
            .is_some_and(|kind| kind == "sandbox")
    }

    /// Whether the cgroup is systemd's to make. CRI writes `slice:prefix:name`
    /// only then, and a shim other than runc's learns it in no other way.
    pub(crate) fn systemd_cgroup(&self) -> bool {
        self.view.linux.cgroups_path.split(':').count() == 3
    }

    /// Whether the init process is pid 1 of a namespace of its own, so that the
    /// kernel ends everything else in it.
    pub(crate) fn private_pid_namespace(&self) -> bool {
        self.view
            .linux
            .namespaces
            .iter()
            .any(|ns| ns.kind == "pid" && ns.path.as_os_str().is_empty())
    }

    /// # Errors
    /// When the spec wants what this runtime does not promise (see `info`). The
    /// kubelet does not ask for it then, but others may.
    pub(crate) fn check_supported(&self) -> Result<()> {
        if self
            .view
            .linux
            .namespaces
            .iter()
            .any(|ns| ns.kind == "user")
        {
            bail!("not implemented: user namespace (a Pod's hostUsers: false)");
        }
        Ok(())
    }

    /// Lifts `oomScoreAdj` to what this process may set: going below the own
    /// value needs CAP_SYS_RESOURCE, which is outside the bounding set of many a
    /// CI machine, and a Pod must run there too.
    pub(crate) fn clamp_oom_score_adj(&mut self) {
        let Some(wanted) = self.view.process.oom_score_adj else {
            return;
        };
        let own = std::fs::read_to_string("/proc/self/oom_score_adj")
            .ok()
            .and_then(|own| own.trim().parse::<i32>().ok());
        if let Some(own) = own
            && wanted < own
            && !may_lower_oom_score_adj()
        {
            self.document["process"]["oomScoreAdj"] = own.into();
        }
    }

    /// The value of variable `name` in the container's environment.
    pub(crate) fn env(&self, name: &str) -> Option<&str> {
        self.view
            .process
            .env
            .iter()
            .rev()
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }
}

fn may_lower_oom_score_adj() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_what_the_shim_decides_by() {
        let spec = Spec::parse(json!({
            "process": {"args": ["/a.wasm"], "env": ["A=1", "AB=3", "A=2"], "cwd": "/"},
            "annotations": {CONTAINER_TYPE: "sandbox", SANDBOX_ID: "pod"},
            "linux": {"cgroupsPath": "kubepods.slice:cri-containerd:x",
                      "namespaces": [{"type": "pid"}, {"type": "network", "path": "/n"}]},
        }))
        .unwrap();
        assert!(spec.is_sandbox() && spec.systemd_cgroup() && spec.private_pid_namespace());
        assert_eq!(spec.sandbox_id(), Some("pod"));
        assert_eq!((spec.env("A"), spec.env("B")), (Some("2"), None));
    }

    #[test]
    fn a_user_namespace_is_refused() {
        let spec =
            |kind: &str| Spec::parse(json!({"linux": {"namespaces": [{"type": kind}]}})).unwrap();
        let error = spec("user").check_supported().unwrap_err();
        assert!(error.to_string().contains("user namespace"), "{error}");
        assert!(spec("pid").check_supported().is_ok());
    }

    #[test]
    fn a_list_is_no_spec() {
        for document in [json!([]), json!([{}, {"args": ["/app.wasm"]}]), json!(null)] {
            assert!(Spec::parse(document).is_err());
        }
    }

    #[test]
    fn a_joined_pid_namespace_is_not_private() {
        let spec = Spec::parse(json!({
            "linux": {"cgroupsPath": "/kubepods/x",
                      "namespaces": [{"type": "pid", "path": "/proc/7/ns/pid"}]},
        }))
        .unwrap();
        assert!(!spec.private_pid_namespace() && !spec.systemd_cgroup() && !spec.is_sandbox());
    }
}
