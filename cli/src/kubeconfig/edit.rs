//! A kubeconfig's text with one cluster's entries put in or taken out. Every other byte stays, so that
//! what the file holds besides, comments included, is read afterwards as it was before, whatever the
//! reader's idea of YAML. No change is handed out that fails the check for that.

use std::ops::Range;

use granit_parser::ScanError;
use serde_json::Value;

use super::document::{Content, Node, parse};
use super::{emit, lines};

/// The lists of named entries.
const LISTS: [&str; 3] = ["clusters", "contexts", "users"];
const CURRENT: &str = "current-context";

/// Why a text cannot be edited.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error(transparent)]
    Syntax(ScanError),
    #[error("{0}")]
    Shape(&'static str),
}

type Result<T, E = Problem> = std::result::Result<T, E>;

/// Where a text has the entries of `context`: the names of the lists, and `current-context` if that
/// is it.
pub(super) fn holders(text: &str, context: &str) -> Result<Vec<&'static str>> {
    let Some(root) = root(text)? else {
        return Ok(Vec::new());
    };
    let mut holders = Vec::new();
    for list in LISTS {
        if entries(&root, list)?
            .iter()
            .any(|entry| is_named(entry, context))
        {
            holders.push(list);
        }
    }
    if is_current(&root, context) {
        holders.push(CURRENT);
    }
    Ok(holders)
}

/// Puts the entry that each of the addition's lists has in the place of that of the same name, or
/// after the others, and makes `context` the current one.
pub(super) fn merge(text: &str, addition: &Value, context: &str) -> Result<String> {
    let edited = match root(text)? {
        None => fill(text, addition)?,
        Some(root) => {
            let mut edited = text.to_owned();
            let is_list = |key: &str| LISTS.contains(&key) || key == CURRENT;
            if root.fields().iter().all(|(key, ..)| is_list(key)) {
                // As with kind: some readers want `apiVersion` and `kind`.
                let frame = addition.as_object().into_iter().flatten();
                for (key, value) in frame.filter(|(key, _)| !is_list(key)) {
                    edited = set(&edited, key, value)?;
                }
            }
            for list in LISTS {
                edited = put(&edited, list, context, Some(&addition[list][0]))?;
            }
            set(&edited, CURRENT, &context.into())?
        }
    };
    check(text, &edited, context)?;
    if holders(&edited, context)?.len() > LISTS.len() {
        Ok(edited)
    } else {
        Err(UNKNOWN)
    }
}

/// Takes a context, its cluster and its user out.
pub(super) fn remove(text: &str, context: &str) -> Result<String> {
    let mut edited = text.to_owned();
    for list in LISTS {
        edited = put(&edited, list, context, None)?;
    }
    if root(&edited)?.is_some_and(|root| is_current(&root, context)) {
        edited = set(&edited, CURRENT, &"".into())?;
    }
    check(text, &edited, context)?;
    if holders(&edited, context)?.is_empty() {
        Ok(edited)
    } else {
        Err(UNKNOWN)
    }
}

const UNKNOWN: Problem = Problem::Shape("it is written in a way that cannot be edited");

/// Fails unless both texts hold the same but for the entries of `context` and what is current, and
/// for fields that only the second one has.
fn check(before: &str, after: &str, context: &str) -> Result<()> {
    let Some(before) = root(before)? else {
        return Ok(());
    };
    let after = root(after)?.ok_or(UNKNOWN)?;
    for list in LISTS {
        let [before, after] = [&before, &after].map(|root| entries(root, list));
        let others = |entry: &&Node| !is_named(entry, context);
        if !before?
            .iter()
            .filter(others)
            .eq(after?.iter().filter(others))
        {
            return Err(UNKNOWN);
        }
    }
    let kept = before.fields().into_iter().all(|(key, ..)| {
        let value = |root: &Node| root.get(key).map(|(value, _)| value.clone());
        LISTS.contains(&key) || key == CURRENT || value(&before) == value(&after)
    });
    if kept { Ok(()) } else { Err(UNKNOWN) }
}

