//! What the shim asks containerd for: a container's image, and its content.
//!
//! Three calls of gRPC on a connection that is made when an image has to be read,
//! and closed after it. A client on tonic would bring a second implementation of
//! protobuf and HTTP's whole stack into a process that there is one of per Pod,
//! and protoc into the build; h2 and the protobuf crate carry these calls.

mod grpc;
mod messages;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use grpc::{Channel, Code};
pub(crate) use messages::Descriptor;
use messages::{Chunk, ContainerRecord, ImageRecord};

/// How much of a blob one answer may hold. containerd sends 1 MiB at a time.
const MAX_MESSAGE: usize = 16 << 20;

/// Where containerd answers, and for which namespace.
#[derive(Debug, Clone)]
pub(crate) struct Containerd {
    socket: PathBuf,
    namespace: String,
}

/// Records and content, on one connection.
pub(crate) struct Session {
    channel: Channel,
}

/// What containerd and CRI have recorded about a container's image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerImage {
    /// The image's name in containerd.
    pub(crate) name: String,
    /// The digest of the image's configuration when CRI made the container.
    pub(crate) id: Option<String>,
}

impl Containerd {
    /// `address` is what containerd gives shims in `-address`.
    pub(crate) fn new(address: &str, namespace: &str) -> Self {
        Containerd {
            socket: PathBuf::from(address.strip_prefix("unix://").unwrap_or(address)),
            namespace: namespace.to_owned(),
        }
    }

    /// Connects.
    ///
    /// # Errors
    /// When nothing answers on the socket.
    pub(crate) async fn session(&self) -> Result<Session> {
        let channel = Channel::connect(&self.socket, &self.namespace)
            .await
            .with_context(|| format!("connect to containerd at {}", self.socket.display()))?;
        Ok(Session { channel })
    }
}

impl Session {
    /// The image that the container `id` was made from; None when it has none.
    ///
    /// # Errors
    /// When containerd does not answer, or not with what its API says.
    pub(crate) async fn container_image(&mut self, id: &str) -> Result<Option<ContainerImage>> {
        let path = "/containerd.services.containers.v1.Containers/Get";
        let answer = self.channel.call(path, messages::string(id)?, MAX_MESSAGE);
        let record = match answer.await {
            Ok(answer) => ContainerRecord::decode(&answer)?,
            Err(error) if error.code == Code::NOT_FOUND => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("get the container {id}")),
        };
        if record.image.is_empty() {
            return Ok(None);
        }
        let id = record.cri_image_id();
        Ok(Some(ContainerImage {
            name: record.image,
            id,
        }))
    }

    /// What the image `name` points to; None when there is no such image.
    ///
    /// # Errors
    /// When containerd does not answer, or not with what its API says.
    pub(crate) async fn image(&mut self, name: &str) -> Result<Option<Descriptor>> {
        let path = "/containerd.services.images.v1.Images/Get";
        let answer = self
            .channel
            .call(path, messages::string(name)?, MAX_MESSAGE);
        match answer.await {
            Ok(answer) => Ok(Some(ImageRecord::decode(&answer)?.target)),
            Err(error) if error.code == Code::NOT_FOUND => Ok(None),
            Err(error) => Err(error).with_context(|| format!("get the image {name}")),
        }
    }

    /// The content that `descriptor` names, which has its digest and its size.
    ///
    /// # Errors
    /// When it is larger than `limit` bytes, missing, or other than described.
    pub(crate) async fn read(&mut self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        let Descriptor { digest, size, .. } = descriptor;
        let describe = || format!("read {digest}");
        if !is_sha256(digest) {
            bail!("{digest:?} is no SHA-256 digest");
        }
        if *size > limit {
            bail!("{digest} has {size} bytes, more than {limit}");
        }
        let path = "/containerd.services.content.v1.Content/Read";
        let answers = self
            .channel
            .start(path, messages::string(digest)?, MAX_MESSAGE);
        let mut answers = answers.await.with_context(describe)?;
        // As it comes, so that nothing else waits for the whole of it to be hashed.
        let mut hash = Sha256::new();
        let mut bytes = Vec::new();
        // Not reserved at once: the size is what a manifest says.
        while let Some(answer) = answers.next().await.with_context(describe)? {
            let chunk = Chunk::decode(&answer).with_context(describe)?;
            if chunk.offset != bytes.len() as u64 {
                bail!("{digest} came out of order");
            }
            if bytes.len() as u64 + chunk.data.len() as u64 > *size {
                bail!("{digest} has more than the {size} bytes that the image says");
            }
            hash.update(&chunk.data);
            bytes.extend_from_slice(&chunk.data);
        }
        if bytes.len() as u64 != *size {
            bail!("{digest} has {} bytes and not {size}", bytes.len());
        }
        let found = format!("sha256:{:x}", hash.finalize());
        if found != *digest {
            bail!("the content stored as {digest} has the digest {found}");
        }
        Ok(bytes)
    }
}

/// Whether `error` is that containerd lacks what was asked for.
pub(crate) fn is_missing(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<grpc::Status>()
        .is_some_and(|status| status.code == Code::NOT_FOUND)
}

/// `sha256:` and 64 lowercase hexadecimal digits.
pub(crate) fn is_sha256(digest: &str) -> bool {
    digest.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}
