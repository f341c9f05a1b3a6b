//! Errors of the Task API and the ttrpc codes containerd reads from them.

use ttrpc::Code;

#[derive(Debug, thiserror::Error)]
pub(crate) enum TaskError {
    #[error("{0} not found")]
    NotFound(String),
    #[error("{0} has ended")]
    Ended(String),
    #[error("{0} exists already")]
    AlreadyExists(String),
    #[error("{0}")]
    InvalidArgument(String),
    #[error("{0}")]
    FailedPrecondition(String),
    #[error("not implemented: {0}")]
    Unimplemented(String),
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
    /// An answer of the nested shim, passed on as it is.
    #[error(transparent)]
    Forwarded(ttrpc::Error),
}

pub(crate) type TaskResult<T> = Result<T, TaskError>;

impl From<TaskError> for ttrpc::Error {
    fn from(error: TaskError) -> Self {
        let code = match &error {
            TaskError::NotFound(_) | TaskError::Ended(_) => Code::NOT_FOUND,
            TaskError::AlreadyExists(_) => Code::ALREADY_EXISTS,
            TaskError::InvalidArgument(_) => Code::INVALID_ARGUMENT,
            TaskError::FailedPrecondition(_) => Code::FAILED_PRECONDITION,
            TaskError::Unimplemented(_) => Code::UNIMPLEMENTED,
            TaskError::Failed(_) => Code::UNKNOWN,
            TaskError::Forwarded(_) => {
                let TaskError::Forwarded(inner) = error else {
                    unreachable!()
                };
                return inner;
            }
        };
        ttrpc::Error::RpcStatus(ttrpc::get_status(code, error.to_string()))
    }
}
