//! Files that are not as one would wish. What only others than root meet is in `ci/e2e/kubeconfig`.

use std::fs;
use std::path::{Path, PathBuf};

use rstest::rstest;

use super::{Error, check, external, lock, remove, removed};

/// A file in a folder of its own.
fn file(content: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config");
    fs::write(&path, content).unwrap();
    (dir, path)
}

fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap();
    names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Both ways to find out that a file cannot take our entries; the second one, what the first one says.
fn refusals(path: &Path) -> String {
    let [checked, written] = [
        check("kind-a", Some(path)),
        external().write(Some(path)).map(drop),
    ];
    let [checked, written] = [checked, written].map(|result| {
        let error = result.unwrap_err();
        assert!(error.hint().is_some(), "{error:?}");
        crate::report::render(&error.into())
    });
    assert_eq!(checked, written);
    checked
}

#[rstest]
#[case::utf_16_little(
    b"\xff\xfea\0:\0 \0k\0i\0n\0d\0-\0a\0\n\0",
    "it is in UTF-16",
    "save it in UTF-8"
)]
#[case::utf_16_big(
    b"\xfe\xff\0a\0:\0 \0k\0i\0n\0d\0-\0a\0\n",
    "it is in UTF-16",
    "save it in UTF-8"
)]
#[case::latin_1(b"kind-a: \xe4\n", "it is not in UTF-8", "save it in UTF-8")]
#[case::no_yaml(b"kind-a: [", "parse kubeconfig", "name another file")]
#[case::no_mapping(b"[kind-a]", "it is not a mapping", "name another file")]
fn what_cannot_be_read_stays_as_it_is(
    #[case] content: &[u8],
    #[case] says: &str,
    #[case] hint: &str,
) {
    let (dir, path) = file(content);
    let refusal = refusals(&path);
    assert!(
        refusal.contains(says) && refusal.contains(hint),
        "{refusal}"
    );
    let mut left = remove("kind-a", Some(&path)).left;
    let left = crate::report::render(&left.remove(0).into());
    assert!(
        left.contains("may still have kind-a") && left.contains(says),
        "{left}"
    );
    assert_eq!(fs::read(&path).unwrap(), content);
    assert_eq!(names(dir.path()), ["config"]);
    // It holds nothing of these.
    removed("kind-b", &path);
    removed("kind", &path);
}

#[test]
fn a_byte_order_mark_stays() {
    let (_dir, path) = file("\u{feff}kind: Config\n");
    external().write(Some(&path)).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text.starts_with("\u{feff}kind: Config\nclusters:\n"),
        "{text}"
    );
    removed("kind-a", &path);
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text.starts_with("\u{feff}kind: Config\nclusters: []\n"),
        "{text}"
    );
}

#[test]
fn a_folder_is_refused_and_holds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    assert!(refusals(dir.path()).contains("directory"));
    removed("kind-a", dir.path());
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn a_check_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    check("kind-a", Some(&dir.path().join("deep/er/config"))).unwrap();
    assert_eq!(names(dir.path()), [""; 0]);
    let (dir, path) = file("# mine\n");
    check("kind-a", Some(&path)).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "# mine\n");
    assert_eq!(names(dir.path()), ["config"]);
}

#[test]
fn a_file_in_place_of_a_folder_is_refused() {
    let (_dir, path) = file("");
    let path = path.join("config");
    for refusal in [
        check("kind-a", Some(&path)),
        external().write(Some(&path)).map(drop),
    ] {
        let hint = refusal.unwrap_err().hint().unwrap();
        assert!(hint.contains("name another file"), "{hint}");
    }
    removed("kind-a", &path);
}

#[cfg(unix)]
#[test]
fn links_and_permissions_stay() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let dir = tempfile::tempdir().unwrap();
    let (link, target) = (dir.path().join("link"), dir.path().join("target"));
    symlink(&target, &link).unwrap();
    check("kind-a", Some(&link)).unwrap();
    assert!(!target.exists());
    removed("kind-a", &link);
    external().write(Some(&link)).unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o644)).unwrap();
    external().write(Some(&link)).unwrap();
    removed("kind-a", &link);
    assert!(link.is_symlink());
    assert_eq!(
        fs::metadata(&target).unwrap().permissions().mode() & 0o777,
        0o644
    );
    let text = fs::read_to_string(&target).unwrap();
    assert!(text.ends_with("users: []\n"), "{text}");

    symlink(dir.path().join("no/folder"), dir.path().join("lost")).unwrap();
    assert!(refusals(&dir.path().join("lost")).contains("write kubeconfig"));
    removed("kind-a", &dir.path().join("lost"));
}

#[test]
fn only_a_file_with_our_entries_is_locked() {
    let (_dir, path) = file("users:\n- name: kind-b\n# kind-a\n");
    fs::write(lock::lock_path(&path), "").unwrap();
    removed("kind-a", &path);
    let mut left = remove("kind-b", Some(&path)).left;
    assert!(matches!(left.as_slice(), [Error::Left { .. }]), "{left:?}");
    let message = crate::report::render(&left.remove(0).into());
    assert!(
        message.contains("still has kind-b in its users: lock kubeconfig"),
        "{message}"
    );
    assert!(message.contains("config.lock"), "{message}");
    assert!(refusals(&path).contains("config.lock"));
}

#[test]
fn every_file_of_a_list_is_gone_through() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["broken", "none", "mine"].map(|name| dir.path().join(name));
    fs::write(&paths[0], "kind-a: [").unwrap();
    external().write(Some(&paths[2])).unwrap();
    let removal = super::super::remove_from_all("kind-a", paths.to_vec());
    assert!(
        matches!(removal.left.as_slice(), [Error::MayBeLeft { .. }]),
        "{removal:?}"
    );
    assert!(!fs::read_to_string(&paths[2]).unwrap().contains("kind-a"));
}
