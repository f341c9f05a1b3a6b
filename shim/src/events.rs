//! Task events to containerd, in the order they happened.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow};
use containerd_shim_protos::api::ForwardRequest;
use containerd_shim_protos::protobuf::MessageFull;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use tokio::sync::{mpsc, oneshot};

const ATTEMPTS: u32 = 5;
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

enum Item {
    Event(Box<Envelope>),
    Flush(oneshot::Sender<()>),
}

/// Queues events; publishing never waits. An event that containerd does not take
/// after a few attempts is dropped: events inform, no state depends on them.
#[derive(Clone)]
pub(crate) struct Publisher {
    namespace: String,
    queue: mpsc::UnboundedSender<Item>,
}

impl Publisher {
    pub(crate) fn start(namespace: &str, ttrpc_address: &str) -> Self {
        let (queue, items) = mpsc::unbounded_channel();
        let address = match ttrpc_address.starts_with("unix://") {
            true => ttrpc_address.to_owned(),
            false => format!("unix://{ttrpc_address}"),
        };
        tokio::spawn(forward_all(address, items));
        Publisher {
            namespace: namespace.to_owned(),
            queue,
        }
    }

    /// Publishes `event` under `topic`, one of containerd's task topics.
    pub(crate) fn publish<M: MessageFull>(&self, topic: &str, event: &M) {
        let event = match any(event) {
            Ok(event) => event,
            Err(e) => {
                log::error!("encode event {topic}: {e:#}");
                return;
            }
        };
        let envelope = Envelope {
            timestamp: Some(timestamp(SystemTime::now())).into(),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: Some(event).into(),
            ..Default::default()
        };
        let _ = self.queue.send(Item::Event(Box::new(envelope)));
    }

    /// Waits until what was published so far is sent, `limit` at most.
    pub(crate) async fn flush(&self, limit: Duration) {
        let (done, sent) = oneshot::channel();
        if self.queue.send(Item::Flush(done)).is_ok() {
            let _ = tokio::time::timeout(limit, sent).await;
        }
    }
}

async fn forward_all(address: String, mut items: mpsc::UnboundedReceiver<Item>) {
    let mut connection = None;
    while let Some(item) = items.recv().await {
        match item {
            Item::Flush(done) => {
                let _ = done.send(());
            }
            Item::Event(envelope) => {
                let topic = envelope.topic.clone();
                if let Err(e) = forward(&address, &mut connection, *envelope).await {
                    log::warn!("event {topic} is lost: {e:#}");
                }
            }
        }
    }
}

async fn forward(
    address: &str,
    connection: &mut Option<EventsClient>,
    envelope: Envelope,
) -> Result<()> {
    let request = ForwardRequest {
        envelope: Some(envelope).into(),
        ..Default::default()
    };
    let mut last = anyhow!("no attempt was made");
    for attempt in 0..ATTEMPTS {
        // Order matters more than speed, so the queue waits for the retry.
        tokio::time::sleep(Duration::from_millis(200) * attempt).await;
        let client = match connection.take() {
            Some(client) => client,
            None => match Client::connect(address).await {
                Ok(client) => EventsClient::new(client),
                Err(e) => {
                    last = anyhow!(e).context(format!("connect to {address}"));
                    continue;
                }
            },
        };
        let context = ttrpc::context::with_duration(CALL_TIMEOUT);
        match client.forward(context, &request).await {
            Ok(_) => {
                *connection = Some(client);
                return Ok(());
            }
            Err(e) => last = e.into(),
        }
    }
    Err(last)
}

/// Packs a message the way containerd's typeurl does: the bare message name.
pub(crate) fn any<M: MessageFull>(message: &M) -> Result<Any> {
    Ok(Any {
        type_url: M::descriptor().full_name().to_owned(),
        value: message.write_to_bytes().context("encode message")?,
        ..Default::default()
    })
}

pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: since.as_secs() as i64,
        nanos: since.subsec_nanos() as i32,
        ..Default::default()
    }
}
