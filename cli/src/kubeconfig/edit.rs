//! A kubeconfig's text with one cluster's entries put in or taken out. Every other byte stays, so that
//! what the file holds besides, comments included, is read afterwards as it was before, whatever the
//! reader's idea of YAML. No change is handed out that fails the check for that.

use granit_parser::ScanError;
use serde_json::Value;

use super::document::{Content, Node, parse};
use super::field::set;
use super::list::put;
use super::{emit, lines};

/// The lists of named entries.
const LISTS: [&str; 3] = ["clusters", "contexts", "users"];
const CURRENT: &str = "current-context";

/// Why a text cannot be edited.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error(transparent)]
    Syntax(Box<ScanError>),
    #[error("{0}")]
    Shape(&'static str),
}

pub(super) type Result<T, E = Problem> = std::result::Result<T, E>;

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

pub(super) const UNKNOWN: Problem = Problem::Shape("it is written in a way that cannot be edited");

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
pub(super) fn root(text: &str) -> Result<Option<Node>> {
    match parse(text)? {
        Some(root) if matches!(*root.content, Content::Mapping { .. }) => Ok(Some(root)),
        Some(root) if !root.is_null() => Err(Problem::Shape("it is not a mapping")),
        _ => Ok(None),
    }
}

/// The entries of a list.
pub(super) fn entries<'a>(root: &'a Node, list: &str) -> Result<&'a [Node]> {
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

pub(super) fn is_named(entry: &Node, name: &str) -> bool {
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
