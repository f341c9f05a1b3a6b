//! Which files guests' paths mean.

#![allow(clippy::unwrap_used)]

mod harness;

use std::os::unix::fs::symlink;
use std::path::Path;

use harness::{Container, Ended, Guest};
use rstest::rstest;

/// An error number of WASI 0.1.
const PERM: i32 = 63;
/// 100 more than one of WASI 0.2.
const NOT_PERMITTED: i32 = 131;

/// The numbers of the directories that a guest has whose working directory is not /.
const FIRST: &str = "0";
const ROOT: &str = "1";
/// Where C libraries look for everything.
const SHARED: &str = "2";

/// A guest with the working directory /project, where /conf has a namesake. `args` are the path,
/// the directory, and what there is besides.
fn guest(module: &str, args: &[&str]) -> Guest {
    let mut guest = Guest::new(module).args(args);
    guest.config.cwd = "/project".to_owned();
    let root = guest.root();
    std::fs::create_dir_all(root.join("project/conf")).unwrap();
    std::fs::create_dir(root.join("conf")).unwrap();
    for (name, text) in [
        ("conf/name", "system"),
        ("project/conf/name", "project"),
        ("conf/other", "system"),
        ("project/conf/here", "project"),
    ] {
        std::fs::write(root.join(name), text).unwrap();
    }
    guest
}

/// Runs it to its end, and looks at what it leaves then.
fn run_and_look<T>(guest: Guest, look: impl FnOnce(&Path) -> T) -> (Ended, T) {
    let mut container: Container = guest.start();
    drop(container.child.stdin.take());
    container.child.wait().unwrap();
    let found = look(&container.dir().join("guest"));
    (container.end(), found)
}

/// Of what else there is in the arguments, the path is spelled both ways, so that they do not
/// tell.
#[rstest]
#[case::here("conf/name", "2=/conf/name", "project", true)]
#[case::spelled_relative("conf/name", SHARED, "project", false)]
#[case::only_here("conf/here", "2=/conf/here", "project", false)]
#[case::only_in_root("conf/other", "2=/conf/other", "system", false)]
#[case::absolute_below_here("project/conf/name", "2=/project/conf/name", "project", false)]
#[case::those_who_take_the_first("conf/name", FIRST, "project", false)]
#[case::those_who_know("conf/name", ROOT, "system", false)]
fn a_path_leads_where_it_may_be_meant(
    #[case] path: &str,
    #[case] directory: &str,
    #[case] expected: &str,
    #[case] told: bool,
) {
    let ended = guest("open", &[path, directory]).run();
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (Some(0), expected),
        "{}",
        ended.stderr
    );
    let says = "wasmkind: to the guest's C library /conf/name and conf/name in /project are one \
        path: the latter is used; /project/conf/name always means the one, /../conf/name the other\n";
    assert_eq!(ended.stderr, if told { says } else { "" });
    let ended = guest("open-p2", &[path, directory]).run();
    assert_eq!(
        ended.code,
        Some(expected.as_bytes()[0].into()),
        "{}",
        ended.stderr
    );
    assert_eq!(ended.stderr, if told { says } else { "" });
}

#[rstest]
fn what_is_new_lands_in_the_working_directory(#[values("open", "open-p2")] module: &str) {
    for (path, besides) in [
        ("new", "2=/new"),
        ("conf/new", "2=/conf/new"),
        ("conf/other", "2=/conf/other"),
    ] {
        let guest = guest(module, &[path, besides, "create"]);
        let (ended, (made, root)) = run_and_look(guest, |root| {
            let read = |path: &str| std::fs::read_to_string(root.join(path)).ok();
            (read(&format!("project/{path}")), read(path))
        });
        assert_eq!(
            (ended.code, made.as_deref()),
            (Some(0), Some("written")),
            "{path}"
        );
        assert_eq!(root.as_deref(), (path == "conf/other").then_some("system"));
        assert!(
            ended.stderr.contains("the latter is used"),
            "{path}: {}",
            ended.stderr
        );
    }
}

#[rstest]
#[case::open("open", PERM, "create")]
#[case::open("open-p2", NOT_PERMITTED, "create")]
#[case::rename("open-p2", NOT_PERMITTED, "new-name")]
fn neither_of_two_files_is_changed(#[case] module: &str, #[case] code: i32, #[case] what: &str) {
    let guest = guest(module, &["conf/name", "2=/conf/name", what]);
    let (ended, found) = run_and_look(guest, |root| {
        ["conf/name", "project/conf/name"]
            .map(|path| std::fs::read_to_string(root.join(path)).unwrap())
    });
    assert_eq!(ended.code, Some(code), "{}", ended.stderr);
    assert_eq!(found, ["system", "project"]);
    assert!(
        ended.stderr.contains("changing either is refused"),
        "{}",
        ended.stderr
    );
}

