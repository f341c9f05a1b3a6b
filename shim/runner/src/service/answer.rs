//! What a guest answered, on its way to the client, and the guest meanwhile.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use hyper::{Method, Response, StatusCode, Version};
use tokio::task::AbortHandle;
use wasmtime_wasi_http::Error as HttpError;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use super::connection::{Expected, Next};

/// A guest at work, which is ended when this is dropped.
#[derive(Debug)]
pub(super) struct Working(Option<AbortHandle>);

impl Working {
    pub(super) fn new(guest: AbortHandle) -> Self {
        Self(Some(guest))
    }

    /// Lets it work on.
    pub(super) fn leave(&mut self) {
        self.0 = None;
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if let Some(guest) = self.0.take() {
            guest.abort();
        }
    }
}

/// The body of an answer. If it is dropped before its end the client is gone, and the guest
/// ends. What the guest does after that end is its own affair.
pub(super) struct AnswerBody {
    body: HyperOutgoingBody,
    /// None of an answer that is not a guest's.
    guest: Option<Working>,
    /// Bytes to come where the head says so: hyper takes no more, and not the end either.
    left: Option<u64>,
    _expected: Option<Expected>,
}

/// An answer that is not a guest's.
impl From<HyperOutgoingBody> for AnswerBody {
    fn from(body: HyperOutgoingBody) -> Self {
        Self {
            body,
            guest: None,
            left: None,
            _expected: None,
        }
    }
}

impl AnswerBody {
    pub(super) fn of(body: HyperOutgoingBody, guest: Working) -> Self {
        Self {
            guest: Some(guest),
            ..body.into()
        }
    }

    fn has_ended(&mut self) {
        if let Some(guest) = &mut self.guest {
            guest.leave();
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        if let (Some(left), Some(Ok(frame))) = (&mut this.left, &frame)
            && let Some(data) = frame.data_ref()
        {
            *left = left.saturating_sub(data.len() as u64);
        }
        // After an error too: it is the guest that broke off.
        if !matches!(&frame, Some(Ok(frame)) if frame.is_data()) || this.is_end_stream() {
            this.has_ended();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0) || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Makes of a guest's answer what the client must get of it: RFC 9110, sections 6.4.1 and 8.6,
/// and chapter 15. `expected` is of a connection of HTTP/1.
pub(super) fn finish(
    response: Response<AnswerBody>,
    method: &Method,
    version: Version,
    expected: Option<Expected>,
) -> Response<AnswerBody> {
    let (mut head, mut body) = response.into_parts();
    let has_body = *method != Method::HEAD
        && !matches!(
            head.status,
            StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
        );
    if !has_body {
        match head.status {
            StatusCode::NO_CONTENT => {
                head.headers.remove(CONTENT_LENGTH);
            }
            StatusCode::RESET_CONTENT => {
                head.headers
                    .insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
            _ => {}
        }
        body.has_ended();
        let empty = Empty::new().map_err(|never| match never {});
        return Response::from_parts(head, empty.boxed_unsync().into());
    }
    let length = head.headers.get(CONTENT_LENGTH);
    body.left = length.and_then(|length| length.to_str().ok()?.parse().ok());
    if body.is_end_stream() {
        body.has_ended();
    }
    if let Some(expected) = expected {
        let chunked =
            version == Version::HTTP_11 && length.is_none() && body.size_hint().exact().is_none();
        if chunked {
            // As hyper would, but now it is certain.
            let value = HeaderValue::from_static("chunked");
            head.headers.insert(TRANSFER_ENCODING, value);
            expected.instead(Next::Chunk);
        } else {
            expected.instead(Next::Unknown);
        }
        body._expected = Some(expected);
    }
    Response::from_parts(head, body)
}
