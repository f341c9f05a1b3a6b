//! The lock file of an application: `spin registry push` writes it as one of the
//! artifact's layers (versions 0 and 1, crates/locked-app in Spin's sources).
//! What it asks for and is not to be had here is refused by its name.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::{AllowedHosts, Routes};
use crate::Kind;
use crate::config::{SpinComponent, SpinConfig, SpinRoute};

/// How many components an application may have.
pub const MAX_COMPONENTS: usize = 16;
/// The only key-value store there is.
const DEFAULT_STORE: &str = "default";
const VARIABLE_PREFIX: &str = "SPIN_VARIABLE_";

/// Why an application cannot be run, in one line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AppError(String);

impl AppError {
    fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// An application, its variables' values filled in.
#[derive(Debug)]
pub struct App {
    pub components: Vec<Component>,
    base: String,
    routes: Vec<SpinRoute>,
}

/// A component that some route leads to.
#[derive(Debug)]
pub struct Component {
    pub id: String,
    pub source: Content,
    pub files: Vec<File>,
    env: Vec<(String, String)>,
    variables: BTreeMap<String, String>,
    allowed_hosts: Vec<String>,
    store: bool,
}

/// Where content is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// In the layer of this digest.
    Digest(String),
    /// In the lock file.
    Inline(Vec<u8>),
}

/// A file, or an archive of files, in a component's filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub content: Content,
    /// As the lock file has it: not yet known to be inside the filesystem.
    pub path: String,
}

/// What the shim adds for the runner.
#[derive(Debug)]
pub struct Prepared {
    /// How each component is run, whether its code was compiled with support for concurrency,
    /// and the directory of its files as the runner finds it; in the components' order.
    pub components: Vec<(Kind, bool, Option<PathBuf>)>,
    /// The directory of the key-value store.
    pub store: PathBuf,
}

#[derive(Deserialize)]
struct Locked {
    spin_lock_version: u32,
    #[serde(default)]
    must_understand: Vec<String>,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    host_requirements: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    variables: BTreeMap<String, Variable>,
    triggers: Vec<Trigger>,
    components: Vec<LockedComponent>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    trigger: TriggerMetadata,
    triggers: BTreeMap<String, TriggerMetadata>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TriggerMetadata {
    base: Option<String>,
}

#[derive(Deserialize)]
struct Variable {
    default: Option<String>,
}

#[derive(Deserialize)]
struct Trigger {
    id: String,
    trigger_type: String,
    trigger_config: serde_json::Value,
    #[serde(default)]
    trigger_dependencies: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct HttpTrigger {
    component: String,
    route: serde_json::Value,
    #[serde(default)]
    executor: Option<Executor>,
}

#[derive(Deserialize)]
struct Executor {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct LockedComponent {
    id: String,
    #[serde(default)]
    metadata: ComponentMetadata,
    source: Reference,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    files: Vec<LockedFile>,
    #[serde(default)]
    config: BTreeMap<String, String>,
    #[serde(default)]
    dependencies: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    host_requirements: BTreeMap<String, serde_json::Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ComponentMetadata {
    allowed_outbound_hosts: Vec<String>,
    allowed_http_hosts: Vec<String>,
    key_value_stores: Vec<String>,
    databases: Vec<String>,
    ai_models: Vec<String>,
}

#[derive(Deserialize)]
struct Reference {
    #[serde(default)]
    inline: Option<String>,
    #[serde(default)]
    digest: Option<String>,
}

#[derive(Deserialize)]
struct LockedFile {
    #[serde(flatten)]
    content: Reference,
    path: String,
}

impl App {
    /// Reads the lock file. `env` gives the container's environment variables,
    /// where `SPIN_VARIABLE_NAME` is the value of the application's variable `name`.
    ///
    /// # Errors
    /// When it is no lock file, contradicts itself, needs what is not provided, or
    /// a variable has no value.
    pub fn parse<'a>(json: &[u8], env: impl Fn(&str) -> Option<&'a str>) -> Result<Self, AppError> {
        let locked: Locked = serde_json::from_slice(json)
            .map_err(|e| AppError::new(format!("the application's lock file is wrong: {e}")))?;
        check_requirements(&locked)?;
        let variables = variables(&locked, env)?;
        let mut app = Self {
            components: Vec::new(),
            base: base(&locked.metadata),
            routes: Vec::new(),
        };
        for trigger in &locked.triggers {
            app.add_trigger(trigger, &locked, &variables)?;
        }
        if app.routes.is_empty() {
            return Err(AppError::new("the application has no route to a component"));
        }
        Routes::new(&app.base, &app.routes).map_err(|e| AppError::new(e.to_string()))?;
        Ok(app)
    }

