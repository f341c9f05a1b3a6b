use std::io::Write;

use flate2::Compression as Level;
use flate2::write::GzEncoder;
use rstest::rstest;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::*;

const ARCH: &str = "x86_64";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An archive under construction: paths and contents.
#[derive(Default, Clone)]
struct Files(Vec<(String, Vec<u8>)>);

fn digest(content: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(content))
}

impl Files {
    fn add(&mut self, path: &str, content: impl Into<Vec<u8>>) -> &mut Self {
        self.0.push((path.into(), content.into()));
        self
    }

    /// A blob, and its descriptor.
    fn blob(&mut self, media_type: &str, content: impl Into<Vec<u8>>) -> Value {
        let content = content.into();
        let digest = digest(&content);
        let path = format!("blobs/{}", digest.replace(':', "/"));
        let size = content.len();
        self.add(&path, content);
        json!({ "mediaType": media_type, "digest": digest, "size": size })
    }

    /// A manifest with two layers, and its descriptor.
    fn manifest(&mut self, platform: &str) -> Value {
        let (os, architecture) = platform.split_once('/').unwrap();
        let config = json!({ "os": os, "architecture": architecture });
        let config = self.blob(
            "application/vnd.oci.image.config.v1+json",
            config.to_string(),
        );
        let layer = |files: &mut Self, name: &str| {
            let content = format!("{name} of {platform}");
            files.blob("application/vnd.oci.image.layer.v1.tar", content)
        };
        let layers = [layer(self, "first"), layer(self, "second")];
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
        let mut entry = self.blob(MANIFEST, manifest.to_string());
        entry["platform"] = json!({ "os": os, "architecture": architecture });
        entry
    }

    /// `index.json`, with one image of that name.
    fn named(&mut self, name: Value, mut entry: Value) -> &mut Self {
        if !name.is_null() {
            entry["annotations"] = json!({ "io.containerd.image.name": name });
        }
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        self.add("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)
            .add("index.json", index.to_string())
    }

    /// A layout with one image for several platforms.
    fn platforms(platforms: &[&str]) -> Self {
        Self::platforms_but(platforms, &[])
    }

    /// Without the blobs of the absent ones.
    fn platforms_but(present: &[&str], absent: &[&str]) -> Self {
        let (mut files, mut left_out) = (Self::default(), Self::default());
        let absent = absent.iter().map(|one| left_out.manifest(one));
        let present = present.iter().map(|one| files.manifest(one));
        let entries: Vec<_> = absent.chain(present).collect();
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
        let index = files.blob(INDEX, index.to_string());
        files.named(json!("example.com/a:v1"), index);
        files
    }

    /// Docker's older form: no layout, layers by path.
    fn docker(tags: Value, architecture: &str) -> Self {
        let mut files = Self::default();
        let (first, second) = (b"first layer", b"second layer");
        let config = json!({
            "os": "linux", "architecture": architecture,
            "rootfs": { "type": "layers", "diff_ids": [digest(first), digest(second)] },
        })
        .to_string();
        let name = digest(config.as_bytes()).replace("sha256:", "") + ".json";
        let image =
            json!([{ "Config": name, "RepoTags": tags, "Layers": ["1/layer.tar", "2/layer.tar"] }]);
        files
            .add(&name, config)
            .add("1/layer.tar", first)
            .add("2/layer.tar", second)
            .add("manifest.json", image.to_string());
        files
    }

    /// Without the files whose content has that in it.
    fn without(mut self, text: &str) -> Self {
        let before = self.0.len();
        self.0
            .retain(|(_, content)| !String::from_utf8_lossy(content).contains(text));
        assert!(self.0.len() < before, "nothing has {text:?}");
        self
    }

    /// With one content changed.
    fn damaged(mut self, text: &str) -> Self {
        let found = self
            .0
            .iter_mut()
            .find(|(_, content)| content == text.as_bytes());
        found.unwrap().1.push(b'!');
        self
    }

    fn tar(&self) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, content) in &self.0 {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, content.as_slice())
                .unwrap();
        }
        tar.into_inner().unwrap()
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Level::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// The error as a user reads it, without the hint; empty when there is none.
fn opened(bytes: &[u8]) -> String {
    let mut file = NamedTempFile::with_prefix("archive").unwrap();
    file.write_all(bytes).unwrap();
    match Archive::open(file.path(), ARCH) {
        Ok(_) => String::new(),
        Err(error) => {
            let source = std::error::Error::source(&error).unwrap().to_string();
            let whole = error.to_string();
            assert_eq!(whole, format!("image archive {}", file.path().display()));
            assert!(source.lines().count() == 1, "{source}");
            source
        }
    }
}

