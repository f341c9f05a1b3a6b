use rstest::rstest;
use serde_json::{Value, json};

use super::*;

const DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// As `spin registry push` of Spin 2 writes it.
fn locked() -> Value {
    json!({
        "spin_lock_version": 0,
        "metadata": {"name": "shop", "origin": "file:///spin.toml", "version": "0.1.0",
                     "trigger": {"base": "/", "type": "http"}, "triggers": {}},
        "variables": {"greeting": {"default": "hello"}, "token": {"secret": true, "default": null}},
        "triggers": [
            {"id": "trigger--items", "trigger_type": "http",
             "trigger_config": {"component": "items", "executor": null, "route": "/items/:id"}},
            {"id": "trigger--rest", "trigger_type": "http",
             "trigger_config": {"component": "rest", "executor": {"type": "spin"}, "route": "/..."}},
            {"id": "trigger--items-too", "trigger_type": "http",
             "trigger_config": {"component": "items", "route": "/items"}},
        ],
        "components": [
            {"id": "unused", "source": {"content_type": "application/wasm", "digest": DIGEST}},
            {"id": "items",
             "metadata": {"allowed_outbound_hosts": ["https://{{ greeting }}.example.com"],
                          "key_value_stores": ["default"]},
             "source": {"content_type": "application/wasm", "digest": DIGEST},
             "env": {"LEVEL": "debug"},
             "files": [{"inline": "aGk=", "path": "/static/hi.txt"}, {"digest": DIGEST, "path": "/"}],
             "config": {"text": "{{ greeting }}, {{token}}!"}},
            {"id": "rest", "source": {"content_type": "application/wasm", "digest": DIGEST}},
        ],
    })
}

fn parse(locked: &Value) -> Result<App, AppError> {
    App::parse(locked.to_string().as_bytes(), |name| {
        (name == "SPIN_VARIABLE_TOKEN").then_some("secret")
    })
}

#[rstest]
fn reads_both_versions(#[values(0, 1)] version: u32) {
    let mut locked = locked();
    locked["spin_lock_version"] = version.into();
    let app = parse(&locked).unwrap();
    let ids: Vec<_> = app.components.iter().map(|c| c.id.as_str()).collect();
    assert_eq!(ids, ["items", "rest"]);
    let items = &app.components[0];
    assert_eq!(items.source, Content::Digest(DIGEST.to_owned()));
    assert_eq!(items.files[0].content, Content::Inline(b"hi".to_vec()));
    let config = app.config(Prepared {
        components: vec![
            (Kind::Http, false, Some("/files".into())),
            (Kind::HttpP3, true, None),
        ],
        store: "/store".into(),
    });
    let routes: Vec<_> = config
        .routes
        .iter()
        .map(|r| (r.route.as_str(), r.component))
        .collect();
    assert_eq!(routes, [("/items/:id", 0), ("/...", 1), ("/items", 0)]);
    let [items, rest] = &config.components[..] else {
        panic!("{config:?}")
    };
    assert_eq!(items.variables["text"], "hello, secret!");
    assert_eq!(items.allowed_hosts, ["https://hello.example.com"]);
    assert_eq!(items.env, [("LEVEL".to_owned(), "debug".to_owned())]);
    assert!(items.store && items.files.is_some());
    assert!(!rest.store && rest.files.is_none() && rest.variables.is_empty());
}

#[test]
fn the_base_may_be_in_two_places() {
    let mut locked = locked();
    locked["metadata"]["trigger"]["base"] = "/old".into();
    assert_eq!(base_of(&locked), "/old");
    locked["metadata"]["triggers"] = json!({"http": {"base": "/new"}});
    assert_eq!(base_of(&locked), "/new");
    locked["metadata"] = json!({});
    assert_eq!(base_of(&locked), "/");
}

fn base_of(locked: &Value) -> String {
    parse(locked).unwrap().base
}

#[rstest]
#[case("/spin_lock_version", json!(2), "version 2")]
#[case("/triggers", json!([]), "no route")]
#[case("/triggers/0/trigger_type", json!("redis"), "\"redis\"")]
#[case("/triggers/0/trigger_config/component", json!("gone"), "no component \"gone\"")]
#[case("/triggers/0/trigger_config/route", json!("/a/.../b"), "\"/a/.../b\"")]
#[case("/triggers/0/trigger_config/route", json!(7), "the route 7")]
#[case("/triggers/1/trigger_config/executor/type", json!("wagi"), "\"wagi\"")]
#[case("/must_understand", json!(["the_future"]), "\"the_future\"")]
#[case("/host_requirements", json!({"local_service_chaining": "required"}), "local_service_chaining")]
#[case("/components/1/host_requirements", json!({"x": "required"}), "component \"items\" needs \"x\"")]
#[case("/components/1/dependencies", json!({"a:b/c": {}}), "dependencies")]
#[case("/components/1/metadata/key_value_stores/0", json!("cache"), "\"cache\"")]
#[case("/components/1/metadata/databases", json!(["default"]), "SQLite")]
#[case("/components/1/metadata/ai_models", json!(["llama"]), "llama")]
#[case("/components/1/metadata/allowed_outbound_hosts/0", json!("http://self"), "http://self")]
#[case("/components/1/config/text", json!("{{ nothing }}"), "\"nothing\"")]
#[case("/components/1/config/text", json!("{{ greeting"), "not closed")]
#[case("/components/1/source", json!({"source": "file:///x.wasm"}), "not in the artifact")]
#[case("/components/1/files/0/inline", json!("*"), "base64")]
#[case("/variables/other", json!({}), "SPIN_VARIABLE_OTHER")]
fn what_is_lacking_is_named(#[case] place: &str, #[case] value: Value, #[case] error: &str) {
    let mut locked = locked();
    let (parent, name) = place.rsplit_once('/').unwrap();
    match locked.pointer_mut(parent).unwrap() {
        Value::Array(items) => items[name.parse::<usize>().unwrap()] = value,
        other => other[name] = value,
    }
    let message = parse(&locked).unwrap_err().to_string();
    assert!(message.contains(error), "{message}");
}

#[test]
fn what_is_optional_may_lack() {
    let mut locked = locked();
    locked["must_understand"] = json!(["host_requirements"]);
    locked["host_requirements"] = json!({"local_service_chaining": "optional"});
    locked["triggers"][0]["trigger_config"]["route"] = json!({"private": true});
    assert_eq!(parse(&locked).unwrap().routes.len(), 2);
}

#[test]
fn garbage_is_no_lock_file() {
    for json in ["", "[]", "{}", "null", "{\"spin_lock_version\": -1}"] {
        assert!(App::parse(json.as_bytes(), |_| None).is_err(), "{json}");
    }
}

#[rstest]
#[case("", b"")]
#[case("aGk=", b"hi")]
#[case("aGlo", b"hih")]
#[case("AP8", b"\0\xff")]
fn base64_is_read(#[case] text: &str, #[case] bytes: &[u8]) {
    assert_eq!(base64(text).unwrap(), bytes);
}
