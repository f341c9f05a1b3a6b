//! The Task service: every call of it, answered here or by the stock shim.
//!
//! ttrpc drops a handler when its caller hangs up or runs out of time. What
//! changes a container therefore runs in a task of its own, and the handler
//! only waits for it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use async_trait::async_trait;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest,
    StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse,
    UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::shim_async::Task;
use tokio::time::Instant;
use ttrpc::asynchronous::TtrpcContext;
use ttrpc::context::Context;

use super::forward::{Answer, ask};
use super::pod::Pod;
use super::process::Status;
use crate::cgroup;
use crate::error::{TaskError, TaskResult};
use crate::events::timestamp;
use crate::reaper::Exit;
use crate::state::Kind;

/// How much longer than its caller a forwarded call may take here.
const SLACK: Duration = Duration::from_secs(1);

pub(crate) struct TaskService {
    pod: Arc<Pod>,
}

impl TaskService {
    pub(crate) fn new(pod: Arc<Pod>) -> Self {
        TaskService { pod }
    }
}

/// Runs `operation` to its end, whether or not the caller stays.
async fn detached<T: Send + 'static>(
    operation: impl Future<Output = TaskResult<T>> + Send + 'static,
) -> ttrpc::Result<T> {
    match tokio::spawn(operation).await {
        Ok(result) => Ok(result?),
        Err(e) => Err(TaskError::Failed(anyhow!(e).context("an operation failed")).into()),
    }
}

/// For a call to the stock shim that changes something. Without a deadline: the
/// stock shim would stop half-way, and nobody could tell what it had done.
fn whole(ctx: &TtrpcContext) -> Context {
    Context {
        metadata: ctx.metadata.clone(),
        timeout_nano: 0,
    }
}

/// The caller's metadata and time, for a call to the stock shim that only asks.
fn context(ctx: &TtrpcContext) -> Context {
    let timeout = match ctx.timeout_nano {
        0 => 0,
        nanos => nanos + SLACK.as_nanos() as i64,
    };
    Context {
        metadata: ctx.metadata.clone(),
        timeout_nano: timeout,
    }
}

/// When the caller must have its answer, or would never see it.
fn deadline(timeout_nano: i64) -> Option<Instant> {
    let nanos = u64::try_from(timeout_nano)
        .ok()
        .filter(|nanos| *nanos > 0)?;
    let timeout = Duration::from_nanos(nanos);
    // containerd undoes what it has made, and hands the answer on.
    let margin = (timeout / 10).min(Duration::from_secs(5));
    Some(Instant::now() + (timeout - margin))
}

fn wait_response(exit: Exit) -> WaitResponse {
    WaitResponse {
        exit_status: exit.code,
        exited_at: Some(timestamp(exit.at)).into(),
        ..Default::default()
    }
}

#[async_trait]
impl Task for TaskService {
    async fn create(
        &self,
        ctx: &TtrpcContext,
        req: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        let deadline = deadline(ctx.timeout_nano);
        let pid = detached(self.pod.clone().create(req, whole(ctx), deadline)).await?;
        Ok(CreateTaskResponse {
            pid,
            ..Default::default()
        })
    }

    async fn start(&self, ctx: &TtrpcContext, req: StartRequest) -> ttrpc::Result<StartResponse> {
        let (pod, ctx) = (self.pod.clone(), whole(ctx));
        let container = pod.get(&req.id)?;
        detached(async move {
            let exec_id = req.exec_id.clone();
            if let Answer::Nested(response) =
                ask(&container, |c| async move { c.start(ctx, &req).await }).await?
            {
                return Ok(response);
            }
            let pid = match exec_id.as_str() {
                "" => pod.start_own(&container).await?,
                exec_id => pod.start_exec(&container, exec_id).await?,
            };
            Ok(StartResponse {
                pid,
                ..Default::default()
            })
        })
        .await
    }

