//! Lines of a text, by the index of a byte in it.

use std::ops::Range;

/// Where the line starts.
pub(super) fn start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |end| end + 1)
}

/// Where the next line starts, or the text ends.
pub(super) fn after(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |end| at + end + 1)
}

/// The spaces that a line starts with.
pub(super) fn indent(text: &str, line: usize) -> &str {
    let rest = &text[line..];
    &rest[..rest.len() - rest.trim_start_matches(' ').len()]
}

/// Replaces a part of the text, with line ends as it has them. Whole lines begin on a line of their own.
pub(super) fn replace(text: &str, place: Range<usize>, new: &str) -> String {
    let (before, after) = (&text[..place.start], &text[place.end..]);
    let within_line = !before.is_empty() && !before.ends_with('\n');
    let line_end = if new.ends_with('\n') && within_line {
        "\n"
    } else {
        ""
    };
    let mut new = format!("{line_end}{new}");
    if text.contains("\r\n") {
        new = new.replace('\n', "\r\n");
    }
    format!("{before}{new}{after}")
}
