use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use rstest::rstest;

use super::*;
use crate::Kind;

const CODE: &[u8] = b"\x7fELF and then code";

struct Fixture {
    dir: tempfile::TempDir,
    digest: Digest,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self {
            dir: tempfile::tempdir().unwrap(),
            digest: Digest::of(b"module"),
        };
        let cache = fixture.cache();
        cache
            .lock(&fixture.digest)
            .unwrap()
            .store(&fixture.digest, kinds(), needs(), CODE)
            .unwrap();
        fixture
    }

    fn cache(&self) -> Cache {
        Cache::open(&self.dir.path().join("parent/cache")).unwrap()
    }

    fn entry(&self) -> PathBuf {
        self.cache().entry_path(&self.digest)
    }
}

fn needs() -> Needs {
    Needs {
        memories: 1,
        table_elements: 300,
        ..Needs::default()
    }
}

fn kinds() -> Kinds {
    Kinds::NONE.with(Kind::CommandP2).with(Kind::Http)
}

#[test]
fn finds_what_was_stored() {
    let fixture = Fixture::new();
    let Lookup::Found(compiled) = fixture.cache().lookup(&fixture.digest).unwrap() else {
        panic!("not found")
    };
    assert_eq!(compiled.kinds, kinds());
    assert_eq!(Needs::of(&compiled.file).unwrap(), needs());
    let mut bytes = vec![0; CODE.len()];
    compiled.file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, CODE);
    assert_eq!(fs::metadata(&compiled.path).unwrap().mode() & 0o777, 0o644);
    let cache = compiled.path.parent().unwrap();
    assert_eq!(fs::metadata(cache).unwrap().mode() & 0o777, 0o700);
    assert_eq!(
        fs::read_dir(cache).unwrap().count(),
        1,
        "a lock or a temporary file was left"
    );
    assert!(matches!(
        fixture.cache().lookup(&Digest::of(b"other")).unwrap(),
        Lookup::Missing
    ));
}

#[rstest]
#[case::code("does not match its hash", |p: &Path| flip(p, 9))]
#[case::length("bytes of code", |p: &Path| fs::write(p, [b"x", &fs::read(p).unwrap()[..]].concat()).unwrap())]
#[case::magic("does not end as", |p: &Path| flip(p, fs::metadata(p).unwrap().len() - 1))]
#[case::digest("of the module", |p: &Path| flip(p, CODE.len() as u64 + 40))]
#[case::kinds("unknown kinds", |p: &Path| flip(p, CODE.len() as u64 + 74))]
#[case::other_kinds("does not match its hash", |p: &Path| flip(p, CODE.len() as u64 + 75))]
#[case::needs("does not match its hash", |p: &Path| flip(p, CODE.len() as u64 + 76))]
#[case::fingerprint("another engine", |p: &Path| flip(p, CODE.len() as u64 + 76 + Needs::LENGTH as u64))]
#[case::cut("cut short", |p: &Path| fs::write(p, b"short").unwrap())]
#[case::empty("cut short", |p: &Path| fs::write(p, b"").unwrap())]
#[case::mode("mode 0666", |p: &Path| fs::set_permissions(p, fs::Permissions::from_mode(0o666)).unwrap())]
#[case::link("symbolic link", |p: &Path| {
    let target = p.with_extension("moved");
    fs::rename(p, &target).unwrap();
    symlink(&target, p).unwrap();
})]
fn removes_what_it_cannot_trust(#[case] expected: &str, #[case] damage: impl Fn(&Path)) {
    let fixture = Fixture::new();
    let entry = fixture.entry();
    damage(&entry);
    let Lookup::Removed { reason } = fixture.cache().lookup(&fixture.digest).unwrap() else {
        panic!("the damage was not seen")
    };
    assert!(reason.contains(expected), "{reason}");
    assert!(
        entry.symlink_metadata().is_err(),
        "the entry is still there"
    );
    fixture
        .cache()
        .lock(&fixture.digest)
        .unwrap()
        .store(&fixture.digest, kinds(), needs(), CODE)
        .unwrap();
}

fn flip(path: &Path, offset: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[usize::try_from(offset).unwrap()] ^= 0x80;
    fs::write(path, bytes).unwrap();
}

/// Stores an entry that was last used `age` ago.
fn stored(cache: &Cache, module: &[u8], age: Duration) -> PathBuf {
    let digest = Digest::of(module);
    let lock = cache.lock(&digest).unwrap();
    let compiled = lock.store(&digest, kinds(), needs(), &[7; 5000]).unwrap();
    let file = fs::File::options()
        .write(true)
        .open(&compiled.path)
        .unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
    compiled.path
}

