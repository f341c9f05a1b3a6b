//! Tells Wasm containers from Linux ones, and finds the module that one runs.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use wasmkind_engine::Digest;

use super::spin::Application;
use super::tree::Tree;
use super::view::View;
use crate::spec::Spec;

/// A module larger than this is refused.
pub(super) const MAX_MODULE: u64 = 256 << 20;
const MAGIC: &[u8] = b"\0asm";

/// The module of a Wasm container, as its bytes are now: the image cannot change
/// it between the check and the use.
#[derive(Debug)]
pub(crate) struct Guest {
    /// Its path in the container.
    pub(crate) name: String,
    pub(crate) export: Option<String>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    /// The application whose first component this is.
    pub(crate) spin: Option<Box<Application>>,
}

/// What the container's first argument names in its filesystem.
#[derive(Debug)]
pub(crate) enum Found {
    Wasm(Guest),
    /// A program for Linux.
    Linux,
    /// Nothing: the image may itself be a module, or else it is for the stock
    /// shim to say what is missing.
    Nothing,
}

/// Looks for what the container is to run. `rootfs` is mounted.
///
/// # Errors
/// When a module cannot be read.
pub(crate) fn find(spec: &Spec, rootfs: &Path) -> Result<Found> {
    let (path, export) = split_export(spec.program());
    if path.is_empty() {
        return Ok(Found::Nothing);
    }
    let says_wasm = says_wasm(path);
    let view = View::new(spec, rootfs)?;
    for candidate in candidates(spec, path, says_wasm) {
        let file = match view.open_file(&candidate) {
            Ok(Some(file)) => file,
            Ok(None) => continue,
            Err(error) if says_wasm => return Err(error),
            // For the stock shim to say, if it is a program for Linux.
            Err(_) => continue,
        };
        let mut magic = [0; MAGIC.len()];
        let is_wasm = file.read_exact_at(&mut magic, 0).is_ok() && magic == MAGIC;
        if !is_wasm && !says_wasm {
            return Ok(Found::Linux);
        }
        let bytes = read(file, &candidate)?;
        return Ok(Found::Wasm(Guest {
            name: candidate.display().to_string(),
            export: export.map(str::to_owned),
            digest: Digest::of(&bytes),
            bytes,
            spin: None,
        }));
    }
    Ok(Found::Nothing)
}

/// # Errors
/// When the container's first argument says that it is a module. It is for a
/// container whose filesystem and image have none.
pub(crate) fn check_is_linux(spec: &Spec) -> Result<()> {
    let (path, _) = split_export(spec.program());
    if says_wasm(path) {
        bail!("no file {path} in the container's image or volumes");
    }
    Ok(())
}

fn says_wasm(path: &str) -> bool {
    path.ends_with(".wasm") || path.ends_with(".wat")
}

/// The module that an exec names; `spec` has the exec's process. `entrypoint` is
/// what the container's own process runs. None when that is named, and not in the
/// filesystem: then the image itself is the module.
///
/// # Errors
/// When that is no module, with what could be run instead.
pub(crate) fn find_exec(spec: &Spec, rootfs: &Path, entrypoint: &str) -> Result<Option<Guest>> {
    let program = spec.program();
    let entrypoint = split_export(entrypoint).0;
    let found = match find(spec, rootfs) {
        Ok(Found::Nothing) if split_export(program).0 == entrypoint => return Ok(None),
        Ok(Found::Nothing) => check_is_linux(spec).map(|()| Found::Linux),
        found => found,
    };
    let error = match found {
        Ok(Found::Wasm(guest)) => return Ok(Some(guest)),
        Ok(_) => anyhow!("{program:?} is not a WebAssembly module of this container"),
        Err(e) => e,
    };
    let mut choice = format!("{entrypoint} (the entrypoint)");
    for module in Tree::open(rootfs)?.modules() {
        let path = Path::new("/").join(module);
        if path != Path::new(entrypoint) {
            choice += &format!(", {}", path.display());
        }
    }
    bail!("{error:#}; exec runs WebAssembly modules here: {choice}")
}

/// `/app.wasm#export`; `#` in the name of a Linux program is part of it.
pub(super) fn split_export(program: &str) -> (&str, Option<&str>) {
    match program.rsplit_once('#') {
        Some((path, export)) if !export.is_empty() && !path.is_empty() => (path, Some(export)),
        _ => (program, None),
    }
}