#[rstest]
fn what_only_the_root_has_is_changed_there(#[values("open", "open-p2")] module: &str) {
    let guest = guest(module, &["etc/file", "2=/etc/file", "create"]);
    std::fs::create_dir(guest.root().join("etc")).unwrap();
    std::fs::write(guest.root().join("etc/file"), "content").unwrap();
    let (ended, found) = run_and_look(guest, |root| {
        std::fs::read_to_string(root.join("etc/file")).unwrap()
    });
    assert_eq!(
        (ended.code, found.as_str()),
        (Some(0), "written"),
        "{}",
        ended.stderr
    );
    assert_eq!(ended.stderr, "");
}

#[rstest]
#[case::absolute("absolute", "content")]
#[case::on_the_way("way/file", "content")]
#[case::chain("chain", "content")]
#[case::into_the_working_directory("up/work/file", "work")]
fn links_are_followed_within_the_root(
    #[case] path: &str,
    #[case] expected: &str,
    #[values("/", "/work")] cwd: &str,
    #[values("open", "open-p2")] module: &str,
) {
    let last = if cwd == "/" { "0" } else { SHARED };
    let mut guest = Guest::new(module).args(&[path, last]);
    guest.config.cwd = cwd.to_owned();
    let root = guest.root();
    std::fs::create_dir(root.join("etc")).unwrap();
    std::fs::create_dir(root.join("work")).unwrap();
    std::fs::write(root.join("etc/file"), "content").unwrap();
    std::fs::write(root.join("work/file"), "work").unwrap();
    for (target, name) in [
        ("/etc/file", "absolute"),
        ("/etc", "way"),
        ("/absolute", "chain"),
        ("/..", "up"),
    ] {
        let place = root.join(cwd.trim_start_matches('/')).join(name);
        symlink(target, place).unwrap();
        if name == "absolute" && cwd != "/" {
            symlink(target, root.join(name)).unwrap();
        }
    }
    let ended = guest.run();
    match module {
        "open" => assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), expected)),
        _ => assert_eq!(ended.code, Some(expected.as_bytes()[0].into())),
    }
}

#[rstest]
fn a_file_behind_an_absolute_link_is_made(#[values("open", "open-p2")] module: &str) {
    let guest = Guest::new(module).args(&["way/new", "0", "create"]);
    std::fs::create_dir(guest.root().join("etc")).unwrap();
    symlink("/etc", guest.root().join("way")).unwrap();
    let (ended, found) = run_and_look(guest, |root| {
        std::fs::read_to_string(root.join("etc/new")).unwrap()
    });
    assert_eq!((ended.code, found.as_str()), (Some(0), "written"));
}

#[rstest]
fn links_in_a_circle_are_an_error(#[values("open", "open-p2")] module: &str) {
    let guest = Guest::new(module).args(&["a", "0"]);
    symlink("/b", guest.root().join("a")).unwrap();
    symlink("/a", guest.root().join("b")).unwrap();
    let code = guest.run().code;
    assert_eq!(
        code,
        Some(if module == "open" {
            PERM
        } else {
            NOT_PERMITTED
        })
    );
}

#[test]
fn a_working_directory_cannot_leave_the_root() {
    let mut guest = Guest::new("open").args(&["file", "1"]);
    // Inside the root, "/" is the root: the link leads to /secret there, which is not.
    std::fs::create_dir(guest.dir.path().join("secret")).unwrap();
    symlink(guest.dir.path().join("secret"), guest.root().join("work")).unwrap();
    guest.config.cwd = "/work".to_owned();
    let mut container = guest.create();
    let said = container.said();
    assert!(
        said.starts_with("error: open the working directory /work: "),
        "{said}"
    );
}

#[test]
fn pwd_is_told_where_it_is_not_the_root() {
    let told = |cwd: &str, env: &[(&str, &str)]| {
        let mut guest = Guest::new("streams");
        std::fs::create_dir(guest.root().join("work")).unwrap();
        guest.config.cwd = cwd.to_owned();
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        guest.config.env = env.iter().map(own).collect();
        guest.run().stdout
    };
    assert_eq!(told("/", &[]), "/app.wat\0");
    assert_eq!(told("/work", &[]), "/app.wat\0PWD=/work\0");
    assert_eq!(told("/work", &[("PWD", "/x")]), "/app.wat\0PWD=/x\0");
}
