//! Responses to requests that guests sent.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::{Error, WasiBody};

use crate::hop_by_hop;

/// What the guest gets of it. Between two parts of the body no more than `between` passes.
pub(super) fn begin(mut response: Response<Incoming>, between: Duration) -> Response<WasiBody> {
    hop_by_hop::remove(response.headers_mut());
    response.map(|incoming| {
        let body = Timed {
            incoming,
            between,
            over: Box::pin(tokio::time::sleep(between)),
        };
        body.boxed_unsync()
    })
}

struct Timed {
    incoming: Incoming,
    between: Duration,
    over: Pin<Box<Sleep>>,
}

impl Body for Timed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.incoming).poll_frame(context) {
            this.over.as_mut().reset(Instant::now() + this.between);
            return Poll::Ready(frame.map(|frame| frame.map_err(Error::from)));
        }
        ready!(this.over.as_mut().poll(context));
        Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
