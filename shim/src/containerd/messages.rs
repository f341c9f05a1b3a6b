//! The messages of containerd's containers, images and content services, their
//! fields by number as far as they are used (api/services and api/types of
//! containerd's API, stable since 1.0).

use containerd_shim_protos::protobuf;
use protobuf::rt::WireType;
use protobuf::{CodedInputStream, CodedOutputStream};
use serde::Deserialize;

/// The name of CRI's record in a container's extensions.
const CRI_METADATA: &str = "io.cri-containerd.container.metadata";

/// A message whose field 1 is a string, as each request here is.
pub(super) fn string(text: &str) -> protobuf::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() + 8);
    let mut stream = CodedOutputStream::vec(&mut bytes);
    stream.write_string(1, text)?;
    stream.flush()?;
    drop(stream);
    Ok(bytes)
}

/// Calls `field` for each field; what it does not read is skipped.
fn fields(
    bytes: &[u8],
    mut field: impl FnMut(u32, &mut CodedInputStream<'_>) -> protobuf::Result<bool>,
) -> protobuf::Result<()> {
    let mut stream = CodedInputStream::from_bytes(bytes);
    while let Some(tag) = stream.read_raw_tag_or_eof()? {
        if !field(tag, &mut stream)? {
            protobuf::rt::skip_field_for_tag(tag, &mut stream)?;
        }
    }
    Ok(())
}

const fn bytes_tag(number: u32) -> u32 {
    number << 3 | WireType::LengthDelimited as u32
}

const fn varint_tag(number: u32) -> u32 {
    number << 3 | WireType::Varint as u32
}

/// `containerd.services.containers.v1.Container`.
#[derive(Debug, Default)]
pub(super) struct ContainerRecord {
    pub(super) image: String,
    cri_metadata: Vec<u8>,
}

impl ContainerRecord {
    /// Of a GetContainerResponse.
    pub(super) fn decode(response: &[u8]) -> protobuf::Result<Self> {
        const CONTAINER: u32 = bytes_tag(1);
        const IMAGE: u32 = bytes_tag(3);
        const EXTENSIONS: u32 = bytes_tag(10);
        let mut record = ContainerRecord::default();
        fields(response, |tag, stream| {
            if tag != CONTAINER {
                return Ok(false);
            }
            fields(&stream.read_bytes()?, |tag, stream| {
                match tag {
                    IMAGE => record.image = stream.read_string()?,
                    EXTENSIONS => {
                        let (key, value) = extension(&stream.read_bytes()?)?;
                        if key == CRI_METADATA {
                            record.cri_metadata = value;
                        }
                    }
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
            Ok(true)
        })?;
        Ok(record)
    }

    /// The image's id, if CRI made the container.
    pub(super) fn cri_image_id(&self) -> Option<String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Versioned {
            metadata: Metadata,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Metadata {
            image_ref: String,
        }
        let versioned: Versioned = serde_json::from_slice(&self.cri_metadata).ok()?;
        Some(versioned.metadata.image_ref).filter(|id| !id.is_empty())
    }
}

/// An entry of `map<string, google.protobuf.Any>`, with the Any's value.
fn extension(entry: &[u8]) -> protobuf::Result<(String, Vec<u8>)> {
    const KEY: u32 = bytes_tag(1);
    const VALUE: u32 = bytes_tag(2);
    const ANY_VALUE: u32 = bytes_tag(2);
    let (mut key, mut value) = (String::new(), Vec::new());
    fields(entry, |tag, stream| {
        match tag {
            KEY => key = stream.read_string()?,
            VALUE => fields(&stream.read_bytes()?, |tag, stream| {
                if tag == ANY_VALUE {
                    value = stream.read_bytes()?;
                }
                Ok(tag == ANY_VALUE)
            })?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok((key, value))
}

/// `containerd.types.Descriptor`, and a descriptor in an image's JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: String,
    /// In bytes.
    pub(crate) size: u64,
}

/// `containerd.services.images.v1.Image`.
#[derive(Debug, Default)]
pub(super) struct ImageRecord {
    pub(super) target: Descriptor,
}

impl ImageRecord {
    /// Of a GetImageResponse.
    pub(super) fn decode(response: &[u8]) -> protobuf::Result<Self> {
        const IMAGE: u32 = bytes_tag(1);
        const TARGET: u32 = bytes_tag(3);
        let mut record = ImageRecord::default();
        fields(response, |tag, stream| {
            if tag != IMAGE {
                return Ok(false);
            }
            fields(&stream.read_bytes()?, |tag, stream| {
                if tag == TARGET {
                    record.target = descriptor(&stream.read_bytes()?)?;
                }
                Ok(tag == TARGET)
            })?;
            Ok(true)
        })?;
        Ok(record)
    }
}

fn descriptor(message: &[u8]) -> protobuf::Result<Descriptor> {
    const MEDIA_TYPE: u32 = bytes_tag(1);
    const DIGEST: u32 = bytes_tag(2);
    const SIZE: u32 = varint_tag(3);
    let mut found = Descriptor::default();
    fields(message, |tag, stream| {
        match tag {
            MEDIA_TYPE => found.media_type = stream.read_string()?,
            DIGEST => found.digest = stream.read_string()?,
            SIZE => found.size = stream.read_uint64()?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(found)
}

/// `containerd.services.content.v1.ReadContentResponse`.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) offset: u64,
    pub(super) data: Vec<u8>,
}

impl Chunk {
    pub(super) fn decode(message: &[u8]) -> protobuf::Result<Self> {
        const OFFSET: u32 = varint_tag(1);
        const DATA: u32 = bytes_tag(2);
        let mut chunk = Chunk::default();
        fields(message, |tag, stream| {
            match tag {
                OFFSET => chunk.offset = stream.read_uint64()?,
                DATA => chunk.data = stream.read_bytes()?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field that holds bytes, which are few.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut message = vec![number << 3 | 2, bytes.len() as u8 & 0x7f | 0x80];
        message.push((bytes.len() >> 7) as u8);
        message.extend_from_slice(bytes);
        message
    }

    #[test]
    fn a_container_names_its_image_twice() {
        let metadata = br#"{"Version":"v1","Metadata":{"ID":"c","ImageRef":"sha256:1"}}"#;
        let any = [field(1, b"type"), field(2, metadata)].concat();
        let entry = [field(1, CRI_METADATA.as_bytes()), field(2, &any)].concat();
        let other = [field(1, b"other"), field(2, &field(2, b"x"))].concat();
        let container = [
            field(1, b"id"),
            field(3, b"docker.io/app:1"),
            field(10, &other),
            field(10, &entry),
        ];
        let record = ContainerRecord::decode(&field(1, &container.concat())).unwrap();
        assert_eq!(record.image, "docker.io/app:1");
        assert_eq!(record.cri_image_id().unwrap(), "sha256:1");
        assert!(ContainerRecord::decode(b"\x0a\x7f").is_err());
    }

    #[test]
    fn an_image_has_a_target() {
        let target = [
            field(1, b"application/x"),
            field(2, b"sha256:2"),
            vec![3 << 3, 0xac, 0x02],
        ];
        let image = [field(1, b"name"), field(3, &target.concat())].concat();
        let record = ImageRecord::decode(&field(1, &image)).unwrap();
        assert_eq!(record.target.digest, "sha256:2");
        assert_eq!(record.target.size, 300);
    }

    #[test]
    fn a_chunk_has_an_offset() {
        let message = [vec![1 << 3, 5], field(2, b"data"), vec![4 << 3, 1]].concat();
        let chunk = Chunk::decode(&message).unwrap();
        assert_eq!((chunk.offset, &chunk.data[..]), (5, &b"data"[..]));
    }
}
