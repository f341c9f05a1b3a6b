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

pub(crate) use pod::{Pod, Setup};
pub(crate) use service::TaskService;
