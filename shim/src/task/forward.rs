//! Linux containers: created in the stock shim, and what happens when that dies.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci::Options;
use containerd_shim_protos::shim_async::TaskClient;
use containerd_shim_protos::topics;
use ttrpc::context::Context;

use super::container::Container;
use super::own::exit_event;
use super::pod::Pod;
use super::process::Status;
use crate::error::{TaskError, TaskResult};
use crate::events::any;
use crate::nested::Died;
use crate::reaper::Exit;
use crate::state::Kind;

/// The exit code of a process whose shim is gone, as containerd gives it.
const LOST: u32 = 255;
/// How long the end of the stock shim may take to be noticed.
const NOTICE: Duration = Duration::from_secs(5);

impl Pod {
    pub(super) async fn create_linux(
        self: &Arc<Self>,
        container: &Arc<Container>,
        mut request: CreateTaskRequest,
        context: Context,
        systemd_cgroup: bool,
    ) -> TaskResult<u32> {
        request.options = Some(runc_options(request.options.as_ref(), systemd_cgroup)?).into();
        let client = self.nested_client().await?;
        container.set_client(Some(client.clone()));
        let response = client
            .create(context, &request)
            .await
            .map_err(TaskError::Forwarded)?;
        let mut state = container.init.state();
        state.pid = response.pid;
        // From here on the stock shim knows; ours only matters after its death.
        state.status = Status::Running;
        Ok(response.pid)
    }

    async fn nested_client(self: &Arc<Self>) -> TaskResult<TaskClient> {
        let (client, started) = self.setup.nested.client().await?;
        if let Some(died) = started {
            tokio::spawn(self.clone().outlive(died));
        }
        Ok(client)
    }

    /// Does for the stock shim's containers what containerd would do if that
    /// shim were its own: they end with 255 and leave nothing.
    async fn outlive(self: Arc<Self>, died: Died) {
        let generation = died.generation;
        let exit = died.wait().await;
        let lost: Vec<_> = self
            .all()
            .into_iter()
            .filter(|c| c.state().kind == Some(Kind::Linux) && c.client().is_some())
            .collect();
        if !lost.is_empty() {
            log::error!(
                "containerd-shim-runc-v2 of this Pod ended with {exit:?}; its {} containers are ended",
                lost.len()
            );
        }
        for container in lost {
            if let Err(e) = self
                .setup
                .nested
                .delete(&container.id, &container.bundle)
                .await
            {
                log::error!("remove what is left of {}: {e:#}", container.id);
            }
            container.set_client(None);
            if container.init.status() != Status::Creating {
                let exit = Exit::now(LOST);
                self.publish(
                    topics::TASK_EXIT_EVENT_TOPIC,
                    &exit_event(&container, &container.init, exit),
                );
                container.init.finish(exit);
            }
        }
        self.setup.nested.forget(generation).await;
    }
}

/// Who answers for a container.
pub(super) enum Answer<T> {
    /// The stock shim did.
    Nested(T),
    /// This shim must: the container is ours, or the stock shim is gone.
    Own,
}

/// Asks the stock shim for a Linux container.
pub(super) async fn ask<T, F>(
    container: &Container,
    call: impl FnOnce(TaskClient) -> F,
) -> TaskResult<Answer<T>>
where
    F: Future<Output = ttrpc::Result<T>>,
{
    let Some(client) = container.client() else {
        return Ok(Answer::Own);
    };
    match call(client).await {
        Ok(answer) => Ok(Answer::Nested(answer)),
        Err(error @ ttrpc::Error::RpcStatus(_)) => Err(TaskError::Forwarded(error)),
        Err(error) => {
            // The connection broke. Once the death has been dealt with, the
            // container's end is known here.
            tokio::time::timeout(NOTICE, container.init.ended())
                .await
                .map_err(|_| anyhow!(error).context("call containerd-shim-runc-v2"))?;
            Ok(Answer::Own)
        }
    }
}

/// The options for the stock shim, which takes no other type. What the
/// configuration says for runc is kept.
pub(crate) fn runc_options(given: Option<&Any>, systemd_cgroup: bool) -> TaskResult<Any> {
    let mut options = match given {
        Some(any) if any.type_url.rsplit('/').next() == Some("containerd.runc.v1.Options") => {
            Options::parse_from_bytes(&any.value).map_err(|e| {
                TaskError::InvalidArgument(format!("decode the runtime options: {e}"))
            })?
        }
        _ => Options::new(),
    };
    options.systemd_cgroup = systemd_cgroup;
    Ok(any(&options)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(any: &Any) -> Options {
        assert_eq!(any.type_url, "containerd.runc.v1.Options");
        Options::parse_from_bytes(&any.value).unwrap()
    }

    #[test]
    fn foreign_options_are_not_passed_on() {
        let foreign = Any {
            type_url: "runtimeoptions.v1.Options".into(),
            value: vec![0xff, 0xff],
            ..Default::default()
        };
        for given in [None, Some(&foreign)] {
            let options = decoded(&runc_options(given, true).unwrap());
            assert!(options.systemd_cgroup && options.binary_name.is_empty());
        }
    }

    #[test]
    fn runc_options_are_kept_but_for_the_cgroup_driver() {
        let given = any(&Options {
            io_uid: 5,
            systemd_cgroup: true,
            ..Default::default()
        })
        .unwrap();
        let options = decoded(&runc_options(Some(&given), false).unwrap());
        assert_eq!((options.io_uid, options.systemd_cgroup), (5, false));
    }
}
