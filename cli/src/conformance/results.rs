//! What came of a run; its JSON form is the machine-readable result.

use serde::{Deserialize, Serialize};

use super::case::{Half, Profile};

/// Version of the JSON form.
pub const FORMAT: u32 = 1;

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    pub format: u32,
    /// Value of the label `wasmkind.dev/conformance` on what the run made.
    pub run: String,
    /// Of wasmkind.
    pub version: String,
    /// RFC 3339, in UTC.
    pub started: String,
    pub seconds: f64,
    pub profile: Option<Profile>,
    /// The namespace that was there; none where the run made its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub cluster: Cluster,
    /// What was run side by side, in the order of each case's outcomes.
    pub columns: Vec<ColumnInfo>,
    pub cases: Vec<CaseResult>,
}

/// A column of the matrix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ColumnInfo {
    /// Its heading.
    pub name: String,
    /// Both containers of each Pod ran the Linux build: it shows that the cases are right, and
    /// makes no claim.
    pub control: bool,
}

/// What the run was put to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Cluster {
    pub kubernetes: String,
    pub nodes: Vec<Node>,
}

/// From a node's status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub architecture: String,
    pub container_runtime: String,
    pub kernel: String,
    pub os: String,
}

/// One case in all columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaseResult {
    pub name: String,
    pub shows: String,
    pub documentation: String,
    pub results: Vec<CaseRun>,
}

/// One case in one column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaseRun {
    pub seconds: f64,
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "outcome")]
pub enum Outcome {
    Passed,
    Failed {
        /// The assertion that does not hold.
        assertion: String,
        /// For which halves; empty where it is about the Pod.
        halves: Vec<Half>,
        /// State, events and logs of the Pods.
        evidence: Vec<String>,
        /// It waited until its time was over: on a busy cluster it may be no more than slow.
        #[serde(default)]
        timed_out: bool,
    },
    Skipped {
        reason: String,
    },
}

impl Outcome {
    /// `passed`, `failed` or `skipped`
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed { .. } => "failed",
            Self::Skipped { .. } => "skipped",
        }
    }
}

/// Outcomes counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
}

impl Counts {
    fn add(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Failed { .. } => self.failed += 1,
            Outcome::Skipped { .. } => self.skipped += 1,
        }
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

impl Results {
    /// Of all columns.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for case in &self.cases {
            case.results.iter().for_each(|run| counts.add(&run.outcome));
        }
        counts
    }

    /// Of one column.
    pub fn counts_of(&self, column: usize) -> Counts {
        let mut counts = Counts::default();
        for case in &self.cases {
            if let Some(run) = case.results.get(column) {
                counts.add(&run.outcome);
            }
        }
        counts
    }

    /// One line a project can publish, for each column; only of a run of a whole profile.
    pub fn claims(&self) -> Vec<String> {
        let Some(profile) = self.profile else {
            return Vec::new();
        };
        let claim = |(index, column): (usize, &ColumnInfo)| {
            let counts = self.counts_of(index);
            let total = counts.passed + counts.failed + counts.skipped;
            let verdict = if counts.failed > 0 {
                "not conformant"
            } else if counts.skipped > 0 {
                // Neither can be told.
                "not shown to be conformant"
            } else {
                "conformant"
            };
            format!(
                "{}: {} is {verdict} ({}/{total}), Kubernetes {}, wasmkind {}",
                profile.as_str(),
                column.name,
                counts.passed,
                self.cluster.kubernetes,
                self.version
            )
        };
        let columns = self.columns.iter().enumerate();
        columns
            .filter(|(_, column)| !column.control)
            .map(claim)
            .collect()
    }
}
