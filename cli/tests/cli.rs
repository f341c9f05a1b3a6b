//! The command as a process: what it says and how it exits, where no Docker is needed.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Output};

use rstest::rstest;

/// Runs wasmkind without a Docker Engine, in a home of its own.
fn wasmkind(home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wasmkind"));
    command
        .env_clear()
        .env("HOME", home)
        .env("DOCKER_HOST", "unix:///nonexistent/docker.sock");
    command.args(arguments).output().expect("wasmkind runs")
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
fn a_name_that_is_no_clusters_is_told_before_docker_is_asked() {
    let home = tempfile::tempdir().unwrap();
    let output = wasmkind(home.path(), &["create", "cluster", "--name", "Not_A_Name"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).starts_with("error: 'Not_A_Name' is not a valid cluster name"),
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