#[test]
fn blobs_of_other_platforms_may_be_absent() {
    let files = Files::platforms(&["linux/arm64", "linux/amd64", "unknown/unknown"]);
    assert_eq!(opened(&files.tar()), "");
    let files = Files::platforms_but(&["linux/amd64"], &["linux/arm64", "unknown/unknown"]);
    assert_eq!(opened(&files.tar()), "");
    assert_eq!(opened(&Files::docker(json!(["a:v1"]), "amd64").tar()), "");
}

#[test]
fn of_images_with_one_name_the_nodes_is_taken() {
    let (mut files, mut left_out) = (Files::default(), Files::default());
    let mut entries = vec![
        files.manifest("linux/amd64"),
        left_out.manifest("linux/arm64"),
    ];
    for entry in &mut entries {
        entry["annotations"] = json!({ "io.containerd.image.name": "example.com/a:v1" });
    }
    let index = json!({ "schemaVersion": 2, "manifests": entries });
    files
        .add("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)
        .add("index.json", index.to_string());
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&files.tar()).unwrap();
    let archive = Archive::open(file.path(), ARCH).unwrap();
    let rewritten = super::Files::read(File::open(archive.path()).unwrap()).unwrap();
    let index: Value = rewritten.document("index.json").unwrap().unwrap();
    assert_eq!(index["manifests"], json!([entries[0]]));
    // All else is as it was, and the copy needs no other.
    assert!(
        Archive::open(archive.path(), ARCH)
            .unwrap()
            .rewritten
            .is_none()
    );
    assert!(opened(&files.tar()).is_empty());
}

#[test]
fn a_compressed_archive_is_unpacked() {
    let tar = Files::platforms(&["linux/amd64"]).tar();
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&gzip(&tar)).unwrap();
    let archive = Archive::open(file.path(), ARCH).unwrap();
    assert_eq!(std::fs::read(archive.path()).unwrap(), tar);
}

#[test]
fn a_missing_blob_is_named_with_its_image_and_platform() {
    let files = Files::platforms(&["linux/arm64", "linux/amd64"]).without("second of linux/amd64");
    let gone = digest(b"second of linux/amd64");
    assert_eq!(
        opened(&files.tar()),
        format!("image example.com/a:v1 in it lacks layer 2 of 2, {gone}, of linux/amd64")
    );
    let mut files = Files::platforms(&["linux/amd64"]);
    files
        .0
        .retain(|(_, content)| !String::from_utf8_lossy(content).contains(r#""layers""#));
    assert!(opened(&files.tar()).contains("lacks the manifest, sha256:"));
    let files = Files::docker(json!(["a:v1"]), "amd64").without("second layer");
    assert_eq!(
        opened(&files.tar()),
        "image a:v1 in it lacks layer 2 of 2, 2/layer.tar, of linux/amd64"
    );
}

#[rstest]
#[case(Files::platforms(&["linux/arm64", "windows/amd64"]), "example.com/a:v1", "linux/arm64, windows/amd64")]
#[case(Files::platforms(&["wasi/wasm"]), "example.com/a:v1", "wasi/wasm")]
#[case(Files::docker(json!(["a:v1"]), "arm64"), "a:v1", "linux/arm64")]
fn an_image_without_the_nodes_platform_names_those_it_has(
    #[case] files: Files,
    #[case] image: &str,
    #[case] has: &str,
) {
    assert_eq!(
        opened(&files.tar()),
        format!("image {image} in it is for {has}, and the node needs linux/amd64")
    );
}

#[test]
fn a_wasm_image_is_told_where_it_belongs() {
    let hint = |has: &str| {
        let problem = Problem::Platform {
            image: "a".into(),
            has: vec![has.into()],
            wanted: "linux/amd64".into(),
        };
        problem.hint(Path::new("a.tar")).unwrap()
    };
    assert!(hint("wasip1/wasm").contains("runtimeClassName"));
    assert!(hint("linux/arm64").contains("docker save --platform linux/amd64 a -o a.tar"));
}

#[test]
fn an_image_needs_a_name() {
    let unnamed = |mut files: Files| {
        let entry = files.manifest("linux/amd64");
        files.named(Value::Null, entry);
        files
    };
    assert!(opened(&unnamed(Files::default()).tar()).contains("has no name"));
    assert!(opened(&Files::docker(Value::Null, "amd64").tar()).contains("has no name"));
    assert!(opened(&Files::docker(json!([]), "amd64").tar()).contains("has no name"));
    // containerd would name it after the day.
    let mut files = Files::default();
    let mut entry = files.manifest("linux/amd64");
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "v1" });
    files.named(Value::Null, entry.clone());
    assert!(opened(&files.tar()).contains("has no name"));
    let mut files = Files::default();
    let mut entry = files.manifest("linux/amd64");
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "example.com/a:v1" });
    files.named(Value::Null, entry);
    assert_eq!(opened(&files.tar()), "");
}

