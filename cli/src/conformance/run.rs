//! Runs cases side by side, each in time, and removes what they made.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::Node as NodeObject;
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use super::case::{Case, Half};
use super::error::{Error, Result};
use super::evidence;
use super::namespace::{self, Home};
use super::results::{CaseResult, CaseRun, Cluster, ColumnInfo, FORMAT, Node, Outcome, Results};
use super::rights::{self, Missing};
use super::selection::{Selection, documentation};
use super::test::{HalvesFailed, Images, Setting, Skip, Test};

/// Where the guest's images are unless told otherwise; the node image has them.
pub const DEFAULT_REGISTRY: &str = "wasmkind.dev/conformance";
/// For the images of a first Pod to be found or pulled.
const IMAGES: Duration = Duration::from_secs(120);
const EVIDENCE: Duration = Duration::from_secs(10);

/// What to run, and where.
#[derive(Debug, Clone)]
pub struct Options {
    pub kubeconfig: Option<PathBuf>,
    pub context: Option<String>,
    /// A namespace that is there, instead of one of the suite's own.
    pub namespace: Option<String>,
    pub columns: Vec<Column>,
    pub selection: Selection,
    /// Cases at a time.
    pub parallel: usize,
    /// For each case.
    pub timeout: Duration,
    /// Start no more cases after a failure.
    pub fail_fast: bool,
    /// Leave the objects of failed cases in the cluster, for a look.
    pub keep_on_failure: bool,
    pub registry: String,
}

/// A column of the matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Column {
    /// Mixed Pods under a RuntimeClass.
    RuntimeClass(String),
    /// Pods under a RuntimeClass, or the default runtime, whose containers both run the Linux
    /// build: shows that the cases themselves are right.
    Control(Option<String>),
}

impl Column {
    /// Its heading.
    pub fn name(&self) -> String {
        match self {
            Self::RuntimeClass(name) => name.clone(),
            Self::Control(Some(name)) => format!("{name} (Linux only)"),
            Self::Control(None) => "default (Linux only)".into(),
        }
    }

    fn runtime_class(&self) -> Option<&String> {
        match self {
            Self::RuntimeClass(name) | Self::Control(Some(name)) => Some(name),
            Self::Control(None) => None,
        }
    }

    fn setting(&self, registry: &str) -> Setting {
        Setting {
            runtime_class: self.runtime_class().cloned(),
            wasm: matches!(self, Self::RuntimeClass(_)),
            images: Images {
                registry: registry.into(),
            },
        }
    }
}

/// What happens while cases run.
pub trait Observer {
    fn begins(&mut self, column: &str, cases: usize);
    fn starts(&mut self, case: &str);
    fn ends(&mut self, case: &str, run: &CaseRun);
    fn cleans_up(&mut self);
}

/// Runs the suite. Whatever it made is gone when this returns, also after an interruption.
///
/// # Errors
/// When the suite could not be run; failed cases are results.
pub async fn run(
    options: &Options,
    observer: &mut dyn Observer,
    interrupt: impl Future<Output = ()>,
) -> Result<Results> {
    let cases = options.selection.cases()?;
    let client = connect(options).await?;
    let began = Instant::now();
    let mut interrupt = std::pin::pin!(interrupt);
    let id = run_id();
    let (cluster, missing) = tokio::select! {
        found = look_around(&client, options, &id) => found?,
        () = &mut interrupt => return Err(Error::Interrupted),
    };
    let started = OffsetDateTime::now_utc()
        .format(&Rfc3339)
        .unwrap_or_default();
    let mut results: Vec<CaseResult> = cases
        .iter()
        .map(|case| CaseResult {
            name: case.name.into(),
            shows: case.shows.into(),
            documentation: documentation(case),
            results: Vec::new(),
        })
        .collect();
    for (index, column) in options.columns.iter().enumerate() {
        observer.begins(&column.name(), cases.len());
        let existing = options.namespace.as_deref();
        let home = Home::create(&client, missing.clone(), existing, &id, index).await?;
        let ran = tokio::select! {
            ran = run_column(&home, column, &cases, options, observer) => ran,
            () = &mut interrupt => Err(Error::Interrupted),
        };
        let kept = options.keep_on_failure
            && ran.as_ref().is_ok_and(|runs| {
                runs.iter()
                    .any(|run| matches!(run.outcome, Outcome::Failed { .. }))
            });
        if !kept {
            observer.cleans_up();
            let removed = home.remove().await;
            // What failed first is what the user has to know.
            if ran.is_ok() {
                removed?;
            }
        }
        for (result, run) in results.iter_mut().zip(ran?) {
            result.results.push(run);
        }
    }
    Ok(Results {
        format: FORMAT,
        run: id,
        version: env!("CARGO_PKG_VERSION").into(),
        started,
        seconds: began.elapsed().as_secs_f64(),
        profile: options.selection.whole_profile(),
        namespace: options.namespace.clone(),
        cluster,
        columns: options
            .columns
            .iter()
            .map(|column| ColumnInfo {
                name: column.name(),
                control: matches!(column, Column::Control(_)),
            })
            .collect(),
        cases: results,
    })
}

