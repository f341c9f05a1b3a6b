//! What a file is, by its first bytes and its name.

use serde::{Deserialize, Serialize};

/// What a guest's file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A core module in binary form.
    Module,
    /// A component in binary form.
    Component,
    /// Either, as text.
    Text,
}

/// Why a file is no guest.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error("is not a WebAssembly module: it is empty")]
    Empty,
    /// Compiled code too: images never bring their own.
    #[error(
        "is not a WebAssembly module: it is an ELF file (code that was compiled beforehand is never run)"
    )]
    Elf,
    #[error("is not a WebAssembly module: version {0:#x} is neither a module's nor a component's")]
    Version(u32),
    #[error(
        "is not a WebAssembly module: it begins with neither \"\\0asm\" nor, in a .wat file, text"
    )]
    Other,
}

impl Source {
    /// How many first bytes [`Source::detect`] needs.
    pub const PREFIX: usize = 8;

    /// `prefix` is the file's first [`Source::PREFIX`] bytes, all of a shorter file; `name` its
    /// path in the image.
    ///
    /// # Errors
    /// When the file cannot be run.
    pub fn detect(name: &str, prefix: &[u8]) -> Result<Self, SourceError> {
        if prefix.is_empty() {
            return Err(SourceError::Empty);
        }
        if prefix.starts_with(b"\x7fELF") {
            return Err(SourceError::Elf);
        }
        if let Some(version) = prefix.strip_prefix(b"\0asm") {
            let version = version.first_chunk().map_or(0, |v| u32::from_le_bytes(*v));
            return match version {
                1 => Ok(Self::Module),
                // The binary format's pre-standard version 13, layer 1.
                0x1_000d => Ok(Self::Component),
                other => Err(SourceError::Version(other)),
            };
        }
        if name.ends_with(".wat") && !prefix.contains(&0) {
            return Ok(Self::Text);
        }
        Err(SourceError::Other)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("/a.wasm", b"\0asm\x01\0\0\0", Ok(Source::Module))]
    #[case("/a", b"\0asm\x0d\0\x01\0", Ok(Source::Component))]
    #[case("/a.wat", b"(module)", Ok(Source::Text))]
    #[case("/a.wat", b"\0asm\x01\0\0\0", Ok(Source::Module))]
    #[case("/a.wasm", b"(module)", Err(SourceError::Other))]
    #[case("/a.wasm", b"", Err(SourceError::Empty))]
    #[case("/a.wasm", b"\x7fELF\x02\x01\x01\0", Err(SourceError::Elf))]
    #[case("/a.wasm", b"\0asm", Err(SourceError::Version(0)))]
    #[case("/a.wasm", b"\0asm\x02\0\0\0", Err(SourceError::Version(2)))]
    fn detects(
        #[case] name: &str,
        #[case] prefix: &[u8],
        #[case] expected: Result<Source, SourceError>,
    ) {
        assert_eq!(Source::detect(name, prefix), expected);
    }
}
