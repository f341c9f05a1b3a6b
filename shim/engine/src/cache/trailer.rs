//! The last bytes of an entry. At the end and not at the beginning, because wasmtime maps an
//! image from offset 0.

use sha2::{Digest as _, Sha256};

use crate::{Digest, Kinds, Needs};

const MAGIC: [u8; 16] = *b"wasmkind.cwasm\0\x03";

#[derive(Debug, PartialEq)]
pub(super) struct Trailer {
    /// Of the code and of what follows here.
    pub(super) sha256: [u8; 32],
    pub(super) payload_length: u64,
    pub(super) digest: Digest,
    pub(super) kinds: Kinds,
    pub(super) needs: Needs,
    pub(super) fingerprint: [u8; 8],
}

impl Trailer {
    pub(super) const LENGTH: usize = 32 + 8 + 32 + 4 + Needs::LENGTH + 8 + MAGIC.len();

    pub(super) fn encode(&self) -> Vec<u8> {
        [&self.sha256[..], &self.sealed()].concat()
    }

    /// `code`, hashed on over all else that an entry says.
    pub(super) fn seal(&self, code: Sha256) -> [u8; 32] {
        code.chain_update(self.sealed()).finalize().into()
    }

    fn sealed(&self) -> Vec<u8> {
        [
            &self.payload_length.to_le_bytes()[..],
            self.digest.as_bytes(),
            &self.kinds.bits().to_le_bytes(),
            &self.needs.encode(),
            &self.fingerprint,
            &MAGIC,
        ]
        .concat()
    }

    /// The error says what is wrong.
    pub(super) fn decode(bytes: &[u8; Self::LENGTH]) -> Result<Self, String> {
        let mut rest = &bytes[..];
        let sha256 = take(&mut rest)?;
        let payload_length = u64::from_le_bytes(take(&mut rest)?);
        let digest = Digest::from_bytes(take(&mut rest)?);
        let kinds = u32::from_le_bytes(take(&mut rest)?);
        let needs = Needs::decode(&take(&mut rest)?);
        let fingerprint = take(&mut rest)?;
        if rest != MAGIC {
            return Err("it does not end as a cache entry of this version".to_owned());
        }
        let kinds =
            Kinds::from_bits(kinds).ok_or_else(|| format!("it has unknown kinds ({kinds:#x})"))?;
        Ok(Self {
            sha256,
            payload_length,
            digest,
            kinds,
            needs,
            fingerprint,
        })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], String> {
    let (first, after) = rest.split_first_chunk().ok_or("it is cut short")?;
    *rest = after;
    Ok(*first)
}