/// Where the program may be: as runc looks for it, and for a module with a bare
/// name also in the working directory, where image builders leave it.
fn candidates(spec: &Spec, path: &str, says_wasm: bool) -> Vec<PathBuf> {
    let cwd = Path::new("/").join(&spec.view.process.cwd);
    if path.contains('/') {
        return vec![cwd.join(path)];
    }
    let mut found: Vec<PathBuf> = Vec::new();
    if says_wasm {
        found.push(cwd.join(path));
    }
    let search = spec.env("PATH").unwrap_or_default();
    found.extend(
        search
            .split(':')
            .filter(|dir| dir.starts_with('/'))
            .map(|dir| Path::new(dir).join(path)),
    );
    found
}

fn read(file: File, path: &Path) -> Result<Vec<u8>> {
    let describe = || format!("read module {}", path.display());
    let size = file.metadata().with_context(describe)?.len();
    let mut bytes = Vec::new();
    if size <= MAX_MODULE {
        bytes.reserve_exact(size as usize);
        // One more than allowed: the file may be growing.
        file.take(MAX_MODULE + 1)
            .read_to_end(&mut bytes)
            .with_context(describe)?;
    }
    if size > MAX_MODULE || bytes.len() as u64 > MAX_MODULE {
        bail!(
            "module {} is larger than {} MiB",
            path.display(),
            MAX_MODULE >> 20
        );
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MODULE: &[u8] = b"\0asm\x01\0\0\0";

    fn rootfs() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("bin")).unwrap();
        for (name, bytes) in [
            ("app.wasm", MODULE),
            ("bin/tool", MODULE),
            ("bin/sh", b"\x7fELF" as &[u8]),
            ("text.wat", b"(module)"),
        ] {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        dir
    }

    fn lookup(args: serde_json::Value, mounts: serde_json::Value) -> Result<Option<Guest>> {
        let dir = rootfs();
        let spec = Spec::parse(json!({
            "process": {"args": args, "cwd": "/", "env": ["PATH=/usr/bin:/bin"]},
            "mounts": mounts,
        }))
        .unwrap();
        match find(&spec, dir.path())? {
            Found::Wasm(guest) => Ok(Some(guest)),
            Found::Linux => Ok(None),
            Found::Nothing => check_is_linux(&spec).map(|()| None),
        }
    }

    #[test]
    fn wasm_by_name_and_by_content() {
        for program in [
            "/app.wasm",
            "app.wasm",
            "./app.wasm",
            "/bin/tool",
            "tool",
            "/text.wat",
        ] {
            let guest = lookup(json!([program]), json!([])).unwrap();
            assert!(guest.is_some(), "{program} was taken for Linux");
        }
        for program in ["/bin/sh", "sh", "/missing", "missing"] {
            let guest = lookup(json!([program]), json!([])).unwrap();
            assert!(guest.is_none(), "{program} was taken for Wasm");
        }
    }

    #[test]
    fn an_export_is_split_off() {
        let guest = lookup(json!(["/app.wasm#wasi:http/incoming-handler"]), json!([]));
        let guest = guest.unwrap().unwrap();
        assert_eq!(guest.name, "/app.wasm");
        assert_eq!(guest.export.as_deref(), Some("wasi:http/incoming-handler"));
    }

    #[test]
    fn a_missing_module_is_an_error() {
        let error = lookup(json!(["/gone.wasm"]), json!([])).unwrap_err();
        assert!(error.to_string().contains("/gone.wasm"), "{error}");
    }

    #[test]
    fn a_volume_hides_the_image() {
        let volume = tempfile::tempdir().unwrap();
        std::fs::write(volume.path().join("v.wasm"), MODULE).unwrap();
        let source = volume.path();
        let mounts = json!([{"destination": "/vol", "type": "bind", "source": source}]);
        assert!(lookup(json!(["/vol/v.wasm"]), mounts).unwrap().is_some());
        let file = source.join("v.wasm");
        let mounts = json!([{"destination": "/one.wasm", "source": file, "options": ["rbind"]}]);
        assert!(lookup(json!(["/one.wasm"]), mounts).unwrap().is_some());
    }
}
