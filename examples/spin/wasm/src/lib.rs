//! A component of a Spin application: tells how a request reached it, and uses
//! what the application gives it.

use anyhow::{Context, Result};
use spin_sdk::http::{IntoResponse, Method, Request, Response};
use spin_sdk::key_value::Store;
use spin_sdk::{http_component, variables};

#[http_component]
async fn handle(request: Request) -> Result<impl IntoResponse> {
    let path_info = text(&request, "spin-path-info");
    let answer = match path_info.split('/').nth(1).unwrap_or_default() {
        // A visitor's number, which outlives the request.
        "count" => count(),
        // A file that the application brought.
        "file" => read(path_info.strip_prefix("/file").unwrap_or_default()),
        "write" => std::fs::write("/new.txt", "x")
            .map(|()| "written".to_owned())
            .context("write /new.txt"),
        "variable" => variables::get("text").map_err(Into::into),
        "environment" => Ok(std::env::vars()
            .map(|(name, value)| format!("{name}={value}\n"))
            .collect()),
        // Another service, if the application's manifest allows it.
        "fetch" => fetch(request.query()).await,
        _ => Ok(headers(&request)),
    };
    Ok(match answer {
        Ok(text) => Response::new(200, text),
        Err(error) => Response::new(500, format!("{error:#}")),
    })
}

fn text<'a>(request: &'a Request, header: &str) -> &'a str {
    let value = request.header(header);
    value.and_then(|value| value.as_str()).unwrap_or_default()
}

/// One line for each header that Spin sets.
fn headers(request: &Request) -> String {
    let mut lines: Vec<_> = request
        .headers()
        .filter(|(name, _)| name.starts_with("spin-"))
        .map(|(name, value)| format!("{name}: {}\n", value.as_str().unwrap_or_default()))
        .collect();
    lines.sort();
    lines.concat()
}

fn count() -> Result<String> {
    let store = Store::open_default()?;
    let before = match store.get("count")? {
        Some(bytes) => String::from_utf8(bytes)?.parse()?,
        None => 0,
    };
    let count: u64 = before + 1;
    store.set("count", count.to_string().as_bytes())?;
    let keys = store.get_keys()?.join(" ");
    Ok(format!("{count} {keys}"))
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {path}"))
}

async fn fetch(url: &str) -> Result<String> {
    let request = Request::builder().method(Method::Get).uri(url).build();
    let response: Response = spin_sdk::http::send(request).await?;
    Ok(format!("{}", response.status()))
}
