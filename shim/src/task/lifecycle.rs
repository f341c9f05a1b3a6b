//! Create, Delete and Pids, which differ most between containers of our own and
//! those of the stock shim.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Result, anyhow};
use containerd_shim_protos::api::{
    self, CreateTaskRequest, DeleteRequest, DeleteResponse, KillRequest, PidsRequest, PidsResponse,
    ProcessInfo, StateRequest, WaitRequest,
};
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::shim_async::TaskClient;
use tokio::time::Instant;
use ttrpc::context::Context;

use super::container::Container;
use super::forward::{Answer, ask};
use super::own::{Payload, remember, rootfs_of};
use super::pod::Pod;
use super::process::Status;
use crate::error::{TaskError, TaskResult};
use crate::events::{any, timestamp};
use crate::spec::Spec;
use crate::state::Kind;

/// 128 + SIGKILL.
pub(super) const KILLED: u32 = 137;

impl Pod {
    pub(super) async fn create(
        self: Arc<Self>,
        request: CreateTaskRequest,
        context: Context,
        deadline: Option<Instant>,
    ) -> TaskResult<u32> {
        let (container, _operation) = self.insert(&request)?;
        let result = self
            .create_inner(&container, request, context, deadline)
            .await;
        if let Err(error) = &result {
            log::warn!("create {}: {error}", container.id);
            if let Err(e) = self.clean_up(&container).await {
                log::error!("undo the creation of {}: {e:#}", container.id);
            }
            self.remove(&container.id);
        }
        result
    }

    async fn create_inner(
        self: &Arc<Self>,
        container: &Arc<Container>,
        request: CreateTaskRequest,
        context: Context,
        deadline: Option<Instant>,
    ) -> TaskResult<u32> {
        let spec = Spec::load(&container.bundle)?;
        spec.check_supported()?;
        let rootfs = match request.rootfs.is_empty() {
            false => rootfs_of(&container.bundle),
            // The snapshot is mounted by somebody else.
            true => {
                let path = spec.document["root"]["path"].as_str().unwrap_or("rootfs");
                container.bundle.join(PathBuf::from(path))
            }
        };
        let payload = self.inspect(&spec, &request, &rootfs).await?;
        let (kind, guest) = match payload {
            Payload::Linux => (Kind::Linux, None),
            Payload::Sandbox => (Kind::Sandbox, None),
            Payload::Wasm(guest) => (Kind::Wasm, Some(guest)),
        };
        remember(container, kind, &spec)?;
        container.state().rootfs = rootfs.clone();
        if kind == Kind::Linux {
            let systemd = spec.systemd_cgroup();
            return self
                .create_linux(container, request, context, systemd)
                .await;
        }
        if !request.checkpoint.is_empty() {
            let what = "restore of a Wasm container from a checkpoint";
            return Err(TaskError::Unimplemented(what.to_owned()));
        }
        let guest = guest.map(|guest| (guest, deadline));
        let create = self.create_own(container, &request, spec, &rootfs, guest);
        tokio::select! {
            result = create => Ok(result?),
            () = container.cancel.cancelled() => {
                Err(anyhow!("creation of container {:?} was given up", container.id).into())
            }
        }
    }

    pub(super) async fn delete(
        self: Arc<Self>,
        request: DeleteRequest,
        context: Context,
    ) -> TaskResult<DeleteResponse> {
        let container = self.get(&request.id)?;
        if !request.exec_id.is_empty() {
            let exec_id = request.exec_id.clone();
            let call = |c: TaskClient| async move { c.delete(context, &request).await };
            return match ask(&container, call).await? {
                Answer::Nested(response) => Ok(response),
                Answer::Own => self.delete_exec(&container, &exec_id).await,
            };
        }
        container.cancel.cancel();
        // A Create that is under way comes first, and another Delete.
        let _operation = container.init.operation.lock().await;
        self.get(&container.id)?;
        match delete_nested(&container, &request, &context).await {
            Ok(Answer::Own) => self.delete_own(&container).await,
            Ok(Answer::Nested(response)) => {
                self.clean_up(&container).await?;
                self.remove(&container.id);
                Ok(response)
            }
            Err(error) if is_not_found(&error) => {
                self.clean_up(&container).await?;
                self.remove(&container.id);
                Err(error)
            }
            Err(error) if container.bundle.exists() => Err(error),
            Err(error) => {
                // containerd took the bundle away and will not ask again.
                log::warn!("delete {} without the stock shim: {error}", container.id);
                self.purge(&container).await?;
                Ok(DeleteResponse {
                    pid: container.init.state().pid,
                    exit_status: KILLED,
                    exited_at: Some(timestamp(SystemTime::now())).into(),
                    ..Default::default()
                })
            }
        }
    }

