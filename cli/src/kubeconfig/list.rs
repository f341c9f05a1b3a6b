//! Named entries of the lists of a kubeconfig's root, changed in its text.

use std::ops::Range;

use serde_json::Value;

use super::document::Node;
use super::edit::{Result, UNKNOWN, entries, is_named, root};
use super::field::{
    add_field, add_pair, is_open, node_after, own_pair, root_indent, spaced, value_start,
};
use super::{emit, lines};

/// Puts `entry` into a list in the place of those of that name, or takes these out.
pub(super) fn put(text: &str, list: &str, name: &str, entry: Option<&Value>) -> Result<String> {
    let Some(root) = root(text)? else {
        return Ok(text.to_owned());
    };
    let entries = entries(&root, list)?;
    let Some(last) = entries.iter().rposition(|entry| is_named(entry, name)) else {
        return entry.map_or(Ok(text.to_owned()), |entry| {
            append(text, &root, list, entry)
        });
    };
    let Some((_, value)) = own_pair(&root, list) else {
        return rewrite(text, &root, list, name, entry);
    };
    // Of several, the first one stays.
    let is_first = entries.iter().position(|entry| is_named(entry, name)) == Some(last);
    let new = entry.filter(|_| is_first);
    let edited = if value.is_flow() {
        match new {
            Some(entry) => lines::replace(text, entries[last].place.clone(), &emit::flow(entry)),
            None => lines::replace(text, with_comma(text, value, entries, last), ""),
        }
    } else {
        let place = item_lines(text, &root, list, entries, last)?;
        let new = new.map(|entry| item(lines::indent(text, place.start), entry));
        let edited = lines::replace(text, place, &new.unwrap_or_default());
        if entry.is_none() && entries.len() == 1 {
            let start = value_start(text, &root, list)?;
            lines::replace(&edited, start..start, " []")
        } else {
            edited
        }
    };
    if is_first {
        Ok(edited)
    } else {
        put(&edited, list, name, entry)
    }
}

/// Adds an entry to a list that has none of its name.
fn append(text: &str, root: &Node, list: &str, entry: &Value) -> Result<String> {
    let Some((key, value)) = own_pair(root, list) else {
        return rewrite(text, root, list, "", Some(entry));
    };
    let entries = entries(root, list)?;
    match entries.last() {
        Some(last) if value.is_flow() => {
            let end = last.place.end;
            Ok(lines::replace(
                text,
                end..end,
                &format!(", {}", emit::flow(entry)),
            ))
        }
        Some(last) => {
            let place = item_lines(text, root, list, entries, entries.len() - 1)?;
            let at = if is_open(text, last) {
                item_lines(text, root, list, entries, 0)?.start
            } else {
                place.end
            };
            let new = item(lines::indent(text, place.start), entry);
            Ok(lines::replace(text, at..at, &new))
        }
        None if root.is_flow() => {
            let place = value.place.clone();
            let new = format!("[{}]", emit::flow(entry));
            Ok(lines::replace(
                text,
                place.clone(),
                &spaced(text, place.start, &new),
            ))
        }
        // `[]`, `null` or nothing makes way for lines.
        None => {
            let start = text[..value.place.start].trim_end_matches(' ').len();
            let text = lines::replace(text, start..value.place.end, "");
            let at = lines::after(&text, key.place.end);
            let new = item(root_indent(&text, root)?, entry);
            Ok(lines::replace(&text, at..at, &new))
        }
    }
}

/// Writes out a list that the root has by an alias or a merge key, or not at all, with an entry more
/// or less.
fn rewrite(
    text: &str,
    root: &Node,
    list: &str,
    name: &str,
    entry: Option<&Value>,
) -> Result<String> {
    let others = entries(root, list)?
        .iter()
        .filter(|entry| !is_named(entry, name));
    let others: Vec<String> = others.map(emit::flow_node).collect();
    if let (Some(entry), None) = (entry, root.get(list)) {
        return add_field(text, root, list, &Value::Array(vec![entry.clone()]));
    }
    let entries: Vec<String> = others.into_iter().chain(entry.map(emit::flow)).collect();
    let entries = format!("[{}]", entries.join(", "));
    match root.get(list) {
        Some((alias, Some(_))) => Ok(lines::replace(text, alias.place.clone(), &entries)),
        _ => add_pair(text, root, list, &entries),
    }
}

/// The lines of an item of one of the root's lists in block style.
fn item_lines(
    text: &str,
    root: &Node,
    list: &str,
    items: &[Node],
    index: usize,
) -> Result<Range<usize>> {
    let mut start = match index.checked_sub(1) {
        Some(before) => node_after(text, &items[before]),
        None => lines::after(text, value_start(text, root, list)?),
    };
    let end = node_after(text, &items[index]);
    // Comments and empty lines may come first.
    while !text[start..].trim_start_matches(' ').starts_with('-') {
        start = lines::after(text, start);
        if start >= end {
            return Err(UNKNOWN);
        }
    }
    Ok(start..end)
}

/// An item in block style with its line end.
fn item(indent: &str, entry: &Value) -> String {
    format!("{indent}- {}\n", emit::block(entry, &format!("{indent}  ")))
}

/// An item of a list in flow style, with the comma before it; or after it, if it is the first.
fn with_comma(text: &str, list: &Node, items: &[Node], index: usize) -> Range<usize> {
    let end = items[index].place.end;
    match index.checked_sub(1) {
        Some(before) => items[before].place.end..end,
        None => {
            let comma = text[end..list.place.end].find(',');
            list.place.start + 1..comma.map_or(end, |comma| end + comma + 1)
        }
    }
}
