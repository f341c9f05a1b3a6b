//! The compiler as a process.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use rstest::rstest;
use serde_json::Value;
use tempfile::TempDir;

const MODULE: &str = r#"(module (func (export "_start")) (func (export "job")))"#;

struct Fixture(TempDir);

impl Fixture {
    fn new() -> Self {
        let fixture = Self(tempfile::tempdir().unwrap());
        fs::write(fixture.path("app.wat"), MODULE).unwrap();
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wasmkind-compiler"));
        command
            .current_dir(self.0.path())
            .args(["compile", "--cache", "cache"])
            .args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
}

fn reports(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn reports_what_it_stored_and_finds_it_again() {
    let fixture = Fixture::new();
    let first = fixture.run(&["app.wat"]);
    assert_eq!(first.status.code(), Some(0), "{}", errors(&first));
    let report = &reports(&first)[0];
    assert_eq!(
        (&report["kind"], &report["cached"]),
        (&"command-p1".into(), &false.into())
    );
    let path = Path::new(report["path"].as_str().unwrap());
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(
        name.starts_with(report["digest"].as_str().unwrap()),
        "{name}"
    );
    assert!(fixture.0.path().join(path).is_file());

    let second = &reports(&fixture.run(&["app.wat"]))[0];
    assert_eq!(
        (&second["path"], &second["cached"]),
        (&report["path"], &true.into())
    );
}

#[test]
fn compiles_a_damaged_entry_again() {
    let fixture = Fixture::new();
    let report = &reports(&fixture.run(&["app.wat"]))[0];
    let entry = fixture.0.path().join(report["path"].as_str().unwrap());
    let good = fs::read(&entry).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    fs::write(&entry, bad).unwrap();
    let report = &reports(&fixture.run(&["app.wat"]))[0];
    assert_eq!(report["cached"], false);
    assert_eq!(report["replaced"], "it does not match its hash");
    assert_eq!(fs::read(&entry).unwrap(), good);
}

#[test]
fn reads_standard_input_under_a_name() {
    let fixture = Fixture::new();
    let mut command = fixture.command(&["--name", "/opt/app.wat", "--export", "job", "-"]);
    let input = fs::File::open(fixture.path("app.wat")).unwrap();
    let output = command.stdin(Stdio::from(input)).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));

    fs::write(fixture.path("bad"), b"\0asm\x01\0\0\0\x01\x05junk!").unwrap();
    let input = fs::File::open(fixture.path("bad")).unwrap();
    let output = fixture
        .command(&["--name", "/opt/app.wasm", "-"])
        .stdin(Stdio::from(input))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = errors(&output);
    assert!(
        error.starts_with("error: invalid WebAssembly in /opt/app.wasm: ")
            && error.lines().count() == 1,
        "{error}"
    );
}

#[rstest]
#[case(b"(module)", "app.wat has nothing to run: it exports none of _start,")]
#[case(
    b"(module (import \"foo\" \"bar\" (func)))",
    "app.wat imports \"foo\" \"bar\", which wasmkind does not provide"
)]
#[case(b"\x7fELF", "app.wat is not a WebAssembly module: it is an ELF file")]
fn refuses_a_guest_in_one_line(#[case] bytes: &[u8], #[case] expected: &str) {
    let fixture = Fixture::new();
    fs::write(fixture.path("app.wat"), bytes).unwrap();
    let output = fixture.run(&["app.wat"]);
    assert_eq!(output.status.code(), Some(1));
    let error = errors(&output);
    assert!(
        error.starts_with(&format!("error: {expected}")) && error.lines().count() == 1,
        "{error}"
    );
    assert_eq!(
        error.matches("app.wat").count(),
        1,
        "it says it twice: {error}"
    );
    assert_eq!(output.stdout, b"");
}

