//! What a case has at hand: the column it runs in, and objects that are removed after it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::api::Namespace;
use super::case::{Half, Verdict};
use super::namespace::{Home, Made, Marks};
use super::pod::Running;

/// Between two looks at what cannot be watched.
const LOOK: Duration = Duration::from_millis(100);
/// Left of a case's time for saying why it failed.
const RESERVE: Duration = Duration::from_secs(1);

/// Labels of everything that the suite makes.
pub(super) const RUN_LABEL: &str = "wasmkind.dev/conformance";
pub(super) const CASE_LABEL: &str = "wasmkind.dev/case";

/// What a Pod's containers are in a column.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    /// None: the cluster's default runtime.
    pub(super) runtime_class: Option<String>,
    /// Otherwise both halves run the Linux build.
    pub(super) wasm: bool,
    pub(super) images: Images,
}

/// Where the guest's images are.
#[derive(Debug, Clone)]
pub(super) struct Images {
    pub(super) registry: String,
}

impl Images {
    pub(super) fn of(&self, half: Half) -> String {
        format!("{}/{half}:v1", self.registry)
    }
}

/// A case under way.
#[derive(Clone)]
pub(super) struct Test(Arc<Inner>);

struct Inner {
    namespace: Namespace,
    marks: Marks,
    setting: Setting,
    /// The case's, with `-` for `.`, and the run's where others have objects in the namespace: all
    /// its objects' names begin with it.
    name: String,
    deadline: Instant,
    made: Mutex<Vec<Made>>,
}

impl Test {
    pub(super) fn new(home: &Home, setting: Setting, case: &str, deadline: Instant) -> Self {
        Self(Arc::new(Inner {
            namespace: home.namespace.clone(),
            marks: home.marks.clone(),
            setting,
            name: case.replace('.', "-") + &home.marks.suffix,
            deadline,
            made: Mutex::default(),
        }))
    }

    pub(super) fn namespace(&self) -> &Namespace {
        &self.0.namespace
    }

    /// Name of the case's objects; with a suffix where there are more than one of a kind.
    pub(super) fn name(&self) -> &str {
        &self.0.name
    }

    /// When waiting has to end.
    pub(super) fn deadline(&self) -> Instant {
        self.0.deadline - RESERVE
    }

    /// What is to be removed, the last one made first.
    pub(super) fn made(&self) -> Vec<Made> {
        let made = self.0.made.lock().map(|made| made.clone());
        made.unwrap_or_default().into_iter().rev().collect()
    }

    // Containers

    /// What really runs for a half: the Linux build, in a column without Wasm.
    pub(super) fn build(&self, half: Half) -> Half {
        if self.0.setting.wasm {
            half
        } else {
            Half::Linux
        }
    }

    pub(super) fn image(&self, half: Half) -> String {
        self.0.setting.images.of(self.build(half))
    }

    /// Path of one of the guest's programs in the image of that half.
    fn program(&self, half: Half, program: &str) -> String {
        match self.build(half) {
            Half::Wasm => format!("/{program}.wasm"),
            Half::Linux => format!("/{program}"),
        }
    }

    /// The words that run the guest's command: for a container or an exec.
    pub(super) fn words(&self, half: Half, words: &[&str]) -> Vec<String> {
        std::iter::once(self.program(half, "command"))
            .chain(words.iter().map(|word| (*word).to_owned()))
            .collect()
    }

    /// The words that exit with a code.
    pub(super) fn exit_words(&self, half: Half, code: u8) -> Vec<String> {
        vec![self.program(half, "exit"), code.to_string()]
    }

    /// A container named after its half.
    pub(super) fn container(&self, half: Half) -> Value {
        json!({
            "name": half.as_str(),
            "image": self.image(half),
            "imagePullPolicy": "IfNotPresent",
        })
    }

    /// A container that runs the guest's command.
    pub(super) fn command(&self, half: Half, words: &[&str]) -> Value {
        self.container(half)
            .with(json!({ "command": self.words(half, words) }))
    }

    /// A container that exits with a code.
    pub(super) fn exits(&self, half: Half, code: u8) -> Value {
        self.container(half)
            .with(json!({ "command": self.exit_words(half, code) }))
    }

    /// A container that runs the guest's service, on the port of its half.
    pub(super) fn service(&self, half: Half) -> Value {
        let port = port(half);
        self.container(half).with(json!({
            "env": [{ "name": "WASMTIME_HTTP_PROXY_SOCKET_ADDR", "value": format!("0.0.0.0:{port}") }],
            "ports": [{ "name": half.as_str(), "containerPort": port }],
        }))
    }

    /// Both halves' containers.
    pub(super) fn both(&self, container: impl Fn(Half) -> Value) -> Value {
        Half::BOTH.map(container).as_slice().into()
    }

    /// A Pod's spec: what all Pods of the suite have, and `more`.
    pub(super) fn spec(&self, more: Value) -> Value {
        let mut spec = json!({
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 2,
            "enableServiceLinks": false,
            "automountServiceAccountToken": false,
        });
        if let Some(class) = &self.0.setting.runtime_class {
            spec["runtimeClassName"] = class.as_str().into();
        }
        spec.with(more)
    }

    // Objects

    /// Labels of an object that a controller's selector, or a Service's, finds.
    pub(super) fn labels(&self) -> Value {
        json!({ CASE_LABEL: self.name(), RUN_LABEL: self.0.marks.run })
    }

