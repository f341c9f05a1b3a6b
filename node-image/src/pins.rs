//! The parts of an offline node, from `pins.toml`.

use std::collections::BTreeMap;

use serde::Deserialize;

/// `pins.toml` as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pins {
    pub debian: Debian,
    pub pause: Pause,
    pub kindest: Kindest,
    #[serde(rename = "module")]
    pub modules: Vec<Module>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Debian {
    /// Release name, as in an apt source.
    pub suite: String,
    /// Packages of the node's root file system.
    pub node: Vec<String>,
    /// Packages of the layer under kube-proxy.
    pub network_tools: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// Version of Kubernetes' pause program, without a `v`.
    pub version: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kindest {
    /// Reference with tag and digest.
    pub image: String,
}

/// One Go module below `components/`, and the programs built from it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    /// Folder below `components/`.
    pub name: String,
    /// Version of the upstream module, with a `v`.
    pub version: String,
    /// Program name to Go package path.
    pub binaries: BTreeMap<String, String>,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default)]
    pub ldflags: String,
    /// Packages whose `gitVersion` and relatives are set, as Kubernetes' own build does.
    #[serde(default)]
    pub stamps: Vec<String>,
    /// Path of the upstream module that `node.patch`, beside `go.mod`, is applied to.
    pub patched: Option<String>,
}

impl Pins {
    /// The pins that this crate was built with.
    pub fn embedded() -> Self {
        toml::from_str(include_str!("../pins.toml")).expect("pins.toml is checked by a test")
    }

    /// The module called `name`.
    ///
    /// # Panics
    /// When `pins.toml` has no such module.
    pub fn module(&self, name: &str) -> &Module {
        self.modules
            .iter()
            .find(|module| module.name == name)
            .unwrap_or_else(|| panic!("pins.toml has no module {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::components::SOURCES;

    #[test]
    fn every_version_is_the_one_in_go_mod() {
        for module in &Pins::embedded().modules {
            let go_mod = SOURCES
                .get_file(format!("{}/go.mod", module.name))
                .unwrap_or_else(|| panic!("components/{} has no go.mod", module.name))
                .contents_utf8()
                .unwrap();
            let pinned = go_mod.lines().any(|line| {
                let mut words = line
                    .trim()
                    .trim_start_matches("require ")
                    .split_whitespace();
                words.next().is_some_and(|path| path.contains('.'))
                    && words.next() == Some(module.version.as_str())
            });
            assert!(
                pinned,
                "components/{}/go.mod does not require {}",
                module.name, module.version
            );
        }
    }

    #[test]
    fn the_kindest_image_is_pinned_by_digest() {
        assert!(Pins::embedded().kindest.image.contains("@sha256:"));
    }
}
