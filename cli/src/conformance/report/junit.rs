//! JUnit's XML, as Jenkins, GitLab and GitHub's actions read it: a suite a column.

use std::fmt::Write as _;

use super::escape;
use crate::conformance::results::{Outcome, Results};

pub(super) fn render(results: &Results) -> String {
    let counts = results.counts();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Writing to a String cannot fail.
    let _ = writeln!(
        xml,
        "<testsuites name=\"wasmkind conformance\" tests=\"{}\" failures=\"{}\" skipped=\"{}\" time=\"{:.3}\">",
        counts.passed + counts.failed + counts.skipped,
        counts.failed,
        counts.skipped,
        results.seconds
    );
    for (index, column) in results.columns.iter().enumerate() {
        let counts = results.counts_of(index);
        let _ = writeln!(
            xml,
            "  <testsuite name=\"{}\" timestamp=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{}\">",
            escape(&column.name),
            escape(&results.started),
            counts.passed + counts.failed + counts.skipped,
            counts.failed,
            counts.skipped
        );
        for case in &results.cases {
            let Some(run) = case.results.get(index) else {
                continue;
            };
            let (area, behaviour) = case.name.split_once('.').unwrap_or(("", &case.name));
            let _ = write!(
                xml,
                "    <testcase classname=\"{}.{}\" name=\"{}\" time=\"{:.3}\"",
                escape(&column.name),
                escape(area),
                escape(behaviour),
                run.seconds
            );
            let _ = match &run.outcome {
                Outcome::Passed => writeln!(xml, "/>"),
                Outcome::Skipped { reason } => {
                    writeln!(xml, "><skipped message=\"{}\"/></testcase>", escape(reason))
                }
                Outcome::Failed {
                    assertion,
                    evidence,
                    ..
                } => writeln!(
                    xml,
                    "><failure message=\"{}\">{}</failure></testcase>",
                    escape(assertion),
                    escape(&evidence.join("\n"))
                ),
            };
        }
        xml.push_str("  </testsuite>\n");
    }
    xml.push_str("</testsuites>\n");
    xml
}