#[test]
fn damage_is_named() {
    let files = Files::platforms(&["linux/amd64"]).damaged("first of linux/amd64");
    let found = digest(b"first of linux/amd64!");
    let message = opened(&files.tar());
    assert!(message.starts_with("blobs/sha256/"), "{message}");
    assert!(message.ends_with(&format!("in it is damaged: its digest is {found}")));
    let files = Files::docker(json!(["a:v1"]), "amd64").damaged("first layer");
    let found = digest(b"first layer!");
    assert_eq!(
        opened(&files.tar()),
        format!("1/layer.tar in it is damaged: its digest is {found}")
    );
}

#[test]
fn what_is_no_archive_says_so() {
    let tar = Files::platforms(&["linux/amd64"]).tar();
    let cut = "it is cut short: the file ends in the middle";
    assert_eq!(opened(b""), "the file is empty");
    assert_eq!(opened(b"not an archive"), "it is no tar archive");
    assert_eq!(opened(&[b'x'; 2048]), "it is no tar archive");
    assert_eq!(opened(&tar[..tar.len() / 2]), cut);
    // Also where one file ends and the next would begin.
    for blocks in 1..tar.len() / 512 - 4 {
        assert_eq!(opened(&tar[..blocks * 512]), cut, "{blocks} blocks");
    }
    assert_eq!(opened(&gzip(&tar)[..200]), cut);
    let mut damaged = gzip(&tar);
    damaged[100] ^= 0xff;
    damaged[101] ^= 0xff;
    let message = opened(&damaged);
    assert!(message == "it is damaged" || message == cut, "{message}");
    assert!(opened(b"\x28\xb5\x2f\xfd....").contains("zstd"));
    let mut files = Files::default();
    files.add("readme", "no image");
    assert!(opened(&files.tar()).contains("neither index.json nor manifest.json"));
    let mut files = Files::default();
    files.add("manifest.json", "[]");
    assert_eq!(opened(&files.tar()), "it holds no image");
    let mut files = Files::default();
    files.add("manifest.json", "[{");
    assert!(opened(&files.tar()).contains("manifest.json in it cannot be understood"));
}

#[test]
fn links_of_older_archives_are_followed() {
    let mut files = Files::docker(json!(["a:v1"]), "amd64");
    files
        .0
        .retain(|(path, _)| path != "2/layer.tar" && !path.ends_with(".json"));
    let config = json!({ "os": "linux", "architecture": "amd64" }).to_string();
    let image = json!([{ "Config": "c.json", "RepoTags": ["a:v1"], "Layers": ["1/layer.tar", "2/layer.tar"] }]);
    files
        .add("c.json", config)
        .add("manifest.json", image.to_string());
    let tar = files.tar();
    assert!(opened(&tar).contains("lacks layer 2 of 2"));
    let mut tar = tar::Builder::new(tar[..tar.len() - 1024].to_vec());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, "2/layer.tar", "../1/layer.tar")
        .unwrap();
    assert_eq!(opened(&tar.into_inner().unwrap()), "");
}

/// What this crate writes itself is taken.
#[test]
fn our_own_archives_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("app"), "x").unwrap();
    let files: crate::image::Copy = format!("{}:/app", dir.path().join("app").display())
        .parse()
        .unwrap();
    let path = dir.path().join("image.tar");
    let name = "example.com/a:v1".parse().unwrap();
    crate::image::build(&name, Default::default(), &[files], &path).unwrap();
    assert!(Archive::open(&path, std::env::consts::ARCH).is_ok());
}
