mod edit;
mod files;
mod kubectl;

use super::*;
use std::fs;

const ADMIN: &str = "\
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: Q0E=
    server: https://a-control-plane:6443
  name: a
contexts:
- context:
    cluster: a
    user: kubernetes-admin
  name: kubernetes-admin@a
current-context: kubernetes-admin@a
kind: Config
users:
- name: kubernetes-admin
  user:
    client-certificate-data: Q0VSVA==
    client-key-data: S0VZ
";

const EXTERNAL: &str = "\
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: Q0E=
    server: https://127.0.0.1:35001
  name: kind-a
contexts:
- context:
    cluster: kind-a
    user: kind-a
  name: kind-a
current-context: kind-a
kind: Config
users:
- name: kind-a
  user:
    client-certificate-data: Q0VSVA==
    client-key-data: S0VZ
";

fn external() -> Kubeconfig {
    Kubeconfig::from_admin(ADMIN, "kind-a", Some("https://127.0.0.1:35001")).unwrap()
}

#[test]
fn admin_conf_gets_kinds_names_and_the_published_address() {
    assert_eq!(external().to_yaml(), EXTERNAL);
}

#[test]
fn the_internal_kubeconfig_keeps_the_nodes_address() {
    let internal = Kubeconfig::from_admin(ADMIN, "kind-a", None)
        .unwrap()
        .to_yaml();
    assert!(
        internal.contains("server: https://a-control-plane:6443\n"),
        "{internal}"
    );
}

#[test]
fn an_admin_conf_with_two_contexts_is_refused() {
    let two = ADMIN.replace(
        "current-context",
        "- context: {cluster: b, user: b}\n  name: b\ncurrent-context",
    );
    assert!(matches!(
        Kubeconfig::from_admin(&two, "kind-a", None),
        Err(Error::NotFromKubeadm)
    ));
}

/// A file of the user's, with a field that no tool of ours knows and with comments.
const MINE: &str = "\
# mine
kind: Config
apiVersion: v1
preferences: {colors: true}
x-tool:
  zebra: 1
  apple: [1, two]
users:
- name: prod
  user: {exec: {command: aws, apiVersion: client.authentication.k8s.io/v1, env: null}}
- name: kind-a
  user: {token: old}
current-context: prod
";

const MERGED: &str = "\
# mine
kind: Config
apiVersion: v1
preferences: {colors: true}
x-tool:
  zebra: 1
  apple: [1, two]
users:
- name: prod
  user: {exec: {command: aws, apiVersion: client.authentication.k8s.io/v1, env: null}}
- name: kind-a
  user:
    client-certificate-data: Q0VSVA==
    client-key-data: S0VZ
current-context: kind-a
clusters:
- cluster:
    certificate-authority-data: Q0E=
    server: https://127.0.0.1:35001
  name: kind-a
contexts:
- context:
    cluster: kind-a
    user: kind-a
  name: kind-a
";

const REMOVED: &str = "\
# mine
kind: Config
apiVersion: v1
preferences: {colors: true}
x-tool:
  zebra: 1
  apple: [1, two]
users:
- name: prod
  user: {exec: {command: aws, apiVersion: client.authentication.k8s.io/v1, env: null}}
current-context: \"\"
clusters: []
contexts: []
";

/// Removes the entries of `context`, which must succeed.
fn removed(context: &str, path: &Path) {
    let removal = remove(context, Some(path));
    assert!(
        removal.left.is_empty() && removal.unread.is_empty(),
        "{removal:?}"
    );
}

#[test]
fn merging_replaces_our_entries_and_keeps_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config");
    fs::write(&path, MINE).unwrap();
    assert_eq!(external().write(Some(&path)).unwrap(), path);
    assert_eq!(fs::read_to_string(&path).unwrap(), MERGED);
    external().write(Some(&path)).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), MERGED);

    removed("kind-a", &path);
    assert_eq!(fs::read_to_string(&path).unwrap(), REMOVED);
    assert!(!lock::lock_path(&path).exists());
    external().write(Some(&path)).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), MERGED);
}

#[test]
fn a_new_file_is_private_and_its_folder_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/er/config");
    external().write(Some(&path)).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), EXTERNAL);
    #[cfg(unix)]
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions())
            & 0o777,
        0o600
    );
}

#[test]
fn removing_what_is_not_there_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config");
    fs::write(&path, MINE).unwrap();
    removed("kind-other", &path);
    assert_eq!(fs::read_to_string(&path).unwrap(), MINE);
    removed("kind-a", &dir.path().join("none"));
    assert!(!dir.path().join("none").exists());
}

#[test]
fn removing_the_only_cluster_leaves_the_frame() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config");
    external().write(Some(&path)).unwrap();
    removed("kind-a", &path);
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        "apiVersion: v1\nclusters: []\ncontexts: []\ncurrent-context: \"\"\nkind: Config\nusers: []\n"
    );
}

#[test]
fn a_held_lock_is_an_error_that_says_which_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config");
    fs::write(lock::lock_path(&path), "").unwrap();
    let error = external().write(Some(&path)).unwrap_err();
    assert!(
        matches!(&error, Error::Unusable { source } if matches!(**source, Error::Lock { .. })),
        "{error:?}"
    );
    assert!(error.hint().unwrap().contains("config.lock"));
    assert!(!path.exists());
}

#[test]
fn kubeconfig_lists_are_followed_as_kubectl_does() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two, three) = (
        dir.path().join("1"),
        dir.path().join("2"),
        dir.path().join("3"),
    );
    let list = std::env::join_paths([&one, &two, &two, &three]).unwrap();
    let all = || paths::from(None, Some(list.clone()), None).unwrap();
    assert_eq!(all(), [one.clone(), two.clone(), three.clone()]);
    assert_eq!(paths::to_merge_into(all()), three);
    fs::write(&two, "").unwrap();
    assert_eq!(paths::to_merge_into(all()), two);
}

#[test]
fn the_flag_wins_over_the_variable_and_home_comes_last() {
    assert_eq!(
        paths::from(Some(Path::new("/f")), Some("/v".into()), None).unwrap(),
        [Path::new("/f")]
    );
    assert_eq!(
        paths::from(None, Some("".into()), Some("/h".into())).unwrap(),
        [Path::new("/h/.kube/config")]
    );
}
