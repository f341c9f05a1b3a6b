//! Wrong behaviour, one kind at a time, by the variable `LIE`: a case that passes all the same shows
//! nothing. Only builds with the feature `liar` have it.
#![allow(dead_code)] // not every program tells every lie

use std::io::{self, Write};

/// Whether to lie about that.
pub fn about(what: &str) -> bool {
    cfg!(feature = "liar") && std::env::var("LIE").is_ok_and(|lie| lie == what)
}

/// `files`: other ones than those that were named. `wait`: for nothing. `input`: unread.
pub fn words(words: Vec<String>) -> Vec<String> {
    let lie = |word: String| match word.as_str() {
        path if path.starts_with('/') && about("files") => format!("{path}.lie"),
        "wait" if about("wait") => "say".into(),
        "stay" if about("wait") => "true".into(),
        "echo" | "answer" | "count-input" if about("input") => "true".into(),
        _ => word,
    };
    words.into_iter().map(lie).collect()
}

/// `end`: well where it failed, and the other way round.
pub fn result<E: From<io::Error>>(result: Result<(), E>) -> Result<(), E> {
    match result {
        Ok(()) if about("end") => Err(io::Error::other("a lie").into()),
        Err(_) if about("end") => Ok(()),
        honest => honest,
    }
}

/// `output`: without the first byte of each piece.
pub struct Output<W>(pub W);

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let lost = usize::from(about("output")).min(bytes.len());
        self.0.write_all(&bytes[lost..])?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