    async fn state(&self, ctx: &TtrpcContext, req: StateRequest) -> ttrpc::Result<StateResponse> {
        let container = self.pod.get(&req.id)?;
        let exec_id = req.exec_id.clone();
        let ctx = context(ctx);
        if let Answer::Nested(response) =
            ask(&container, |c| async move { c.state(ctx, &req).await }).await?
        {
            return Ok(response);
        }
        let process = container.process(&exec_id)?;
        if process.status() == Status::Creating {
            return Err(TaskError::NotFound(process.to_string()).into());
        }
        Ok(container.describe(&process))
    }

    async fn delete(
        &self,
        ctx: &TtrpcContext,
        req: DeleteRequest,
    ) -> ttrpc::Result<DeleteResponse> {
        detached(self.pod.clone().delete(req, whole(ctx))).await
    }

    async fn pids(&self, ctx: &TtrpcContext, req: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let container = self.pod.get(&req.id)?;
        Ok(self.pod.pids(&container, req, context(ctx)).await?)
    }

    async fn pause(&self, ctx: &TtrpcContext, req: PauseRequest) -> ttrpc::Result<Empty> {
        let (pod, ctx) = (self.pod.clone(), whole(ctx));
        let container = pod.get(&req.id)?;
        detached(async move {
            match ask(&container, |c| async move { c.pause(ctx, &req).await }).await? {
                Answer::Nested(response) => return Ok(response),
                Answer::Own => pod.freeze(&container, true).await?,
            }
            Ok(Empty::default())
        })
        .await
    }

    async fn resume(&self, ctx: &TtrpcContext, req: ResumeRequest) -> ttrpc::Result<Empty> {
        let (pod, ctx) = (self.pod.clone(), whole(ctx));
        let container = pod.get(&req.id)?;
        detached(async move {
            match ask(&container, |c| async move { c.resume(ctx, &req).await }).await? {
                Answer::Nested(response) => return Ok(response),
                Answer::Own => pod.freeze(&container, false).await?,
            }
            Ok(Empty::default())
        })
        .await
    }

    async fn checkpoint(
        &self,
        ctx: &TtrpcContext,
        req: CheckpointTaskRequest,
    ) -> ttrpc::Result<Empty> {
        let (pod, ctx) = (self.pod.clone(), whole(ctx));
        let container = pod.get(&req.id)?;
        detached(async move {
            match ask(&container, |c| async move { c.checkpoint(ctx, &req).await }).await? {
                Answer::Nested(response) => Ok(response),
                Answer::Own => Err(match container.state().kind {
                    Some(Kind::Linux) => TaskError::NotFound(container.init.to_string()),
                    _ => TaskError::Unimplemented("checkpoint of a Wasm container".to_owned()),
                }),
            }
        })
        .await
    }

    async fn kill(&self, ctx: &TtrpcContext, req: KillRequest) -> ttrpc::Result<Empty> {
        let (pod, ctx) = (self.pod.clone(), whole(ctx));
        let container = pod.get(&req.id)?;
        detached(async move {
            let (signal, all, exec_id) = (req.signal, req.all, req.exec_id.clone());
            if let Answer::Nested(response) =
                ask(&container, |c| async move { c.kill(ctx, &req).await }).await?
            {
                return Ok(response);
            }
            let process = container.process(&exec_id)?;
            pod.kill_own(&container, &process, signal, all).await?;
            Ok(Empty::default())
        })
        .await
    }

    async fn exec(&self, ctx: &TtrpcContext, req: ExecProcessRequest) -> ttrpc::Result<Empty> {
        let (pod, ctx) = (self.pod.clone(), whole(ctx));
        let container = pod.get(&req.id)?;
        detached(async move {
            let request = req.clone();
            match ask(&container, |c| async move { c.exec(ctx, &req).await }).await? {
                Answer::Nested(response) => return Ok(response),
                Answer::Own => pod.add_exec(&container, &request)?,
            }
            Ok(Empty::default())
        })
        .await
    }

