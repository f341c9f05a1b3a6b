//! Which certificate authorities a guest trusts: those that a program in a Linux container
//! would, by the variables and places that OpenSSL and Go know
//! (<https://go.dev/src/crypto/x509/root_unix.go>, root_linux.go), and where its container has
//! none, Mozilla's as they were when this was built.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, Mode, OFlags, ResolveFlags};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::config::Preopen;

/// The variables that replace the places below.
const FILE: &str = "SSL_CERT_FILE";
const DIR: &str = "SSL_CERT_DIR";

/// The first that is there counts.
const FILES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
const DIRS: [&str; 2] = ["/etc/ssl/certs", "/etc/pki/tls/certs"];

/// What is read at most, in bytes and in files of a directory. All of Mozilla's are 0.25 MB.
const MOST_BYTES: u64 = 8 << 20;
const MOST_FILES: usize = 2048;

/// Where a guest's authorities are looked for. Paths are the guest's, and lead nowhere outside
/// of what it is given.
#[derive(Clone, Debug)]
pub struct Trust {
    file: Option<String>,
    dirs: Option<String>,
    cwd: PathBuf,
    preopens: Vec<Preopen>,
}

/// What was found.
pub(super) struct Roots {
    pub(super) store: RootCertStore,
    /// The certificates in the store, but for those that were built in.
    pub(super) certificates: HashSet<CertificateDer<'static>>,
    /// For messages: where they are from.
    pub(super) origin: String,
    /// What could not be used.
    pub(super) complaints: Vec<String>,
}

impl Trust {
    /// By the guest's environment, working directory and directories.
    pub fn new(env: &[(String, String)], cwd: &str, preopens: &[Preopen]) -> Self {
        let variable = |wanted: &str| {
            let found = env.iter().find(|(name, _)| name == wanted);
            found
                .map(|(_, value)| value.clone())
                .filter(|value| !value.is_empty())
        };
        Self {
            file: variable(FILE),
            dirs: variable(DIR),
            cwd: cwd.into(),
            preopens: preopens.to_vec(),
        }
    }

    /// Whether the guest's environment says where they are.
    pub fn is_told(&self) -> bool {
        self.file.is_some() || self.dirs.is_some()
    }

    pub(super) fn read(&self) -> Roots {
        let mut reading = Reading {
            trust: self,
            roots: Roots {
                store: RootCertStore::empty(),
                certificates: HashSet::new(),
                origin: String::new(),
                complaints: Vec::new(),
            },
            left: MOST_BYTES,
        };
        let mut origins = Vec::new();
        match &self.file {
            Some(file) => {
                origins.push(format!("{FILE}={file}"));
                if reading.file(Path::new(file), FILE).is_none() {
                    reading.complain(format!("{FILE}: there is no {file}"));
                }
            }
            None => {
                let found = FILES.iter().find(|file| {
                    let place = "the place of trusted certificates";
                    reading.file(Path::new(file), place).is_some()
                });
                origins.extend(found.map(|file| (*file).to_owned()));
            }
        }
        match &self.dirs {
            Some(dirs) => {
                origins.push(format!("{DIR}={dirs}"));
                for dir in dirs.split(':').filter(|dir| !dir.is_empty()) {
                    match reading.dir(Path::new(dir)) {
                        Ok(0) => reading.complain(format!("{DIR}: {dir} has no certificate")),
                        Ok(_) => {}
                        Err(error) => reading.complain(format!("{DIR}: list {dir}: {error}")),
                    }
                }
            }
            None => {
                for dir in DIRS {
                    // Most images have none, or an empty one.
                    if reading.dir(Path::new(dir)).is_ok_and(|found| found > 0) {
                        origins.push(dir.to_owned());
                    }
                }
            }
        }
        let mut roots = reading.roots;
        if origins.is_empty() {
            let built_in = webpki_roots::TLS_SERVER_ROOTS;
            roots.store.extend(built_in.iter().cloned());
            origins.push("what browsers trust".to_owned());
        }
        roots.origin = origins.join(", ");
        roots
    }