    /// Creates an object under the case's name, or the one that it has.
    pub(super) async fn create(&self, kind: &str, object: Value) -> anyhow::Result<Value> {
        let path = self.namespace().path(kind)?;
        let api_version = path
            .split("/namespaces/")
            .next()
            .unwrap_or_default()
            .trim_start_matches("/apis/")
            .trim_start_matches("/api/")
            .to_owned();
        let mut object = json!({ "apiVersion": api_version, "kind": kind }).with(object);
        let metadata = &mut object["metadata"];
        if metadata["name"].is_null() {
            metadata["name"] = self.name().into();
        }
        let name = metadata["name"].as_str().unwrap_or_default().to_owned();
        metadata["labels"] = self.labels().with(metadata["labels"].take());
        if let Some(owner) = &self.0.marks.owner {
            metadata["ownerReferences"] = json!([owner]);
        }
        // What could not be removed is not made.
        let missing = &self.namespace().missing;
        missing.check_request(&Method::DELETE, &format!("{path}/{name}"))?;
        self.0.marks.record(kind, &name);
        if let Ok(mut made) = self.0.made.lock() {
            made.push(Made {
                kind: kind.into(),
                name,
            });
        }
        self.namespace().post(&path, &object).await
    }

    /// Creates a Pod under the case's name.
    pub(super) async fn pod(&self, spec: Value) -> anyhow::Result<Running> {
        self.pod_as(self.name(), spec).await
    }

    /// Creates a Pod under a name.
    pub(super) async fn pod_as(&self, name: &str, spec: Value) -> anyhow::Result<Running> {
        self.pod_from(json!({ "metadata": { "name": name }, "spec": self.spec(spec) }))
            .await
    }

    /// Creates a Pod that is given whole.
    pub(super) async fn pod_from(&self, object: Value) -> anyhow::Result<Running> {
        let pod = self.create("Pod", object).await?;
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        Ok(Running::new(self.clone(), name))
    }

    /// The current state of an object.
    pub(super) async fn look(&self, kind: &str, name: &str) -> anyhow::Result<Value> {
        let path = self.namespace().path(kind)?;
        self.namespace().get(&format!("{path}/{name}")).await
    }

    // Assertions

    /// Asks again and again until there is an answer, or the case's time is over.
    pub(super) async fn until<T>(
        &self,
        mut ask: impl AsyncFnMut() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let mut last = anyhow!("no answer came in time");
        let asked = async {
            loop {
                match ask().await {
                    Ok(answer) => return Ok(answer),
                    Err(error) if error.is::<Skip>() => return Err(error),
                    Err(error) => last = error,
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        match tokio::time::timeout_at(self.deadline(), asked).await {
            Ok(answer) => answer,
            Err(_) => Err(last),
        }
    }

    /// Asserts something for each half, at the same time; the error tells which halves fail.
    pub(super) async fn each(&self, assert: impl AsyncFn(Half) -> Verdict) -> Verdict {
        let verdicts = join_all(Half::BOTH.map(|half| assert(half))).await;
        let mut failures = Vec::new();
        for (half, verdict) in Half::BOTH.into_iter().zip(verdicts) {
            match verdict {
                Ok(()) => {}
                Err(error) if error.is::<Skip>() => return Err(error),
                Err(error) => failures.push((half, format!("{error:#}"))),
            }
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(HalvesFailed(failures).into())
        }
    }
}

/// Port of a half's service.
pub(super) fn port(half: Half) -> u16 {
    match half {
        Half::Wasm => 8080,
        Half::Linux => 9090,
    }
}

/// An assertion that does not hold for one half or both.
#[derive(Debug)]
pub(super) struct HalvesFailed(pub(super) Vec<(Half, String)>);

impl std::fmt::Display for HalvesFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<_> = self
            .0
            .iter()
            .map(|(half, what)| format!("{half}: {what}"))
            .collect();
        f.write_str(&parts.join("; "))
    }
}

impl std::error::Error for HalvesFailed {}

/// Why a case cannot be asserted on this cluster.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Skip(pub(super) String);

/// Ends a case that this cluster's configuration gives no way to assert.
pub(super) fn skip(reason: String) -> Verdict {
    Err(Skip(reason).into())
}

/// Objects put together from parts.
pub(super) trait With {
    /// With the fields of `more` added, or in place of those that are there.
    fn with(self, more: Value) -> Self;
}

impl With for Value {
    fn with(mut self, more: Value) -> Self {
        if let (Value::Object(fields), Value::Object(more)) = (&mut self, more) {
            fields.extend(more);
        }
        self
    }
}

/// Fails unless both are equal, and says what was expected of what.
pub(super) fn expect<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Verdict {
    if found == expected {
        return Ok(());
    }
    Err(anyhow!("{what}: expected {expected:?}, found {found:?}"))
}

/// Fails unless the text has that part.
pub(super) fn expect_in(what: &str, found: &str, part: &str) -> Verdict {
    if found.contains(part) {
        return Ok(());
    }
    let found = found.trim_end();
    Err(anyhow!("{what}: expected {part:?} in {found:?}"))
}

/// For a value that must be there.
pub(super) fn there<T>(value: Option<T>, what: &str) -> anyhow::Result<T> {
    value.with_context(|| format!("{what} is not there"))
}
