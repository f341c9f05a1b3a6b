//! Kubeconfigs of any look, read by kubectl before and after ours was put in and taken out again.
//! `ci/e2e/kubeconfig` runs this, where a kubectl is sure to be.

use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;

use super::{LISTS, external, remove};
use crate::kubeconfig::emit;

/// What some reader of YAML takes for something other than a string, or for syntax.
const STRINGS: &[&str] = &[
    "",
    " ",
    "~",
    "null",
    "Null",
    "y",
    "Y",
    "n",
    "yes",
    "No",
    "on",
    "Off",
    "true",
    "FALSE",
    "=",
    "<<",
    "1_000",
    "0x1_F",
    "0x1f_f",
    "0_1",
    "012",
    "0123",
    "0o7",
    "0b1",
    "+1",
    "-0",
    "1e3",
    ".5",
    "1.",
    "1.10",
    ".inf",
    "-.INF",
    ".nan",
    "12:30:45",
    "190:20:30",
    "2001-01-01",
    "2001-12-14 21:59:43",
    "12345678901234567890",
    "-",
    "- a",
    "--- ",
    "---",
    "...",
    "? a",
    ": a",
    "a: b",
    "a:",
    "a #b",
    "#",
    "&a",
    "*a",
    "!a",
    "!!int 1",
    "%a",
    "@a",
    "`a`",
    "|",
    ">-",
    "'",
    "''",
    "\"",
    "\\",
    "\\n",
    "{",
    "}",
    "{a: b}",
    "[",
    "]",
    "[]",
    ",",
    "a, b",
    "\n",
    "a\n",
    "a\n\n",
    "\na",
    "a\nb",
    "a\n  b\n",
    " a",
    "a ",
    "a\t",
    "\ta",
    "a\r\nb",
    "\u{0}",
    "\u{7}",
    "\u{1b}[0m",
    "\u{7f}",
    "\u{85}",
    "a\u{85}b",
    "\u{a0}",
    "\u{2028}",
    "a\u{2029}b",
    "\u{feff}",
    "a\u{feff}b",
    "\u{fffd}",
    "\u{ffff}",
    "\u{1f980}",
    "ä",
    "kind-a",
    "name: kind-a",
    "\n- name: kind-a\n",
];

/// Values that are no strings, or strings by their tag, as they may be written.
const VALUES: &[&str] = &[
    "yes",
    "Off",
    "1_000",
    "0x1_F",
    "012",
    "0o7",
    "0b11",
    "1e3",
    ".5",
    "1.10",
    "+1",
    "-0",
    "~",
    "null",
    "12345678901234567890",
    "-9223372036854775808",
    "123456789012345678901234567890",
    "12:30:45",
    "2001-01-01",
    "!!binary aGVsbG8=",
    "!!str 123",
    "!!float 1",
    "!!int \"12\"",
    "{}",
    "[]",
    "",
];

/// A value and how it is written.
#[derive(Debug, Clone)]
enum Node {
    Plain(&'static str),
    Text(String, Style),
    List(Vec<Node>, bool),
    Map(Vec<(Node, Node)>, bool),
}

#[derive(Debug, Clone, Copy)]
enum Style {
    Double,
    Single,
    Literal,
}

impl Node {
    /// In flow style, on one line.
    fn flow(&self) -> String {
        match self {
            Self::Plain("") => "null".into(),
            Self::Plain(text) => (*text).into(),
            Self::Text(text, Style::Single) if is_printable(text) => {
                format!("'{}'", text.replace('\'', "''"))
            }
            Self::Text(text, _) => emit::flow(&text.as_str().into()),
            Self::List(items, _) => {
                let items: Vec<_> = items.iter().map(Self::flow).collect();
                format!("[{}]", items.join(", "))
            }
            Self::Map(pairs, _) => {
                let pair =
                    |(key, value): &(Self, Self)| format!("{}: {}", key.flow(), value.flow());
                let pairs: Vec<_> = pairs.iter().map(pair).collect();
                format!("{{{}}}", pairs.join(", "))
            }
        }
    }

