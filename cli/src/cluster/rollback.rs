//! What a run has made so far, and how to undo it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{CreateContainerOptionsBuilder, ListContainersOptionsBuilder};

use super::{Error, RUN_LABEL, Result, delete};
use crate::{docker, kubeconfig};

/// How long to wait for a request that is still creating a container.
const PATIENCE: Duration = Duration::from_secs(120);

/// Everything that one run makes goes through here.
pub(super) struct Undo {
    docker: Docker,
    /// Value of [`RUN_LABEL`] on this run's containers.
    pub run: String,
    /// Held while a container is being created, also after the run was given up.
    creating: Arc<tokio::sync::Mutex<()>>,
    kubeconfig: Mutex<Option<(String, PathBuf)>>,
    begun: AtomicBool,
}

impl Undo {
    pub(super) fn new(docker: &Docker) -> Self {
        let run = getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()));
        Self {
            docker: docker.clone(),
            run: format!("{run:016x}"),
            creating: Arc::default(),
            kubeconfig: Mutex::default(),
            begun: AtomicBool::new(false),
        }
    }

    /// Creates a container. Docker goes on with it when nobody waits any more, so a task of its own
    /// sees it to its end.
    pub(super) async fn create_container(
        &self,
        name: &str,
        body: ContainerCreateBody,
    ) -> Result<String> {
        let guard = Arc::clone(&self.creating).lock_owned().await;
        self.begun.store(true, Ordering::Relaxed);
        let (docker, container) = (self.docker.clone(), name.to_owned());
        let task = tokio::spawn(async move {
            let options = CreateContainerOptionsBuilder::default()
                .name(&container)
                .build();
            let created = docker.create_container(Some(options), body).await;
            drop(guard);
            created.map_err(docker::Error::request(format!(
                "create container {container}"
            )))
        });
        let created = task.await.map_err(|_| Error::Interrupted)?;
        match created {
            Ok(created) => Ok(created.id),
            // Docker's names are the lock between two creates.
            Err(error) if error.status() == Some(409) => Err(Error::NameTaken {
                container: name.into(),
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether anything may have been made.
    pub(super) fn is_needed(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Remembers a kubeconfig entry.
    pub(super) fn wrote_kubeconfig(&self, context: String, path: PathBuf) {
        *self
            .kubeconfig
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some((context, path));
    }

    /// Removes what the run has made, all of it that can be removed.
    pub(super) async fn undo(&self) -> Result<()> {
        let written = self
            .kubeconfig
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let cleaned = written.and_then(|(context, path)| {
            let removal = kubeconfig::remove(&context, Some(&path));
            removal.left.into_iter().chain(removal.unread).next()
        });
        // The container that is being created now is ours as well.
        let _creating = tokio::time::timeout(PATIENCE, self.creating.lock()).await;
        let filters = HashMap::from([(
            "label".to_owned(),
            vec![format!("{RUN_LABEL}={}", self.run)],
        )]);
        let options = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&filters)
            .build();
        let listed = self
            .docker
            .list_containers(Some(options))
            .await
            .map_err(docker::Error::request("list containers"))?;
        let mut result = Ok(());
        for id in listed.into_iter().filter_map(|container| container.id) {
            if let Err(error) = delete::remove(&self.docker, &id).await {
                result = Err(error.into());
            }
        }
        match cleaned {
            Some(failure) => Err(failure.into()),
            None => result,
        }
    }
}
