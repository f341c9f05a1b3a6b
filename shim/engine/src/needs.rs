//! What an instance of a guest takes besides its code: kept with the compiled module, because
//! wasmtime does not say all of it, and says it only when the module is mapped.

use std::fs::File;
use std::io;

use crate::cache;

/// Of a module, or of all instances that a component makes of its modules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Linear memories.
    pub memories: u32,
    pub tables: u32,
    /// Bytes that all memories together have to begin with, at most.
    pub initial_bytes: u64,
    /// Bytes that the largest memory may grow to, as its type says.
    pub memory_bytes: u64,
    /// Elements that the largest table may grow to, as its type says.
    pub table_elements: u64,
    /// Bytes that its shared memories may grow to together: nothing limits them but their types.
    pub shared_bytes: u64,
}

impl Needs {
    pub(crate) const LENGTH: usize = 4 + 4 + 4 * 8;

    /// Of an entry of the [`cache`], as the runner is given it.
    ///
    /// # Errors
    /// When it cannot be read, or is no entry of this version.
    pub fn of(entry: &File) -> io::Result<Self> {
        cache::needs(entry)
    }

    /// What either of them takes, the larger each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            memories: self.memories.max(other.memories),
            tables: self.tables.max(other.tables),
            initial_bytes: self.initial_bytes.max(other.initial_bytes),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
            table_elements: self.table_elements.max(other.table_elements),
            shared_bytes: self.shared_bytes.max(other.shared_bytes),
        }
    }

    pub(crate) fn encode(&self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        let (counts, sizes) = bytes.split_at_mut(8);
        for (to, count) in counts.chunks_exact_mut(4).zip([self.memories, self.tables]) {
            to.copy_from_slice(&count.to_le_bytes());
        }
        let all = [
            self.initial_bytes,
            self.memory_bytes,
            self.table_elements,
            self.shared_bytes,
        ];
        for (to, size) in sizes.chunks_exact_mut(8).zip(all) {
            to.copy_from_slice(&size.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; Self::LENGTH]) -> Self {
        let (counts, sizes) = bytes.split_at(8);
        let count = |at: usize| {
            counts
                .as_chunks()
                .0
                .get(at)
                .map_or(0, |c| u32::from_le_bytes(*c))
        };
        let size = |at: usize| {
            sizes
                .as_chunks()
                .0
                .get(at)
                .map_or(0, |s| u64::from_le_bytes(*s))
        };
        Self {
            memories: count(0),
            tables: count(1),
            initial_bytes: size(0),
            memory_bytes: size(1),
            table_elements: size(2),
            shared_bytes: size(3),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_as_it_was_written() {
        let needs = Needs {
            memories: 1,
            tables: 2,
            initial_bytes: 3,
            memory_bytes: 4 << 40,
            table_elements: 5,
            shared_bytes: 6,
        };
        assert_eq!(Needs::decode(&needs.encode()), needs);
    }
}
