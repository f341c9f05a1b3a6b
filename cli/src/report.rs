//! The one place where an error becomes what the user reads, and an exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::{bench, cluster, conformance, docker, kubeconfig};

/// The command could not be understood.
pub const USAGE: u8 = 2;
const FAILED: u8 = 1;
/// As shells report a process that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// Writes the error, and the hints that go with it, to stderr.
pub fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    // Nobody reads stdout any more: that is no failure of the command.
    if error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|io| io.kind() == io::ErrorKind::BrokenPipe)
    }) {
        return ExitCode::SUCCESS;
    }
    let _ = io::stderr().write_all(render(&error).as_bytes());
    let interrupted = error.chain().any(|cause| {
        cause
            .downcast_ref()
            .is_some_and(cluster::Error::is_interruption)
            || cause
                .downcast_ref()
                .is_some_and(conformance::Error::is_interruption)
            || cause
                .downcast_ref()
                .is_some_and(bench::Error::is_interruption)
    });
    ExitCode::from(if interrupted { INTERRUPTED } else { FAILED })
}

/// `error: what: why`, then what was found out, then one `hint:` line for each hint of the chain.
pub fn render(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut hints: Vec<String> = Vec::new();
    for cause in error.chain() {
        let part = cause.to_string();
        // Some libraries repeat their source in their own text.
        if !parts.last().is_some_and(|last| last.ends_with(&part)) {
            parts.push(part);
        }
        let hint = hint_of(cause);
        hints.extend(hint.filter(|hint| !hints.contains(hint)));
    }
    let mut text = format!("error: {}\n", parts.join(": "));
    let details = error.chain().find_map(|cause| {
        let conformance = || cause.downcast_ref().and_then(conformance::Error::details);
        let cluster = cause.downcast_ref().and_then(cluster::Error::details);
        cluster.or_else(conformance)
    });
    text.push_str(details.unwrap_or_default());
    for hint in hints {
        text.push_str(&format!("hint: {hint}\n"));
    }
    text
}

fn hint_of(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(error) = cause.downcast_ref::<docker::Error>() {
        return error.hint();
    }
    if let Some(error) = cause.downcast_ref::<kubeconfig::Error>() {
        return error.hint();
    }
    if let Some(error) = cause.downcast_ref::<conformance::Error>() {
        return error.hint();
    }
    if let Some(error) = cause.downcast_ref::<bench::Error>() {
        return error.hint();
    }
    if let Some(error) = cause.downcast_ref::<wasmkind_node_image::Error>() {
        return error.hint();
    }
    cause
        .downcast_ref::<cluster::Error>()
        .and_then(cluster::Error::hint)
}
