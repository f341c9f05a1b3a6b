//! The table of all cases, one file an area.

mod debug;
mod env;
mod exec;
mod failure;
mod features;
mod lifecycle;
mod logs;
mod network;
mod pod;
mod policy;
mod probes;
mod resources;
mod security;
mod volumes;

use serde_json::{Value, json};

use super::case::Case;

/// All cases, in the order in which they are listed.
pub(super) fn all() -> Vec<Case> {
    [
        pod::cases(),
        env::cases(),
        volumes::cases(),
        network::cases(),
        policy::cases(),
        lifecycle::cases(),
        probes::cases(),
        exec::cases(),
        logs::cases(),
        resources::cases(),
        security::cases(),
        debug::cases(),
        failure::cases(),
        features::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Mounts the shared volume at /shared, in a container.
fn mounts() -> Value {
    json!({ "volumeMounts": [{ "name": "shared", "mountPath": "/shared" }] })
}

/// The shared volume, in a Pod.
fn volumes() -> Value {
    json!([{ "name": "shared", "emptyDir": {} }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_case_is_named_explained_and_documented() {
        let mut names = BTreeSet::new();
        for case in all() {
            let (area, behaviour) = case.name.split_once('.').unwrap();
            for part in [area, behaviour] {
                let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
                assert!(
                    !part.is_empty() && part.chars().all(allowed),
                    "{}",
                    case.name
                );
            }
            // With a suffix they name Pods, whose names end up as labels and host names.
            assert!(case.name.len() <= 45, "{}", case.name);
            assert!(names.insert(case.name), "{} is there twice", case.name);
            assert!(case.shows.ends_with('.'), "{}: {}", case.name, case.shows);
            assert!(case.documentation.ends_with('/'), "{}", case.name);
        }
        assert!(names.len() >= 80, "{} cases", names.len());
    }

    /// The table of what each case comes to where all is well, and where something is known to be
    /// wrong; `ci/conformance-evidence` finds and compares it.
    #[test]
    fn every_case_can_pass_and_fail() {
        let table = include_str!("expected.tsv");
        let mut rows = table
            .lines()
            .map(|line| line.split('\t').collect::<Vec<_>>());
        let head = rows.next().unwrap();
        assert_eq!(head[..3], ["case", "wasmkind", "control"]);
        let mut cases = all();
        cases.sort_by_key(|case| case.name);
        let rows: Vec<_> = rows.collect();
        assert_eq!(rows.len(), cases.len());
        for (row, case) in rows.iter().zip(cases) {
            let control = if case.wasm_only { "skipped" } else { "passed" };
            assert_eq!(row[..3], [case.name, "passed", control]);
            assert_eq!(row.len(), head.len(), "{row:?}");
            // Under runc no Wasm ever runs: who waits for it waits in vain on any machine.
            let in_vain = head
                .iter()
                .zip(row)
                .any(|cell| cell == (&"runc", &"waited"));
            let wrong = in_vain || row[3..].contains(&"failed");
            assert!(wrong, "{} finds nothing wrong anywhere", case.name);
        }
    }
}
