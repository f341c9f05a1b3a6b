//! Reports: what came of a run, in the forms that tools and people read.

mod html;
mod junit;
mod markdown;

use super::results::Results;

/// Form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    /// XML as CI servers read it.
    Junit,
    Markdown,
    /// One page that needs nothing else.
    Html,
}

impl Format {
    /// The name in `--report NAME=FILE`.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "json" => Self::Json,
            "junit" => Self::Junit,
            "md" => Self::Markdown,
            "html" => Self::Html,
            _ => return None,
        })
    }
}

/// The report's text.
pub fn render(format: Format, results: &Results) -> String {
    match format {
        Format::Json => json(results),
        Format::Junit => junit::render(results),
        Format::Markdown => markdown::render(results),
        Format::Html => html::render(results),
    }
}

fn json(results: &Results) -> String {
    // Nothing in it can fail to be encoded.
    let mut text = serde_json::to_string_pretty(results).unwrap_or_default();
    text.push('\n');
    text
}

/// Text for XML and HTML. What neither can hold becomes U+FFFD.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(character),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            control if control.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

/// `Kubernetes v1.37.2, containerd://2.3.7, amd64, Linux 6.18, Debian`, of the first node.
fn about(results: &Results) -> String {
    let mut parts = vec![format!("Kubernetes {}", results.cluster.kubernetes)];
    if let Some(node) = results.cluster.nodes.first() {
        parts.push(node.container_runtime.replace("://", " "));
        parts.push(format!("{}, Linux {}", node.os, node.kernel));
        parts.push(node.architecture.clone());
    }
    if results.cluster.nodes.len() > 1 {
        parts.push(format!("{} nodes", results.cluster.nodes.len()));
    }
    if let Some(namespace) = &results.namespace {
        parts.push(format!("in namespace {namespace}"));
    }
    parts.join(" · ")
}

#[cfg(test)]
mod tests;
