//! WASI 0.2's functions that take a path, by way of [`Files`].

use wasmtime::component::{Linker, Resource};
use wasmtime::{Result, StoreContextMut};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, DescriptorStat, ErrorCode, Host as _, HostDescriptor, MetadataHashValue,
    NewTimestamp, OpenFlags, PathFlags,
};

use super::Purpose;
use crate::host::ComponentHost;

/// As wasmtime defines it.
const INTERFACE: &str = "wasi:filesystem/types@0.2.12";

/// A path in a directory, as wasmtime is asked for it.
pub(super) struct Way {
    dir: Resource<Descriptor>,
    path: String,
    /// The directory is none of the guest's, and was put into the table for this call.
    ours: bool,
    rerouted: bool,
}

impl Way {
    pub(super) fn dir(&self) -> Resource<Descriptor> {
        Resource::new_borrow(self.dir.rep())
    }

    pub(super) fn path(&self) -> String {
        self.path.clone()
    }
}

impl ComponentHost {
    /// None where it is refused.
    pub(super) fn way(
        &mut self,
        dir: &Resource<Descriptor>,
        path: &str,
        purpose: Purpose,
    ) -> Result<Option<Way>> {
        let mut way = Way {
            dir: Resource::new_borrow(dir.rep()),
            path: path.to_owned(),
            ours: false,
            rerouted: false,
        };
        if let Some(files) = &self.files
            && let Descriptor::Dir(dir) = self.table.get(dir)?
            && files.is_shared(dir)
        {
            let Ok(choice) = files.choose(path, purpose) else {
                return Ok(None);
            };
            let chosen = files.dir(choice).clone();
            way.dir = self.table.push(Descriptor::Dir(chosen))?;
            way.ours = true;
        }
        Ok(Some(way))
    }

    /// Another way to the same place, once for each.
    pub(super) fn reroute(&mut self, way: &mut Way, purpose: Purpose) -> Result<bool> {
        let Some(files) = self.files.as_ref().filter(|_| !way.rerouted) else {
            return Ok(false);
        };
        let Descriptor::Dir(dir) = self.table.get(&way.dir)? else {
            return Ok(false);
        };
        let path = files
            .base(dir)
            .and_then(|base| files.reroute(&base, &way.path, purpose));
        let Some(path) = path else {
            return Ok(false);
        };
        let root = files.dir(super::Choice::Root).clone();
        let ours = self.table.push(Descriptor::Dir(root))?;
        self.leave(way)?;
        *way = Way {
            dir: ours,
            path,
            ours: true,
            rerouted: true,
        };
        Ok(true)
    }

    pub(super) fn leave(&mut self, way: &Way) -> Result<()> {
        if way.ours {
            self.table
                .delete(Resource::<Descriptor>::new_own(way.dir.rep()))?;
        }
        Ok(())
    }
}

/// Defines a function of one path anew. `before` and `after` are its arguments around the path.
macro_rules! with_path {
    ($types:ident, $name:literal, $method:ident($($before:ident: $before_ty:ty),* ; $($after:ident: $after_ty:ty),*) -> $result:ty, $purpose:expr) => {
        $types.func_wrap_async(
            $name,
            |mut store: StoreContextMut<'_, ComponentHost>,
             (dir, $($before,)* path, $($after,)*): (Resource<Descriptor>, $($before_ty,)* String, $($after_ty,)*)| {
                Box::new(async move {
                    let host = store.data_mut();
                    let purpose: Purpose = $purpose;
                    let Some(mut way) = host.way(&dir, &path, purpose)? else {
                        return Ok((Err(ErrorCode::NotPermitted),));
                    };
                    loop {
                        let mut view = host.filesystem();
                        let result = HostDescriptor::$method(
                            &mut view, way.dir(), $(Clone::clone(&$before),)* way.path(), $(Clone::clone(&$after),)*
                        ).await;
                        let result: Result<$result, ErrorCode> = match result {
                            Ok(done) => Ok(done),
                            Err(error) => Err(view.convert_error_code(error)?),
                        };
                        if matches!(result, Err(ErrorCode::NotPermitted)) && host.reroute(&mut way, purpose)? {
                            continue;
                        }
                        host.leave(&way)?;
                        return Ok((result,));
                    }
                })
            },
        )
    };
}

/// Defines a function of two paths anew.
macro_rules! with_paths {
    ($types:ident, $name:literal, $method:ident($($before:ident: $before_ty:ty),*), $from:expr, $to:expr) => {
        $types.func_wrap_async(
            $name,
            |mut store: StoreContextMut<'_, ComponentHost>,
             (dir, $($before,)* path, to_dir, to_path): (Resource<Descriptor>, $($before_ty,)* String, Resource<Descriptor>, String)| {
                Box::new(async move {
                    let host = store.data_mut();
                    let Some(mut from) = host.way(&dir, &path, $from)? else {
                        return Ok((Err(ErrorCode::NotPermitted),));
                    };
                    let Some(mut to) = host.way(&to_dir, &to_path, $to)? else {
                        host.leave(&from)?;
                        return Ok((Err(ErrorCode::NotPermitted),));
                    };
                    loop {
                        let mut view = host.filesystem();
                        let result = HostDescriptor::$method(
                            &mut view, from.dir(), $(Clone::clone(&$before),)* from.path(), to.dir(), to.path(),
                        ).await;
                        let result: Result<(), ErrorCode> = match result {
                            Ok(()) => Ok(()),
                            Err(error) => Err(view.convert_error_code(error)?),
                        };
                        if matches!(result, Err(ErrorCode::NotPermitted))
                            && (host.reroute(&mut from, $from)? | host.reroute(&mut to, $to)?)
                        {
                            continue;
                        }
                        host.leave(&from)?;
                        host.leave(&to)?;
                        return Ok((result,));
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
