//! RBAC's own rules appear a second or more after the API server began to answer. Until then it
//! refuses the scheduler and the controller manager, who try again only seconds later; so they are
//! let in by a rule of ours, for that time. It does not depend on the version of Kubernetes, which
//! adds to its rules what is missing but takes nothing away.

use serde_json::{Value, json};

use crate::cluster::api::Api;
use crate::cluster::{Error, Result};

const NAME: &str = "wasmkind:boot";
const USERS: [&str; 2] = ["system:kube-controller-manager", "system:kube-scheduler"];
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// Lets the two in.
pub(super) async fn grant(admin: &Api) -> Result<()> {
    admin.create_all(&rule()).await
}

/// Removes the rule.
pub(super) async fn revoke(admin: &Api) -> Result<()> {
    for kind in ["clusterrolebindings", "clusterroles"] {
        let removed = admin.delete(&format!("{RBAC}/{kind}/{NAME}")).await;
        removed.map_err(|source| Error::Api {
            what: format!("remove {NAME} from the cluster's {kind}"),
            source,
        })?;
    }
    Ok(())
}

fn rule() -> [Value; 2] {
    let subjects: Vec<Value> = USERS
        .iter()
        .map(
            |user| json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user }),
        )
        .collect();
    let metadata = json!({ "name": NAME });
    [
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata,
            "rules": [{ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] }, { "nonResourceURLs": ["*"], "verbs": ["get"] }]
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": metadata,
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": NAME }, "subjects": subjects
        }),
    ]
}
