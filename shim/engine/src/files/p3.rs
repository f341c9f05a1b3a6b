//! WASI 0.3's functions that take a path, by way of [`super::Files`].

use wasmtime::Result;
use wasmtime::component::{Accessor, Linker, Resource};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystem, WasiFilesystemView as _};
use wasmtime_wasi::p3::bindings::filesystem::types::{
    DescriptorFlags, DescriptorStat, ErrorCode, Host as _, HostDescriptorWithStore,
    MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
};

use super::Purpose;
use crate::host::ComponentHost;

/// As wasmtime defines it.
const INTERFACE: &str = "wasi:filesystem/types@0.3.0";

/// Defines a function of one path anew. `before` and `after` are its arguments around the path.
macro_rules! with_path {
    ($types:ident, $name:literal, $method:ident($($before:ident: $before_ty:ty),* ; $($after:ident: $after_ty:ty),*) -> $result:ty, $purpose:expr) => {
        $types.func_wrap_concurrent(
            $name,
            |accessor: &Accessor<ComponentHost>,
             (dir, $($before,)* path, $($after,)*): (Resource<Descriptor>, $($before_ty,)* String, $($after_ty,)*)| {
                Box::pin(async move {
                    let purpose: Purpose = $purpose;
                    let Some(mut way) = accessor.with(|mut host| host.get().way(&dir, &path, purpose))? else {
                        return Ok((Err(ErrorCode::NotPermitted),));
                    };
                    let files = accessor.with_getter::<WasiFilesystem>(ComponentHost::filesystem);
                    loop {
                        let result = <WasiFilesystem as HostDescriptorWithStore<ComponentHost>>::$method(
                            &files, way.dir(), $(Clone::clone(&$before),)* way.path(), $(Clone::clone(&$after),)*
                        ).await;
                        let done: Result<Option<Result<$result, ErrorCode>>> = accessor.with(|mut host| {
                            let host = host.get();
                            let result = match result {
                                Ok(done) => Ok(done),
                                Err(error) => Err(host.filesystem().convert_error_code(error)?),
                            };
                            if matches!(result, Err(ErrorCode::NotPermitted)) && host.reroute(&mut way, purpose)? {
                                return Ok(None);
                            }
                            host.leave(&way)?;
                            Ok(Some(result))
                        });
                        if let Some(result) = done? {
                            return Ok((result,));
                        }
                    }
                })
            },
        )
    };
}

/// Defines a function of two paths anew.
macro_rules! with_paths {
    ($types:ident, $name:literal, $method:ident($($before:ident: $before_ty:ty),*), $from:expr, $to:expr) => {
        $types.func_wrap_concurrent(
            $name,
            |accessor: &Accessor<ComponentHost>,
             (dir, $($before,)* path, to_dir, to_path): (Resource<Descriptor>, $($before_ty,)* String, Resource<Descriptor>, String)| {
                Box::pin(async move {
                    let ways: Result<_> = accessor.with(|mut host| {
                        let host = host.get();
                        let Some(from) = host.way(&dir, &path, $from)? else {
                            return Ok(None);
                        };
                        let Some(to) = host.way(&to_dir, &to_path, $to)? else {
                            host.leave(&from)?;
                            return Ok(None);
                        };
                        Ok(Some((from, to)))
                    });
                    let Some((mut from, mut to)) = ways? else {
                        return Ok((Err(ErrorCode::NotPermitted),));
                    };
                    let files = accessor.with_getter::<WasiFilesystem>(ComponentHost::filesystem);
                    loop {
                        let result = <WasiFilesystem as HostDescriptorWithStore<ComponentHost>>::$method(
                            &files, from.dir(), $(Clone::clone(&$before),)* from.path(), to.dir(), to.path(),
                        ).await;
                        let done: Result<Option<Result<(), ErrorCode>>> = accessor.with(|mut host| {
                            let host = host.get();
                            let result = match result {
                                Ok(()) => Ok(()),
                                Err(error) => Err(host.filesystem().convert_error_code(error)?),
                            };
                            if matches!(result, Err(ErrorCode::NotPermitted))
                                && (host.reroute(&mut from, $from)? | host.reroute(&mut to, $to)?)
                            {
                                return Ok(None);
                            }
                            host.leave(&from)?;
                            host.leave(&to)?;
                            Ok(Some(result))
                        });
                        if let Some(result) = done? {
                            return Ok((result,));
                        }
                    }
                })
            },
        )
    };
}

/// Takes the place of what wasmtime defined.
///
/// # Errors
/// When wasmtime refuses a definition.
pub(crate) fn add_to_linker(linker: &mut Linker<ComponentHost>) -> Result<()> {
    linker.allow_shadowing(true);
    let mut types = linker.instance(INTERFACE)?;
    with_path!(types, "[method]descriptor.open-at",
    open_at(flags: PathFlags; open: OpenFlags, modes: DescriptorFlags) -> Resource<Descriptor>,
    Purpose::open(
        flags.contains(PathFlags::SYMLINK_FOLLOW),
        open.contains(OpenFlags::CREATE),
        open.contains(OpenFlags::EXCLUSIVE),
        open.contains(OpenFlags::TRUNCATE) || modes.contains(DescriptorFlags::WRITE),
    ))?;
    with_path!(types, "[method]descriptor.stat-at",
        stat_at(flags: PathFlags;) -> DescriptorStat,
        Purpose::look(flags.contains(PathFlags::SYMLINK_FOLLOW)))?;
    with_path!(types, "[method]descriptor.metadata-hash-at",
        metadata_hash_at(flags: PathFlags;) -> MetadataHashValue,
        Purpose::look(flags.contains(PathFlags::SYMLINK_FOLLOW)))?;
    with_path!(types, "[method]descriptor.set-times-at",
        set_times_at(flags: PathFlags; accessed: NewTimestamp, modified: NewTimestamp) -> (),
        Purpose::change(flags.contains(PathFlags::SYMLINK_FOLLOW)))?;
    with_path!(types, "[method]descriptor.readlink-at",
        readlink_at(;) -> String, Purpose::look(false))?;
    with_path!(types, "[method]descriptor.create-directory-at",
        create_directory_at(;) -> (), Purpose::MAKE)?;
    with_path!(types, "[method]descriptor.symlink-at",
        symlink_at(target: String;) -> (), Purpose::MAKE)?;
    with_path!(types, "[method]descriptor.remove-directory-at",
        remove_directory_at(;) -> (), Purpose::change(false))?;
    with_path!(types, "[method]descriptor.unlink-file-at",
        unlink_file_at(;) -> (), Purpose::change(false))?;
    with_paths!(types, "[method]descriptor.link-at",
        link_at(flags: PathFlags), Purpose::look(false), Purpose::MAKE)?;
    with_paths!(
        types,
        "[method]descriptor.rename-at",
        rename_at(),
        Purpose::change(false),
        Purpose::REPLACE
    )?;
    linker.allow_shadowing(false);
    Ok(())
}
