//! What a benchmark found.

use std::fmt;

use serde::Serialize;

use super::node::{Machine, Node, Side};
use super::stats::{Ratio, Summary};
use super::{Benchmark, Options, Rival};

/// The values of both sides for one part of what is measured.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) unit: &'static str,
    /// Ours, and the other side's: one of each round, or of each Pod.
    pub(super) values: [Vec<f64>; 2],
}

impl Row {
    pub(super) fn new(name: &str, unit: &'static str) -> Self {
        Row {
            name: name.to_owned(),
            unit,
            values: [Vec::new(), Vec::new()],
        }
    }
}

/// Result of a benchmark; the last line is the one that counts.
#[derive(Debug, Serialize)]
pub struct Report {
    pub benchmark: &'static str,
    /// How it was measured.
    pub method: String,
    pub rounds: usize,
    pub machine: Machine,
    pub sides: [Side; 2],
    pub lines: Vec<Line>,
    /// Of the last line.
    pub ratio: Option<Ratio>,
    /// What the ratio is to be at most, where there is a goal.
    pub target: Option<f64>,
}

/// One part of what was measured. A side that does not have the part has no figure.
#[derive(Debug, Serialize)]
pub struct Line {
    pub name: String,
    pub unit: &'static str,
    pub ours: Option<Summary>,
    pub theirs: Option<Summary>,
    pub ratio: Option<Ratio>,
}

impl Report {
    pub(super) fn new(
        benchmark: &Benchmark,
        node: &Node,
        sides: &[Side; 2],
        options: &Options,
        rows: Vec<Row>,
    ) -> Self {
        let rounds = options.rounds;
        let (name, method, target) = match benchmark {
            Benchmark::Pod => {
                let network = match options.host_network {
                    true => "the node's network",
                    false => "the Pod network",
                };
                let method = format!(
                    "RunPodSandbox to a started container, through CRI, on {network}; {rounds} rounds in turns"
                );
                ("pod", method, Some(0.6))
            }
            Benchmark::Container => {
                let method = format!(
                    "create and start of a task, through containerd, no Pod; {rounds} rounds in turns"
                );
                ("container", method, Some(0.5))
            }
            Benchmark::Memory => {
                let method = format!("PSS of all processes of a Pod; {rounds} Pods of each side");
                ("memory", method, Some(0.25))
            }
            Benchmark::Request(load) => {
                let method = format!(
                    "{} connections for {} s, each side on one CPU; {rounds} rounds in turns",
                    load.connections, load.seconds
                );
                let wasmtime = matches!(load.rival, Rival::Wasmtime(_));
                ("request", method, wasmtime.then_some(0.4))
            }
        };
        let lines: Vec<Line> = rows.into_iter().map(Line::of).collect();
        Report {
            benchmark: name,
            method,
            rounds,
            machine: node.machine.clone(),
            sides: sides.clone(),
            ratio: lines.last().and_then(|line| line.ratio),
            lines,
            target,
        }
    }
}

impl Line {
    fn of(row: Row) -> Self {
        let [ours, theirs] = &row.values;
        let summary = |values: &[f64]| (!values.is_empty()).then(|| Summary::of(values));
        let both = !ours.is_empty() && !theirs.is_empty();
        Line {
            name: row.name,
            unit: row.unit,
            ours: summary(ours),
            theirs: summary(theirs),
            ratio: both.then(|| Ratio::of(ours, theirs)),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        let [ours, theirs] = &self.sides;
        writeln!(f, "{}: {}", self.benchmark, self.method)?;
        writeln!(
            f,
            "node {} of {}: {} CPUs, Linux {}, load {:.1}, containerd {}, runc {}, wasmkind v{}",
            machine.node,
            machine.image,
            machine.cpus,
            machine.kernel,
            machine.load,
            machine.containerd.trim_start_matches('v'),
            machine.runc,
            machine.wasmkind,
        )?;
        for side in &self.sides {
            writeln!(f, "{}: {} under {}", side.handler, side.image, side.runtime)?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "{:<24}{:>28}{:>28}{:>8}",
            "median (quartiles)", ours.handler, theirs.handler, "ratio"
        )?;
        for line in &self.lines {
            let figure = |summary: &Option<Summary>| match summary {
                Some(s) => format!(
                    "{:.1} ({:.1}-{:.1})",
                    s.median, s.lower_quartile, s.upper_quartile
                ),
                None => "-".to_owned(),
            };
            writeln!(
                f,
                "{:<24}{:>28}{:>28}{:>8}",
                format!("{}, {}", line.name, line.unit),
                figure(&line.ours),
                figure(&line.theirs),
                line.ratio
                    .map_or("-".to_owned(), |ratio| format!("{:.2}", ratio.of_medians)),
            )?;
        }
        writeln!(f)?;
        if let Some(ratio) = self.ratio {
            write!(
                f,
                "ratio {:.2} (quartiles of the rounds: {:.2} to {:.2})",
                ratio.of_medians, ratio.lower_quartile, ratio.upper_quartile
            )?;
            match self.target {
                Some(target) => writeln!(f, "; the goal is {target:.2}")?,
                None => writeln!(f)?,
            }
        }
        if self.lines.iter().any(|line| line.unit == "ms") {
            writeln!(
                f,
                "a call without work takes {:.1} ms of each call's time, on both sides",
                machine.round_trip
            )?;
        }
        write!(f, "the ratio is what can be compared with other machines")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_one_side_lacks_has_no_ratio() {
        let mut row = Row::new("wasmkind-runner", "MiB");
        row.values[0].push(1.0);
        let line = Line::of(row);
        assert_eq!(line.ours.unwrap().median, 1.0);
        assert!(line.theirs.is_none() && line.ratio.is_none());
    }
}