    /// Removes containers that nobody will delete: containerd has asked the shim
    /// to end, and has forgotten them.
    pub(super) async fn purge_abandoned(self: Arc<Self>) {
        for container in self.all() {
            let _operation = container.init.operation.lock().await;
            if container.bundle.exists() || self.get(&container.id).is_err() {
                continue;
            }
            log::warn!("removing {}, whose bundle is gone", container.id);
            if let Err(e) = self.purge(&container).await {
                log::error!("remove {}: {e:#}", container.id);
            }
        }
    }

    /// Ends and removes a container, whoever launched it.
    async fn purge(&self, container: &Container) -> Result<()> {
        if container.state().kind == Some(Kind::Linux) {
            let runc = &self.setup.stock_runc;
            runc.delete(&self.setup.reaper, &container.id, false)
                .await?;
        }
        self.clean_up(container).await?;
        self.remove(&container.id);
        Ok(())
    }

    pub(super) async fn pids(
        &self,
        container: &Container,
        request: PidsRequest,
        ctx: Context,
    ) -> TaskResult<PidsResponse> {
        if let Answer::Nested(response) =
            ask(container, |c| async move { c.pids(ctx, &request).await }).await?
        {
            return Ok(response);
        }
        let (status, pid) = {
            let state = container.init.state();
            (state.status, state.pid)
        };
        if status == Status::Creating {
            return Err(TaskError::NotFound(container.init.to_string()));
        }
        let cgroup = container.state().cgroup.clone();
        let mut pids = cgroup.map(|cgroup| cgroup.pids()).unwrap_or_default();
        // Never empty: containerd would take the container for a leftover.
        if !pids.contains(&pid) {
            pids.insert(0, pid);
        }
        let mut processes = Vec::new();
        for pid in pids {
            let info = container.exec_of(pid).map(|exec_id| {
                any(&ProcessDetails {
                    exec_id,
                    ..Default::default()
                })
            });
            processes.push(ProcessInfo {
                pid,
                info: info.transpose()?.into(),
                ..Default::default()
            });
        }
        Ok(PidsResponse {
            processes,
            ..Default::default()
        })
    }
}

/// Delete in the stock shim. One that was created and never started is ended
/// first: containerd deletes it so when it has given up its Create, and asks
/// only once.
async fn delete_nested(
    container: &Container,
    request: &DeleteRequest,
    context: &Context,
) -> TaskResult<Answer<DeleteResponse>> {
    let id = &request.id;
    let call = |c: TaskClient| async move {
        let ask_state = StateRequest {
            id: id.clone(),
            ..Default::default()
        };
        // What is wrong with it, Delete will say.
        let created = c
            .state(context.clone(), &ask_state)
            .await
            .is_ok_and(|state| state.status.enum_value() == Ok(api::Status::CREATED));
        if created {
            let kill = KillRequest {
                id: id.clone(),
                signal: libc::SIGKILL as u32,
                all: true,
                ..Default::default()
            };
            c.kill(context.clone(), &kill).await?;
            let wait = WaitRequest {
                id: id.clone(),
                ..Default::default()
            };
            c.wait(context.clone(), &wait).await?;
        }
        c.delete(context.clone(), request).await
    };
    ask(container, call).await
}

fn is_not_found(error: &TaskError) -> bool {
    matches!(error, TaskError::Forwarded(ttrpc::Error::RpcStatus(status))
        if status.code() == ttrpc::Code::NOT_FOUND)
}