    /// Opens what the guest calls `path`.
    fn open(&self, path: &Path, flags: OFlags) -> io::Result<File> {
        let path = self.cwd.join(path);
        let holders = self.preopens.iter().filter_map(|preopen| {
            let rest = path.strip_prefix(&preopen.guest_path).ok()?;
            Some((preopen, rest))
        });
        let (preopen, rest) = holders
            .max_by_key(|(preopen, _)| preopen.guest_path.len())
            .ok_or(io::ErrorKind::NotFound)?;
        let root = rustix::fs::openat2(
            CWD,
            &preopen.host_path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::NO_SYMLINKS,
        )?;
        let rest = if rest.as_os_str().is_empty() {
            Path::new(".")
        } else {
            rest
        };
        // Both the image and its volumes are others': nothing of this process may be reached.
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat2(&root, rest, flags, Mode::empty(), inside)?.into())
    }
}

struct Reading<'a> {
    trust: &'a Trust,
    roots: Roots,
    /// Bytes that may still be read.
    left: u64,
}

impl Reading<'_> {
    /// Takes a file's certificates, `whose` it is by name. None if there is no such file.
    fn file(&mut self, path: &Path, whose: &str) -> Option<()> {
        let shown = path.display();
        match self.certificates(path) {
            Ok((0, None)) => self.complain(format!("{whose}: {shown} has no certificate")),
            Ok((_, None)) => {}
            Ok((_, Some(bad))) => {
                self.complain(format!(
                    "{whose}: {shown} has a certificate that is none: {bad}"
                ));
            }
            Err(error) if is_missing(&error) => return None,
            Err(error) => self.complain(format!("{whose}: read {shown}: {error}")),
        }
        Some(())
    }

    /// Takes the certificates of a directory's files. How many there are.
    fn dir(&mut self, path: &Path) -> io::Result<usize> {
        let dir = self.trust.open(path, OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&dir)?.take(MOST_FILES) {
            let name = entry?.file_name().to_string_lossy().into_owned();
            // A link to a file beside it: OpenSSL finds certificates by such, and once is enough.
            let link = rustix::fs::readlinkat(&dir, &name, Vec::new());
            if link.is_err() || link.is_ok_and(|to| to.as_bytes().contains(&b'/')) {
                names.push(name);
            }
        }
        names.sort_unstable();
        let mut found = 0;
        for name in names {
            // Anything may lie there.
            if let Ok((count, _)) = self.certificates(&path.join(name)) {
                found += count;
            }
        }
        Ok(found)
    }

    /// How many certificates a file has, and why one of them cannot be used.
    fn certificates(&mut self, path: &Path) -> io::Result<(usize, Option<String>)> {
        let file = self.trust.open(path, OFlags::empty())?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        if metadata.len() > self.left {
            return Err(io::Error::other(format!(
                "certificates have more than {} MiB",
                MOST_BYTES >> 20
            )));
        }
        let mut text = Vec::new();
        file.take(self.left).read_to_end(&mut text)?;
        self.left -= text.len() as u64;
        let mut count = 0;
        let mut bad = None;
        for certificate in CertificateDer::pem_slice_iter(&text) {
            let added = certificate
                .map_err(|error| error.to_string())
                .and_then(|certificate| {
                    if self.roots.certificates.contains(&certificate) {
                        return Ok(());
                    }
                    let added = self.roots.store.add(certificate.clone());
                    added.map_err(|error| error.to_string())?;
                    self.roots.certificates.insert(certificate);
                    Ok(())
                });
            match added {
                Ok(()) => count += 1,
                Err(error) => bad = Some(error),
            }
        }
        Ok((count, bad))
    }

    fn complain(&mut self, complaint: String) {
        self.roots.complaints.push(complaint);
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests;
