//! A service of WASI 0.3, whose interfaces are async: greets whom the path names.

use std::env;

use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_bindgen, wit_future, wit_stream};

struct Service;

wasip3::http::service::export!(Service);

impl wasip3::exports::http::handler::Guest for Service {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let greeting = env::var("GREETING").unwrap_or_else(|_| "Hello".into());
        let path = request.get_path_with_query().unwrap_or_default();
        let name = path.trim_start_matches('/');
        let text = format!("{greeting} {name}, from Rust and WASI 0.3\n");

        let (mut body, body_reader) = wit_stream::new();
        // What ends the body: no trailers here.
        let (_, trailers) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(Fields::new(), Some(body_reader), trailers);
        // Goes on when the response is on its way.
        wit_bindgen::spawn_local(async move {
            body.write_all(text.into_bytes()).await;
        });
        Ok(response)
    }
}
