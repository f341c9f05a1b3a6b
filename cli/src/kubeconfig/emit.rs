//! Values as text that every reader of YAML 1.1, YAML 1.2 and JSON takes for what they are.

use serde_json::Value;

use super::document::{Content, Node};

/// What some reader takes for a boolean or for nothing, in lower case.
const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];

/// A mapping in block style, whose lines after the first are indented by `indent`.
pub(super) fn block(value: &Value, indent: &str) -> String {
    let inner = format!("{indent}  ");
    let mut lines = Vec::new();
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                let text = match value {
                    Value::Object(fields) if !fields.is_empty() => {
                        format!("\n{inner}{}", block(value, &inner))
                    }
                    // In line with the key, as the Kubernetes tools write it.
                    Value::Array(items) if !items.is_empty() => {
                        format!("\n{indent}{}", block(value, indent))
                    }
                    other => format!(" {}", block(other, indent)),
                };
                lines.push(format!("{}:{text}", string(key)));
            }
        }
        Value::Array(items) if !items.is_empty() => {
            lines.extend(
                items
                    .iter()
                    .map(|item| format!("- {}", block(item, &inner))),
            );
        }
        Value::String(text) => return string(text),
        other => return flow(other),
    }
    lines.join(&format!("\n{indent}"))
}

/// A value in JSON, which is YAML as well.
pub(super) fn flow(value: &Value) -> String {
    escaped(&value.to_string())
}

/// A node in flow style on one line, with plain scalars as they were written: JSON if it is JSON.
pub(super) fn flow_node(node: &Node) -> String {
    let tag = node.tag.as_ref().map(|tag| format!("!<{tag}> "));
    let text = match &*node.content {
        Content::Scalar { .. } if node.is_null() => "null".to_owned(),
        Content::Scalar { text, .. } if node.is_word() => text.clone(),
        Content::Scalar { text, .. } => flow(&text.as_str().into()),
        Content::Sequence { items, .. } => {
            let items: Vec<String> = items.iter().map(flow_node).collect();
            format!("[{}]", items.join(", "))
        }
        Content::Mapping { pairs, .. } => {
            let pair =
                |(key, value): &(Node, Node)| format!("{}: {}", flow_node(key), flow_node(value));
            let pairs: Vec<String> = pairs.iter().map(pair).collect();
            format!("{{{}}}", pairs.join(", "))
        }
    };
    tag.unwrap_or_default() + &text
}

/// A string: plain where nobody can take it for anything else, else in quotes.
pub(super) fn string(text: &str) -> String {
    let is_safe = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./+=@:".contains(c))
        && !text.ends_with(':')
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    if is_safe {
        text.to_owned()
    } else {
        flow(&text.into())
    }
}

/// Escapes what JSON allows within strings, and YAML does not or takes for a line break.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\u{7f}'..='\u{9f}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{feff}'
            | '\u{fffe}'
            | '\u{ffff}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            other => text.push(other),
        }
    }
    text
}
