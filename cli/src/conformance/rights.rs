//! What the user has to be allowed to do: asked of the API before anything is made.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, TryStreamExt, stream};
use http::Method;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;

use super::error::{Error, Result};
use super::test::Skip;

/// Questions to the API at a time.
const PARALLEL: usize = 8;

/// API group, resource with subresource, verbs.
type Rule = (&'static str, &'static str, &'static [&'static str]);

/// In the namespace of the cases: the Role that `--print-role` prints.
const NAMESPACED: [Rule; 18] = [
    (
        "",
        "pods",
        &["create", "delete", "get", "list", "patch", "watch"],
    ),
    // The way to a container is asked for with GET; since Kubernetes 1.35 `create` is needed as well.
    ("", "pods/attach", &["create", "get"]),
    ("", "pods/ephemeralcontainers", &["patch"]),
    ("", "pods/exec", &["create", "get"]),
    ("", "pods/log", &["get"]),
    ("", "pods/portforward", &["create", "get"]),
    ("", "pods/proxy", &["create", "get"]),
    ("", "pods/resize", &["patch"]),
    ("", "configmaps", &["create", "delete", "patch"]),
    ("", "events", &["list"]),
    ("", "persistentvolumeclaims", &["create", "delete"]),
    ("", "secrets", &["create", "delete", "patch"]),
    ("", "services", &["create", "delete"]),
    ("apps", "daemonsets", &["create", "delete", "get"]),
    ("apps", "deployments", &["create", "delete", "get", "patch"]),
    ("apps", "statefulsets", &["create", "delete", "get"]),
    ("batch", "jobs", &["create", "delete", "get"]),
    (
        "networking.k8s.io",
        "networkpolicies",
        &["create", "delete"],
    ),
];

/// Without these no case can run, and nothing could be removed.
const INDISPENSABLE: [(&str, &str); 8] = [
    ("pods", "create"),
    ("pods", "delete"),
    ("pods", "get"),
    ("pods", "list"),
    ("pods", "watch"),
    ("pods/log", "get"),
    ("configmaps", "create"),
    ("configmaps", "delete"),
];

/// In the whole cluster, where the suite makes its own namespace.
const OWN_NAMESPACE: [Rule; 2] = [
    (
        "",
        "namespaces",
        &["create", "delete", "get", "list", "watch"],
    ),
    ("", "serviceaccounts", &["get"]),
];

/// In the whole cluster: what a report tells of it, and what single cases look at.
const CLUSTER: [Rule; 3] = [
    ("", "nodes", &["list"]),
    ("", "nodes/proxy", &["get"]),
    ("node.k8s.io", "runtimeclasses", &["list"]),
];

/// In the namespace of the API server's own Service.
const DEFAULT_NAMESPACE: [Rule; 1] = [("", "services", &["get"])];

/// One verb on one resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Right {
    /// None is the whole cluster.
    namespace: Option<String>,
    resource: String,
    group: String,
    verb: String,
}

impl Right {
    pub(super) fn new(namespace: Option<&str>, group: &str, resource: &str, verb: &str) -> Self {
        Self {
            namespace: namespace.map(str::to_owned),
            resource: resource.into(),
            group: group.into(),
            verb: verb.into(),
        }
    }

