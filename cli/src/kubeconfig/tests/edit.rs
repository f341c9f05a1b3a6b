//! Texts of every shape, with our entries put in and taken out.

use rstest::rstest;
use serde_json::{Value, json};

use crate::kubeconfig::edit::{holders, merge, remove};
use crate::kubeconfig::emit::string;

fn ours() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "a", "cluster": { "server": "https://x" } }],
        "contexts": [{ "name": "a" }],
        "users": [{ "name": "a" }],
        "current-context": "a",
    })
}

const BLOCK: &str = "\
apiVersion: v1
clusters:
- cluster:
    server: https://x
  name: a
contexts:
- name: a
current-context: a
kind: Config
users:
- name: a
";

/// `…` stands for contexts, current context and users, as they are added to a block.
const REST: &str = "contexts:\n- name: a\nusers:\n- name: a\ncurrent-context: a\n";

#[rstest]
#[case::nothing("", BLOCK)]
#[case::an_end_of_line("\n", &format!("\n{BLOCK}"))]
#[case::a_comment("# mine", &format!("# mine\n{BLOCK}"))]
#[case::an_empty_document("--- # mine\n", &format!("--- # mine\n{BLOCK}"))]
#[case::null("null\n", &format!("\n{BLOCK}"))]
#[case::an_empty_mapping("{}", r#"{"apiVersion": "v1", "kind": "Config", "clusters": [{"cluster":{"server":"https://x"},"name":"a"}], "contexts": [{"name":"a"}], "users": [{"name":"a"}], "current-context": "a"}"#)]
#[case::json(
    "{\n\t\"kind\": \"Config\",\n\t\"users\": [\n\t\t{\"name\": \"b\"}\n\t],\n\t\"clusters\": null, \"contexts\": [],\n\t\"current-context\": \"b\"\n}\n",
    "{\n\t\"kind\": \"Config\",\n\t\"users\": [\n\t\t{\"name\": \"b\"}, {\"name\":\"a\"}\n\t],\n\t\"clusters\": [{\"cluster\":{\"server\":\"https://x\"},\"name\":\"a\"}], \"contexts\": [{\"name\":\"a\"}],\n\t\"current-context\": \"a\"\n}\n"
)]
#[case::lists_of_nothing(
    "kind: x\nclusters: [] # none\ncontexts: null\nusers:\n# end\ncurrent-context:\n",
    "kind: x\nclusters: # none\n- cluster:\n    server: https://x\n  name: a\ncontexts:\n- name: a\nusers:\n- name: a\n# end\ncurrent-context: a\n"
)]
#[case::comments_between(
    "clusters: # 1\n# 2\n\n  # 3\n  - name: b # 4\n    # 5\n\n# 6\nkind: x # 7\n# 8",
    "clusters: # 1\n# 2\n\n  # 3\n  - name: b # 4\n  - cluster:\n      server: https://x\n    name: a\n    # 5\n\n# 6\nkind: x # 7\n…# 8"
)]
#[case::an_older_entry(
    "kind: x\nclusters:\n- cluster: {server: old}\n  name: a # old\n# next\n- name: b\n",
    "kind: x\nclusters:\n- cluster:\n    server: https://x\n  name: a\n# next\n- name: b\n…"
)]
#[case::the_same_entry_twice(
    "kind: x\nclusters:\n- name: a\n- name: b\n- name: \"a\"\n",
    "kind: x\nclusters:\n- cluster:\n    server: https://x\n  name: a\n- name: b\n…"
)]
#[case::an_older_entry_in_flow(
    "kind: x\nclusters: [{name: b}, &c {name: a}, {name: a, x: [1,\n2]} , ]\n",
    "kind: x\nclusters: [{name: b}, &c {\"cluster\":{\"server\":\"https://x\"},\"name\":\"a\"} , ]\n…"
)]
#[case::literal_text_last(
    "kind: x\nclusters:\n- name: b\n  x: |+\n    text\n\n\n# c\n",
    "kind: x\nclusters:\n- name: b\n  x: |+\n    text\n\n\n- cluster:\n    server: https://x\n  name: a\n…# c\n"
)]
#[case::literal_text_before_our_entry(
    "kind: x\nclusters:\n  - name: b\n    x: |\n      text\n  - name: a\n    x: >\n      text\n",
    "kind: x\nclusters:\n  - name: b\n    x: |\n      text\n  - cluster:\n      server: https://x\n    name: a\n…"
)]
#[case::literal_text_of_nothing(
    "kind: x\nclusters:\n  - name: b\n    x: |\n  - name: c\n    x: |\n\n",
    "kind: x\nclusters:\n  - name: b\n    x: |\n  - name: c\n    x: |\n\n  - cluster:\n      server: https://x\n    name: a\n…"
)]
#[case::literal_text_without_line_end(
    "clusters:\n- name: b\n  x: |\n    text",
    "current-context: a\nusers:\n- name: a\ncontexts:\n- name: a\nkind: Config\napiVersion: v1\nclusters:\n- cluster:\n    server: https://x\n  name: a\n- name: b\n  x: |\n    text"
)]
#[case::no_last_line_end(
    "kind: x\nclusters:\n- name: b",
    "kind: x\nclusters:\n- name: b\n- cluster:\n    server: https://x\n  name: a\n…"
)]
#[case::indented(
    "  kind: x\n  users:\n    -   name: b\n",
    "  kind: x\n  users:\n    -   name: b\n    - name: a\n  clusters:\n  - cluster:\n      server: https://x\n    name: a\n  contexts:\n  - name: a\n  current-context: a\n"
)]
#[case::windows_lines(
    "kind: x\r\nclusters:\r\n- name: b\r\n",
    "kind: x\r\nclusters:\r\n- name: b\r\n- cluster:\r\n    server: https://x\r\n  name: a\r\n…"
)]
#[case::two_documents(
    "%YAML 1.1\n---\nkind: x\nclusters: []\n...\n---\nclusters: [\n",
    "%YAML 1.1\n---\nkind: x\nclusters:\n- cluster:\n    server: https://x\n  name: a\n…...\n---\nclusters: [\n"
)]
#[case::a_key_twice(
    "kind: x\nclusters: [{name: dead}]\nclusters: [{name: b}]\n",
    "kind: x\nclusters: [{name: dead}]\nclusters: [{name: b}, {\"cluster\":{\"server\":\"https://x\"},\"name\":\"a\"}]\n…"
)]
#[case::anchors_within_entries(
    "kind: x\nclusters:\n- &b {name: b, cluster: &c {x: yes}}\n- name: d\n  cluster: {<<: *c}\n- *b\n",
    "kind: x\nclusters:\n- &b {name: b, cluster: &c {x: yes}}\n- name: d\n  cluster: {<<: *c}\n- *b\n- cluster:\n    server: https://x\n  name: a\n…"
)]
#[case::a_list_by_alias(
    "x: &c\n- name: b\n  cluster: {a: yes, b: \"yes\", c: !!binary aGk=, d: , e: 1.10, f: ~, \"n\": [x y, '\u{85}']}\nkind: x\nclusters: *c\n",
    "x: &c\n- name: b\n  cluster: {a: yes, b: \"yes\", c: !!binary aGk=, d: , e: 1.10, f: ~, \"n\": [x y, '\u{85}']}\nkind: x\nclusters: [{name: b, cluster: {a: yes, b: \"yes\", c: !<tag:yaml.org,2002:binary> \"aGk=\", d: null, e: 1.10, f: null, \"n\": [\"x y\", \"\\u0085\"]}}, {\"cluster\":{\"server\":\"https://x\"},\"name\":\"a\"}]\n…"
)]
#[case::a_list_by_merge(
    "x: &m {clusters: [{name: b}, {name: a}]}\nkind: x\n<<: *m\n",
    "x: &m {clusters: [{name: b}, {name: a}]}\nkind: x\n<<: *m\nclusters: [{name: b}, {\"cluster\":{\"server\":\"https://x\"},\"name\":\"a\"}]\n…"
)]
#[case::a_current_context_on_lines_of_its_own(
    "kind: x\ncurrent-context: |\n  b\nclusters: []\ncontexts: []\nusers: []\n",
    "kind: x\ncurrent-context: a\nclusters:\n- cluster:\n    server: https://x\n  name: a\ncontexts:\n- name: a\nusers:\n- name: a\n"
)]
fn our_entries_go_in_and_all_else_stays(#[case] before: &str, #[case] after: &str) {
    let line_end = if before.contains('\r') { "\r\n" } else { "\n" };
    let after = after.replace('…', &REST.replace('\n', line_end));
    let merged = merge(before, &ours(), "a").unwrap();
    assert_eq!(merged, after);
    assert_eq!(
        merge(&merged, &ours(), "a").unwrap(),
        merged,
        "a second time"
    );
    let rest = remove(&merged, "a").unwrap();
    assert!(holders(&rest, "a").unwrap().is_empty(), "{rest}");
    assert_eq!(remove(&rest, "a").unwrap(), rest);
}

