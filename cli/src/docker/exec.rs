//! Commands in a node.

use bollard::Docker;
use bollard::exec::{CreateExecOptions, StartExecResults};
use futures_util::TryStreamExt;

use super::error::{Error, Result};

/// Output and exit code of a command.
#[derive(Debug)]
pub struct Output {
    /// stdout and stderr, as they came.
    pub text: String,
    pub exit_code: i64,
}

/// Runs a command in a container, with the capabilities that the container has, and waits for its
/// end. Not privileged, as kind does it: that asks for all capabilities, which a host may not have.
pub async fn run(docker: &Docker, container: &str, command: &[&str]) -> Result<Output> {
    let operation = || format!("run {} in {container}", command.first().unwrap_or(&""));
    let options = CreateExecOptions {
        cmd: Some(command.iter().map(|&word| word.to_owned()).collect()),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..CreateExecOptions::default()
    };
    let exec = docker
        .create_exec(container, options)
        .await
        .map_err(Error::request(operation()))?;
    let started = docker
        .start_exec(&exec.id, None)
        .await
        .map_err(Error::request(operation()))?;
    let mut text = Vec::new();
    if let StartExecResults::Attached { output, .. } = started {
        let chunks: Vec<_> = output
            .try_collect()
            .await
            .map_err(Error::request(operation()))?;
        for chunk in chunks {
            text.extend_from_slice(&chunk.into_bytes());
        }
    }
    let ended = docker
        .inspect_exec(&exec.id)
        .await
        .map_err(Error::request(operation()))?;
    Ok(Output {
        text: String::from_utf8_lossy(&text).into_owned(),
        exit_code: ended.exit_code.unwrap_or(-1),
    })
}
