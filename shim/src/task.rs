//! The Task API of one Pod.

mod container;
mod forward;
mod own;
mod pod;
mod service;

pub(crate) use pod::{Pod, Setup};
pub(crate) use service::TaskService;
