//! The network that a node image brings for its clusters, `/kind/manifests/default-cni.yaml`.
//!
//! kind applies the file. The tool's own nodes have a CNI configuration before they boot, and need
//! what else the file brings: the enforcement of NetworkPolicies, by kube-network-policies on the
//! offline base, and by kindnetd on kind's images.

use serde_json::{Value, json};

use super::bootstrap::{Bootstrap, POD_SUBNET};
use super::objects;

pub(super) const MANIFEST: &str = "/kind/manifests/default-cni.yaml";
/// The offline base's writer of CNI configurations: the tool has written it already.
const NODE_NETWORK: &str = "node-network";

/// The file's objects, completed as kind does it (pkg/cluster/internal/create/actions/installcni).
pub(super) fn objects(manifest: &str, bootstrap: &Bootstrap) -> serde_norway::Result<Vec<Value>> {
    let mut text = manifest.to_owned();
    if manifest.contains("would you kindly template this file") {
        for placeholder in ["{{ .PodSubnet }}", "{{.PodSubnet}}"] {
            text = text.replace(placeholder, POD_SUBNET);
        }
    }
    let mut objects = objects::documents(&text)?;
    objects.retain(|object| object["metadata"]["name"] != NODE_NETWORK);
    if manifest.contains("would you kindly patch this file") {
        let endpoint = format!("{}:6443", bootstrap.endpoint());
        for object in objects
            .iter_mut()
            .filter(|object| object["kind"] == "DaemonSet")
        {
            let variables = object.pointer_mut("/spec/template/spec/containers/0/env");
            if let Some(variables) = variables.and_then(Value::as_array_mut) {
                variables.push(json!({ "name": "CONTROL_PLANE_ENDPOINT", "value": endpoint }));
            }
        }
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::bootstrap::example;

    const OFFLINE: &str =
        include_str!("../../../node-image/rootfs/base/kind/manifests/default-cni.yaml");
    const KINDS: &str = "# would you kindly template this file
# would you kindly patch this file
kind: DaemonSet
metadata: { name: kindnet }
spec:
  template:
    spec:
      containers:
      - env: [{ name: POD_SUBNET, value: {{ .PodSubnet }} }]
";

    fn names(objects: &[Value]) -> Vec<String> {
        let name = |object: &Value| {
            format!(
                "{} {}",
                object["kind"].as_str().unwrap(),
                object["metadata"]["name"].as_str().unwrap()
            )
        };
        objects.iter().map(name).collect()
    }

    #[test]
    fn of_the_offline_base_policies_are_left() {
        let objects = objects(OFFLINE, &example()).unwrap();
        assert_eq!(
            names(&objects),
            [
                "ClusterRole",
                "ServiceAccount",
                "ClusterRoleBinding",
                "DaemonSet"
            ]
            .map(|kind| format!("{kind} kube-network-policies"))
        );
        assert_eq!(
            objects[3]["spec"]["template"]["spec"]["containers"][0]["env"][1],
            json!({ "name": "CONTROL_PLANE_ENDPOINT", "value": "kind-control-plane:6443" })
        );
    }

    #[test]
    fn kinds_own_is_completed_as_kind_does() {
        let objects = objects(KINDS, &example()).unwrap();
        assert_eq!(
            objects[0]["spec"]["template"]["spec"]["containers"][0]["env"],
            json!([
                { "name": "POD_SUBNET", "value": "10.244.0.0/16" },
                { "name": "CONTROL_PLANE_ENDPOINT", "value": "kind-control-plane:6443" },
            ])
        );
    }

    #[test]
    fn a_file_that_does_not_ask_is_taken_as_it_is() {
        let text = KINDS
            .replace("would you kindly", "")
            .replace("{{ .PodSubnet }}", "none");
        let objects = objects(&text, &example()).unwrap();
        assert_eq!(
            objects[0]["spec"]["template"]["spec"]["containers"][0]["env"],
            json!([{ "name": "POD_SUBNET", "value": "none" }])
        );
    }
}