#[test]
fn goes_on_after_a_guest_that_it_refuses() {
    let fixture = Fixture::new();
    let output = fixture.run(&["missing.wasm", "app.wat"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        errors(&output),
        "error: read missing.wasm: No such file or directory (os error 2)\n"
    );
    assert_eq!(reports(&output).len(), 1);
}

#[test]
fn wrong_usage_is_told_from_a_bad_guest() {
    let output = Fixture::new().run(&["--fast", "app.wat"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(errors(&output).contains("usage: "), "{}", errors(&output));
}

#[test]
fn many_at_once_compile_once() {
    let fixture = Fixture::new();
    let children: Vec<_> = (0..6)
        .map(|_| {
            fixture
                .command(&["app.wat"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let outputs: Vec<_> = children
        .into_iter()
        .map(|child| child.wait_with_output().unwrap())
        .collect();
    let compiled = outputs
        .iter()
        .filter(|output| reports(output)[0]["cached"] == false)
        .count();
    assert_eq!(compiled, 1);
    assert_eq!(
        fs::read_dir(fixture.path("cache")).unwrap().count(),
        1,
        "a lock or a temporary file was left"
    );
}

#[test]
fn what_was_not_used_for_longest_makes_room() {
    let fixture = Fixture::new();
    fs::write(fixture.path("new.wat"), MODULE.replace("job", "work")).unwrap();
    let entry = |output: &Output| fixture.path(reports(output)[0]["path"].as_str().unwrap());
    let old = entry(&fixture.run(&["app.wat"]));
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    let file = fs::File::options().write(true).open(&old).unwrap();
    file.set_modified(long_ago).unwrap();
    let new = entry(&fixture.run(&["new.wat"]));
    assert!(old.exists() && new.exists(), "there was room");
    let file = fs::File::options().write(true).open(&new).unwrap();
    file.set_modified(long_ago).unwrap();
    assert_eq!(
        entry(&fixture.run(&["--cache-size", "1Ki", "app.wat"])),
        old
    );
    assert!(old.exists(), "what was just used is gone");
    assert!(!new.exists());
}

#[test]
fn a_cache_that_others_may_write_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let fixture = Fixture::new();
    fs::create_dir(fixture.path("cache")).unwrap();
    fs::set_permissions(fixture.path("cache"), fs::Permissions::from_mode(0o777)).unwrap();
    let output = fixture.run(&["app.wat"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        errors(&output).starts_with("error: refuse the compile cache cache: "),
        "{}",
        errors(&output)
    );
}

#[test]
fn says_that_memory_ran_out_and_how_much_there_was() {
    let fixture = Fixture::new();
    let body = "(local.set 0 (i64.add (local.get 0) (i64.const 7)))".repeat(2000);
    let functions = format!("(func (param i64) {body})").repeat(300);
    let module = format!("(module (func (export \"_start\")) {functions})");
    fs::write(fixture.path("app.wat"), module).unwrap();
    let program = fixture.command(&["app.wat"]);
    let output = Command::new("sh")
        .args(["-c", r#"ulimit -v 262144; exec "$0" "$@""#])
        .arg(program.get_program())
        .args(program.get_args())
        .current_dir(fixture.0.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        errors(&output),
        "error: app.wat needs more than the 256 MiB of memory that the compiler may take\n"
    );
}

#[test]
fn a_refused_guest_is_remembered_under_any_name() {
    let fixture = Fixture::new();
    let module = r#"(module (import "foo" "bar" (func)) (func (export "_start")))"#;
    fs::write(fixture.path("app.wat"), module).unwrap();
    fs::write(fixture.path("other.wat"), module).unwrap();
    for name in ["app.wat", "other.wat"] {
        let expected =
            format!("error: {name} imports \"foo\" \"bar\", which wasmkind does not provide\n");
        assert_eq!(errors(&fixture.run(&[name])), expected);
    }
    assert_eq!(fs::read_dir(fixture.path("cache")).unwrap().count(), 1);
}

#[test]
fn names_a_function_that_is_not_there() {
    let output = Fixture::new().run(&["--export", "missing", "app.wat"]);
    assert_eq!(
        errors(&output),
        "error: app.wat has no function \"missing\"\n"
    );
}
