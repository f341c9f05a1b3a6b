//! Spin applications: what an application's lock file says, which component
//! answers a request, and what components are given beside WASI.

mod app;
mod hosts;
#[cfg(feature = "run")]
mod imports;
mod route;
#[cfg(feature = "run")]
mod store;

pub use app::{App, AppError, Component, Content, File, MAX_COMPONENTS, Prepared};
pub use hosts::{AllowedHosts, HostError};
#[cfg(feature = "run")]
pub use imports::{Context, add_to_linker};
pub use route::{RouteError, Routes, Target};
#[cfg(feature = "run")]
pub use store::Store;
