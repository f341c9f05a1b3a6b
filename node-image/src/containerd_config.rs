//! Adds the Wasm runtime handlers to a node's containerd configuration.
//!
//! The file is edited as TOML, so comments and users' settings stay. Versions 2, 3 and 4 of the
//! format are known; they name the CRI plugin differently
//! (containerd, docs/cri/config.md and docs/containerd-2.0.md).

use toml_edit::{Array, DocumentMut, Item, Table, TableLike, value};

use crate::{Error, Result};

/// The handlers that lead to the shim: our own name, and those that published manifests use.
pub const HANDLERS: [&str; 3] = ["wasmkind", "wasmtime", "spin"];

/// Runtime name, from which containerd derives `containerd-shim-wasmkind-v1`.
const RUNTIME_TYPE: &str = "io.containerd.wasmkind.v1";

/// The configuration with the handlers in it; a handler that is there already is replaced.
pub fn add_handlers(config: &str) -> Result<String> {
    let invalid = |what: String| {
        Error::Invalid(format!(
            "/etc/containerd/config.toml of the base image: {what}"
        ))
    };
    let mut document: DocumentMut = config
        .parse()
        .map_err(|error| invalid(format!("{error}")))?;
    let version = document
        .get("version")
        .and_then(Item::as_integer)
        .unwrap_or(1);
    let plugin = match version {
        2 => "io.containerd.grpc.v1.cri",
        3 | 4 => "io.containerd.cri.v1.runtime",
        other => {
            return Err(invalid(format!(
                "version {other} is unknown; 2, 3 and 4 are known"
            )));
        }
    };
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for name in ["plugins", plugin, "containerd", "runtimes"] {
        table = table
            .entry(name)
            .or_insert_with(|| {
                let mut table = Table::new();
                table.set_implicit(true);
                Item::Table(table)
            })
            .as_table_like_mut()
            .ok_or_else(|| invalid(format!("`{name}` is not a table")))?;
    }
    for handler in HANDLERS {
        table.insert(handler, Item::Table(handler_table()));
    }
    Ok(document.to_string())
}

fn handler_table() -> Table {
    let mut table = Table::new();
    let annotations = || value(Array::from_iter(["wasmkind.dev/*"]));
    table.insert("runtime_type", value(RUNTIME_TYPE));
    // No [options]: containerd would turn them into a message that the runc shim of a mixed Pod
    // cannot take.
    table.insert("pod_annotations", annotations());
    table.insert("container_annotations", annotations());
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const BASE: &str = include_str!("../rootfs/base/etc/containerd/config.toml");

    fn runtime(config: &str, plugin: &str, handler: &str) -> String {
        let parsed: toml::Table = config.parse().unwrap();
        parsed["plugins"][plugin]["containerd"]["runtimes"][handler]["runtime_type"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    #[rstest]
    #[case::version_2(BASE, "io.containerd.grpc.v1.cri")]
    #[case::version_3(
        "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\nruntime_type = 'io.containerd.runc.v2'\n",
        "io.containerd.cri.v1.runtime"
    )]
    #[case::inline_tables(
        "version = 3\n[plugins.'io.containerd.cri.v1.runtime']\ncontainerd = { runtimes = { runc = { runtime_type = 'io.containerd.runc.v2' } } }\n",
        "io.containerd.cri.v1.runtime"
    )]
    #[case::inline_table_without_runtimes(
        "version = 3\n[plugins]\n'io.containerd.cri.v1.runtime' = { containerd = { default_runtime_name = 'runc' } }\n",
        "io.containerd.cri.v1.runtime"
    )]
    #[case::without_any_plugin("version = 3\n", "io.containerd.cri.v1.runtime")]
    fn each_handler_is_added_where_its_version_wants_it(
        #[case] config: &str,
        #[case] plugin: &str,
    ) {
        let edited = add_handlers(config).unwrap();
        for handler in HANDLERS {
            assert_eq!(runtime(&edited, plugin, handler), RUNTIME_TYPE);
        }
    }

    #[test]
    fn the_rest_of_the_file_stays_as_it_was() {
        let edited = add_handlers(BASE).unwrap();
        for line in BASE.lines() {
            assert!(edited.contains(line), "lost: {line}");
        }
        assert_eq!(
            add_handlers(&edited).unwrap(),
            edited,
            "a second run changes nothing"
        );
    }

    #[rstest]
    #[case::unknown_version("version = 9", "version 9 is unknown")]
    #[case::not_toml("version = = 2", "config.toml of the base image")]
    #[case::not_a_table("version = 2\nplugins = 1", "`plugins` is not a table")]
    fn what_cannot_be_edited_is_refused_with_the_reason(
        #[case] config: &str,
        #[case] message: &str,
    ) {
        let error = add_handlers(config).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}
