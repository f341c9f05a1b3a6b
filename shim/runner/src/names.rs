//! Looking up host names from a static binary.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
unsafe extern "C" {
    fn __nss_configure_lookup(
        database: *const libc::c_char,
        services: *const libc::c_char,
    ) -> libc::c_int;
}

/// glibc reads nsswitch.conf and loads a library for each service that it names. There is no
/// such library in the runner's root, and one from an image must never be loaded: keep to
/// /etc/hosts and DNS, which are part of glibc itself.
pub(crate) fn never_load_libraries() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: both are NUL-terminated and live forever, and no other thread runs yet that might
    // look a name up.
    let _ = unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
}