    /// After a key or a dash, with its line end.
    fn write(&self, indent: usize, out: &mut String) {
        let margin = " ".repeat(indent);
        match self {
            Self::Plain("") => out.push('\n'),
            Self::List(items, true) if !items.is_empty() => {
                out.push_str(" # a list\n");
                for item in items {
                    out.push_str(&format!("{margin}# an item\n\n{margin}-"));
                    item.write(indent + 2, out);
                }
            }
            Self::Map(pairs, true) if !pairs.is_empty() => {
                out.push('\n');
                for (key, value) in pairs {
                    out.push_str(&format!("{margin}{}:", key.flow()));
                    value.write(indent + 2, out);
                }
            }
            Self::Text(text, Style::Literal) if is_literal(text) => {
                let kept =
                    ["-", "", "+"][text.chars().rev().take_while(|&c| c == '\n').count().min(2)];
                out.push_str(&format!(" |{kept}\n"));
                for line in text.split_inclusive('\n') {
                    out.push_str(&format!("{margin}{line}"));
                }
                if kept == "-" {
                    out.push('\n');
                }
            }
            other => out.push_str(&format!(" {} # {indent}\n", other.flow())),
        }
    }
}

fn is_printable(text: &str) -> bool {
    text.chars()
        .all(|c| c == ' ' || c.is_ascii_graphic() || ('\u{a1}'..'\u{2000}').contains(&c))
}

fn is_literal(text: &str) -> bool {
    !text.starts_with(['\n', ' ']) && !text.trim().is_empty() && text.split('\n').all(is_printable)
}

fn text() -> impl Strategy<Value = Node> {
    let string = prop_oneof![
        4 => select(STRINGS).prop_map(str::to_owned),
        1 => "\\PC{0,12}",
        1 => proptest::collection::vec(any::<char>(), 0..6).prop_map(String::from_iter),
    ];
    let style = select(&[Style::Double, Style::Single, Style::Literal][..]);
    (string, style).prop_map(|(text, style)| Node::Text(text, style))
}

fn value() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![text(), select(VALUES).prop_map(Node::Plain)];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let items = proptest::collection::vec(inner.clone(), 0..4);
        let pairs = proptest::collection::vec((text(), inner), 0..4);
        prop_oneof![
            (items, any::<bool>()).prop_map(|(items, block)| Node::List(items, block)),
            (pairs, any::<bool>()).prop_map(|(pairs, block)| Node::Map(pairs, block)),
        ]
    })
}

fn key(name: &str) -> Node {
    Node::Text(name.into(), Style::Double)
}

fn map(pairs: Vec<(&str, Node)>, block: bool) -> Node {
    Node::Map(
        pairs
            .into_iter()
            .map(|(name, value)| (key(name), value))
            .collect(),
        block,
    )
}

/// The three lists, with an entry of each for `name`.
fn entries(name: Node) -> impl Strategy<Value = [Node; 3]> {
    let parts = (
        text(),
        text(),
        value(),
        proptest::collection::vec(text(), 0..4),
        any::<[bool; 3]>(),
    );
    parts.prop_map(move |(one, other, value, args, block)| {
        let extension = map(
            vec![
                ("name", one.clone()),
                ("extension", map(vec![("x", value)], block[0])),
            ],
            block[1],
        );
        let extensions = Node::List(vec![extension], block[2]);
        let exec = map(
            vec![
                ("apiVersion", key("client.authentication.k8s.io/v1")),
                ("command", other.clone()),
                ("interactiveMode", key("Never")),
                ("args", Node::List(args, block[1])),
            ],
            block[2],
        );
        let entry = |inner: &str, fields| {
            map(
                vec![("name", name.clone()), (inner, map(fields, block[0]))],
                block[1],
            )
        };
        [
            entry(
                "cluster",
                vec![("server", one.clone()), ("extensions", extensions)],
            ),
            entry("user", vec![("token", one.clone()), ("exec", exec)]),
            entry(
                "context",
                vec![
                    ("namespace", one),
                    ("user", other.clone()),
                    ("cluster", other),
                ],
            ),
        ]
    })
}

