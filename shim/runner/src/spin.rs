//! A Spin application: which component answers, and what each is given.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use hyper::Request;
use hyper::header::{HeaderName, HeaderValue};
use wasmkind_engine::config::{Preopen, RunnerConfig, SpinConfig};
use wasmkind_engine::spin::{AllowedHosts, Context, Routes, Store};

use crate::guest;

/// Spin's own answer to probes.
const HEALTH: &str = "/.well-known/spin/health";
/// Headers that begin so are this host's to set.
const PREFIX: &str = "spin-";

pub(crate) struct Application {
    routes: Routes,
}

/// Where a request goes.
pub(crate) enum Route {
    Component(usize),
    /// A probe.
    Healthy,
    Nowhere,
}

impl Application {
    pub(crate) fn new(app: &SpinConfig) -> anyhow::Result<Self> {
        Ok(Self {
            routes: Routes::new(&app.base, &app.routes)?,
        })
    }

    /// Finds the component, and says in the request's headers how.
    pub(crate) fn route<B>(&self, request: &mut Request<B>, client: SocketAddr) -> Route {
        let path = request.uri().path();
        if path == HEALTH {
            return Route::Healthy;
        }
        let Some(target) = self.routes.find(path) else {
            return Route::Nowhere;
        };
        let uri = request.uri();
        let host = uri.authority().map_or("", |authority| authority.as_str());
        let rest = uri.path_and_query().map_or("/", |rest| rest.as_str());
        let url = format!("http://{host}{rest}");
        let more = [
            ("spin-full-url".to_owned(), url),
            ("spin-client-addr".to_owned(), client.to_string()),
        ];
        let headers = request.headers_mut();
        let forged: Vec<_> = headers
            .keys()
            .filter(|name| name.as_str().starts_with(PREFIX))
            .cloned()
            .collect();
        for name in forged {
            headers.remove(name);
        }
        for (name, value) in target.headers.into_iter().chain(more) {
            // A host that is no text is left out.
            if let (Ok(name), Ok(value)) =
                (HeaderName::try_from(name), HeaderValue::try_from(value))
            {
                headers.insert(name, value);
            }
        }
        Route::Component(target.component)
    }
}

/// What each of the components is given.
pub(crate) fn guests(
    config: &RunnerConfig,
    app: &SpinConfig,
) -> anyhow::Result<Vec<guest::Shared>> {
    let store = if app.components.iter().any(|component| component.store) {
        Some(Arc::new(open_store(&app.store)?))
    } else {
        None
    };
    let client = guest::client(config);
    app.components
        .iter()
        .map(|component| {
            let preopens = component.files.iter().map(|files| Preopen {
                host_path: files.clone(),
                guest_path: "/".to_owned(),
                read_only: true,
            });
            // Nothing of the container but the files that the application brought.
            let own = RunnerConfig {
                args: vec![component.id.clone()],
                env: component.env.clone(),
                cwd: "/".to_owned(),
                preopens: preopens.collect(),
                ..config.clone()
            };
            let context = Context {
                variables: component.variables.clone(),
                hosts: AllowedHosts::parse(&component.allowed_hosts)?,
                store: store.clone().filter(|_| component.store),
            };
            let guest = guest::Shared::new(&own)
                .with_context(|| format!("prepare component {:?}", component.id))?;
            Ok(guest.with_spin(Arc::new(context), &client))
        })
        .collect()
}

fn open_store(path: &Path) -> anyhow::Result<Store> {
    Store::open(path).with_context(|| format!("open the key-value store {}", path.display()))
}
