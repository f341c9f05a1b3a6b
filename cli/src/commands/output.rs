//! Results, in the form that was asked for.

use std::io::{self, Write};

use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;

/// Form of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people: a name or a fact a line
    Text,
    Json,
    Yaml,
}

/// Writes a list to stdout; as text, one line for each.
pub(super) fn list<T: Serialize>(
    format: Format,
    items: &[T],
    text: impl Fn(&T) -> &str,
) -> anyhow::Result<()> {
    match format {
        Format::Text => items.iter().try_for_each(|item| line(text(item))),
        Format::Json => line(&serde_json::to_string_pretty(items).context("encode the list")?),
        Format::Yaml => write(&serde_norway::to_string(items).context("encode the list")?),
    }
}

/// Writes one thing to stdout.
pub(super) fn value<T: Serialize>(
    format: Format,
    item: &T,
    text: impl FnOnce(&T) -> String,
) -> anyhow::Result<()> {
    match format {
        Format::Text => write(&text(item)),
        Format::Json => line(&serde_json::to_string_pretty(item).context("encode the result")?),
        Format::Yaml => write(&serde_norway::to_string(item).context("encode the result")?),
    }
}

/// Writes a line to stdout.
pub(super) fn line(text: &str) -> anyhow::Result<()> {
    write(&format!("{text}\n"))
}

/// Writes to stdout.
pub(super) fn write(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("write to stdout")
}