    /// What the runner is told.
    pub fn config(&self, prepared: Prepared) -> SpinConfig {
        SpinConfig {
            base: self.base.clone(),
            routes: self.routes.clone(),
            components: self
                .components
                .iter()
                .zip(prepared.components)
                .map(|(component, (kind, concurrency, files))| SpinComponent {
                    id: component.id.clone(),
                    kind,
                    concurrency,
                    env: component.env.clone(),
                    files,
                    variables: component.variables.clone(),
                    allowed_hosts: component.allowed_hosts.clone(),
                    store: component.store,
                })
                .collect(),
            store: prepared.store,
        }
    }

    /// Whether a component may use the key-value store.
    pub fn has_store(&self) -> bool {
        self.components.iter().any(|component| component.store)
    }

    fn add_trigger(
        &mut self,
        trigger: &Trigger,
        locked: &Locked,
        variables: &BTreeMap<String, String>,
    ) -> Result<(), AppError> {
        let id = &trigger.id;
        if trigger.trigger_type != "http" {
            return Err(AppError::new(format!(
                "the application has a trigger of type {:?}: http is what wasmkind provides",
                trigger.trigger_type
            )));
        }
        if !trigger.trigger_dependencies.is_empty() {
            return Err(AppError::new(format!(
                "trigger {id:?} has middleware, which wasmkind does not provide"
            )));
        }
        let http = HttpTrigger::deserialize(&trigger.trigger_config)
            .map_err(|e| AppError::new(format!("trigger {id:?} is wrong: {e}")))?;
        if let Some(executor) = &http.executor
            && !["http", "spin", "wasip3", "wasip3-unstable"].contains(&executor.kind.as_str())
        {
            return Err(AppError::new(format!(
                "component {:?} needs the executor {:?}, which wasmkind does not provide",
                http.component, executor.kind
            )));
        }
        let route = match &http.route {
            serde_json::Value::String(route) => route.clone(),
            // Reached by other components only, which is refused above.
            private if private["private"] == true => return Ok(()),
            other => {
                return Err(AppError::new(format!(
                    "trigger {id:?} has the route {other}"
                )));
            }
        };
        let known = self.components.iter().position(|c| c.id == http.component);
        let component = match known {
            Some(index) => index,
            None => {
                let found = locked.components.iter().find(|c| c.id == http.component);
                let component = found.ok_or_else(|| {
                    let component = &http.component;
                    AppError::new(format!("trigger {id:?} names no component {component:?}"))
                })?;
                if self.components.len() == MAX_COMPONENTS {
                    return Err(AppError::new(format!(
                        "the application has more than {MAX_COMPONENTS} components"
                    )));
                }
                self.components.push(Component::new(component, variables)?);
                self.components.len() - 1
            }
        };
        self.routes.push(SpinRoute { route, component });
        Ok(())
    }
}

fn check_requirements(locked: &Locked) -> Result<(), AppError> {
    if locked.spin_lock_version > 1 {
        return Err(AppError::new(format!(
            "the lock file has version {}: 0 and 1 are what wasmkind reads",
            locked.spin_lock_version
        )));
    }
    let known = ["host_requirements", "component_host_requirements"];
    let unknown = locked
        .must_understand
        .iter()
        .find(|field| !known.contains(&field.as_str()));
    if let Some(field) = unknown {
        return Err(AppError::new(format!(
            "the application needs {field:?}, which wasmkind does not provide"
        )));
    }
    required("the application", &locked.host_requirements)
}

fn required(who: &str, requirements: &BTreeMap<String, serde_json::Value>) -> Result<(), AppError> {
    match requirements.iter().find(|(_, value)| *value != "optional") {
        None => Ok(()),
        Some((name, _)) => Err(AppError::new(format!(
            "{who} needs {name:?}, which wasmkind does not provide"
        ))),
    }
}

/// `/` unless the application says where below it its routes are.
fn base(metadata: &Metadata) -> String {
    let newer = metadata.triggers.get("http").and_then(|t| t.base.clone());
    newer
        .or_else(|| metadata.trigger.base.clone())
        .unwrap_or_else(|| "/".to_owned())
}

fn variables<'a>(
    locked: &Locked,
    env: impl Fn(&str) -> Option<&'a str>,
) -> Result<BTreeMap<String, String>, AppError> {
    let mut values = BTreeMap::new();
    for (name, variable) in &locked.variables {
        let set_by = format!("{VARIABLE_PREFIX}{}", name.to_ascii_uppercase());
        let value = env(&set_by).or(variable.default.as_deref());
        let value = value.ok_or_else(|| {
            AppError::new(format!(
                "variable {name:?} has no value: set {set_by} in the container's environment"
            ))
        })?;
        values.insert(name.clone(), value.to_owned());
    }
    Ok(values)
}

/// `text` with each `{{ name }}` replaced by that variable's value.
fn expand(text: &str, variables: &BTreeMap<String, String>) -> Result<String, String> {
    let (mut expanded, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after
            .split_once("}}")
            .ok_or_else(|| format!("{text:?} has a {{{{ that is not closed"))?;
        let name = name.trim();
        let value = variables
            .get(name)
            .ok_or_else(|| format!("the application has no variable {name:?}"))?;
        expanded.push_str(before);
        expanded.push_str(value);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

impl Component {
    fn new(
        locked: &LockedComponent,
        variables: &BTreeMap<String, String>,
    ) -> Result<Self, AppError> {
        let id = &locked.id;
        let refuse = |message: String| AppError::new(format!("component {id:?} {message}"));
        required(&format!("component {id:?}"), &locked.host_requirements)?;
        if !locked.dependencies.is_empty() {
            return Err(refuse(
                "has dependencies that are not composed into it: push it with a newer Spin".into(),
            ));
        }
        let metadata = &locked.metadata;
        if !metadata.allowed_http_hosts.is_empty() && metadata.allowed_outbound_hosts.is_empty() {
            return Err(refuse(
                "has allowed_http_hosts, of Spin 1: use allowed_outbound_hosts".into(),
            ));
        }
        let lacking = [
            ("SQLite databases", &metadata.databases),
            ("AI models", &metadata.ai_models),
        ];
        for (what, names) in lacking {
            if let Some(name) = names.first() {
                return Err(refuse(format!(
                    "needs {what} ({name:?}), which wasmkind does not provide"
                )));
            }
        }
        let other = metadata
            .key_value_stores
            .iter()
            .find(|store| *store != DEFAULT_STORE);
        if let Some(store) = other {
            return Err(refuse(format!(
                "needs the key-value store {store:?}: {DEFAULT_STORE:?} is the one that there is"
            )));
        }
        let expanded = |text: &String| expand(text, variables).map_err(&refuse);
        let allowed_hosts: Vec<_> = metadata
            .allowed_outbound_hosts
            .iter()
            .map(expanded)
            .collect::<Result<_, _>>()?;
        AllowedHosts::parse(&allowed_hosts).map_err(|e| refuse(e.to_string()))?;
        let config = locked
            .config
            .iter()
            .map(|(name, text)| Ok((name.clone(), expanded(text)?)))
            .collect::<Result<_, AppError>>()?;
        let file = |file: &LockedFile| {
            Ok(File {
                content: file.content.content().map_err(&refuse)?,
                path: file.path.clone(),
            })
        };
        Ok(Self {
            id: id.clone(),
            source: locked.source.content().map_err(&refuse)?,
            files: locked.files.iter().map(file).collect::<Result<_, _>>()?,
            env: locked.env.clone().into_iter().collect(),
            variables: config,
            allowed_hosts,
            store: !metadata.key_value_stores.is_empty(),
        })
    }
}

impl Reference {
    fn content(&self) -> Result<Content, String> {
        match (&self.inline, &self.digest) {
            (Some(text), _) => base64(text)
                .map(Content::Inline)
                .ok_or_else(|| "has inline content that is not base64".to_owned()),
            (None, Some(digest)) if digest.contains(':') => Ok(Content::Digest(digest.clone())),
            (None, Some(digest)) => Ok(Content::Digest(format!("sha256:{digest}"))),
            (None, None) => Err("has content that is not in the artifact".to_owned()),
        }
    }
}

/// RFC 4648, section 4; padding may be missing.
fn base64(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for symbol in text.trim_end_matches('=').bytes() {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
