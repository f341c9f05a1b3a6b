//! Markdown, for a README or a CI job's summary.

use std::fmt::Write as _;

use super::about;
use crate::conformance::results::{Outcome, Results};

pub(super) fn render(results: &Results) -> String {
    let mut text = String::from("# wasmkind conformance\n\n");
    for claim in results.claims() {
        let _ = writeln!(text, "**{}**\n", cell(&claim));
    }
    let _ = writeln!(
        text,
        "{} in {:.0} s · {} · {}\n",
        results.counts(),
        results.seconds,
        cell(&about(results)),
        results.started
    );
    let columns: Vec<String> = results
        .columns
        .iter()
        .map(|column| cell(&column.name))
        .collect();
    let _ = writeln!(text, "| case | {} |", columns.join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(columns.len()));
    for case in &results.cases {
        let outcomes: Vec<&str> = case
            .results
            .iter()
            .map(|run| match run.outcome {
                Outcome::Passed => "✓",
                Outcome::Failed { .. } => "**✗**",
                Outcome::Skipped { .. } => "–",
            })
            .collect();
        let _ = writeln!(
            text,
            "| [{}]({}) {} | {} |",
            case.name,
            case.documentation,
            cell(&case.shows),
            outcomes.join(" | ")
        );
    }
    let mut skipped = String::new();
    let mut failures = String::new();
    for case in &results.cases {
        for (column, run) in results.columns.iter().zip(&case.results) {
            if let Outcome::Skipped { reason } = &run.outcome {
                let column = cell(&column.name);
                let _ = writeln!(skipped, "- {} with {column}: {}", case.name, cell(reason));
            }
            if let Outcome::Failed {
                assertion,
                evidence,
                ..
            } = &run.outcome
            {
                let _ = writeln!(failures, "### {} with {}\n", case.name, cell(&column.name));
                // Indented: no fence that a log could close.
                for line in std::iter::once(assertion)
                    .chain(evidence)
                    .flat_map(|part| part.lines())
                {
                    let _ = writeln!(failures, "    {line}");
                }
                failures.push('\n');
            }
        }
    }
    if !failures.is_empty() {
        text.push_str("\n## Failures\n\n");
        text.push_str(&failures);
    }
    if !skipped.is_empty() {
        if failures.is_empty() {
            text.push('\n');
        }
        text.push_str("## Skipped\n\n");
        text.push_str(&skipped);
    }
    text
}

/// Text that stays in its cell, and text.
fn cell(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('|', "\\|")
        .replace('<', "&lt;")
        .replace('\n', " ")
}
