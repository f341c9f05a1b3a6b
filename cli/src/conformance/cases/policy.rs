//! NetworkPolicies, which hold for a Pod and so for both of its halves.
//!
//! Each case shows that traffic flows where it may, so that a refusal is the policy's.

use std::time::Duration;

use serde_json::{Value, json};

use crate::conformance::case::{Case, Half, Verdict, case};
use crate::conformance::pod::Running;
use crate::conformance::test::{Test, With, expect, port};

/// How long who is kept out tries. Who is let in needs milliseconds.
const PATIENCE: Duration = Duration::from_secs(3);
/// For a policy to hold for Pods that run already.
const SPREAD: Duration = Duration::from_secs(1);

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            "network.policy-ingress",
            ingress,
            "Only the Pods that a policy names reach the Pod that it selects.",
            "concepts/services-networking/network-policies/"
        )
        .optional(),
        case!(
            "network.policy-egress",
            egress,
            "A Pod that a policy selects reaches only the Pods that it names.",
            "concepts/services-networking/network-policies/"
        )
        .optional(),
        case!(
            "network.policy-at-start",
            at_start,
            "A new Pod is isolated before its containers start.",
            "concepts/services-networking/network-policies/"
        )
        .optional(),
        case!(
            "network.policy-named-port",
            named_port,
            "A policy opens a port of the Pod by its name, and no other.",
            "concepts/services-networking/network-policies/"
        )
        .optional(),
        case!(
            "network.policy-port-range",
            port_range,
            "A policy opens a range of ports, and no other.",
            "concepts/services-networking/network-policies/"
        )
        .optional(),
        case!(
            "network.policy-namespace",
            namespace,
            "A policy lets in the Pods of the namespaces that it selects.",
            "concepts/services-networking/network-policies/"
        )
        .optional(),
        case!(
            "network.policy-ip-block",
            ip_block,
            "A policy opens a block of addresses, less those that it excepts.",
            "concepts/services-networking/network-policies/"
        )
        .optional(),
        case!(
            "network.policy-udp",
            udp,
            "A policy that opens TCP alone keeps UDP out.",
            "concepts/services-networking/network-policies/"
        )
        .optional(),
        case!(
            "network.policy-probes",
            probes,
            "The kubelet probes a Pod that nobody may reach.",
            "concepts/services-networking/network-policies/"
        )
        .optional(),
        case!(
            "network.policy-removed",
            removed,
            "Without its policy a Pod is reached again.",
            "concepts/services-networking/network-policies/"
        )
        .optional(),
    ]
}

/// A Pod of this case under that role, which policies select it by.
async fn pod(test: &Test, role: &str, containers: Value) -> anyhow::Result<Running> {
    test.pod_from(json!({
        "metadata": { "name": format!("{}-{role}", test.name()), "labels": { "role": role } },
        "spec": test.spec(json!({ "containers": containers })),
    }))
    .await
}

/// Both halves' services, and the Pod's address.
async fn server(test: &Test, role: &str) -> anyhow::Result<String> {
    let pod = pod(test, role, test.both(|half| test.service(half))).await?;
    pod.both_run().await?;
    pod.address().await
}

/// The labels of this case's Pods with that role.
fn role(test: &Test, role: &str) -> Value {
    json!({ "matchLabels": test.labels().with(json!({ "role": role })) })
}

/// A policy for the Pods with that role.
async fn policy(test: &Test, selected: &str, rules: Value) -> Verdict {
    let spec = json!({ "podSelector": role(test, selected) }).with(rules);
    let metadata = json!({ "name": format!("{}-{selected}", test.name()) });
    let object = json!({ "metadata": metadata, "spec": spec });
    test.create("NetworkPolicy", object).await?;
    tokio::time::sleep(SPREAD).await;
    Ok(())
}

/// Both halves of a Pod with that role get an answer.
async fn reaches(test: &Test, role: &str, url: impl Fn(Half) -> String) -> Verdict {
    let containers = test.both(|half| test.command(half, &["get-when-up", &url(half)]));
    pod(test, role, containers)
        .await?
        .both_print("200 conformance")
        .await
}

/// Both halves of a Pod with that role do this in vain.
async fn in_vain(test: &Test, role: &str, act: impl Fn(Half) -> Vec<String>) -> Verdict {
    let container = |half| {
        let act = act(half);
        let words = ["in-turn", "say", "trying", "--"].into_iter();
        let words: Vec<&str> = words.chain(act.iter().map(String::as_str)).collect();
        test.command(half, &words)
    };
    let pod = pod(test, role, test.both(container)).await?;
    test.each(async |half| {
        pod.says(half.as_str(), "trying").await?;
        tokio::time::sleep(PATIENCE).await;
        let log = pod.log(half.as_str()).await?;
        expect(
            "answers",
            log.lines().filter(|line| answered(line)).count(),
            0,
        )
    })
    .await
}

fn answered(line: &str) -> bool {
    line.starts_with("200 ") || line.contains(" read ")
}

async fn is_kept_out(test: &Test, role: &str, url: impl Fn(Half) -> String) -> Verdict {
    in_vain(test, role, |half| vec!["get".into(), url(half)]).await
}

/// The service of the other half, so that each is called by each kind.
fn others(address: &str) -> impl Fn(Half) -> String {
    move |half| format!("http://{address}:{}/", port(half.other()))
}

/// The service of one half, for both.
fn of(half: Half, address: &str) -> impl Fn(Half) -> String {
    move |_| format!("http://{address}:{}/", port(half))
}

