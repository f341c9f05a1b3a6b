//! Adds the runtime handlers of Wasm shims to a node's containerd configuration.
//!
//! The file is edited as TOML, so comments and users' settings stay. Versions 2, 3 and 4 of the
//! format are known; they name the CRI plugin differently
//! (containerd, docs/cri/config.md and docs/containerd-2.0.md).

use toml_edit::{Array, DocumentMut, Item, Table, TableLike, value};

use crate::{Error, Result};

/// A shim that runs Wasm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shim {
    /// Our own.
    Wasmkind,
    /// The reference on runwasi's library, `shim/runwasi`.
    Runwasi,
}

impl Shim {
    /// The handlers that lead to it. Besides our own name, those that published manifests use.
    pub fn handlers(self) -> &'static [&'static str] {
        match self {
            Self::Wasmkind => &["wasmkind", "wasmtime", "spin"],
            Self::Runwasi => &["runwasi-wasmtime"],
        }
    }

    /// From which containerd derives the program's name: `containerd-shim-NAME-v1`.
    fn runtime_type(self) -> &'static str {
        match self {
            Self::Wasmkind => "io.containerd.wasmkind.v1",
            Self::Runwasi => "io.containerd.runwasi-wasmtime.v1",
        }
    }

    /// The table of a handler. `cgroup_driver` is runc's `SystemdCgroup`, if it is set.
    fn table(self, cgroup_driver: Option<bool>) -> Table {
        let mut table = Table::new();
        table.insert("runtime_type", value(self.runtime_type()));
        match self {
            // No [options]: containerd would turn them into a message that the runc shim of a mixed
            // Pod cannot take.
            Self::Wasmkind => {
                for name in ["pod_annotations", "container_annotations"] {
                    table.insert(name, value(Array::from_iter(["wasmkind.dev/*"])));
                }
            }
            // It makes cgroups itself, and takes the driver from here only. The node's entrypoint
            // changes it together with runc's.
            Self::Runwasi => {
                if let Some(systemd) = cgroup_driver {
                    let mut options = Table::new();
                    options.insert(SYSTEMD_CGROUP, value(systemd));
                    table.insert("options", Item::Table(options));
                }
            }
        }
        table
    }
}

const SYSTEMD_CGROUP: &str = "SystemdCgroup";

/// The configuration with the shims' handlers in it; a handler that is there already is replaced.
pub fn add_handlers(config: &str, shims: &[Shim]) -> Result<String> {
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
    let cgroup_driver = table
        .get("runc")
        .and_then(|runc| runc.get("options")?.get(SYSTEMD_CGROUP)?.as_bool());
    for shim in shims {
        for handler in shim.handlers() {
            table.insert(handler, Item::Table(shim.table(cgroup_driver)));
        }
    }
    Ok(document.to_string())
}

/// All that [`add_handlers`] adds to any file: what it makes of the smallest one of each version,
/// whichever cgroup driver runc has there. For a cache key.
pub(crate) fn recipe(shims: &[Shim]) -> Result<String> {
    let runc = format!("containerd.runtimes.runc.options.{SYSTEMD_CGROUP} = true");
    [
        (2, "io.containerd.grpc.v1.cri"),
        (3, "io.containerd.cri.v1.runtime"),
    ]
    .into_iter()
    .flat_map(|(version, plugin)| {
        [
            format!("version = {version}\n"),
            format!("version = {version}\n[plugins.'{plugin}']\n{runc}\n"),
        ]
    })
    .map(|config| add_handlers(&config, shims))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const BASE: &str = include_str!("../rootfs/base/etc/containerd/config.toml");

    const BOTH: [Shim; 2] = [Shim::Wasmkind, Shim::Runwasi];

    fn runtimes(config: &str, plugin: &str) -> toml::Value {
        let parsed: toml::Table = config.parse().unwrap();
        parsed["plugins"][plugin]["containerd"]["runtimes"].clone()
    }

    fn runtime(config: &str, plugin: &str, handler: &str) -> String {
        runtimes(config, plugin)[handler]["runtime_type"]
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
        let edited = add_handlers(config, &BOTH).unwrap();
        for handler in ["wasmkind", "wasmtime", "spin"] {
            let runtime = runtime(&edited, plugin, handler);
            assert_eq!(runtime, "io.containerd.wasmkind.v1");
        }
        let runtime = runtime(&edited, plugin, "runwasi-wasmtime");
        assert_eq!(runtime, "io.containerd.runwasi-wasmtime.v1");
    }

    #[test]
    fn a_shim_that_the_image_does_not_have_gets_no_handler() {
        let edited = add_handlers(BASE, &[Shim::Wasmkind]).unwrap();
        let runtimes = runtimes(&edited, "io.containerd.grpc.v1.cri");
        assert!(runtimes.get("runwasi-wasmtime").is_none());
    }

    #[rstest]
    #[case::systemd("SystemdCgroup = true", Some(true))]
    #[case::cgroupfs("SystemdCgroup = false", Some(false))]
    #[case::unsaid("", None)]
    fn runwasis_cgroup_driver_is_runcs(#[case] option: &str, #[case] expected: Option<bool>) {
        let plugin = "io.containerd.cri.v1.runtime";
        let config = format!(
            "version = 3\n[plugins.'{plugin}'.containerd.runtimes.runc.options]\n{option}\n"
        );
        let edited = add_handlers(&config, &BOTH).unwrap();
        let runtimes = runtimes(&edited, plugin);
        let options = runtimes["runwasi-wasmtime"].get("options");
        let driver = options.map(|options| options["SystemdCgroup"].as_bool().unwrap());
        assert_eq!(driver, expected);
        assert!(runtimes["wasmkind"].get("options").is_none());
    }

    #[test]
    fn the_recipe_has_all_that_is_added() {
        let recipe = recipe(&BOTH).unwrap();
        for shim in BOTH {
            for driver in [None, Some(true)] {
                let added = DocumentMut::from(shim.table(driver)).to_string();
                // Headers of tables are longer in a whole file.
                for line in added.lines().filter(|line| !line.starts_with('[')) {
                    assert!(recipe.contains(line), "{line} in {recipe}");
                }
            }
            for handler in shim.handlers() {
                assert!(recipe.contains(handler), "{handler} in {recipe}");
            }
        }
    }

    #[test]
    fn the_rest_of_the_file_stays_as_it_was() {
        let edited = add_handlers(BASE, &BOTH).unwrap();
        for line in BASE.lines() {
            assert!(edited.contains(line), "lost: {line}");
        }
        assert_eq!(
            add_handlers(&edited, &BOTH).unwrap(),
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
        let error = add_handlers(config, &BOTH).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}
