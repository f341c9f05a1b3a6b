use std::os::unix::fs::symlink;
use std::sync::atomic::AtomicUsize;

use rstest::rstest;
use wasmtime_wasi::{FsPerms, OpenMode};

use super::*;

/// With a working directory /work/project.
struct Container {
    dir: tempfile::TempDir,
}

impl Container {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "conf",
            "only-root",
            "work/project/conf",
            "work/project/only-here",
        ] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        for name in [
            "conf/both",
            "work/project/conf/both",
            "conf/root",
            "work/project/conf/here",
        ] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        Self { dir }
    }

    fn files(&self, args: &[&str], tell: fn(&str)) -> Files {
        let dir = |name: &str| {
            let file = File::open(self.dir.path().join(name)).unwrap();
            Dir::new(file, FsPerms::ReadWrite, OpenMode::READ, true)
        };
        let cwd = WorkingDirectory::new(
            "/work/project".into(),
            dir("work/project"),
            args.iter().map(|arg| (*arg).to_owned()).collect(),
            tell,
        );
        Files::new(dir("."), Some(cwd))
    }
}

const READ: Purpose = Purpose::look(true);
const WRITE: Purpose = Purpose::open(true, true, false, true);
const REMOVE: Purpose = Purpose::change(false);
const ROOT: Result<Choice, Refused> = Ok(Choice::Root);
const HERE: Result<Choice, Refused> = Ok(Choice::WorkingDirectory);

#[rstest]
#[case::in_root_only(READ, "conf/root", ROOT)]
#[case::here_only(READ, "conf/here", HERE)]
#[case::nowhere(READ, "conf/none", HERE)]
#[case::absolute_below_here(READ, "work/project/conf/both", ROOT)]
#[case::up(READ, "../../conf/both", HERE)]
#[case::same_file(READ, "same", HERE)]
#[case::change_in_root_only(REMOVE, "conf/root", ROOT)]
#[case::change_here_only(REMOVE, "conf/here", HERE)]
#[case::new_in_root_only(WRITE, "only-root/new", ROOT)]
#[case::new_here_only(WRITE, "only-here/new", HERE)]
#[case::make_below_root_only(Purpose::MAKE, "only-root/new", ROOT)]
#[case::the_directory_itself(READ, ".", HERE)]
fn what_can_only_be_one_is_that_in_silence(
    #[case] purpose: Purpose,
    #[case] path: &str,
    #[case] expected: Result<Choice, Refused>,
) {
    let container = Container::new();
    symlink("/work/project/conf/here", container.dir.path().join("same")).unwrap();
    symlink("conf/here", container.dir.path().join("work/project/same")).unwrap();
    let files = container.files(&[], |said| panic!("{said}"));
    assert_eq!(files.choose(path, purpose), expected);
}

#[rstest]
#[case::read(READ, "conf/both", HERE)]
#[case::new(WRITE, "conf/new", HERE)]
#[case::new_file_in_root(WRITE, "new", HERE)]
#[case::new_of_the_root(WRITE, "conf/root", HERE)]
#[case::make(Purpose::MAKE, "new", HERE)]
#[case::write(WRITE, "conf/both", Err(Refused))]
#[case::remove(REMOVE, "conf/both", Err(Refused))]
#[case::replace(Purpose::REPLACE, "conf/both", Err(Refused))]
fn what_may_be_either_is_told_of_once(
    #[case] purpose: Purpose,
    #[case] path: &str,
    #[case] expected: Result<Choice, Refused>,
) {
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    let container = Container::new();
    let files = container.files(&[], |said| {
        assert!(
            said.contains("/work/project/") && said.contains("/../../"),
            "{said}"
        );
        TOLD.fetch_add(1, Ordering::Relaxed);
    });
    let before = TOLD.load(Ordering::Relaxed);
    for _ in 0..3 {
        assert_eq!(files.choose(path, purpose), expected);
    }
    // Other cases run at the same time.
    assert!(TOLD.load(Ordering::Relaxed) > before);
}

#[rstest]
#[case(&["cat", "/conf/both"], ROOT)]
#[case(&["cat", "conf/both"], HERE)]
#[case(&["cat", "./conf/both"], HERE)]
#[case(&["cat", "--file=/conf/both"], ROOT)]
#[case(&["cat", "/conf/both", "conf/both"], Err(Refused))]
#[case(&["cat", "/conf", "/other/conf/both"], Err(Refused))]
fn arguments_tell_which_is_meant(#[case] args: &[&str], #[case] expected: Result<Choice, Refused>) {
    let container = Container::new();
    let files = container.files(args, |_| {});
    assert_eq!(files.choose("conf/both", WRITE), expected);
}

#[test]
fn the_root_itself_is_meant_where_arguments_say_so() {
    let container = Container::new();
    let files = container.files(&["list", "/"], |_| {});
    assert_eq!(files.choose(".", READ), ROOT);
    let files = container.files(&["list", "."], |_| {});
    assert_eq!(files.choose(".", READ), HERE);
}

#[rstest]
#[case::absolute("/", "absolute/both", true, Some("conf/both"))]
#[case::up("/work/project", "up/both", true, Some("conf/both"))]
#[case::absolute_path("/work/project", "/conf/both", true, Some("conf/both"))]
#[case::last_not_followed("/", "file", false, Some("file"))]
#[case::last_followed("/", "file", true, Some("conf/both"))]
#[case::new("/", "absolute/new", true, Some("conf/new"))]
#[case::above_the_root("/work/project", "../../../conf/both", true, Some("conf/both"))]
#[case::the_root("/", "root", true, Some("."))]
#[case::nowhere("/", "none/none", true, Some("none/none"))]
#[case::to_nothing("/", "work/nothing", true, Some("conf/new"))]
#[case::to_nothing_not_followed("/", "work/nothing", false, Some("work/nothing"))]
#[case::climbing("/work/project", "climbing", true, Some("none/status"))]
#[case::below_a_link_to_nothing("/", "dangling/status", true, Some("none/self/status"))]
#[case::circle("/", "circle/none", true, None)]
fn a_path_leads_below_the_root_without_links(
    #[case] base: &str,
    #[case] path: &str,
    #[case] follow: bool,
    #[case] expected: Option<&str>,
) {
    let container = Container::new();
    for (target, name) in [
        ("/conf", "absolute"),
        ("../../conf", "work/project/up"),
        ("/conf/both", "file"),
        ("/..", "root"),
        ("circle", "circle"),
        ("../../../../none/status", "work/project/climbing"),
        ("/none/self", "dangling"),
        ("/absolute/new", "work/nothing"),
    ] {
        symlink(target, container.dir.path().join(name)).unwrap();
    }
    let files = container.files(&[], |_| {});
    let rerouted = files.reroute(Path::new(base), path, Purpose::look(follow));
    assert_eq!(rerouted.as_deref(), expected);
}

/// What it reads as is a path like others.
#[test]
fn a_magic_link_is_not_followed_by_the_kernel() {
    let root = File::open("/").unwrap();
    let root = Dir::new(root, FsPerms::ReadWrite, OpenMode::READ, true);
    let files = Files::new(root, None);
    let rerouted = files.reroute(Path::new("/"), "proc/self/root/etc", READ);
    assert_eq!(rerouted.as_deref(), Some("etc"));
}
