//! The command line: one file a command. Results go to stdout, everything else to stderr.

mod bench;
mod build;
mod conformance;
mod create;
mod delete;
mod down;
mod export;
mod get;
mod output;
mod signals;
mod up;
mod version;

use std::convert::Infallible;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::cluster::{ClusterName, InvalidName};
use crate::report;
use signals::interrupted;

/// Local Kubernetes clusters in which Wasm guests and Linux containers share a Pod.
#[derive(Debug, Parser)]
#[command(name = "wasmkind", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

impl Cli {
    /// Fails on what no single argument shows.
    fn checked(self) -> clap::error::Result<Self> {
        if let Command::Build(build::Command::Image(image)) = &self.command
            && let Err(problem) = image.check()
        {
            let kind = clap::error::ErrorKind::MissingRequiredArgument;
            return Err(Self::command().error(kind, problem));
        }
        Ok(self)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// From nothing to a Pod with Wasm and Linux that answers
    Up(up::Arguments),
    /// Undo `up`
    Down(down::Arguments),
    /// Build a node image, or an image for it
    #[command(subcommand)]
    Build(build::Command),
    /// Create a cluster
    #[command(subcommand)]
    Create(create::Command),
    /// Delete a cluster
    #[command(subcommand)]
    Delete(delete::Command),
    /// Show clusters, nodes, or a kubeconfig
    #[command(subcommand)]
    Get(get::Command),
    /// Write a kubeconfig
    #[command(subcommand)]
    Export(export::Command),
    /// Prove that a cluster runs Wasm and Linux containers as equals in one Pod
    Conformance(Box<conformance::Arguments>),
    /// Measure Wasm against Linux in a cluster
    #[command(subcommand)]
    Bench(bench::Command),
    /// Show versions
    Version(version::Arguments),
}

/// Runs the command that the process' arguments name.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse().and_then(Cli::checked) {
        Ok(cli) => cli,
        Err(usage) => {
            let _ = usage.print();
            // --help and --version are no errors.
            return if usage.use_stderr() {
                ExitCode::from(report::USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    report::exit_code(run(cli.command))
}

fn run(command: Command) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    let result = runtime.block_on(async {
        match command {
            Command::Up(arguments) => up::run(&arguments).await,
            Command::Down(arguments) => down::run(&arguments).await,
            Command::Build(command) => build::run(&command).await,
            Command::Create(create::Command::Cluster(arguments)) => create::run(&arguments).await,
            Command::Delete(command) => delete::run(&command).await,
            Command::Get(command) => get::run(&command).await,
            Command::Export(export::Command::Kubeconfig(arguments)) => {
                export::run(&arguments).await
            }
            Command::Conformance(arguments) => conformance::run(&arguments).await,
            Command::Bench(command) => bench::run(&command).await,
            Command::Version(arguments) => version::run(&arguments).await,
        }
    });
    // A request that nobody waits for any more does not keep the process.
    runtime.shutdown_background();
    result
}

/// Which cluster.
#[derive(Debug, Args)]
struct ClusterArguments {
    /// Name of the cluster [default: kind]
    #[arg(
        long,
        short,
        env = "KIND_CLUSTER_NAME",
        hide_env_values = true,
        value_name = "NAME",
        value_parser = parse_existing
    )]
    name: Option<ClusterName>,
}

impl ClusterArguments {
    fn name(&self) -> ClusterName {
        self.name.clone().unwrap_or_else(default_name)
    }
}

/// kind's default, also for an empty name.
const DEFAULT_NAME: &str = "kind";

fn default_name() -> ClusterName {
    ClusterName::existing(DEFAULT_NAME)
}

/// The name of a cluster that is there, or not: any name may be asked for.
fn parse_existing(name: &str) -> Result<ClusterName, Infallible> {
    let name = if name.is_empty() { DEFAULT_NAME } else { name };
    Ok(ClusterName::existing(name))
}

/// The name of a cluster that is to be made.
fn parse_new(name: &str) -> Result<ClusterName, InvalidName> {
    let name = if name.is_empty() { DEFAULT_NAME } else { name };
    name.parse()
}

/// Which kubeconfig.
#[derive(Debug, Args)]
struct KubeconfigArguments {
    /// Kubeconfig file to change, instead of $KUBECONFIG or ~/.kube/config
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// Parses Go's form of a duration: `300ms`, `1m30s`, `2h`, `0`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let invalid = || format!("'{text}' is not a duration such as 30s, 1m30s or 0");
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(invalid)?;
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let seconds = match &rest[..end] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(invalid()),
        };
        total += number * seconds;
        rest = &rest[end..];
    }
    if text.is_empty() {
        Err(invalid())
    } else {
        Duration::try_from_secs_f64(total).map_err(|_| invalid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("0", Some(0))]
    #[case("0s", Some(0))]
    #[case("300ms", Some(300))]
    #[case("1m30s", Some(90_000))]
    #[case("1.5h", Some(5_400_000))]
    // As with kind: a number alone says nothing.
    #[case("5", None)]
    #[case("", None)]
    #[case("5 s", None)]
    #[case("s", None)]
    #[case("-1s", None)]
    fn durations_are_gos(#[case] text: &str, #[case] milliseconds: Option<u64>) {
        assert_eq!(
            parse_duration(text).ok(),
            milliseconds.map(Duration::from_millis)
        );
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