#[rstest]
#[case::the_only_one("clusters: # c\n# d\n- name: a\n# e\n", "clusters: [] # c\n# d\n# e\n")]
#[case::the_first(
    "clusters:\n- name: a\n  # in it\n- name: b\n",
    "clusters:\n  # in it\n- name: b\n"
)]
#[case::the_last(
    "clusters:\n- name: b\n\n# c\n- name: a",
    "clusters:\n- name: b\n\n# c\n"
)]
#[case::after_literal_text(
    "users:\n  - name: b\n    x: |\n      text\n  - name: a\n",
    "users:\n  - name: b\n    x: |\n      text\n"
)]
#[case::twice(
    "clusters:\n- name: a\n- name: b\n- name: a\n",
    "clusters:\n- name: b\n"
)]
#[case::all("clusters:\n- name: a\n- name: a\n", "clusters: []\n")]
#[case::in_flow("clusters: [{name: a}, {name: b}]", "clusters: [ {name: b}]")]
#[case::last_in_flow("clusters: [{name: b} , {name: a}]", "clusters: [{name: b}]")]
#[case::only_one_in_flow("clusters: [ {name: a}, ]", "clusters: [ ]")]
#[case::by_alias(
    "x: &c [{name: a}, {name: b}]\nclusters: *c\n",
    "x: &c [{name: a}, {name: b}]\nclusters: [{name: b}]\n"
)]
#[case::current("current-context: a # c\n", "current-context: \"\" # c\n")]
#[case::other_current(
    "current-context: b\nusers:\n- name: a\n",
    "current-context: b\nusers: []\n"
)]
fn our_entries_go_and_all_else_stays(#[case] before: &str, #[case] after: &str) {
    assert!(!holders(before, "a").unwrap().is_empty());
    assert_eq!(remove(before, "a").unwrap(), after);
    assert!(holders(after, "a").unwrap().is_empty());
}

