use super::*;
use crate::conformance::case::{Half, Profile};
use crate::conformance::results::{
    CaseResult, CaseRun, Cluster, ColumnInfo, FORMAT, Node, Outcome,
};

fn case(name: &str, results: Vec<CaseRun>) -> CaseResult {
    CaseResult {
        name: name.into(),
        shows: "What <it> shows | & more.".into(),
        documentation: "https://kubernetes.io/docs/concepts/".into(),
        results,
    }
}

fn run(seconds: f64, outcome: Outcome) -> CaseRun {
    CaseRun { seconds, outcome }
}

fn failed() -> Outcome {
    Outcome::Failed {
        assertion: "linux: log: expected \"a\", found \"<script>\u{1}\"".into(),
        halves: vec![Half::Linux],
        evidence: vec!["Pod p: Failed".into(), "log of linux: ```</pre>]]>".into()],
        timed_out: false,
    }
}

fn example() -> Results {
    let skipped = || Outcome::Skipped {
        reason: "it is about Wasm only".into(),
    };
    Results {
        format: FORMAT,
        run: "0a1b2c3d".into(),
        version: "0.1.0".into(),
        started: "2026-11-24T12:00:00Z".into(),
        seconds: 61.0,
        profile: Some(Profile::MixedPodV1),
        namespace: None,
        cluster: Cluster {
            kubernetes: "v1.37.2".into(),
            nodes: vec![Node {
                architecture: "amd64".into(),
                container_runtime: "containerd://2.3.7".into(),
                kernel: "6.18.0".into(),
                os: "Debian GNU/Linux 13 (trixie)".into(),
            }],
        },
        columns: vec![
            ColumnInfo {
                name: "wasmkind".into(),
                control: false,
            },
            ColumnInfo {
                name: "runc (Linux only)".into(),
                control: true,
            },
        ],
        cases: vec![
            case(
                "env.literal",
                vec![run(1.5, Outcome::Passed), run(0.5, Outcome::Passed)],
            ),
            case(
                "env.from",
                vec![run(3.0, failed()), run(0.7, Outcome::Passed)],
            ),
            case(
                "failure.request",
                vec![run(1.0, Outcome::Passed), run(0.0, skipped())],
            ),
        ],
    }
}

/// Compares with the file in `testdata`; BLESS=1 writes it.
fn golden(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/conformance/report/testdata")
        .join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        text,
        expected,
        "{}: BLESS=1 accepts the change",
        path.display()
    );
}

#[test]
fn reports_are_as_agreed() {
    let results = example();
    for (format, name) in [
        (Format::Json, "report.json"),
        (Format::Junit, "report.xml"),
        (Format::Markdown, "report.md"),
        (Format::Html, "report.html"),
    ] {
        golden(name, &render(format, &results));
    }
}

#[test]
fn json_comes_back_as_it_was() {
    let results = example();
    let text = render(Format::Json, &results);
    assert_eq!(serde_json::from_str::<Results>(&text).unwrap(), results);
}

#[test]
fn what_a_log_says_stays_text() {
    let results = example();
    let html = render(Format::Html, &results);
    assert!(!html.contains("<script>"));
    assert_eq!(
        html.matches("</pre>").count(),
        html.matches("<pre>").count()
    );
    let xml = render(Format::Junit, &results);
    assert!(!xml.contains('\u{1}') && !xml.contains("]]>"));
}

#[test]
fn a_failed_case_is_no_conformance() {
    let claims = example().claims();
    assert_eq!(claims.len(), 1, "the control makes no claim: {claims:?}");
    assert!(claims[0].contains("not conformant (2/3)"), "{claims:?}");
    let mut results = example();
    results.cases.remove(1);
    assert!(results.claims()[0].contains("is conformant (2/2)"));
    // What was skipped is neither shown nor disproved.
    let skip = Outcome::Skipped {
        reason: "it needs a right".into(),
    };
    results.cases[0].results[0] = run(0.0, skip);
    let claims = results.claims();
    assert!(
        claims[0].contains("not shown to be conformant (1/2)"),
        "{claims:?}"
    );
    // Part of a profile proves nothing.
    results.profile = None;
    assert!(results.claims().is_empty());
}