/// The mapping that a text is; `None` when it holds nothing.
fn root(text: &str) -> Result<Option<Node>> {
    match parse(text)? {
        Some(root) if matches!(*root.content, Content::Mapping { .. }) => Ok(Some(root)),
        Some(root) if !root.is_null() => Err(Problem::Shape("it is not a mapping")),
        _ => Ok(None),
    }
}

/// The entries of a list.
fn entries<'a>(root: &'a Node, list: &str) -> Result<&'a [Node]> {
    match root.get(list) {
        Some((value, _)) if !value.is_null() => match &*value.content {
            Content::Sequence { items, .. } => Ok(items),
            _ => Err(Problem::Shape(
                "one of clusters, contexts and users is not a list",
            )),
        },
        _ => Ok(&[]),
    }
}

fn is_named(entry: &Node, name: &str) -> bool {
    entry.get("name").and_then(|(value, _)| value.text()) == Some(name)
}

fn is_current(root: &Node, context: &str) -> bool {
    root.get(CURRENT).and_then(|(value, _)| value.text()) == Some(context)
}

/// Puts `content` into a text that has none but, perhaps, comments.
fn fill(text: &str, content: &Value) -> Result<String> {
    // Where a word for nothing may be.
    let place = parse(text)?.map_or(0..0, |root| root.place);
    let blank = lines::replace(text, place, "");
    let end = blank.len()..blank.len();
    Ok(lines::replace(
        &blank,
        end,
        &format!("{}\n", emit::block(content, "")),
    ))
}

/// Sets a field of the root; one that is there is a scalar.
fn set(text: &str, key: &str, value: &Value) -> Result<String> {
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

/// Puts `entry` into a list in the place of those of that name, or takes these out.
fn put(text: &str, list: &str, name: &str, entry: Option<&Value>) -> Result<String> {
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

/// Adds a field at the root's end, where it counts more than any before.
fn add_field(text: &str, root: &Node, key: &str, value: &Value) -> Result<String> {
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
fn add_pair(text: &str, root: &Node, key: &str, value: &str) -> Result<String> {
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
fn own_pair<'a>(root: &'a Node, key: &str) -> Option<(&'a Node, &'a Node)> {
    let (value, index) = root.get(key)?;
    match &*root.content {
        Content::Mapping { pairs, .. } if !value.is_alias => Some((&pairs[index?].0, value)),
        _ => None,
    }
}

/// Where the value of the root's key may begin: after the colon.
fn value_start(text: &str, root: &Node, key: &str) -> Result<usize> {
    let (key, _) = own_pair(root, key).ok_or(UNKNOWN)?;
    let end = key.place.end;
    let colon = text[end..].find(':').ok_or(UNKNOWN)?;
    Ok(end + colon + 1)
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

/// Where the line after a node in block style starts.
fn node_after(text: &str, node: &Node) -> usize {
    if node.ends_in_block_scalar() {
        node.place.end
    } else {
        lines::after(text, node.place.end)
    }
}

/// Whether a line after the node would change its last scalar, as the last line has no end.
fn is_open(text: &str, node: &Node) -> bool {
    node.ends_in_block_scalar() && node.place.end == text.len() && !text.ends_with('\n')
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

/// The spaces before each of the root's keys.
fn root_indent<'a>(text: &'a str, root: &Node) -> Result<&'a str> {
    let start = root.place.start;
    let indent = &text[lines::start(text, start)..start];
    if indent.bytes().all(|byte| byte == b' ') {
        Ok(indent)
    } else {
        Err(UNKNOWN)
    }
}

/// A value for a place that may be right behind a colon.
fn spaced(text: &str, at: usize, value: &str) -> String {
    let space = if text[..at].ends_with(':') { " " } else { "" };
    format!("{space}{value}")
}