async fn connect(options: &Options) -> Result<Client> {
    let selection = KubeConfigOptions {
        context: options.context.clone(),
        ..KubeConfigOptions::default()
    };
    let config = match &options.kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path)?;
            kube::Config::from_custom_kubeconfig(kubeconfig, &selection).await?
        }
        None if options.context.is_some() => kube::Config::from_kubeconfig(&selection).await?,
        // Also from inside of a cluster.
        None => kube::Config::infer().await?,
    };
    Client::try_from(config).map_err(Error::api("connect to the cluster"))
}

/// What the cluster is, and which rights the user lacks.
///
/// # Errors
/// When the suite cannot be run there; nothing has been made.
async fn look_around(
    client: &Client,
    options: &Options,
    run: &str,
) -> Result<(Cluster, Arc<Missing>)> {
    let version = client.apiserver_version().await;
    let version = version.map_err(Error::api("ask the cluster for its version"))?;
    let own = namespace::own_name(run, 0);
    let existing = options.namespace.as_deref();
    let missing = rights::review(client, existing.unwrap_or(&own), existing.is_none()).await?;
    // Without that right the first Pod tells whether its RuntimeClass is there.
    if missing.may_list("node.k8s.io", "runtimeclasses") {
        check_classes(client, options).await?;
    }
    let mut cluster = Cluster {
        kubernetes: version.git_version,
        nodes: Vec::new(),
    };
    if missing.may_list("", "nodes") {
        cluster.nodes = nodes(client).await?;
    }
    Ok((cluster, Arc::new(missing)))
}

async fn nodes(client: &Client) -> Result<Vec<Node>> {
    let nodes: Api<NodeObject> = Api::all(client.clone());
    let nodes = nodes.list(&ListParams::default()).await;
    let nodes = nodes.map_err(Error::api("list the nodes"))?;
    let infos = nodes.into_iter().filter_map(|node| {
        let info = node.status?.node_info?;
        Some(Node {
            architecture: info.architecture,
            container_runtime: info.container_runtime_version,
            kernel: info.kernel_version,
            os: info.os_image,
        })
    });
    Ok(infos.collect())
}

async fn check_classes(client: &Client, options: &Options) -> Result<()> {
    let classes: Api<RuntimeClass> = Api::all(client.clone());
    let classes = classes.list(&ListParams::default()).await;
    let found: Vec<String> = classes
        .map_err(Error::api("list the RuntimeClasses"))?
        .into_iter()
        .filter_map(|class| class.metadata.name)
        .collect();
    for wanted in options.columns.iter().filter_map(Column::runtime_class) {
        if !found.contains(wanted) {
            return Err(Error::NoRuntimeClass {
                wanted: wanted.clone(),
                found,
            });
        }
    }
    Ok(())
}

