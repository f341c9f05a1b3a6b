use std::os::unix::fs::{MetadataExt, symlink};

use rstest::rstest;
use serde_json::{Value, json};

use super::*;

struct Container {
    dir: tempfile::TempDir,
    mounts: Value,
}

impl Container {
    /// An image, two volumes mounted at /site and /data, and a file outside.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["image/bin", "site/builds/7", "data/deep", "outside"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        for (name, text) in [
            ("image/bin/app", "image"),
            ("site/builds/7/app", "site"),
            ("data/app", "data"),
            ("data/deep/app", "deep"),
            ("outside/app", "outside"),
            ("app", "outside"),
        ] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let mounts = json!([
            {"destination": "/site", "type": "bind", "source": dir.path().join("site")},
            {"destination": "/data", "type": "bind", "source": dir.path().join("data")},
        ]);
        Container { dir, mounts }
    }

    fn link(self, target: impl AsRef<Path>, name: &str) -> Self {
        symlink(target, self.dir.path().join(name)).unwrap();
        self
    }

    fn mount(mut self, destination: &str, source: &str, options: &[&str]) -> Self {
        let source = self.dir.path().join(source);
        let mount = json!({"destination": destination, "type": "bind", "source": source,
            "options": options});
        self.mounts.as_array_mut().unwrap().push(mount);
        self
    }

    fn view(&self) -> View {
        let spec = json!({"process": {"args": ["x"], "cwd": "/"}, "mounts": self.mounts});
        View::new(&Spec::parse(spec).unwrap(), &self.dir.path().join("image")).unwrap()
    }

    fn read(&self, path: &str) -> Option<String> {
        let file = self.view().open_file(Path::new(path)).unwrap()?;
        Some(std::io::read_to_string(file).unwrap())
    }
}

#[rstest]
#[case::none("/site/builds/7/app", "site")]
#[case::absolute("/site/latest/app", "site")]
#[case::relative("/site/near/app", "site")]
#[case::into_another_volume("/site/other", "deep")]
#[case::from_the_image("/bin/far", "data")]
#[case::chain("/bin/chain", "deep")]
#[case::up_through_a_link("/site/latest/../../../bin/app", "image")]
#[case::up_in_a_link("/site/up", "data")]
#[case::above_the_root("/bin/above", "image")]
fn links_lead_where_the_container_sees_them(#[case] path: &str, #[case] expected: &str) {
    let container = Container::new()
        .link("/site/builds/7", "site/latest")
        .link("builds/7", "site/near")
        .link("/data/deep/app", "site/other")
        .link("../data/app", "site/up")
        .link("/data/app", "image/bin/far")
        .link("/site/other", "image/bin/chain")
        .link("../../../../bin/app", "image/bin/above");
    assert_eq!(container.read(path).as_deref(), Some(expected));
}

#[test]
fn nothing_leads_out_of_the_container() {
    let outside = Container::new();
    let secret = outside.dir.path().join("outside");
    let container = Container::new()
        .link(&secret, "image/absolute")
        .link("../outside", "image/relative")
        .link("../../outside/app", "site/up")
        .link("../app", "site/file");
    for path in [
        "/absolute/app",
        "/relative/app",
        "/site/up",
        "/site/file",
        "/../outside/app",
        "/site/../../app",
    ] {
        assert_eq!(container.read(path), None, "{path}");
    }
}

#[test]
fn links_of_proc_are_what_they_read_as() {
    let container = Container::new();
    let file = File::open(container.dir.path().join("outside/app")).unwrap();
    let magic = format!("/host/self/fd/{}", file.as_raw_fd());
    let mut container = container;
    let mounts = container.mounts.as_array_mut().unwrap();
    mounts.push(json!({"destination": "/host", "type": "bind", "source": "/proc"}));
    for path in [
        &magic,
        "/host/self/root/etc/passwd",
        "/host/self/cwd/Cargo.toml",
    ] {
        assert_eq!(container.read(path), None, "{path}");
    }
}

#[test]
fn a_circle_is_an_error() {
    let container = Container::new()
        .link("/site/b", "site/a")
        .link("a", "site/b");
    let error = container
        .view()
        .open_file(Path::new("/site/a"))
        .unwrap_err();
    let error = format!("{error:#}");
    assert!(
        error.starts_with("open /site/a in the container: Too many"),
        "{error}"
    );
}

#[test]
fn a_mount_lies_where_its_destination_leads() {
    let container = Container::new()
        .link("/data/deep", "image/way")
        .mount("/way", "site/builds/7", &[])
        .mount("/bin/app", "data/app", &[]);
    assert_eq!(container.read("/data/deep/app").as_deref(), Some("site"));
    assert_eq!(container.read("/bin/app").as_deref(), Some("data"));
    assert_eq!(container.read("/bin/app/x"), None);
}

#[test]
fn what_is_swapped_for_a_link_meanwhile_does_not_lead_out() {
    let container = Container::new();
    let (site, outside) = (
        container.dir.path().join("site"),
        container.dir.path().join("outside"),
    );
    symlink(&outside, site.join("link")).unwrap();
    let exchange = || {
        use rustix::fs::{CWD, RenameFlags};
        let (a, b) = (site.join("builds/7"), site.join("link"));
        rustix::fs::renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).unwrap();
    };
    let view = container.view();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                exchange();
            }
        });
        for _ in 0..2000 {
            if let Some(file) = view.open_file(Path::new("/site/builds/7/app")).unwrap() {
                assert_eq!(std::io::read_to_string(file).unwrap(), "site");
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[rstest]
#[case::in_the_image("/srv/made", "image/srv/made")]
#[case::in_a_volume("/site/made/deep", "site/made/deep")]
#[case::behind_a_link("/site/far/made", "data/made")]
#[case::behind_a_link_to_nothing("/site/new/made", "image/nothing/made")]
#[case::above_the_root("/../../srv/../srv/made", "image/srv/made")]
fn a_working_directory_is_made(#[case] path: &str, #[case] made: &str) {
    let container = Container::new()
        .link("/data", "site/far")
        .link("/nothing", "site/new");
    let view = container.view();
    // As often as it is needed.
    for _ in 0..2 {
        view.make_dirs(Path::new(path)).unwrap();
    }
    let made = std::fs::metadata(container.dir.path().join(made)).unwrap();
    assert!(made.is_dir());
    let own = std::fs::metadata("/proc/self").unwrap();
    assert_eq!((made.mode() & 0o7777, made.uid()), (0o755, own.uid()));
}

#[rstest]
#[case::a_file("/bin/app", "Not a directory")]
#[case::below_a_file("/bin/app/x", "Not a directory")]
#[case::in_a_read_only_volume("/fixed/made", "Read-only file system")]
#[case::in_a_circle("/bin/circle/made", "Too many levels of symbolic links")]
fn a_working_directory_that_cannot_be_is_an_error(#[case] path: &str, #[case] expected: &str) {
    let container = Container::new().link("circle", "image/bin/circle").mount(
        "/fixed",
        "data",
        &["rbind", "ro"],
    );
    let view = container.view();
    let error = format!("{:#}", view.make_dirs(Path::new(path)).unwrap_err());
    let begins = format!("make the working directory {path}: {expected}");
    assert!(error.starts_with(&begins), "{error}");
    view.make_dirs(Path::new("/fixed/deep")).unwrap();
    assert!(!container.dir.path().join("data/made").exists());
}
