//! Fields of a kubeconfig's root, changed in its text.

use serde_json::Value;

use super::document::{Content, Node};
use super::edit::{Result, UNKNOWN, root};
use super::{emit, lines};

/// Sets a field of the root; one that is there is a scalar.
pub(super) fn set(text: &str, key: &str, value: &Value) -> Result<String> {
    let root = root(text)?.ok_or(UNKNOWN)?;
    let Some((_, field)) = own_pair(&root, key) else {
        return add_field(text, &root, key, value);
    };
    let place = if field.ends_in_block_scalar() {
        // With its `|` or `>`, which is on the key's line.
        value_start(text, &root, key)?..text[..field.place.end].trim_end().len()
    } else {
        field.place.clone()
    };
    let new = if root.is_flow() {
        emit::flow(value)
    } else {
        emit::block(value, "")
    };
    Ok(lines::replace(
        text,
        place.clone(),
        &spaced(text, place.start, &new),
    ))
}

/// Adds a field at the root's end, where it counts more than any before.
pub(super) fn add_field(text: &str, root: &Node, key: &str, value: &Value) -> Result<String> {
    if root.is_flow() {
        return add_pair(text, root, key, &emit::flow(value));
    }
    let indent = root_indent(text, root)?;
    let field = Value::Object([(key.to_owned(), value.clone())].into_iter().collect());
    add_lines(
        text,
        root,
        &format!("{indent}{}\n", emit::block(&field, indent)),
    )
}

/// The same with a value in flow style.
pub(super) fn add_pair(text: &str, root: &Node, key: &str, value: &str) -> Result<String> {
    if !root.is_flow() {
        let indent = root_indent(text, root)?;
        return add_lines(text, root, &format!("{indent}{key}: {value}\n"));
    }
    let pair = format!("{}: {value}", emit::flow(&key.into()));
    let (at, new) = match &*root.content {
        Content::Mapping { pairs, .. } if !pairs.is_empty() => {
            (pairs[pairs.len() - 1].1.place.end, format!(", {pair}"))
        }
        _ => (root.place.start + 1, pair),
    };
    Ok(lines::replace(text, at..at, &new))
}

fn add_lines(text: &str, root: &Node, new: &str) -> Result<String> {
    let at = if is_open(text, root) {
        lines::start(text, root.place.start)
    } else {
        node_after(text, root)
    };
    Ok(lines::replace(text, at..at, new))
}

/// The pair by which the root has a field, if it is written out there.
pub(super) fn own_pair<'a>(root: &'a Node, key: &str) -> Option<(&'a Node, &'a Node)> {
    let (value, index) = root.get(key)?;
    match &*root.content {
        Content::Mapping { pairs, .. } if !value.is_alias => Some((&pairs[index?].0, value)),
        _ => None,
    }
}

/// Where the value of the root's key may begin: after the colon.
pub(super) fn value_start(text: &str, root: &Node, key: &str) -> Result<usize> {
    let (key, _) = own_pair(root, key).ok_or(UNKNOWN)?;
    let end = key.place.end;
    let colon = text[end..].find(':').ok_or(UNKNOWN)?;
    Ok(end + colon + 1)
}

/// Where the line after a node in block style starts.
pub(super) fn node_after(text: &str, node: &Node) -> usize {
    if node.ends_in_block_scalar() {
        node.place.end
    } else {
        lines::after(text, node.place.end)
    }
}

/// Whether a line after the node would change its last scalar, as the last line has no end.
pub(super) fn is_open(text: &str, node: &Node) -> bool {
    node.ends_in_block_scalar() && node.place.end == text.len() && !text.ends_with('\n')
}

/// The spaces before each of the root's keys.
pub(super) fn root_indent<'a>(text: &'a str, root: &Node) -> Result<&'a str> {
    let start = root.place.start;
    let indent = &text[lines::start(text, start)..start];
    if indent.bytes().all(|byte| byte == b' ') {
        Ok(indent)
    } else {
        Err(UNKNOWN)
    }
}

/// A value for a place that may be right behind a colon.
pub(super) fn spaced(text: &str, at: usize, value: &str) -> String {
    let space = if text[..at].ends_with(':') { " " } else { "" };
    format!("{space}{value}")
}
