//! Builds the Go programs of a node from their modules, each once per change of its inputs.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};
use tokio::process::Command;

use crate::cache::{self, Key, Slot};
use crate::pins::{Module, Pins};
use crate::{Error, Report, Result};

/// `components/`: one Go module a folder.
pub(crate) static SOURCES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/components");

/// Where the programs of one module lie.
#[derive(Debug)]
pub struct Built {
    dir: PathBuf,
}

impl Built {
    /// Path of the program called `name`.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// Builds a module's programs for the Go architecture `arch` ("amd64", "arm64"), or finds them in
/// the cache.
pub async fn build(module: &Module, arch: &str, report: Report<'_>) -> Result<Built> {
    let go = run("go", Command::new("go").args(["env", "GOVERSION"])).await?;
    let sources = SOURCES
        .get_dir(&module.name)
        .ok_or_else(|| Error::Invalid(format!("components/{} is missing", module.name)))?;
    let mut key = Key::default();
    key.add("go", go.trim()).add("arch", arch).add(
        "flags",
        format!(
            "{:?}",
            (
                &module.tags,
                &module.ldflags,
                &module.stamps,
                &module.version,
                &module.patched
            )
        ),
    );
    for file in sources.files() {
        key.add(&file.path().to_string_lossy(), file.contents());
    }
    let name = format!("go-{}", module.name);
    let slot = cache::slot(&name, &key.finish())?;
    let vacant = match slot {
        Slot::Ready(dir) => return Ok(Built { dir }),
        Slot::Vacant(vacant) => vacant,
    };
    report(&format!(
        "building {} {} from its Go module",
        module.name, module.version
    ));
    let source =
        tempfile::tempdir().map_err(Error::io("create a folder in", std::env::temp_dir()))?;
    for file in sources.files() {
        let path = source
            .path()
            .join(file.path().file_name().unwrap_or_default());
        fs::write(&path, file.contents()).map_err(Error::io("write", &path))?;
    }
    if let Some(upstream) = &module.patched {
        patch(source.path(), upstream, &module.version).await?;
    }
    for (binary, package) in &module.binaries {
        let mut command = go_in(source.path());
        command
            .env("CGO_ENABLED", "0")
            .env("GOOS", "linux")
            .env("GOARCH", arch)
            .args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false"])
            .args(["-tags", &module.tags.join(",")])
            .args(["-ldflags", &ldflags(module)])
            .arg("-o")
            .arg(vacant.dir().join(binary))
            .arg(package);
        run(&format!("go build {package}"), &mut command).await?;
    }
    Ok(Built {
        dir: vacant.publish()?,
    })
}

/// Builds Kubernetes' pause program, from the C source in its Go module.
pub async fn build_pause(pins: &Pins, report: Report<'_>) -> Result<PathBuf> {
    let kubernetes = pins.module("kubernetes");
    let version = &pins.pause.version;
    let mut key = Key::default();
    key.add("kubernetes", &kubernetes.version)
        .add("pause", version)
        .add("arch", std::env::consts::ARCH);
    let vacant = match cache::slot("pause", &key.finish())? {
        Slot::Ready(dir) => return Ok(dir.join("pause")),
        Slot::Vacant(vacant) => vacant,
    };
    report(&format!(
        "building pause {version} from Kubernetes' sources"
    ));
    let source = download(vacant.dir(), "k8s.io/kubernetes", &kubernetes.version)
        .await?
        .join("build/pause/linux/pause.c");
    let mut compile = Command::new("cc");
    compile
        .args([
            "-Os",
            "-Wall",
            "-static",
            "-s",
            &format!("-DVERSION=v{version}-wasmkind"),
        ])
        .arg("-o")
        .arg(vacant.dir().join("pause"))
        .arg(&source);
    run("cc pause.c", &mut compile).await?;
    Ok(vacant.publish()?.join("pause"))
}

/// The `go` command in a folder, whatever the caller's own settings are.
fn go_in(folder: &Path) -> Command {
    let mut command = Command::new("go");
    command
        .current_dir(folder)
        .env("GOWORK", "off")
        .env("GOFLAGS", "");
    command
}

/// Folder of a module's sources, downloaded and checked against the `go.sum` in `folder`, if any.
async fn download(folder: &Path, module: &str, version: &str) -> Result<PathBuf> {
    let module = format!("{module}@{version}");
    let mut command = go_in(folder);
    command.args(["mod", "download", "-json", &module]);
    let answer: serde_json::Value =
        serde_json::from_str(&run("go mod download", &mut command).await?)
            .map_err(|error| Error::Invalid(format!("go mod download {module}: {error}")))?;
    Ok(answer["Dir"].as_str().unwrap_or_default().into())
}

/// Has the module in `folder` built with a copy of `upstream` that `node.patch` is applied to.
async fn patch(folder: &Path, upstream: &str, version: &str) -> Result<()> {
    const COPY: &str = "upstream";
    let sources = download(folder, upstream, version).await?;
    // The module cache is read-only.
    let mut copy = Command::new("cp");
    copy.arg("-r")
        .arg("--no-preserve=mode")
        .arg(sources)
        .arg(folder.join(COPY));
    run("cp", &mut copy).await?;
    let mut apply = Command::new("patch");
    apply
        .current_dir(folder)
        .args(["--strip=1", "--fuzz=0", "--directory", COPY])
        .arg("--input=../node.patch");
    run(&format!("patch {upstream}"), &mut apply).await?;
    let mut replace = go_in(folder);
    replace.args(["mod", "edit", &format!("-replace={upstream}=./{COPY}")]);
    run("go mod edit", &mut replace).await?;
    Ok(())
}

fn ldflags(module: &Module) -> String {
    let mut flags = format!("-s -w {}", module.ldflags);
    let numbers: Vec<&str> = module.version.trim_start_matches('v').split('.').collect();
    for package in &module.stamps {
        // A fixed date: the same sources give the same bytes.
        for (variable, value) in [
            ("gitVersion", module.version.as_str()),
            ("gitMajor", numbers.first().unwrap_or(&"")),
            ("gitMinor", numbers.get(1).unwrap_or(&"")),
            ("gitTreeState", "clean"),
            ("buildDate", "2026-01-01T00:00:00Z"),
        ] {
            flags.push_str(&format!(" -X {package}.{variable}={value}"));
        }
    }
    flags
}

/// Runs a program to its end; a failure carries the last lines of what it printed.
pub(crate) async fn run(what: &str, command: &mut Command) -> Result<String> {
    let program = command.as_std().get_program().to_owned();
    let output = command
        .kill_on_drop(true)
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .map_err(|source| spawn_error(program, source))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(if output.stderr.is_empty() {
        &output.stdout
    } else {
        &output.stderr
    })
    .into_owned();
    let lines: Vec<&str> = text.trim_end().lines().collect();
    Err(Error::Command {
        program: what.to_owned(),
        status: output.status.to_string(),
        output: lines[lines.len().saturating_sub(12)..].join("\n"),
    })
}

fn spawn_error(program: OsString, source: std::io::Error) -> Error {
    let program = program.to_string_lossy().into_owned();
    if source.kind() == std::io::ErrorKind::NotFound {
        return Error::Invalid(format!(
            "the offline base needs `{program}`, which is not on the PATH; ci/setup installs it"
        ));
    }
    Error::Spawn { program, source }
}