async fn ingress(test: Test) -> Verdict {
    let address = server(&test, "server").await?;
    reaches(&test, "before", others(&address)).await?;
    let from = json!([{ "podSelector": role(&test, "friend") }]);
    policy(
        &test,
        "server",
        json!({ "policyTypes": ["Ingress"], "ingress": [{ "from": from }] }),
    )
    .await?;
    reaches(&test, "friend", others(&address)).await?;
    is_kept_out(&test, "stranger", others(&address)).await
}

async fn egress(test: Test) -> Verdict {
    let (open, closed) = tokio::try_join!(server(&test, "open"), server(&test, "closed"))?;
    let to = json!([{ "podSelector": role(&test, "open") }]);
    for inside in ["inside", "tries"] {
        policy(
            &test,
            inside,
            json!({ "policyTypes": ["Egress"], "egress": [{ "to": to }] }),
        )
        .await?;
    }
    reaches(&test, "outside", others(&closed)).await?;
    reaches(&test, "inside", others(&open)).await?;
    is_kept_out(&test, "tries", others(&closed)).await
}

async fn at_start(test: Test) -> Verdict {
    let address = server(&test, "server").await?;
    policy(&test, "inside", json!({ "policyTypes": ["Egress"] })).await?;
    reaches(&test, "outside", others(&address)).await?;
    is_kept_out(&test, "inside", others(&address)).await
}

/// A server of each half's own, of which only that half's port is open.
async fn ports(test: &Test, open: impl Fn(Half) -> Value) -> Verdict {
    test.each(async |half| {
        let address = server(test, half.as_str()).await?;
        let rules = json!({ "policyTypes": ["Ingress"], "ingress": [{ "ports": [open(half)] }] });
        policy(test, half.as_str(), rules).await?;
        reaches(test, &format!("{half}-open"), of(half, &address)).await?;
        is_kept_out(test, &format!("{half}-closed"), of(half.other(), &address)).await
    })
    .await
}

async fn named_port(test: Test) -> Verdict {
    ports(&test, |half| json!({ "port": half.as_str() })).await
}

async fn port_range(test: Test) -> Verdict {
    ports(
        &test,
        |half| json!({ "port": port(half) - 100, "endPort": port(half) + 100 }),
    )
    .await
}

async fn namespace(test: Test) -> Verdict {
    let (own, other) = tokio::try_join!(server(&test, "own"), server(&test, "other"))?;
    for (server, namespace) in [
        ("own", test.namespace().name.as_str()),
        ("other", "kube-node-lease"),
    ] {
        let selector = json!({ "matchLabels": { "kubernetes.io/metadata.name": namespace } });
        let rules = json!({ "ingress": [{ "from": [{ "namespaceSelector": selector }] }] });
        policy(&test, server, rules).await?;
    }
    reaches(&test, "to-own", others(&own)).await?;
    is_kept_out(&test, "to-other", others(&other)).await
}

async fn ip_block(test: Test) -> Verdict {
    let (open, closed) = tokio::try_join!(server(&test, "open"), server(&test, "closed"))?;
    let all = if closed.contains(':') {
        ("::/0", 128)
    } else {
        ("0.0.0.0/0", 32)
    };
    let block = json!({ "cidr": all.0, "except": [format!("{closed}/{}", all.1)] });
    for client in ["inside", "tries"] {
        let rules =
            json!({ "policyTypes": ["Egress"], "egress": [{ "to": [{ "ipBlock": block }] }] });
        policy(&test, client, rules).await?;
    }
    reaches(&test, "outside", others(&closed)).await?;
    reaches(&test, "inside", others(&open)).await?;
    is_kept_out(&test, "tries", others(&closed)).await
}

async fn udp(test: Test) -> Verdict {
    let containers = Half::BOTH.map(|half| {
        let address = format!("0.0.0.0:{}", port(half));
        test.command(half, &["udp-echo", &address, half.as_str()])
    });
    let server = pod(&test, "server", containers.as_slice().into()).await?;
    server.both_run().await?;
    let address = server.address().await?;
    let act = |half: Half| {
        let address = format!("{address}:{}", port(half.other()));
        vec!["udp".to_owned(), address, "hello".to_owned()]
    };
    let containers = test.both(|half| {
        let act = act(half);
        test.command(half, &act.iter().map(String::as_str).collect::<Vec<_>>())
    });
    let before = pod(&test, "before", containers).await?;
    test.each(async |half| {
        let expected = format!("{} read hello", half.other());
        before.prints(half.as_str(), &expected).await
    })
    .await?;
    let rules = json!({ "ingress": [{ "ports": [{ "protocol": "TCP" }] }] });
    policy(&test, "server", rules).await?;
    in_vain(&test, "after", act).await
}

async fn probes(test: Test) -> Verdict {
    policy(
        &test,
        "server",
        json!({ "policyTypes": ["Ingress", "Egress"] }),
    )
    .await?;
    let probe =
        |half| json!({ "httpGet": { "path": "/", "port": port(half) }, "periodSeconds": 1 });
    let containers = test.both(|half| {
        test.service(half)
            .with(json!({ "readinessProbe": probe(half), "livenessProbe": probe(half) }))
    });
    let server = pod(&test, "server", containers).await?;
    server.ready().await?;
    let address = server.address().await?;
    is_kept_out(&test, "stranger", others(&address)).await?;
    server.never_restarted().await?;
    server.ready().await
}

async fn removed(test: Test) -> Verdict {
    let address = server(&test, "server").await?;
    policy(&test, "server", json!({ "policyTypes": ["Ingress"] })).await?;
    is_kept_out(&test, "stranger", others(&address)).await?;
    let path = test.namespace().path("NetworkPolicy")?;
    let path = format!("{path}/{}-server", test.name());
    test.namespace().delete(&path, None).await?;
    reaches(&test, "again", others(&address)).await
}
