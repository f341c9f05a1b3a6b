//! A component of a Spin application: counts the visits of whom the path names, in the key-value store.

use anyhow::{Context, Result};
use spin_sdk::http::{IntoResponse, Request};
use spin_sdk::key_value::Store;
use spin_sdk::{http_service, variables};

#[http_service]
async fn handle(request: Request) -> Result<impl IntoResponse> {
    let name = request.uri().path().trim_start_matches('/');
    let greeting = variables::get("greeting").await?;
    let visit = count(name).await?;
    Ok(format!("{greeting} {name}, visit {visit}, from Spin\n"))
}

async fn count(name: &str) -> Result<u64> {
    let store = Store::open_default().await?;
    let before = match store.get(name).await? {
        Some(bytes) => String::from_utf8(bytes)?.parse().context("a count")?,
        None => 0,
    };
    let visit: u64 = before + 1;
    store.set(name, visit.to_string()).await?;
    Ok(visit)
}