    /// What a request needs, as the API server finds it out from method and path
    /// (`k8s.io/apiserver/pkg/endpoints/request/requestinfo.go`). None for a path without a resource.
    pub(super) fn of(method: &Method, path: &str) -> Option<Self> {
        let path = path.split('?').next().unwrap_or_default();
        let mut parts = path.trim_matches('/').split('/');
        let group = match parts.next()? {
            "api" => "",
            "apis" => parts.next()?,
            _ => return None,
        };
        parts.next()?;
        let mut parts = parts.peekable();
        let mut namespace = None;
        let mut resource = parts.next()?;
        let mut name = parts.next();
        if resource == "namespaces" && parts.peek().is_some() {
            namespace = name;
            resource = parts.next()?;
            name = parts.next();
        }
        let verb = match *method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ if name.is_none() => "list",
            _ => "get",
        };
        let resource = match parts.next() {
            Some(part) => format!("{resource}/{part}"),
            None => resource.into(),
        };
        Some(Self::new(namespace, group, &resource, verb))
    }

    fn all_of(namespace: Option<&str>, rules: &[Rule]) -> Vec<Self> {
        let rights = rules.iter().flat_map(|(group, resource, verbs)| {
            verbs
                .iter()
                .map(|verb| Self::new(namespace, group, resource, verb))
        });
        rights.collect()
    }

    fn is_indispensable(&self, namespace: &str) -> bool {
        self.namespace.as_deref() == Some(namespace)
            && INDISPENSABLE.contains(&(self.resource.as_str(), self.verb.as_str()))
    }

    /// `pods/log`, `deployments.apps`
    fn resource(&self) -> String {
        if self.group.is_empty() {
            self.resource.clone()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }

    fn place(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("in namespace {namespace}"),
            None => "in the whole cluster".into(),
        }
    }

    fn review(&self) -> SelfSubjectAccessReview {
        let (resource, subresource) = match self.resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
            None => (self.resource.as_str(), None),
        };
        SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    namespace: self.namespace.clone(),
                    group: Some(self.group.clone()),
                    resource: Some(resource.into()),
                    subresource,
                    verb: Some(self.verb.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        }
    }
}

/// Rights that the suite needs and the user lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Missing(BTreeSet<Right>);

impl Missing {
    /// Whether the user may do that; otherwise a case is skipped.
    pub(super) fn check(&self, right: &Right) -> Result<(), Skip> {
        if self.0.contains(right) {
            let (verb, resource, place) = (&right.verb, right.resource(), right.place());
            return Err(Skip(format!(
                "it needs the right to {verb} {resource} {place}"
            )));
        }
        Ok(())
    }

    /// The same for a request.
    pub(super) fn check_request(&self, method: &Method, path: &str) -> Result<(), Skip> {
        Right::of(method, path).map_or(Ok(()), |right| self.check(&right))
    }

    /// The same for what is listed in the whole cluster.
    pub(super) fn may_list(&self, group: &str, resource: &str) -> bool {
        !self.0.contains(&Right::new(None, group, resource, "list"))
    }

    /// A line a place, and one a resource.
    fn lines(&self) -> String {
        let mut places: BTreeMap<String, BTreeMap<String, Vec<&str>>> = BTreeMap::new();
        for right in &self.0 {
            let resources = places.entry(right.place()).or_default();
            let verbs = resources.entry(right.resource()).or_default();
            verbs.push(&right.verb);
        }
        let mut lines = String::new();
        for (place, resources) in places {
            lines.push_str(&format!("{place}:\n"));
            for (resource, verbs) in resources {
                lines.push_str(&format!("  {resource}: {}\n", verbs.join(", ")));
            }
        }
        lines
    }
}

/// Asks for the rights to run in `namespace`, which the suite makes itself, or which is there.
///
/// # Errors
/// Names all that are missing: without an own namespace, when no case could run.
pub(super) async fn review(client: &Client, namespace: &str, own: bool) -> Result<Missing> {
    let mut needed = Right::all_of(Some(namespace), &NAMESPACED);
    needed.extend(Right::all_of(Some("default"), &DEFAULT_NAMESPACE));
    needed.extend(Right::all_of(None, &CLUSTER));
    if own {
        needed.extend(Right::all_of(None, &OWN_NAMESPACE));
    }
    let missing = lacking(client, needed).await?;
    let enough = if own {
        missing.0.is_empty()
    } else {
        !missing
            .0
            .iter()
            .any(|right| right.is_indispensable(namespace))
    };
    if enough {
        return Ok(missing);
    }
    Err(Error::NoRights {
        user: user(client).await,
        missing: missing.lines(),
        own,
    })
}

