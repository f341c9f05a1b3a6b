//! One page with everything in it: the matrix, the timings, and each failure with its evidence.

use std::fmt::Write as _;

use super::{about, escape};
use crate::conformance::results::{CaseResult, CaseRun, Outcome, Results};

const STYLE: &str = include_str!("report.css");

pub(super) fn render(results: &Results) -> String {
    let counts = results.counts();
    let verdict = if counts.failed == 0 {
        "passed"
    } else {
        "failed"
    };
    let mut page = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>wasmkind conformance: {counts}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header class=\"{verdict}\">\n<h1>wasmkind conformance</h1>\n<p class=\"counts\">{counts}</p>\n\
         <p>{}</p>\n<p>{} · {:.0} s · run {}</p>\n",
        escape(&about(results)),
        escape(&results.started),
        results.seconds,
        escape(&results.run)
    );
    for claim in results.claims() {
        let _ = writeln!(page, "<p class=\"claim\">{}</p>", escape(&claim));
    }
    page.push_str("</header>\n<main>\n");
    page.push_str(&totals(results));
    let slowest = slowest(results);
    let mut area = "";
    for case in &results.cases {
        let own = case.name.split('.').next().unwrap_or_default();
        if own != area {
            if !area.is_empty() {
                page.push_str("</tbody></table>\n</section>\n");
            }
            area = own;
            let _ = write!(
                page,
                "<section>\n<h2>{}</h2>\n<table>\n<thead><tr><th>case</th>",
                escape(area)
            );
            for column in &results.columns {
                let _ = write!(page, "<th class=\"outcome\">{}</th>", escape(&column.name));
            }
            page.push_str("</tr></thead>\n<tbody>\n");
        }
        page.push_str(&row(results, case, slowest));
    }
    if !area.is_empty() {
        page.push_str("</tbody></table>\n</section>\n");
    }
    let _ = writeln!(
        page,
        "</main>\n<footer>wasmkind {}</footer>\n</body>\n</html>",
        escape(&results.version)
    );
    page
}

/// A bar a column.
fn totals(results: &Results) -> String {
    let mut html = String::from("<section class=\"totals\">\n");
    for (index, column) in results.columns.iter().enumerate() {
        let counts = results.counts_of(index);
        let _ = write!(
            html,
            "<div><strong>{}</strong><span>{counts}</span><div class=\"bar\">",
            escape(&column.name)
        );
        for (class, count) in [
            ("passed", counts.passed),
            ("failed", counts.failed),
            ("skipped", counts.skipped),
        ] {
            if count > 0 {
                let _ = write!(
                    html,
                    "<i class=\"{class}\" style=\"flex-grow:{count}\"></i>"
                );
            }
        }
        html.push_str("</div></div>\n");
    }
    html.push_str("</section>\n");
    html
}

fn slowest(results: &Results) -> f64 {
    let runs = results.cases.iter().flat_map(|case| &case.results);
    runs.map(|run| run.seconds).fold(0.1, f64::max)
}

fn row(results: &Results, case: &CaseResult, slowest: f64) -> String {
    let mut html = format!(
        "<tr id=\"{name}\"><td><a href=\"{}\">{name}</a><small>{}</small>",
        escape(&case.documentation),
        escape(&case.shows),
        name = escape(&case.name),
    );
    for (column, run) in results.columns.iter().zip(&case.results) {
        if let Outcome::Skipped { reason } = &run.outcome {
            let (column, reason) = (escape(&column.name), escape(reason));
            let _ = write!(html, "<small>{column} skipped: {reason}</small>");
        }
        if let Outcome::Failed {
            assertion,
            evidence,
            ..
        } = &run.outcome
        {
            let _ = write!(
                html,
                "<details open><summary>{}: {}</summary><pre>{}</pre></details>",
                escape(&column.name),
                escape(assertion),
                escape(&evidence.join("\n"))
            );
        }
    }
    html.push_str("</td>");
    for run in &case.results {
        html.push_str(&cell(run, slowest));
    }
    html.push_str("</tr>\n");
    html
}

fn cell(run: &CaseRun, slowest: f64) -> String {
    let outcome = run.outcome.as_str();
    match &run.outcome {
        Outcome::Skipped { .. } => format!("<td class=\"outcome {outcome}\">skipped</td>"),
        _ => format!(
            "<td class=\"outcome {outcome}\">{outcome}<span class=\"time\"><i style=\"width:{:.0}%\"></i>{:.1} s</span></td>",
            100.0 * run.seconds / slowest,
            run.seconds
        ),
    }
}
