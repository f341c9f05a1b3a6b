//! WASI 0.1's functions that take a path, by way of [`Files`].
//!
//! wasmtime's own reads paths from the guest's memory and knows directories by their numbers.
//! Another directory is therefore another number, of those that the guest was given; and
//! another path is handed over in a memory of ours, with the result's place beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use wasmtime::{AsContextMut as _, Caller, Extern, Linker, Result, bail};
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as wasi, WasiSnapshotPreview1 as _};
use wiggle::{GuestMemory, GuestPtr};

use super::{Choice, Files, Purpose};
use crate::host::ModuleHost;

const MODULE: &str = "wasi_snapshot_preview1";
const SUCCESS: i32 = 0;
/// What a call says that led out of its directory, or was refused.
const NOT_PERMITTED: i32 = 63;
/// Bits of arguments.
const FOLLOW: i32 = 1;
const CREATE: i32 = 1;
const EXCLUSIVE: i32 = 1 << 2;
const TRUNCATE: i32 = 1 << 3;
const RIGHT_TO_WRITE: i64 = 1 << 6;
/// Bytes of results.
const NUMBER: i32 = 4;
const FILE_STATUS: i32 = 64;
const LONGEST_LINK: u32 = 4096;

/// The directories of a guest, by the numbers that it has them under.
#[derive(Clone)]
pub struct Numbered {
    pub files: Arc<Files>,
    pub root: i32,
    /// That of the working directory, and that of the one of which calls may mean the root.
    pub cwd: Option<(i32, i32)>,
}

impl Numbered {
    /// The number to ask for `path` under; none where it is refused.
    fn choose(&self, dir: i32, path: &str, purpose: Purpose) -> Option<i32> {
        match self.cwd {
            Some((cwd, shared)) if shared == dir => match self.files.choose(path, purpose).ok()? {
                Choice::Root => Some(self.root),
                Choice::WorkingDirectory => Some(cwd),
            },
            _ => Some(dir),
        }
    }

    fn reroute(&self, dir: i32, path: &str, purpose: Purpose) -> Option<String> {
        let cwd = || self.files.cwd.as_ref().map(|cwd| cwd.path.clone());
        let base = if dir == self.root {
            PathBuf::from("/")
        } else {
            cwd().filter(|_| self.cwd.is_some_and(|(cwd, _)| cwd == dir))?
        };
        self.files.reroute(Path::new(&base), path, purpose)
    }

    fn has(&self, number: i32) -> bool {
        number == self.root
            || self
                .cwd
                .is_some_and(|(cwd, shared)| number == cwd || number == shared)
    }
}

/// A memory of ours.
#[derive(Default)]
struct Scratch(Vec<u8>);

impl Scratch {
    /// Where `bytes` are in it now: at a multiple of the largest result's alignment.
    fn put(&mut self, bytes: &[u8]) -> i32 {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        let place = self.0.len() as i32;
        self.0.extend_from_slice(bytes);
        place
    }
}

fn text(memory: &GuestMemory<'_>, place: i32, length: i32) -> Option<String> {
    let text = GuestPtr::<str>::new((place as u32, length as u32));
    let text = memory.as_cow_str(text).ok()?;
    Some(text.into_owned())
}

/// Defines a function anew: its arguments; the directory, place and length of each of its
/// paths, and the purpose of that; place and length of a text that is no path; and place and
/// length of its results.
macro_rules! with_paths {
    ($linker:ident, $name:ident($($arg:ident: $ty:ty),*), $([$dir:ident $path:ident $length:ident: $purpose:expr])+, texts $([$text:ident $text_length:ident])*, results $([$result:ident $($size:tt)+])*) => {
        $linker.func_wrap_async(
            MODULE,
            stringify!($name),
            |mut caller: Caller<'_, ModuleHost>, ($($arg,)*): ($($ty,)*)| {
                Box::new(async move {
                    let fuel = caller.as_context_mut().hostcall_fuel();
                    let export = caller.get_export("memory");
                    let (mut memory, host) = match &export {
                        Some(Extern::Memory(memory)) => {
                            let (memory, host) = memory.data_and_store_mut(&mut caller);
                            (GuestMemory::Unshared(memory), host)
                        }
                        Some(Extern::SharedMemory(memory)) => {
                            (GuestMemory::Shared(memory.data()), caller.data_mut())
                        }
                        _ => bail!("missing required memory export"),
                    };
                    host.wasi.set_hostcall_fuel(fuel);
                    let files = host.files.clone();
                    $(
                        // What is no text is for wasmtime to refuse.
                        let $path = ($path, text(&memory, $path, $length).unwrap_or_default());
                        let purpose: Purpose = $purpose;
                        let chosen = files.as_ref().map(|files| files.choose($dir, &$path.1, purpose));
                        let Some($dir) = chosen.unwrap_or(Some($dir)) else {
                            return Ok(NOT_PERMITTED);
                        };
                    )+
                    let error = {
                        $(let $path = $path.0;)+
                        wasi::$name(&mut host.wasi, &mut memory, $($arg),*).await?
                    };
                    let Some(files) = files.filter(|_| error == NOT_PERMITTED) else {
                        return Ok(error);
                    };
                    let mut scratch = Scratch::default();
                    let mut rerouted = false;
                    $(
                        let purpose: Purpose = $purpose;
                        let ($dir, $path) = match files.reroute($dir, &$path.1, purpose) {
                            Some(path) => {
                                rerouted = true;
                                (files.root, path)
                            }
                            None => ($dir, $path.1),
                        };
                        let $length = $path.len() as i32;
                        let $path = scratch.put($path.as_bytes());
                    )+
                    if !rerouted {
                        return Ok(error);
                    }
                    $(
                        let Some($text) = text(&memory, $text, $text_length) else {
                            return Ok(error);
                        };
                        let $text = scratch.put($text.as_bytes());
                    )*
                    $(let $result = ($result, scratch.put(&vec![0; ($($size)+) as usize]));)*
                    let error = {
                        $(let $result = $result.1;)*
                        let mut memory = GuestMemory::Unshared(&mut scratch.0);
                        wasi::$name(&mut host.wasi, &mut memory, $($arg),*).await?
                    };
                    if error == SUCCESS {
                        $(
                            let from = $result.1 as usize;
                            let bytes = &scratch.0[from..from + ($($size)+) as usize];
                            let place = GuestPtr::<[u8]>::new(($result.0 as u32, bytes.len() as u32));
                            memory.copy_from_slice(bytes, place)?;
                        )*
                    }
                    Ok(error)
                })
            },
        )
    };
}

