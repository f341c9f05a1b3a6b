//! The command as a process: what it says and how it exits, where no Docker is needed.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Output};

use rstest::rstest;

/// Runs wasmkind without a Docker Engine, in a home of its own.
fn wasmkind(home: &Path, arguments: &[&str]) -> Output {
    command(home, arguments).output().expect("wasmkind runs")
}

fn command(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wasmkind"));
    command
        .env_clear()
        .env("HOME", home)
        .env("DOCKER_HOST", "unix:///nonexistent/docker.sock")
        .args(arguments);
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("output is UTF-8")
}

#[rstest]
#[case(&["frob"], "unrecognized subcommand 'frob'")]
#[case(&["create", "cluster", "--nmae", "x"], "--name")]
#[case(&["create", "cluster", "--wait", "5"], "'5' is not a duration")]
#[case(&["create", "cluster", "--api-server-port", "0"], "--api-server-port")]
#[case(&["create", "cluster", "one", "--name", "two"], "cannot be used with")]
#[case(&["get"], "Usage")]
#[case(&["build", "image", "-t", "App", "-o", "x", "a:/a"], "it must be in lower case")]
#[case(&["build", "image", "-t", "a@sha256:0", "-o", "x", "a:/a"], "a digest cannot be chosen")]
#[case(&["build", "image", "-t", "a", "-o", "x", "."], "not SOURCE:/TARGET")]
#[case(&["build", "image", "-t", "a", "-o", "x", ".:/"], "--entrypoint is needed")]
#[case(&["create", "cluster", "Not_A_Name"], "must match `^[a-z0-9.-]+$`")]
#[case(&["create", "cluster", "--name", "-a"], "'-a'")]
#[case(&["create", "cluster", "--name=.a"], "begin with a letter or a digit")]
#[case(&["create", "cluster", "--image", "Not An Image"], "registry.example.com/name:tag")]
#[case(&["up", "--name", "Not_A_Name"], "must match `^[a-z0-9.-]+$`")]
#[case(&["up", "--image", "a:b:c"], "registry.example.com/name:tag")]
#[case(&["up", "--base", "A"], "registry.example.com/name:tag")]
#[case(&["build", "node-image", "--base", "A"], "registry.example.com/name:tag")]
#[case(&["build", "node-image", "--image", "A"], "registry.example.com/name:tag")]
#[case(&["version", "--image", "A"], "registry.example.com/name:tag")]
#[case(&["conformance", "--namespace", "Not_A_Name"], "namespace's name")]
#[case(&["conformance", "--parallel", "0"], "--parallel")]
#[case(&["conformance", "--list", "--print-role"], "cannot be used with")]
fn usage_errors_exit_with_2(#[case] arguments: &[&str], #[case] says: &str) {
    let home = tempfile::tempdir().unwrap();
    let output = wasmkind(home.path(), arguments);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        text(&output.stderr).contains(says),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(text(&output.stdout), "");
}

#[rstest]
#[case(&["create", "cluster"])]
#[case(&["delete", "cluster"])]
#[case(&["get", "clusters"])]
#[case(&["get", "nodes"])]
#[case(&["get", "kubeconfig"])]
#[case(&["export", "kubeconfig"])]
#[case(&["up"])]
#[case(&["down"])]
fn without_docker_there_is_one_error_and_a_hint(#[case] arguments: &[&str]) {
    let home = tempfile::tempdir().unwrap();
    let output = wasmkind(home.path(), arguments);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.starts_with("error: cannot reach Docker at unix:///nonexistent/docker.sock: "),
        "{stderr}"
    );
    assert_eq!(stderr.lines().count(), 2, "{stderr}");
    assert!(stderr.contains("\nhint: "), "{stderr}");
    assert_eq!(text(&output.stdout), "");
    assert_eq!(
        std::fs::read_dir(home.path()).unwrap().count(),
        0,
        "something was left in HOME"
    );
}

#[test]
fn a_name_in_the_environment_is_told_like_one_on_the_command_line() {
    let home = tempfile::tempdir().unwrap();
    let mut command = command(home.path(), &["create", "cluster"]);
    let output = command
        .env("KIND_CLUSTER_NAME", "Not_A_Name")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).starts_with("error: invalid value 'Not_A_Name' for '--name <NAME>'"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn an_archive_holds_the_full_name_and_a_folder_as_the_root() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join("root");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::write(root.join("bin/app"), "x").unwrap();
    let (archive, again) = (home.path().join("1.tar"), home.path().join("2.tar"));
    for output in [&archive, &again] {
        let copy = format!("{}:/", root.display());
        let output = output.to_str().unwrap();
        let arguments = [
            "build",
            "image",
            "-t",
            "x/y:v1",
            "--entrypoint",
            "/bin/app",
            "-o",
            output,
            &copy,
        ];
        let output = wasmkind(home.path(), &arguments);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
    let archive = std::fs::read(archive).unwrap();
    assert_eq!(archive, std::fs::read(again).unwrap());
    let mut names = 0;
    for entry in tar::Archive::new(archive.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        if ["index.json", "manifest.json"]
            .map(Path::new)
            .contains(&path.as_path())
        {
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            assert!(content.contains("\"docker.io/x/y:v1\""), "{content}");
            names += 1;
        }
    }
    assert_eq!(names, 2);
}

#[test]
fn the_role_is_a_result() {
    let home = tempfile::tempdir().unwrap();
    let output = wasmkind(home.path(), &["conformance", "--print-role"]);
    assert_eq!(output.status.code(), Some(0));
    let role = text(&output.stdout);
    assert!(
        role.contains("kind: Role\n") && role.contains("- pods/log\n"),
        "{role}"
    );
}

#[test]
fn help_and_version_are_results() {
    let home = tempfile::tempdir().unwrap();
    for (arguments, says) in [
        (["--help"], "Usage: wasmkind"),
        (["--version"], "wasmkind "),
        (["version"], "wasmkind v"),
    ] {
        let output = wasmkind(home.path(), &arguments);
        assert_eq!(output.status.code(), Some(0));
        assert!(
            text(&output.stdout).contains(says),
            "{}",
            text(&output.stdout)
        );
        assert_eq!(text(&output.stderr), "");
    }
}