/// A kubeconfig's text, which perhaps has entries of ours already.
fn kubeconfig() -> impl Strategy<Value = String> {
    let foreign = text().prop_filter(
        "ours",
        |node| !matches!(node, Node::Text(text, _) if text == "kind-a"),
    );
    let ours = Just(key("kind-a"));
    let groups = (
        proptest::collection::vec(foreign.prop_flat_map(entries), 0..3),
        proptest::option::of(ours.prop_flat_map(entries)),
    );
    let look = (
        any::<[bool; 8]>(),
        any::<[Index; 4]>(),
        text(),
        select(&["", "[]", "null"][..]),
    );
    (groups, look).prop_map(|((foreign, ours), (look, order, current, none))| {
        let mut lists: [Vec<Node>; 3] = Default::default();
        for group in foreign.into_iter().chain(ours) {
            for (list, entry) in lists.iter_mut().zip(group) {
                let at = order[0].index(list.len() + 1);
                list.insert(at, entry);
            }
        }
        let mut fields = vec![
            ("apiVersion", key("v1")),
            ("kind", key("Config")),
            ("current-context", current),
        ];
        for ((list, _), entries) in LISTS.into_iter().zip(lists) {
            match entries.is_empty() {
                true if look[0] => {}
                true => fields.push((list, Node::Plain(none))),
                false => fields.push((list, Node::List(entries, look[1]))),
            }
        }
        for index in order {
            let field = fields.remove(index.index(fields.len()));
            fields.push(field);
        }
        let root = map(fields, look[2]);
        let mut text = String::new();
        if look[2] {
            root.write(0, &mut text);
            text.remove(0);
        } else {
            text = root.flow();
        }
        if look[3] {
            text.insert_str(0, "# first\n---\n");
        }
        if look[4] {
            text = text.trim_end_matches('\n').to_owned();
        } else if look[5] {
            text.push_str("\n# last\n---\nclusters: []\n");
        }
        if look[6] && !text.contains('|') {
            text = text.replace('\n', "\r\n");
        }
        if look[7] {
            text.insert(0, '\u{feff}');
        }
        text
    })
}

/// What kubectl makes of a file: the entries that are not ours, those that are, and what is current.
fn view(path: &Path) -> Result<(Value, Value, Value), String> {
    let output = Command::new("kubectl")
        .args(["config", "view", "--raw", "-o", "json", "--kubeconfig"])
        .arg(path)
        .output()
        .expect("kubectl runs");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let mut config: Value = serde_json::from_slice(&output.stdout).expect("kubectl prints JSON");
    let mut ours = config.clone();
    for (list, _) in LISTS {
        for (config, is_ours) in [(&mut config, false), (&mut ours, true)] {
            // An empty one is null.
            let mut entries = config[list].take();
            if let Some(entries) = entries.as_array_mut() {
                entries.retain(|entry| (entry["name"] == "kind-a") == is_ours);
            }
            config[list] = entries.as_array().cloned().unwrap_or_default().into();
        }
    }
    let ours = Value::Array(LISTS.map(|(list, _)| ours[list].clone()).into());
    let current = config["current-context"].take();
    Ok((config, ours, current))
}

#[test]
#[ignore = "needs kubectl: ci/e2e/kubeconfig runs it"]
fn kubectl_reads_foreign_entries_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config");
    external().write(Some(&path)).unwrap();
    let (_, ours, _) = view(&path).unwrap();
    let nothing: Value = serde_json::json!([[], [], []]);

    let config = Config {
        cases: std::env::var("PROPTEST_CASES").map_or(100, |cases| cases.parse().unwrap()),
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new(config);
    let result = runner.run(&kubeconfig(), |text| {
        std::fs::write(&path, &text).unwrap();
        // What kubectl refuses, nobody uses.
        let Ok((before, ..)) = view(&path) else {
            return Err(TestCaseError::reject("kubectl refuses it"));
        };
        let written = external().write(Some(&path));
        prop_assert!(written.is_ok(), "{written:?}\n{text}");
        let merged = std::fs::read_to_string(&path).unwrap();
        prop_assert_eq!(
            view(&path),
            Ok((before.clone(), ours.clone(), "kind-a".into())),
            "{}",
            merged
        );

        let left = remove("kind-a", Some(&path)).left;
        prop_assert!(left.is_empty(), "{left:?}\n{merged}");
        let rest = std::fs::read_to_string(&path).unwrap();
        prop_assert_eq!(
            view(&path),
            Ok((before, nothing.clone(), "".into())),
            "{}",
            rest
        );
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}