/// Takes the place of what wasmtime defined.
///
/// # Errors
/// When wasmtime refuses a definition.
pub(crate) fn add_to_linker(linker: &mut Linker<ModuleHost>) -> Result<()> {
    with_paths!(linker,
        path_open(dir: i32, lookup: i32, path: i32, length: i32, open: i32, rights: i64, inheriting: i64, flags: i32, opened: i32),
        [dir path length: Purpose::open(
            lookup & FOLLOW != 0,
            open & CREATE != 0,
            open & EXCLUSIVE != 0,
            open & TRUNCATE != 0 || rights & RIGHT_TO_WRITE != 0,
        )],
        texts, results [opened NUMBER])?;
    with_paths!(linker,
        path_filestat_get(dir: i32, lookup: i32, path: i32, length: i32, status: i32),
        [dir path length: Purpose::look(lookup & FOLLOW != 0)],
        texts, results [status FILE_STATUS])?;
    with_paths!(linker,
        path_filestat_set_times(dir: i32, lookup: i32, path: i32, length: i32, accessed: i64, modified: i64, which: i32),
        [dir path length: Purpose::change(lookup & FOLLOW != 0)],
        texts, results)?;
    with_paths!(linker,
        path_readlink(dir: i32, path: i32, length: i32, buffer: i32, size: i32, used: i32),
        [dir path length: Purpose::look(false)],
        texts, results [buffer (size as u32).min(LONGEST_LINK) as i32] [used NUMBER])?;
    with_paths!(linker,
        path_create_directory(dir: i32, path: i32, length: i32),
        [dir path length: Purpose::MAKE],
        texts, results)?;
    with_paths!(linker,
        path_symlink(target: i32, target_length: i32, dir: i32, path: i32, length: i32),
        [dir path length: Purpose::MAKE],
        texts [target target_length], results)?;
    with_paths!(linker,
        path_remove_directory(dir: i32, path: i32, length: i32),
        [dir path length: Purpose::change(false)],
        texts, results)?;
    with_paths!(linker,
        path_unlink_file(dir: i32, path: i32, length: i32),
        [dir path length: Purpose::change(false)],
        texts, results)?;
    with_paths!(linker,
        path_link(dir: i32, lookup: i32, path: i32, length: i32, to_dir: i32, to: i32, to_length: i32),
        [dir path length: Purpose::look(lookup & FOLLOW != 0)] [to_dir to to_length: Purpose::MAKE],
        texts, results)?;
    with_paths!(linker,
        path_rename(dir: i32, path: i32, length: i32, to_dir: i32, to: i32, to_length: i32),
        [dir path length: Purpose::change(false)] [to_dir to to_length: Purpose::REPLACE],
        texts, results)?;
    closes(linker)
}

/// A number that no longer is what it was is no longer looked after.
fn closes(linker: &mut Linker<ModuleHost>) -> Result<()> {
    fn forget(host: &mut ModuleHost, numbers: &[i32]) {
        let known = |files: &Numbered| numbers.iter().any(|number| files.has(*number));
        if host.files.as_ref().is_some_and(known) {
            host.files = None;
        }
    }
    linker.func_wrap_async(
        MODULE,
        "fd_close",
        |mut caller: Caller<'_, ModuleHost>, (number,): (i32,)| {
            Box::new(async move {
                let host = caller.data_mut();
                forget(host, &[number]);
                let mut none = GuestMemory::Unshared(&mut []);
                wasi::fd_close(&mut host.wasi, &mut none, number).await
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_renumber",
        |mut caller: Caller<'_, ModuleHost>, (from, to): (i32, i32)| {
            Box::new(async move {
                let host = caller.data_mut();
                forget(host, &[from, to]);
                let mut none = GuestMemory::Unshared(&mut []);
                wasi::fd_renumber(&mut host.wasi, &mut none, from, to).await
            })
        },
    )?;
    Ok(())
}