#[rstest]
#[case::a_list("- a\n", "it is not a mapping")]
#[case::a_word("a", "it is not a mapping")]
#[case::no_list("clusters: {a: b}\n", "not a list")]
#[case::open("clusters: [\n", "unclosed")]
#[case::two_roots("a: b\n c: d\n", "mapping values are not allowed")]
#[case::an_alias_to_ours("users: [{name: a, user: &u {x: 1}}, {name: b, user: *u}]\n", "anchor")]
#[case::an_alias_to_itself("users: &u [*u]\n", "contains itself")]
#[case::an_entry_on_its_lists_line("? users\n: - name: a\n", "cannot be edited")]
fn what_cannot_be_edited_says_why(#[case] text: &str, #[case] says: &str) {
    let problem = merge(text, &ours(), "a").unwrap_err().to_string();
    assert!(problem.contains(says), "{problem}");
}

#[rstest]
#[case("kind-a", "kind-a")]
#[case("https://[::1]:1", "\"https://[::1]:1\"")]
#[case("https://127.0.0.1:1", "https://127.0.0.1:1")]
#[case("Q0VS/+==", "Q0VS/+==")]
#[case("a:", "\"a:\"")]
#[case(
    "\u{85}\u{2028}\u{feff}\u{7f}\0\n",
    r#""\u0085\u2028\ufeff\u007f\u0000\n""#
)]
#[case("\u{1f980}", "\"\u{1f980}\"")]
fn strings_are_quoted_in_doubt(#[case] text: &str, #[case] written: &str) {
    assert_eq!(string(text), written);
}

#[rstest]
fn what_some_reader_takes_for_something_else_is_quoted(
    #[values(
        "",
        "~",
        "null",
        "Yes",
        "n",
        "ON",
        "true",
        "1_000",
        "0x1_F",
        "0123",
        "1e3",
        ".5",
        "12:30:45",
        "=",
        "<<",
        "2001-01-01",
        "+1",
        ".inf",
        "-",
        "a b",
        " a",
        "#",
        "*a",
        "&a",
        "!a",
        "%a",
        "@a",
        "`a`",
        "{}"
    )]
    text: &str,
) {
    assert_eq!(string(text), format!("\"{text}\""));
}

#[test]
fn aliases_do_not_expand_without_end() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        let before = format!("*a{}, ", level - 1).repeat(10);
        text.push_str(&format!("a{level}: &a{level} [{before}]\n"));
    }
    let problem = merge(&text, &ours(), "a").unwrap_err().to_string();
    assert!(problem.contains("without end"), "{problem}");
}
