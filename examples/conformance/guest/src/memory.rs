//! Memory that is really used.

use std::io;

const MIB: usize = 1 << 20;

/// Takes that much memory, piece by piece, and touches every page of it.
///
/// # Errors
/// When an allocation fails; says how far it came.
pub fn take(mib: usize) -> io::Result<Vec<Vec<u8>>> {
    let mut kept = Vec::new();
    for number in 0..mib {
        let mut piece = Vec::new();
        if piece.try_reserve_exact(MIB).is_err() {
            return Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                format!("refused after {number} MiB"),
            ));
        }
        // Not zero, which may come as untouched pages.
        piece.resize(MIB, 1);
        kept.push(piece);
    }
    Ok(kept)
}
