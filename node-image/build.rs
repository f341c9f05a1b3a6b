//! include_dir does not see changes below a folder by itself.
fn main() {
    for folder in ["components", "rootfs"] {
        println!("cargo::rerun-if-changed={folder}");
    }
}
