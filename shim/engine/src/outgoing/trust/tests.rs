use std::os::unix::fs::symlink;

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::*;

/// A container's root, and the certificates that it has.
struct Container {
    dir: TempDir,
    env: Vec<(String, String)>,
}

impl Container {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            dir,
            env: Vec::new(),
        }
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn file(self, path: &str, text: &str) -> Self {
        let path = self.dir.path().join(&path[1..]);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn link(self, path: &str, to: &str) -> Self {
        let path = self.dir.path().join(&path[1..]);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(to, path).unwrap();
        self
    }

    fn read(&self) -> Roots {
        let preopen = Preopen {
            host_path: self.dir.path().to_owned(),
            guest_path: "/".to_owned(),
            read_only: false,
        };
        Trust::new(&self.env, "/work", &[preopen]).read()
    }
}

fn certificate() -> String {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["authority".to_owned()]).unwrap();
    params.self_signed(&key).unwrap().pem()
}

#[test]
fn what_is_built_in_counts_where_the_container_has_none() {
    let roots = Container::new()
        .file("/etc/ssl/certs/README", "none")
        .read();
    assert!(roots.store.len() > 100);
    assert!(roots.certificates.is_empty());
    assert!(roots.complaints.is_empty(), "{:?}", roots.complaints);
}

#[test]
fn each_place_counts() {
    for place in FILES {
        let roots = Container::new().file(place, &certificate()).read();
        assert_eq!(roots.store.len(), 1, "{place}");
        assert!(roots.origin.starts_with(place), "{}", roots.origin);
    }
    for place in DIRS {
        let path = format!("{place}/own.pem");
        let roots = Container::new().file(&path, &certificate()).read();
        assert_eq!(roots.store.len(), 1, "{place}");
    }
}

#[test]
fn a_bundle_and_the_files_beside_it_count_once() {
    let (one, two) = (certificate(), certificate());
    let container = Container::new()
        .file("/etc/ssl/certs/ca-certificates.crt", &format!("{one}{two}"))
        .file("/usr/share/one.crt", &one)
        .link("/etc/ssl/certs/one.pem", "/usr/share/one.crt")
        .link("/etc/ssl/certs/01234567.0", "one.pem");
    assert_eq!(container.read().store.len(), 2);
}

#[test]
fn variables_replace_places() {
    let place = FILES[0];
    let container = Container::new().file(place, &certificate());
    let own = certificate();
    // As a ConfigMap is mounted.
    let container = container
        .file("/own/..data/ca.crt", &own)
        .link("/own/ca.crt", "..data/ca.crt")
        .env(FILE, "/own/ca.crt")
        .env(DIR, "/none-there:/own");
    let roots = container.read();
    assert_eq!(roots.store.len(), 1, "{}", roots.origin);
    assert_eq!(roots.complaints.len(), 1, "{:?}", roots.complaints);
    assert!(
        roots.complaints[0].contains("/none-there"),
        "{:?}",
        roots.complaints
    );
}

#[test]
fn a_relative_path_is_of_the_working_directory() {
    let container = Container::new()
        .file("/work/ca.crt", &certificate())
        .env(FILE, "ca.crt");
    assert_eq!(container.read().store.len(), 1);
}

#[test]
fn what_cannot_be_used_is_told_and_replaced_by_nothing() {
    let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (container, expected) in [
        (Container::new(), "SSL_CERT_FILE: there is no /ca.crt"),
        (
            Container::new().file("/ca.crt", ""),
            "/ca.crt has no certificate",
        ),
        (
            Container::new().file("/ca.crt", bad),
            "/ca.crt has a certificate that is none",
        ),
        (
            Container::new().file("/ca.crt/x", ""),
            "read /ca.crt: it is no file",
        ),
    ] {
        let roots = container.env(FILE, "/ca.crt").read();
        assert!(roots.store.is_empty());
        assert!(
            roots.complaints[0].contains(expected),
            "{:?}",
            roots.complaints
        );
    }
    let roots = Container::new().file(FILES[0], "").read();
    assert!(roots.store.is_empty());
    assert!(
        roots.complaints[0].contains(FILES[0]),
        "{:?}",
        roots.complaints
    );
}

#[test]
fn links_stay_inside() {
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().join("ca.crt");
    std::fs::write(&path, certificate()).unwrap();
    let container = Container::new()
        .link("/ca.crt", path.to_str().unwrap())
        .env(FILE, "/ca.crt");
    assert!(container.read().store.is_empty());
    let climbing = format!("../../../../../..{}", path.display());
    let container = Container::new()
        .link("/ca.crt", &climbing)
        .env(FILE, "/ca.crt");
    assert!(container.read().store.is_empty());
    // Absolute ones lead through the container's root.
    let container = Container::new()
        .file("/real/ca.crt", &certificate())
        .link("/ca.crt", "/real/ca.crt")
        .env(FILE, "/ca.crt");
    assert_eq!(container.read().store.len(), 1);
}

#[test]
fn the_directory_that_is_nearest_holds_a_file() {
    let (root, volume) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(volume.path().join("ca.crt"), certificate()).unwrap();
    let preopen = |path: &Path, guest_path: &str| Preopen {
        host_path: path.to_owned(),
        guest_path: guest_path.to_owned(),
        read_only: true,
    };
    let preopens = [preopen(root.path(), "/"), preopen(volume.path(), "/certs")];
    let env = [(FILE.to_owned(), "/certs/ca.crt".to_owned())];
    assert_eq!(Trust::new(&env, "/", &preopens).read().store.len(), 1);
}

#[test]
fn a_file_without_end_is_not_read() {
    let container = Container::new().env(FILE, "/ca.crt");
    let file = File::create(container.dir.path().join("ca.crt")).unwrap();
    file.set_len(MOST_BYTES + 1).unwrap();
    let roots = container.read();
    assert!(
        roots.complaints[0].contains("more than 8 MiB"),
        "{:?}",
        roots.complaints
    );
}
