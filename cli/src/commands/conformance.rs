//! `wasmkind conformance`

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use regex::Regex;

use super::output::{self, Format};
use super::{interrupted, parse_duration};
use crate::conformance::report;
use crate::conformance::results::{CaseRun, Outcome};
use crate::conformance::{self, Column, Error, Observer, Options, Profile, Selection};

/// Checked against a machine with 2 cores: more Pods at a time only slow each other.
const PARALLEL: u16 = 8;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Kubeconfig file, instead of $KUBECONFIG or ~/.kube/config
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Run in a namespace that is there, with the user's rights in it: cases that need more are skipped
    /// [default: one that is made and removed]
    #[arg(long, short, value_name = "NAME", value_parser = conformance::parse_name)]
    namespace: Option<String>,
    /// RuntimeClass of the mixed Pods; several make a matrix [default: wasmkind]
    #[arg(long, value_name = "NAME")]
    runtime_class: Vec<String>,
    /// Add a column in which both containers of each Pod run the Linux build, under a RuntimeClass
    /// or the cluster's default runtime: it shows that the cases themselves are right
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    control: Vec<String>,
    /// Only cases whose name matches
    #[arg(long, value_name = "REGEX")]
    focus: Option<Regex>,
    /// No cases whose name matches
    #[arg(long, value_name = "REGEX")]
    skip: Option<Regex>,
    /// Only the cases of a stable profile
    #[arg(long, value_enum)]
    profile: Option<Profile>,
    /// List the cases and do not run them
    #[arg(long)]
    list: bool,
    /// Print the Role that is needed with --namespace, and run nothing
    #[arg(long, conflicts_with = "list")]
    print_role: bool,
    /// Form of the list
    #[arg(long, short, value_enum, default_value = "text", requires = "list")]
    output: Format,
    /// Cases at a time
    #[arg(long, default_value_t = PARALLEL, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    parallel: u16,
    /// How long a case may take
    #[arg(long, default_value = "90s", value_parser = parse_duration, value_name = "DURATION")]
    timeout: Duration,
    /// Start no more cases after a failure
    #[arg(long)]
    fail_fast: bool,
    /// Leave the objects of failed cases in the cluster
    #[arg(long)]
    keep_on_failure: bool,
    /// Write a report; may be repeated
    #[arg(long, value_name = "json|junit|md|html=FILE", value_parser = parse_report)]
    report: Vec<Report>,
    /// Where the images `wasm:v1` and `linux:v1` are
    #[arg(long, default_value = conformance::DEFAULT_REGISTRY, value_name = "PREFIX")]
    image_registry: String,
}

#[derive(Debug, Clone)]
struct Report {
    format: report::Format,
    path: PathBuf,
}

fn parse_report(text: &str) -> Result<Report, String> {
    let parsed = text.split_once('=').and_then(|(format, path)| {
        Some(Report {
            format: report::Format::parse(format)?,
            path: path.into(),
        })
    });
    parsed.ok_or_else(|| "it is one of json=FILE, junit=FILE, md=FILE and html=FILE".into())
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let interrupt = interrupted();
    let selection = Selection {
        focus: arguments.focus.clone(),
        skip: arguments.skip.clone(),
        profile: arguments.profile,
    };
    if arguments.list {
        let cases = conformance::list(&selection)?;
        return output::list(arguments.output, &cases, |case| case.name);
    }
    if arguments.print_role {
        let role = serde_norway::to_string(&conformance::role()).context("encode the Role")?;
        return output::write(&role);
    }
    let options = Options {
        kubeconfig: arguments.kubeconfig.clone(),
        context: arguments.context.clone(),
        namespace: arguments.namespace.clone(),
        columns: columns(arguments),
        selection,
        parallel: arguments.parallel.into(),
        timeout: arguments.timeout,
        fail_fast: arguments.fail_fast,
        keep_on_failure: arguments.keep_on_failure,
        registry: arguments.image_registry.clone(),
    };
    let mut shown = Shown::new();
    let results = conformance::run(&options, &mut shown, interrupt).await?;
    for report in &arguments.report {
        let text = report::render(report.format, &results);
        std::fs::write(&report.path, text).map_err(|source| Error::Report {
            path: report.path.display().to_string(),
            source,
        })?;
    }
    let counts = results.counts();
    for claim in results.claims() {
        output::line(&claim)?;
    }
    output::line(&counts.to_string())?;
    if counts.failed > 0 {
        return Err(Error::Failed {
            failed: counts.failed,
            total: counts.passed + counts.failed + counts.skipped,
        }
        .into());
    }
    Ok(())
}

fn columns(arguments: &Arguments) -> Vec<Column> {
    let classes = arguments
        .runtime_class
        .iter()
        .cloned()
        .map(Column::RuntimeClass);
    let controls = arguments
        .control
        .iter()
        .map(|name| Column::Control(Some(name.clone()).filter(|name| !name.is_empty())));
    let mut columns: Vec<Column> = classes.chain(controls).collect();
    if columns.is_empty() {
        columns.push(Column::RuntimeClass("wasmkind".into()));
    }
    columns
}

/// One line a case on stdout; on a terminal, what is under way below them.
struct Shown {
    bar: ProgressBar,
    colour: bool,
    under_way: BTreeSet<String>,
    ended: usize,
    of: usize,
}

impl Shown {
    fn new() -> Self {
        let smart = std::io::stderr().is_terminal() && std::io::stdout().is_terminal();
        let target = if smart {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template(" {spinner} {wide_msg}") {
            bar.set_style(style);
        }
        if smart {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        let colour = smart && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            bar,
            colour,
            under_way: BTreeSet::new(),
            ended: 0,
            of: 0,
        }
    }

    fn say(&self, text: &str) {
        // Whoever closed stdout does not want to know; the run goes on for its reports.
        self.bar.suspend(|| drop(output::line(text)));
    }

    fn update(&self) {
        let names: Vec<&str> = self.under_way.iter().map(String::as_str).collect();
        self.bar
            .set_message(format!("{}/{} {}", self.ended, self.of, names.join(", ")));
    }

    fn paint(&self, code: u8, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.into()
        }
    }
}

impl Observer for Shown {
    fn begins(&mut self, column: &str, cases: usize) {
        self.ended = 0;
        self.of = cases;
        self.say(&format!("# {column}: {cases} cases"));
    }

    fn starts(&mut self, case: &str) {
        self.under_way.insert(case.into());
        self.update();
    }

    fn ends(&mut self, case: &str, run: &CaseRun) {
        self.under_way.remove(case);
        self.ended += 1;
        let seconds = run.seconds;
        match &run.outcome {
            Outcome::Passed => {
                let ok = self.paint(32, "ok");
                self.say(&format!("{ok} {case} ({seconds:.1} s)"));
            }
            Outcome::Skipped { reason } => {
                let skipped = self.paint(33, "skipped");
                self.say(&format!("{skipped} {case}: {reason}"));
            }
            Outcome::Failed {
                assertion,
                evidence,
                timed_out,
                ..
            } => {
                let failed = self.paint(31, "not ok");
                let over = if *timed_out { ", timed out" } else { "" };
                let mut text = format!("{failed} {case} ({seconds:.1} s{over}): {assertion}");
                for line in evidence {
                    text.push_str("\n    ");
                    text.push_str(line);
                }
                self.say(&text);
            }
        }
        self.update();
    }

    fn cleans_up(&mut self) {
        self.under_way.clear();
        self.bar.set_message("removing what was made");
    }
}
