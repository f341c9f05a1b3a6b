//! The server: one for each Pod, from its first container to its last.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use containerd_shim_protos::shim_async::create_task;
use tokio::signal::unix::{SignalKind, signal};
use ttrpc::asynchronous::Server;
use ttrpc::asynchronous::transport::Listener;

use crate::containerd::Containerd;
use crate::events::Publisher;
use crate::flags::Flags;
use crate::guest::{Paths, Toolchain};
use crate::launch::{Launcher, Runc};
use crate::nested::{Nested, Settings};
use crate::reaper::Reaper;
use crate::state::{Endpoint, PodDir, runc_root, stock_runc_root};
use crate::task::{Pod, Setup, TaskService};
use crate::{logger, sys};

/// What the start action writes to the server's descriptors 3 and 4.
pub(crate) const LISTENER_FD: i32 = sys::FIRST_PASSED_FD;
pub(crate) const READY_FD: i32 = sys::FIRST_PASSED_FD + 1;
/// What the server answers when it serves; anything else is an error's text.
pub(crate) const READY: &str = "ready";

/// After a start the first Create follows at once, or never.
const FIRST_CREATE: Duration = Duration::from_secs(120);
const FLUSH: Duration = Duration::from_secs(2);

/// Serves until the Pod is gone.
pub(crate) fn serve(flags: &Flags) -> Result<()> {
    let listener = sys::take_passed_fd(LISTENER_FD).context("take the socket")?;
    let ready = sys::take_passed_fd(READY_FD).context("take the start action's pipe")?;
    let mut ready = std::fs::File::from(ready);
    sys::reserve_low_fds().context("reserve descriptors")?;
    logger::init(Path::new("log"), &flags.id, flags.debug);
    // The bundle we are in goes before we do.
    std::env::set_current_dir("/").context("enter /")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(8)
        .build()
        .context("build the runtime")?;
    let result = runtime.block_on(async {
        let pod = match prepare(flags) {
            Ok(pod) => pod,
            Err(e) => {
                let _ = write!(ready, "{e:#}");
                return Err(e);
            }
        };
        run(pod, listener, ready).await
    });
    if let Err(e) = &result {
        log::error!("{e:#}");
    }
    result
}

fn prepare(flags: &Flags) -> Result<Arc<Pod>> {
    let dir = PodDir::new(&flags.namespace, &flags.id);
    let reaper = Reaper::start().context("become a subreaper")?;
    let ttrpc_address = std::env::var("TTRPC_ADDRESS").context("TTRPC_ADDRESS is not set")?;
    let events = Publisher::start(&flags.namespace, &ttrpc_address);
    let settings = Settings {
        namespace: flags.namespace.clone(),
        sandbox: flags.id.clone(),
        grpc_address: flags.address.clone(),
        publish_binary: flags.publish_binary.clone(),
        own_socket: PathBuf::from(&flags.socket),
    };
    dir.set_shim(&Endpoint {
        pid: std::process::id(),
        socket: PathBuf::from(&flags.socket),
        grpc_address: flags.address.clone(),
    })?;
    Ok(Pod::new(Setup {
        launcher: Launcher::new(runc_root(&flags.namespace)),
        stock_runc: Runc::new(stock_runc_root(&flags.namespace)),
        containerd: Containerd::new(&flags.address, &flags.namespace),
        toolchain: Toolchain::new(reaper.clone(), Paths::from_env()),
        nested: Nested::new(settings, dir.clone(), reaper.clone()),
        socket: PathBuf::from(&flags.socket),
        namespace: flags.namespace.clone(),
        dir,
        reaper,
        events,
    }))
}

async fn run(pod: Arc<Pod>, listener: OwnedFd, mut ready: std::fs::File) -> Result<()> {
    let listener = Listener::try_from(UnixListener::from(listener)).context("use the socket")?;
    let service = create_task(Arc::new(TaskService::new(pod.clone())));
    let mut server = Server::new()
        .add_listener(listener)
        .register_service(service);
    server.start().await.context("serve the task API")?;
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("handle SIGHUP")?;
    ready
        .write_all(READY.as_bytes())
        .context("answer the start action")?;
    drop(ready);
    log::info!("serving, version {}", env!("CARGO_PKG_VERSION"));

    let idle = tokio::time::sleep(FIRST_CREATE);
    tokio::pin!(idle);
    let mut waiting = true;
    loop {
        tokio::select! {
            () = pod.done.cancelled() => break,
            () = &mut idle, if waiting => {
                waiting = false;
                // Otherwise containers decide when to end.
                if pod.is_empty() {
                    log::warn!("no container was created");
                    break;
                }
            }
            _ = terminate.recv() => {
                if pod.is_empty() {
                    break;
                }
                log::warn!("ignoring SIGTERM: the Pod has containers");
            }
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
    pod.retire();
    pod.setup.nested.shutdown().await;
    pod.setup.events.flush(FLUSH).await;
    pod.remove_dir()?;
    let _ = tokio::time::timeout(FLUSH, server.shutdown()).await;
    log::info!("done");
    Ok(())
}
