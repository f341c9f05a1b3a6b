//! The Task API of one Pod.

mod container;
mod exec;
mod forward;
mod lifecycle;
mod own;
mod pod;
mod process;
mod running;
mod service;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use forward::runc_options;
pub(crate) use pod::{Pod, Setup};
pub(crate) use service::TaskService;
