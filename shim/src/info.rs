//! The -info action: what containerd may ask of this runtime.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use serde_json::{Value, json};

const NAME: &str = "io.containerd.wasmkind.v1";
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

pub(crate) fn info() -> Result<()> {
    let info = RuntimeInfo {
        name: NAME.to_owned(),
        version: Some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
        .into(),
        features: Some(Any {
            type_url: FEATURES.to_owned(),
            value: serde_json::to_vec(&features(runc_features()))?,
            ..Default::default()
        })
        .into(),
        ..Default::default()
    };
    let mut stdout = std::io::stdout();
    stdout
        .write_all(&info.write_to_bytes().context("encode the runtime's info")?)
        .and_then(|()| stdout.flush())
        .context("write the runtime's info")
}

/// None where runc cannot tell, or is missing; then nothing is promised.
fn runc_features() -> Option<Value> {
    let output = Command::new("runc")
        .arg("features")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    serde_json::from_slice(&output.stdout).ok()
}

/// What runc does, less what this shim does not: user namespaces and mounts with
/// mapped ids. containerd reads fields of it without looking whether it is there,
/// so it is never empty.
fn features(runc: Option<Value>) -> Value {
    let mut features = runc
        .filter(Value::is_object)
        .unwrap_or_else(|| json!({"ociVersionMin": "1.0.0", "ociVersionMax": "1.0.2"}));
    if let Some(linux) = features.get_mut("linux").and_then(Value::as_object_mut) {
        if let Some(Value::Array(namespaces)) = linux.get_mut("namespaces") {
            namespaces.retain(|name| name != "user");
        }
        linux.remove("mountExtensions");
    }
    features
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_namespaces_are_not_promised() {
        let runc = json!({
            "mountOptions": ["rro"],
            "linux": {"namespaces": ["pid", "user"], "mountExtensions": {"idmap": {"enabled": true}}},
        });
        let features = features(Some(runc));
        assert_eq!(features["linux"]["namespaces"], json!(["pid"]));
        assert_eq!(features["mountOptions"], json!(["rro"]));
        assert!(features["linux"].get("mountExtensions").is_none());
    }

    #[test]
    fn without_runc_there_are_still_features() {
        assert!(features(None).is_object());
    }
}
