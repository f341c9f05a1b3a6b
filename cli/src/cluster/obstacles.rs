//! What stands in the way of what is waited for: when time is over, the error tells.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex};

/// The last failure of each operation that is tried again; shared by its clones.
#[derive(Debug, Clone, Default)]
pub struct Obstacles(Arc<Mutex<BTreeMap<String, String>>>);

impl Obstacles {
    /// An operation has failed, and will be tried again.
    pub fn met(&self, operation: &str, failure: impl Display) {
        if let Ok(mut met) = self.0.lock() {
            met.insert(operation.into(), failure.to_string());
        }
    }

    /// An operation has succeeded, or has been given up.
    pub fn gone(&self, operation: &str) {
        if let Ok(mut met) = self.0.lock() {
            met.remove(operation);
        }
    }

    /// `: operation: failure; ...`, to end a message; empty when nothing has failed.
    pub fn told(&self) -> String {
        let met = self.0.lock().map(|met| met.clone()).unwrap_or_default();
        let parts: Vec<_> = met
            .iter()
            .map(|(operation, failure)| format!("{operation}: {}", failure.trim_end()))
            .collect();
        if parts.is_empty() {
            String::new()
        } else {
            format!(": {}", parts.join("; "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_failure_of_what_has_not_succeeded_is_told() {
        let obstacles = Obstacles::default();
        assert_eq!(obstacles.told(), "");
        obstacles.met("ask for the version", "connection refused");
        obstacles.met("create Role r", "forbidden");
        obstacles.met("create Role r", "etcdserver: request timed out\n");
        obstacles.clone().gone("ask for the version");
        assert_eq!(
            obstacles.told(),
            ": create Role r: etcdserver: request timed out"
        );
    }
}