/// Short, and other than that of a run at the same time.
fn run_id() -> String {
    let mut bytes = [0; 4];
    // Without randomness the name may be taken, and then creating the namespace says so.
    let _ = getrandom::fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn run_column(
    home: &Home,
    column: &Column,
    cases: &[Case],
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<Vec<CaseRun>> {
    home.wait_until_usable().await;
    let setting = column.setting(&options.registry);
    check_images(home, &setting).await?;
    // Those that wait for long do so beside the others.
    let mut order: Vec<usize> = (0..cases.len()).collect();
    order.sort_by_key(|index| !cases[*index].slow);
    let (events, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let runs = stream::iter(order).map(|index| {
        let (events, stop, setting) = (events.clone(), &stop, &setting);
        async move {
            let case = &cases[index];
            let run = if stop.load(std::sync::atomic::Ordering::Relaxed) {
                skipped("a case failed before")
            } else if case.wasm_only && !setting.wasm {
                skipped("it is about Wasm only")
            } else {
                let _ = events.send((index, None));
                run_case(home, setting, case, options).await
            };
            if options.fail_fast && matches!(run.outcome, Outcome::Failed { .. }) {
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
            }
            let _ = events.send((index, Some(run)));
        }
    });
    let mut found: Vec<Option<CaseRun>> = cases.iter().map(|_| None).collect();
    let mut runs = std::pin::pin!(runs.buffer_unordered(options.parallel.max(1)));
    let mut ended = false;
    while !ended || found.iter().any(Option::is_none) {
        tokio::select! {
            next = runs.next(), if !ended => ended = next.is_none(),
            Some((index, run)) = heard.recv() => match run {
                None => observer.starts(cases[index].name),
                Some(run) => {
                    observer.ends(cases[index].name, &run);
                    found[index] = Some(run);
                }
            },
        }
    }
    Ok(found.into_iter().flatten().collect())
}

fn skipped(reason: &str) -> CaseRun {
    CaseRun {
        seconds: 0.0,
        outcome: Outcome::Skipped {
            reason: reason.into(),
        },
    }
}

async fn run_case(home: &Home, setting: &Setting, case: &Case, options: &Options) -> CaseRun {
    let began = Instant::now();
    let deadline = began + options.timeout;
    let test = Test::new(home, setting.clone(), case.name, deadline);
    let namespace = &home.namespace;
    let verdict = match tokio::time::timeout_at(deadline, (case.body)(test.clone())).await {
        Ok(verdict) => verdict,
        Err(_) => Err(anyhow::anyhow!(
            "not done after {} s",
            options.timeout.as_secs()
        )),
    };
    let timed_out = Instant::now() >= test.deadline();
    let seconds = began.elapsed().as_secs_f64();
    let outcome = match verdict {
        Ok(()) => Outcome::Passed,
        Err(error) if error.is::<Skip>() => Outcome::Skipped {
            reason: error.to_string(),
        },
        Err(error) => {
            let halves = error.downcast_ref::<HalvesFailed>();
            let gathered = tokio::time::timeout(EVIDENCE, evidence::gather(&test)).await;
            Outcome::Failed {
                halves: halves.map_or(Vec::new(), |failed| {
                    failed.0.iter().map(|(half, _)| *half).collect()
                }),
                assertion: format!("{error:#}"),
                evidence: gathered.unwrap_or_default(),
                timed_out,
            }
        }
    };
    let failed = matches!(outcome, Outcome::Failed { .. });
    if !(failed && options.keep_on_failure) {
        // Pods that failed may not end by themselves.
        let grace = failed.then_some(0);
        for made in test.made() {
            if let Ok(path) = namespace.path(&made.kind) {
                // Whatever is left goes with the namespace.
                let path = format!("{path}/{}", made.name);
                let grace = grace.filter(|_| made.kind == "Pod");
                let _ = namespace.delete(&path, grace).await;
            }
        }
    }
    CaseRun { seconds, outcome }
}

/// One missing image would fail every case, each after a long wait.
async fn check_images(home: &Home, setting: &Setting) -> Result<()> {
    let deadline = Instant::now() + IMAGES;
    let test = Test::new(home, setting.clone(), "images", deadline);
    let pod = test.pod(json!({ "containers": test.both(|half| test.command(half, &["true"])) }));
    let failed = |half: Half, reason: String| Error::NoImage {
        image: test.image(half),
        reason,
    };
    let pod = pod.await.map_err(|error| Error::Api {
        what: format!("create the first Pod in namespace {}", home.namespace.name),
        reason: format!("{error:#}"),
    })?;
    let found = pod.watch("the images are there", |state| {
        let Some(state) = state else { return Ok(None) };
        let mut present = 0;
        for half in Half::BOTH {
            let Some(status) = super::pod::status(state, half.as_str()) else {
                continue;
            };
            let waiting = status
                .state
                .as_ref()
                .and_then(|state| state.waiting.as_ref());
            let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
            match reason {
                Some(
                    "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull",
                ) => {
                    let message = waiting.and_then(|waiting| waiting.message.clone());
                    return Ok(Some(Some((half, message.unwrap_or_default()))));
                }
                Some("ContainerCreating" | "PodInitializing") => {}
                _ => present += 1,
            }
        }
        Ok((present == 2).then_some(None))
    });
    let found = found.await;
    let _ = home.namespace.delete(&pod.path(), Some(0)).await;
    match found {
        Ok(Some((half, reason))) => Err(failed(half, reason)),
        // Whatever else is wrong with the first Pod, the cases will tell better.
        Ok(None) | Err(_) => Ok(()),
    }
}
