//! Root file systems from Debian packages, by mmdebstrap.
//!
//! apt verifies the archive's signature and each package's digest. The mirror is the one that this
//! machine's apt uses, or `WASMKIND_DEBIAN_MIRROR`.

use std::path::PathBuf;

use tokio::process::Command;

use crate::cache::{self, Key, Slot};
use crate::components::run;
use crate::{Error, Report, Result};

/// What to take from Debian.
pub struct Request<'a> {
    /// Name for the cache and for progress.
    pub name: &'a str,
    /// mmdebstrap's variant: `minbase` configures packages, `extract` only unpacks them.
    pub variant: &'a str,
    pub suite: &'a str,
    pub packages: &'a [String],
}

/// Files that no node needs.
const EXCLUDES: [&str; 6] = [
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
    "/usr/share/bug/*",
];

/// Builds the root file system, or finds it in the cache; the answer is a tar file.
pub async fn rootfs(request: &Request<'_>, report: Report<'_>) -> Result<PathBuf> {
    let mut key = Key::default();
    key.add("variant", request.variant)
        .add("suite", request.suite)
        .add("packages", request.packages.join(","))
        .add("excludes", EXCLUDES.join(","))
        .add("arch", std::env::consts::ARCH);
    let name = format!("debian-{}", request.name);
    let vacant = match cache::slot(&name, &key.finish())? {
        Slot::Ready(dir) => return Ok(dir.join("rootfs.tar")),
        Slot::Vacant(vacant) => vacant,
    };
    report(&format!(
        "installing {} Debian packages ({})",
        request.packages.len(),
        request.suite
    ));
    let mirror = mirror().await?;
    let mut command = Command::new("mmdebstrap");
    command
        .env("SOURCE_DATE_EPOCH", crate::layer::TIME.to_string())
        .arg("--quiet")
        .arg(format!("--variant={}", request.variant));
    command.arg(format!("--include={}", request.packages.join(",")));
    for pattern in EXCLUDES {
        command.arg(format!("--dpkgopt=path-exclude={pattern}"));
    }
    command
        .arg(request.suite)
        .arg(vacant.dir().join("rootfs.tar"))
        .arg(mirror);
    run("mmdebstrap", &mut command).await?;
    Ok(vacant.publish()?.join("rootfs.tar"))
}

async fn mirror() -> Result<String> {
    if let Some(mirror) = std::env::var("WASMKIND_DEBIAN_MIRROR")
        .ok()
        .filter(|mirror| !mirror.is_empty())
    {
        return Ok(mirror);
    }
    let targets = run(
        "apt-get indextargets",
        Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(ORIGIN) $(LABEL) $(REPO_URI)",
        ]),
    )
    .await
    .unwrap_or_default();
    targets
        .lines()
        .find_map(|line| line.strip_prefix("Debian Debian "))
        .map(str::to_owned)
        .ok_or_else(|| {
            Error::Invalid("which Debian mirror to use is unknown, since apt on this machine names none; set WASMKIND_DEBIAN_MIRROR to its address".into())
        })
}
