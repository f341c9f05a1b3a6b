//! A kubeconfig as a file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::lock::Lock;
use super::{Error, Result};

const MARK: &str = "\u{feff}";

/// The file's bytes; empty when there is none.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    match fs::read(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Read {
            path: path.into(),
            source,
        }),
        read => Ok(read.unwrap_or_default()),
    }
}

/// A file's text, parted from the byte order mark that it may have.
pub(super) struct Text {
    pub mark: &'static str,
    pub body: String,
}

/// The text that the bytes of a file are.
pub(super) fn decode(path: &Path, bytes: Vec<u8>) -> Result<Text> {
    let problem = match bytes.as_slice() {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "it is in UTF-16",
        _ => "it is not in UTF-8",
    };
    let mut body = String::from_utf8(bytes).map_err(|_| Error::Encoding {
        path: path.into(),
        problem,
    })?;
    let mark = if body.starts_with(MARK) { MARK } else { "" };
    body.drain(..mark.len());
    Ok(Text { mark, body })
}

/// Whether the bytes may name `context`, in whatever encoding.
pub(super) fn mentions(bytes: &[u8], context: &str) -> bool {
    let text: Vec<u8> = bytes.iter().copied().filter(|&byte| byte != 0).collect();
    let is_part = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
    };
    let mut found = text.windows(context.len()).enumerate();
    found.any(|(at, window)| {
        let before = at.checked_sub(1).and_then(|before| text.get(before));
        let after = text.get(at + context.len());
        window == context.as_bytes() && !is_part(before) && !is_part(after)
    })
}

/// Writes in place, so that links, owner and permissions stay. What does not fit on the disk is found
/// out before anything of the old text is gone.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    let is_new = !path.exists();
    let written = open(path, true).and_then(|file| overwrite(file, text.as_bytes()));
    written.map_err(|source| {
        if is_new {
            // Nothing that anybody misses.
            let _ = fs::remove_file(path);
        }
        Error::Write {
            path: path.into(),
            source,
        }
    })
}

fn overwrite(mut file: File, bytes: &[u8]) -> io::Result<()> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return file.write_all(bytes);
    }
    let length = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    if let Some(more) = bytes.get(length..).filter(|more| !more.is_empty()) {
        let extended = file
            .seek(SeekFrom::End(0))
            .and_then(|_| file.write_all(more))
            .and_then(|()| file.sync_all());
        if let Err(error) = extended {
            file.set_len(metadata.len())?;
            return Err(error);
        }
    }
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&bytes[..length.min(bytes.len())])?;
    file.set_len(bytes.len() as u64)
}

/// Fails if the file could not be written, or its lock not be had. Leaves everything as it is.
pub(super) fn probe(path: &Path) -> Result<()> {
    let folders = path.ancestors().skip(1);
    let missing = folders.take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
    let _made = Folders(missing.map(Path::to_owned).collect());
    let _lock = Lock::take(path)?;
    let failed = |source| Error::Write {
        path: path.into(),
        source,
    };
    match open(path, false) {
        // A lock beside it shows that it can be made; what a link leads to may be elsewhere.
        Err(source) if source.kind() == io::ErrorKind::NotFound && path.is_symlink() => {
            open(path, true)
                .and_then(|_| fs::canonicalize(path))
                .and_then(fs::remove_file)
                .map_err(failed)
        }
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(failed(source)),
        _ => Ok(()),
    }
}

/// Folders to be removed again when they are empty, the deepest first.
struct Folders(Vec<PathBuf>);

impl Drop for Folders {
    fn drop(&mut self) {
        for folder in &self.0 {
            let _ = fs::remove_dir(folder);
        }
    }
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(create).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