#[test]
fn evicts_what_was_not_used_for_longest() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(&dir.path().join("cache")).unwrap();
    let hour = Duration::from_secs(3600);
    let oldest = stored(&cache, b"a", 4 * hour);
    let used = stored(&cache, b"b", 3 * hour);
    let old = stored(&cache, b"c", 2 * hour);
    let recent = stored(&cache, b"d", Duration::ZERO);
    // Of a clock that was ahead: not taken for recent.
    let ahead = stored(&cache, b"e", Duration::ZERO);
    let file = fs::File::options().write(true).open(&ahead).unwrap();
    file.set_modified(SystemTime::now() + hour).unwrap();
    let each = fs::metadata(&old).unwrap().blocks() * 512;
    assert!(each >= 5000);

    assert!(matches!(
        cache.lookup(&Digest::of(b"b")).unwrap(),
        Lookup::Found(_)
    ));
    assert_eq!(cache.evict(5 * each).unwrap(), Evicted::default());
    let one = Evicted {
        entries: 1,
        bytes: each,
    };
    assert_eq!(cache.evict(5 * each - 1).unwrap(), one);
    assert!(!oldest.exists() && used.exists() && old.exists() && recent.exists());
    assert_eq!(cache.evict(3 * each).unwrap(), one);
    assert!(
        !old.exists() && used.exists() && recent.exists(),
        "use did not count"
    );
    // Nothing recent goes, or it would be gone before whoever compiled it looks it up.
    assert_eq!(cache.evict(0).unwrap(), one);
    assert!(!ahead.exists() && used.exists() && recent.exists());
    assert_eq!(
        cache.evict_at(0, SystemTime::now() + hour).unwrap().entries,
        2
    );
}

#[test]
fn evicted_code_stays_with_whom_has_it_open() {
    let fixture = Fixture::new();
    let Lookup::Found(compiled) = fixture.cache().lookup(&fixture.digest).unwrap() else {
        panic!("not found")
    };
    let later = SystemTime::now() + Duration::from_secs(3600);
    assert_eq!(fixture.cache().evict_at(0, later).unwrap().entries, 1);
    let mut bytes = vec![0; CODE.len()];
    compiled.file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, CODE);
    assert!(matches!(
        fixture.cache().lookup(&fixture.digest).unwrap(),
        Lookup::Missing
    ));
}

#[test]
fn evicting_removes_what_a_crash_left_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let cache = Cache::open(&path).unwrap();
    for name in ["x.cwasm.1.tmp", "x.cwasm.lock", "note"] {
        fs::write(path.join(name), "partial").unwrap();
    }
    cache.evict(0).unwrap();
    assert!(
        path.join("x.cwasm.1.tmp").exists(),
        "it may be being written"
    );
    cache
        .evict_at(0, SystemTime::now() + Duration::from_secs(3600))
        .unwrap();
    assert!(!path.join("x.cwasm.1.tmp").exists());
    assert!(path.join("x.cwasm.lock").exists() && path.join("note").exists());
}

#[test]
fn refuses_a_directory_that_others_may_use() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let error = Cache::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("mode 0755"), "{error}");
}

#[test]
fn lets_one_compile_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let digest = Digest::of(b"module");
    let inside = AtomicUsize::new(0);
    let stored = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let cache = Cache::open(&path).unwrap();
                let lock = cache.lock(&digest).unwrap();
                assert_eq!(
                    inside.fetch_add(1, Ordering::SeqCst),
                    0,
                    "two hold the lock"
                );
                if matches!(cache.lookup(&digest).unwrap(), Lookup::Missing) {
                    lock.store(&digest, kinds(), needs(), CODE).unwrap();
                    stored.fetch_add(1, Ordering::SeqCst);
                }
                inside.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    assert_eq!(stored.into_inner(), 1);
    assert_eq!(
        fs::read_dir(&path).unwrap().count(),
        1,
        "a lock file was left"
    );
}

#[test]
fn remembers_what_was_refused_as_long_as_it_is_so() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(&dir.path().join("cache")).unwrap();
    let digest = Digest::of(b"module");
    let refusal = Refusal::Imports(vec![r#""foo" "bar""#.to_owned()]);
    let refused =
        || matches!(cache.lookup(&digest).unwrap(), Lookup::Refused(found) if found == refusal);
    cache
        .lock(&digest)
        .unwrap()
        .refuse(&digest, &refusal)
        .unwrap();
    assert!(refused());

    let entry = cache.entry_path(&digest);
    let fingerprint = fs::metadata(&entry).unwrap().len() - 16 - 8;
    flip(&entry, fingerprint);
    let Lookup::Removed { reason } = cache.lookup(&digest).unwrap() else {
        panic!("a refusal of another version holds")
    };
    assert!(reason.contains("another version"), "{reason}");

    cache
        .lock(&digest)
        .unwrap()
        .refuse(&digest, &refusal)
        .unwrap();
    flip(&entry, 3);
    assert!(matches!(
        cache.lookup(&digest).unwrap(),
        Lookup::Removed { .. }
    ));

    // Code takes its place, and it is evicted as code is.
    cache
        .lock(&digest)
        .unwrap()
        .refuse(&digest, &refusal)
        .unwrap();
    cache
        .lock(&digest)
        .unwrap()
        .store(&digest, kinds(), needs(), CODE)
        .unwrap();
    assert!(matches!(cache.lookup(&digest).unwrap(), Lookup::Found(_)));
    cache
        .lock(&digest)
        .unwrap()
        .refuse(&digest, &refusal)
        .unwrap();
    let later = SystemTime::now() + Duration::from_secs(3600);
    assert_eq!(cache.evict_at(0, later).unwrap().entries, 1);
}
