//! containerd-shim-wasmkind-v1. All of it is in the library, where fuzz targets reach it.

fn main() -> std::process::ExitCode {
    containerd_shim_wasmkind::main()
}