    async fn resize_pty(&self, ctx: &TtrpcContext, req: ResizePtyRequest) -> ttrpc::Result<Empty> {
        let container = self.pod.get(&req.id)?;
        let (exec_id, columns, rows) = (req.exec_id.clone(), req.width, req.height);
        let ctx = context(ctx);
        if let Answer::Nested(response) =
            ask(&container, |c| async move { c.resize_pty(ctx, &req).await }).await?
        {
            return Ok(response);
        }
        let process = container.process(&exec_id)?;
        let resized = process.state().held.resize(columns, rows);
        resized.map_err(TaskError::from)?;
        Ok(Empty::default())
    }

    async fn close_io(&self, ctx: &TtrpcContext, req: CloseIORequest) -> ttrpc::Result<Empty> {
        let container = self.pod.get(&req.id)?;
        let (stdin, exec_id) = (req.stdin, req.exec_id.clone());
        let ctx = context(ctx);
        if let Answer::Nested(response) =
            ask(&container, |c| async move { c.close_io(ctx, &req).await }).await?
        {
            return Ok(response);
        }
        let process = container.process(&exec_id)?;
        if stdin {
            process.state().held.close_stdin();
        }
        Ok(Empty::default())
    }

    async fn update(&self, ctx: &TtrpcContext, req: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let (pod, ctx) = (self.pod.clone(), whole(ctx));
        let container = pod.get(&req.id)?;
        detached(async move {
            let resources = req.resources.clone().unwrap_or_default();
            match ask(&container, |c| async move { c.update(ctx, &req).await }).await? {
                Answer::Nested(response) => return Ok(response),
                Answer::Own => pod.update_own(&container, &resources.value).await?,
            }
            Ok(Empty::default())
        })
        .await
    }

    async fn wait(&self, ctx: &TtrpcContext, req: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let container = self.pod.get(&req.id)?;
        let exec_id = req.exec_id.clone();
        let ctx = context(ctx);
        if let Answer::Nested(response) =
            ask(&container, |c| async move { c.wait(ctx, &req).await }).await?
        {
            return Ok(response);
        }
        let process = match container.state().kind {
            // The stock shim's execs ended with it.
            Some(Kind::Linux) => container.init.clone(),
            _ => container.process(&exec_id)?,
        };
        Ok(wait_response(process.ended().await))
    }

    async fn stats(&self, ctx: &TtrpcContext, req: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let container = self.pod.get(&req.id)?;
        let ctx = context(ctx);
        if let Answer::Nested(response) =
            ask(&container, |c| async move { c.stats(ctx, &req).await }).await?
        {
            return Ok(response);
        }
        let Some(cgroup) = container.state().cgroup.clone() else {
            return Err(TaskError::NotFound(format!("cgroup of {}", container.id)).into());
        };
        let stats = cgroup::stats(&cgroup).map_err(TaskError::from)?;
        Ok(StatsResponse {
            stats: Some(stats).into(),
            ..Default::default()
        })
    }

    async fn connect(
        &self,
        _ctx: &TtrpcContext,
        req: ConnectRequest,
    ) -> ttrpc::Result<ConnectResponse> {
        // Fine for an unknown id: containerd asks for ids that are to be created.
        let task_pid = self.pod.get(&req.id).map_or(0, |c| c.init.state().pid);
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid,
            ..Default::default()
        })
    }

    async fn shutdown(&self, _ctx: &TtrpcContext, _req: ShutdownRequest) -> ttrpc::Result<Empty> {
        self.pod.request_shutdown();
        Ok(Empty::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_in_time_for_its_caller() {
        let left = |seconds: i64| {
            let deadline = deadline(seconds * 1_000_000_000)?;
            Some((deadline - Instant::now()).as_secs_f64().round() as i64)
        };
        assert_eq!(left(120), Some(115));
        assert_eq!(left(10), Some(9));
        assert_eq!(left(0), None);
        assert_eq!(left(-1), None);
    }
}