async fn lacking(client: &Client, needed: Vec<Right>) -> Result<Missing> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let answers = stream::iter(needed).map(|right| {
        let reviews = &reviews;
        async move {
            let answer = reviews
                .create(&PostParams::default(), &right.review())
                .await
                .map_err(Error::api("ask for the user's rights"))?;
            let allowed = answer.status.is_some_and(|status| status.allowed);
            Ok::<_, Error>((!allowed).then_some(right))
        }
    });
    let missing: Vec<_> = answers.buffer_unordered(PARALLEL).try_collect().await?;
    Ok(Missing(missing.into_iter().flatten().collect()))
}

/// Whom the API takes the user for; empty where it does not tell.
async fn user(client: &Client) -> String {
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    let answer = reviews
        .create(&PostParams::default(), &SelfSubjectReview::default())
        .await;
    let status = answer.ok().and_then(|review| review.status);
    let user = status.and_then(|status| status.user_info?.username);
    user.map_or_else(String::new, |user| format!(" {user:?}"))
}

/// The Role of an ordinary user with whose rights the suite runs in a namespace.
pub fn role() -> serde_json::Value {
    let rules: Vec<_> = NAMESPACED
        .iter()
        .map(|(group, resource, verbs)| {
            json!({ "apiGroups": [group], "resources": [resource], "verbs": verbs })
        })
        .collect();
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": { "name": "wasmkind-conformance" },
        "rules": rules,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("GET", "/api/v1/namespaces/n/pods/p", "get  pods n")]
    #[case(
        "GET",
        "/api/v1/namespaces/n/events?fieldSelector=a%3Db",
        "list  events n"
    )]
    #[case("POST", "/api/v1/namespaces/n/pods", "create  pods n")]
    #[case("PATCH", "/api/v1/namespaces/n/pods/p/resize", "patch  pods/resize n")]
    #[case(
        "GET",
        "/api/v1/namespaces/n/pods/p/log?container=c&follow=true",
        "get  pods/log n"
    )]
    #[case(
        "POST",
        "/api/v1/namespaces/n/pods/p:80/proxy/a/b?c",
        "create  pods/proxy n"
    )]
    #[case(
        "DELETE",
        "/apis/apps/v1/namespaces/n/deployments/d",
        "delete apps deployments n"
    )]
    #[case("GET", "/api/v1/nodes/m/proxy/stats/summary", "get  nodes/proxy -")]
    #[case("GET", "/api/v1/namespaces/n", "get  namespaces -")]
    #[case("GET", "/version", "")]
    fn a_request_needs_the_right_that_the_api_server_asks_for(
        #[case] method: &str,
        #[case] path: &str,
        #[case] expected: &str,
    ) {
        let right = Right::of(&method.parse().unwrap(), path);
        let found = right.map_or(String::new(), |right| {
            let namespace = right.namespace.as_deref().unwrap_or("-");
            format!(
                "{} {} {} {namespace}",
                right.verb, right.group, right.resource
            )
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn every_kind_that_cases_make_is_in_the_role() {
        let role = Right::all_of(Some("n"), &NAMESPACED);
        for (_, root, plural) in crate::conformance::api::KINDS {
            let path = format!("/{root}/namespaces/n/{plural}");
            let mut needed = vec![Right::of(&Method::POST, &path)];
            needed.push(Right::of(&Method::DELETE, &format!("{path}/name")));
            for right in needed.into_iter().flatten() {
                assert!(role.contains(&right), "{right:?}");
            }
        }
        for (resource, verb) in INDISPENSABLE {
            let right = Right::new(Some("n"), "", resource, verb);
            assert!(role.contains(&right), "{right:?}");
        }
    }

    #[test]
    fn all_that_is_missing_is_told_by_place_and_resource() {
        let missing = Missing(BTreeSet::from([
            Right::new(None, "node.k8s.io", "runtimeclasses", "list"),
            Right::new(Some("n"), "", "pods", "get"),
            Right::new(Some("n"), "", "pods", "create"),
            Right::new(Some("n"), "apps", "deployments", "create"),
        ]));
        assert_eq!(
            missing.lines(),
            "in namespace n:\n  deployments.apps: create\n  pods: create, get\n\
             in the whole cluster:\n  runtimeclasses.node.k8s.io: list\n"
        );
    }

    /// The API of a server that grants what `granted` says, and knows the user as `somebody`.
    fn server(granted: fn(&serde_json::Value) -> bool) -> Client {
        use std::io::{BufRead, BufReader, Read, Write};
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        // Ends with the test's process.
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = BufReader::new(stream.try_clone().unwrap());
                let (mut line, mut length) = (String::new(), 0);
                while request.read_line(&mut line).unwrap() > 2 {
                    if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                request.read_exact(&mut body).unwrap();
                let mut review: serde_json::Value = serde_json::from_slice(&body).unwrap();
                review["status"] = match &review["spec"]["resourceAttributes"] {
                    serde_json::Value::Null => json!({ "userInfo": { "username": "somebody" } }),
                    attributes => json!({ "allowed": granted(attributes) }),
                };
                let body = review.to_string();
                let head =
                    "HTTP/1.1 201 Created\r\ncontent-type: application/json\r\nconnection: close";
                let length = body.len();
                let _ = write!(stream, "{head}\r\ncontent-length: {length}\r\n\r\n{body}");
            }
        });
        Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap()
    }

    /// What is told of the error, all of it; or how many rights are missing.
    async fn reviewed(granted: fn(&serde_json::Value) -> bool, own: bool) -> Result<usize, String> {
        let reviewed = review(&server(granted), "n", own).await;
        match reviewed {
            Ok(missing) => Ok(missing.0.len()),
            Err(error) => Err(crate::report::render(&error.into())),
        }
    }

    #[tokio::test]
    async fn all_that_is_missing_is_one_error() {
        assert_eq!(reviewed(|_| true, true).await, Ok(0));
        let error = reviewed(|_| false, true).await.unwrap_err();
        assert!(
            error.starts_with("error: the user \"somebody\" lacks rights that the suite needs\n"),
            "{error}"
        );
        for line in [
            "in namespace n:\n",
            "in namespace default:\n  services: get\n",
            "  pods/exec: create, get\n",
            "in the whole cluster:\n",
            "  namespaces: create, delete, get, list, watch\n",
            "hint: with --namespace NAME",
        ] {
            assert!(error.contains(line), "{line:?} is not in {error}");
        }
        // An own namespace needs all of it.
        let no_nodes = |asked: &serde_json::Value| asked["resource"] != "nodes";
        let error = reviewed(no_nodes, true).await.unwrap_err();
        assert_eq!(error.matches("nodes").count(), 2, "{error}");
    }

    #[tokio::test]
    async fn in_a_namespace_the_least_is_what_no_case_can_do_without() {
        let there = |asked: &serde_json::Value| asked["namespace"] == "n";
        // Nodes, their proxy, RuntimeClasses, the Service of the API server.
        assert_eq!(reviewed(there, false).await, Ok(4));
        let no_exec = |asked: &serde_json::Value| asked["subresource"] != "exec";
        assert_eq!(reviewed(no_exec, false).await, Ok(2));
        let no_logs = |asked: &serde_json::Value| asked["subresource"] != "log";
        let error = reviewed(no_logs, false).await.unwrap_err();
        assert!(
            error.contains("in namespace n:\n  pods/log: get\nhint: --print-role"),
            "{error}"
        );
    }

    #[test]
    fn a_case_is_skipped_for_the_right_that_is_missing() {
        let right = Right::new(None, "", "nodes/proxy", "get");
        let missing = Missing(BTreeSet::from([right]));
        let check = |path: &str| missing.check_request(&Method::GET, path);
        let skip = check("/api/v1/nodes/m/proxy/configz").unwrap_err();
        assert_eq!(
            skip.to_string(),
            "it needs the right to get nodes/proxy in the whole cluster"
        );
        assert!(check("/api/v1/namespaces/n/pods/p").is_ok());
    }
}
