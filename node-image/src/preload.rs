//! Image archives that somebody hands us to put onto a node: read whole before anything is built, so
//! that what is wrong with one is told by its name, and not by containerd in the middle of a build.
//!
//! What counts is what containerd's importer takes (`core/images/archive/importer.go`): an OCI image
//! layout, or else Docker's `manifest.json`. Blobs of other platforms than the node's may be absent, as
//! `docker save` leaves them out.

mod files;
mod image;

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use tempfile::NamedTempFile;

use crate::{Error, Result};
use files::Files;

/// An archive whose images a node of this architecture can import and run.
#[derive(Debug)]
pub struct Archive {
    /// For progress.
    name: String,
    path: PathBuf,
    /// What to take instead, where containerd would not take the file as it is: gone with this.
    rewritten: Option<NamedTempFile>,
}

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("the file is empty")]
    Empty,
    #[error("it is no tar archive")]
    NotTar,
    #[error("it is compressed with {0}, of which only gzip is read")]
    Compression(&'static str),
    #[error("it is cut short: the file ends in the middle")]
    Truncated,
    #[error("it is damaged")]
    Damaged { source: io::Error },
    #[error("it is no image archive: it has neither index.json nor manifest.json")]
    NotImage,
    #[error("{file} in it cannot be understood")]
    Document {
        file: String,
        source: serde_json::Error,
    },
    #[error("it holds no image")]
    NoImage,
    #[error("its image {id} has no name by which a Pod could ask for it")]
    NoName { id: String },
    #[error("image {image} in it lacks {part}, of {platform}")]
    Missing {
        image: String,
        /// `layer 2 of 3`, and its digest, or its path where the format has none.
        part: String,
        platform: String,
        wanted: String,
    },
    #[error("{file} in it is damaged: its digest is {found}")]
    Digest { file: String, found: String },
    #[error("image {image} in it is for {}, and the node needs {wanted}", has.join(", "))]
    Platform {
        image: String,
        has: Vec<String>,
        wanted: String,
    },
}

impl Problem {
    /// What to do about it; `path` is the archive's.
    pub fn hint(&self, path: &Path) -> Option<String> {
        let path = path.display();
        Some(match self {
            Self::Compression(_) => "unpack it first".into(),
            Self::Empty | Self::NotTar | Self::NotImage | Self::NoImage => {
                format!("`docker save NAME:TAG -o {path}` writes an image archive")
            }
            Self::Truncated | Self::Damaged { .. } | Self::Digest { .. } => {
                "copy or save the archive again".into()
            }
            Self::NoName { .. } => {
                format!("save the image by name and not by ID: `docker save NAME:TAG -o {path}`")
            }
            Self::Missing { image, wanted, .. } => format!(
                "`docker pull --platform {wanted} {image} && docker save --platform {wanted} {image} -o {path}` writes all of one platform"
            ),
            Self::Platform { image, has, wanted } => {
                if has.iter().any(|platform| platform.contains("wasm")) {
                    format!(
                        "a Wasm image for Kubernetes is published for {wanted}: the Pod's runtimeClassName makes it Wasm"
                    )
                } else {
                    format!(
                        "`docker pull --platform {wanted} {image} && docker save --platform {wanted} {image} -o {path}`"
                    )
                }
            }
            Self::Document { .. } => return None,
        })
    }
}

impl Archive {
    /// Reads the archive at `path` and checks that a node of `arch`, as `std::env::consts::ARCH`
    /// names it, can import all images in it. Takes as long as hashing the file.
    ///
    /// # Errors
    /// [`Error::Archive`], which names the file.
    pub fn open(path: &Path, arch: &str) -> Result<Self> {
        let wrong = |problem| Error::Archive {
            path: path.into(),
            problem: Box::new(problem),
        };
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        let unpacked = match compression(&mut file).map_err(Error::io("read", path))? {
            None => None,
            Some(Compression::Gzip) => Some(gunzip(&file).map_err(wrong)?),
            Some(Compression::Other(name)) => return Err(wrong(Problem::Compression(name))),
        };
        if let Some(unpacked) = &unpacked {
            file = unpacked
                .reopen()
                .map_err(Error::io("open", unpacked.path()))?;
        }
        let files = Files::read(io::BufReader::with_capacity(1 << 20, file)).map_err(wrong)?;
        let checked = image::check(&files, crate::archive::oci_arch(arch));
        let index = checked.map_err(|problem| match problem {
            Problem::NotImage | Problem::Missing { .. } if files.is_cut() => {
                wrong(Problem::Truncated)
            }
            problem => wrong(problem),
        })?;
        let name = path.file_stem().unwrap_or_default();
        let mut archive = Self {
            name: name.to_string_lossy().into_owned(),
            path: path.into(),
            rewritten: unpacked,
        };
        if let Some(index) = index {
            let rewritten = archive.with_index(&index);
            archive.rewritten = Some(rewritten.map_err(Error::io("rewrite", path))?);
        }
        Ok(archive)
    }

    /// A copy with another `index.json`.
    fn with_index(&self, index: &str) -> io::Result<NamedTempFile> {
        let copy = NamedTempFile::new()?;
        let mut written = tar::Builder::new(io::BufWriter::with_capacity(1 << 20, copy.as_file()));
        let read = io::BufReader::with_capacity(1 << 20, File::open(self.path())?);
        for entry in tar::Archive::new(read).entries()? {
            let entry = entry?;
            let (path, mut header) = (entry.path()?.into_owned(), entry.header().clone());
            if !header.entry_type().is_file() {
                // A layout's blobs are files.
            } else if files::clean(&path) == Path::new("index.json") {
                header.set_size(index.len() as u64);
                written.append_data(&mut header, path, index.as_bytes())?;
            } else {
                written.append_data(&mut header, path, entry)?;
            }
        }
        written.into_inner()?.flush()?;
        Ok(copy)
    }

    /// Name for progress.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The archive as containerd takes it: not compressed, and without others' platforms.
    pub fn path(&self) -> &Path {
        self.rewritten
            .as_ref()
            .map_or(&self.path, |file| file.path())
    }
}

enum Compression {
    Gzip,
    Other(&'static str),
}

/// By the first bytes. The file is at its beginning afterwards.
fn compression(file: &mut File) -> io::Result<Option<Compression>> {
    let mut head = Vec::new();
    Read::by_ref(file).take(6).read_to_end(&mut head)?;
    file.rewind()?;
    Ok(match head.as_slice() {
        [0x1f, 0x8b, ..] => Some(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::Other("zstd")),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Some(Compression::Other("xz")),
        [b'B', b'Z', b'h', ..] => Some(Compression::Other("bzip2")),
        _ => None,
    })
}

fn gunzip(file: &File) -> Result<NamedTempFile, Problem> {
    let unpack = || {
        let mut unpacked = NamedTempFile::new()?;
        let packed = io::BufReader::with_capacity(1 << 20, file);
        io::copy(&mut MultiGzDecoder::new(packed), &mut unpacked)?;
        Ok(unpacked)
    };
    unpack().map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::UnexpectedEof => Problem::Truncated,
        _ => Problem::Damaged { source },
    })
}

#[cfg(test)]
mod tests;
