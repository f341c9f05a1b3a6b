//! The Pod's network, which both halves share.

use anyhow::{Context, ensure};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::conformance::case::{Case, Half, Verdict, case};
use crate::conformance::pod::Running;
use crate::conformance::test::{Test, With, expect, expect_in, port};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            "network.localhost",
            localhost,
            "Each service requests the other over localhost.",
            "concepts/workloads/pods/"
        ),
        case!(
            "network.localhost-tcp",
            tcp,
            "Each command talks TCP with the other over localhost.",
            "concepts/workloads/pods/"
        ),
        case!(
            "network.localhost-udp",
            udp,
            "Each command talks UDP with the other over localhost.",
            "concepts/workloads/pods/"
        ),
        case!(
            "network.port-taken",
            port_taken,
            "A port that one container listens on is taken for the other.",
            "concepts/workloads/pods/"
        ),
        case!(
            "network.pod-address",
            pod_address,
            "A Pod's services are reached from another Pod at its address.",
            "concepts/services-networking/"
        ),
        case!(
            "network.same-address",
            same_address,
            "Both containers are reached at the Pod's own address from inside of it.",
            "concepts/services-networking/"
        ),
        case!(
            "network.service",
            service,
            "A Service leads to both containers' ports, by address and by name.",
            "concepts/services-networking/service/"
        ),
        case!(
            "network.headless-service",
            headless,
            "The name of a headless Service resolves to the Pod's address.",
            "concepts/services-networking/service/"
        ),
        case!(
            "network.dns",
            dns,
            "Names of Services resolve, in full and by the search path.",
            "concepts/services-networking/dns-pod-service/"
        ),
        case!(
            "network.unknown-name",
            unknown_name,
            "A name that does not exist is an error, not an address.",
            "concepts/services-networking/dns-pod-service/"
        ),
        case!(
            "network.host-aliases",
            host_aliases,
            "Names in the Pod's hostAliases resolve.",
            "tasks/network/customize-hosts-file-for-pods/"
        ),
        case!(
            "network.dns-policy",
            dns_policy,
            "The Pod's own DNS configuration is in resolv.conf.",
            "concepts/services-networking/dns-pod-service/"
        ),
        case!(
            "network.host-network",
            host_network,
            "With hostNetwork the Pod's address is the node's, and both containers listen there.",
            "concepts/workloads/pods/"
        )
        .optional(),
        case!(
            "network.host-port",
            host_port,
            "A hostPort leads from the node to the container.",
            "concepts/configuration/overview/"
        )
        .optional(),
        case!(
            "network.large-bodies",
            large_bodies,
            "Bodies of megabytes are sent and received whole.",
            "concepts/services-networking/"
        ),
        case!(
            "network.streaming",
            streaming,
            "An answer that is written bit by bit arrives bit by bit.",
            "concepts/services-networking/"
        ),
        case!(
            "network.many-requests",
            many_requests,
            "A hundred requests at the same time are all answered.",
            "concepts/services-networking/"
        ),
        case!(
            "network.many-connections",
            many_connections,
            "A hundred connections from one container to the other are open at the same time.",
            "concepts/services-networking/"
        ),
        case!(
            "network.api-server",
            api_server,
            "The API server is reached from both containers.",
            "tasks/run-application/access-api-from-pod/"
        ),
        case!(
            "network.private-authority",
            private_authority,
            "A service trusts the authority that SSL_CERT_FILE names, and calls the API server.",
            "tasks/run-application/access-api-from-pod/"
        ),
        case!(
            "network.grpc-call",
            grpc_call,
            "Each service calls the other over gRPC, and gets its trailers.",
            "concepts/services-networking/"
        ),
        case!(
            "network.http-hosts",
            http_hosts,
            "A request of HTTP/1.0 needs no Host, and one of HTTP/1.1 needs one.",
            "concepts/services-networking/"
        ),
        case!(
            "network.half-closed",
            half_closed,
            "A client that has sent all it has to say gets its answer.",
            "concepts/services-networking/"
        ),
        case!(
            "network.client-gone",
            client_gone,
            "A service that works on one request at a time does not work for a client that has gone.",
            "concepts/services-networking/"
        ),
    ]
}

async fn services(test: &Test) -> anyhow::Result<Running> {
    let pod = test
        .pod(json!({ "containers": test.both(|half| test.service(half)) }))
        .await?;
    pod.both_run().await?;
    Ok(pod)
}

/// Percent-encodes what would end a query's value.
fn quoted(url: &str) -> String {
    url.replace('&', "%26")
        .replace('?', "%3F")
        .replace('=', "%3D")
}

async fn localhost(test: Test) -> Verdict {
    let pod = services(&test).await?;
    test.each(async |half| {
        let target = format!("/fetch?url=http://127.0.0.1:{}/", port(half.other()));
        expect(
            "answer",
            pod.get_when_up(half, &target).await?.as_str(),
            "200 conformance\n",
        )?;
        let target = format!("/fetch?url=http://localhost:{}/", port(half.other()));
        expect(
            "answer by name",
            pod.get(half, &target).await?.as_str(),
            "200 conformance\n",
        )
    })
    .await
}

/// Each half runs a server in one container and a client of the other's in another.
async fn servers_and_clients(test: &Test, protocol: &str) -> Verdict {
    let server = |half: Half| {
        let address = format!("127.0.0.1:{}", port(half));
        test.command(
            half,
            &[&format!("{protocol}-echo"), &address, half.as_str()],
        )
        .with(json!({ "name": format!("{half}-server") }))
    };
    let client = |half: Half| {
        let address = format!("127.0.0.1:{}", port(half.other()));
        test.command(half, &[protocol, &address, &format!("hello from {half}")])
    };
    let containers = Half::BOTH.map(|half| [server(half), client(half)]).concat();
    let pod = test.pod(json!({ "containers": containers })).await?;
    test.each(async |half| {
        pod.prints(
            half.as_str(),
            &format!("{} read hello from {half}", half.other()),
        )
        .await
    })
    .await
}

async fn tcp(test: Test) -> Verdict {
    servers_and_clients(&test, "tcp").await
}

async fn udp(test: Test) -> Verdict {
    servers_and_clients(&test, "udp").await
}

async fn port_taken(test: Test) -> Verdict {
    test.each(async |half| {
        let address = format!("0.0.0.0:{}", port(half));
        let url = format!("http://127.0.0.1:{}/", port(half));
        let second = test.command(
            half.other(),
            &["in-turn", "get-when-up", &url, "--", "listen", &address],
        );
        let spec = json!({ "containers": [test.service(half), second] });
        let pod = test
            .pod_as(&format!("{}-{half}", test.name()), spec)
            .await?;
        expect(
            "exit code of the second listener",
            pod.ended(half.other().as_str()).await?.exit_code,
            1,
        )?;
        expect_in(
            "log",
            &pod.log(half.other().as_str()).await?,
            "200 conformance",
        )
    })
    .await
}

/// A Pod whose halves get the same URLs, and print what came.
async fn callers(test: &Test, url: impl Fn(Half) -> String) -> anyhow::Result<Running> {
    let containers = test.both(|half| test.command(half, &["get-when-up", &url(half)]));
    test.pod_as(
        &format!("{}-caller", test.name()),
        json!({ "containers": containers }),
    )
    .await
}

async fn pod_address(test: Test) -> Verdict {
    let pod = services(&test).await?;
    let address = pod.address().await?;
    let caller = callers(&test, |half| {
        format!("http://{address}:{}/", port(half.other()))
    })
    .await?;
    caller.both_print("200 conformance").await
}

async fn same_address(test: Test) -> Verdict {
    let pod = services(&test).await?;
    let address = pod.address().await?;
    test.each(async |half| {
        let target = format!("/fetch?url=http://{address}:{}/", port(half.other()));
        expect(
            "answer",
            pod.get_when_up(half, &target).await?.as_str(),
            "200 conformance\n",
        )
    })
    .await
}

/// Ports of a Service that lead to both halves.
fn ports() -> Value {
    Half::BOTH
        .map(|half| json!({ "name": half.as_str(), "port": port(half) + 1, "targetPort": half.as_str() }))
        .as_slice()
        .into()
}

async fn service(test: Test) -> Verdict {
    let spec = json!({ "selector": { "app": test.name() }, "ports": ports() });
    let service = test.create("Service", json!({ "spec": spec })).await?;
    let address = service["spec"]["clusterIP"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let probe = |half| json!({ "readinessProbe": { "httpGet": { "path": "/", "port": port(half) }, "periodSeconds": 1 } });
    let spec =
        test.spec(json!({ "containers": test.both(|half| test.service(half).with(probe(half))) }));
    let pod = test
        .pod_from(json!({ "metadata": { "labels": { "app": test.name() } }, "spec": spec }))
        .await?;
    pod.ready().await?;
    let caller = |half: Half| {
        let port = port(half.other()) + 1;
        let (by_address, by_name) = (
            format!("http://{address}:{port}/"),
            format!("http://{}:{port}/", test.name()),
        );
        test.command(
            half,
            &[
                "in-turn",
                "get-when-up",
                &by_address,
                "--",
                "get-when-up",
                &by_name,
            ],
        )
    };
    let name = format!("{}-caller", test.name());
    let caller = test
        .pod_as(&name, json!({ "containers": test.both(caller) }))
        .await?;
    caller.both_print("200 conformance\n200 conformance").await
}

async fn headless(test: Test) -> Verdict {
    let spec = json!({ "clusterIP": "None", "selector": { "app": test.name() }, "ports": ports() });
    test.create("Service", json!({ "spec": spec })).await?;
    let spec = test.spec(json!({ "containers": test.both(|half| test.service(half)) }));
    let pod = test
        .pod_from(json!({ "metadata": { "labels": { "app": test.name() } }, "spec": spec }))
        .await?;
    pod.ready().await?;
    let address = pod.address().await?;
    // The DNS server hears of it a little later, and a miss is kept for some seconds.
    let url = |half: Half| format!("http://{}:{}/", test.name(), port(half.other()));
    let caller = |half: Half| {
        test.command(
            half,
            &[
                "in-turn",
                "get-when-up",
                &url(half),
                "--",
                "resolve",
                test.name(),
            ],
        )
    };
    let name = format!("{}-caller", test.name());
    let caller = test
        .pod_as(
            &name,
            json!({ "restartPolicy": "OnFailure", "containers": test.both(caller) }),
        )
        .await?;
    caller
        .both_print(&format!("200 conformance\n{address}"))
        .await
}

async fn dns(test: Test) -> Verdict {
    let words = [
        "in-turn",
        "resolve",
        "kubernetes.default.svc.cluster.local",
        "--",
        "resolve",
        "kubernetes.default",
    ];
    let pod = test
        .pod(json!({ "containers": test.both(|half| test.command(half, &words)) }))
        .await?;
    let service = test
        .namespace()
        .get("/api/v1/namespaces/default/services/kubernetes")
        .await?;
    let address = service["spec"]["clusterIP"].as_str().unwrap_or_default();
    pod.both_print(&format!("{address}\n{address}")).await
}

async fn unknown_name(test: Test) -> Verdict {
    let words = ["resolve", "nobody.default.svc.cluster.local"];
    let pod = test
        .pod(json!({ "containers": test.both(|half| test.command(half, &words)) }))
        .await?;
    test.each(async |half| {
        expect("exit code", pod.ended(half.as_str()).await?.exit_code, 1)?;
        expect_in(
            "log",
            &pod.log(half.as_str()).await?,
            "nobody.default.svc.cluster.local",
        )
    })
    .await
}

async fn host_aliases(test: Test) -> Verdict {
    let aliases = json!([{ "ip": "192.0.2.7", "hostnames": ["somebody.example"] }]);
    let containers = test.both(|half| test.command(half, &["resolve", "somebody.example"]));
    let pod = test
        .pod(json!({ "hostAliases": aliases, "containers": containers }))
        .await?;
    pod.both_print("192.0.2.7").await
}

async fn dns_policy(test: Test) -> Verdict {
    let config = json!({ "nameservers": ["192.0.2.53"], "searches": ["one.example"], "options": [{ "name": "ndots", "value": "2" }] });
    let containers = test.both(|half| test.command(half, &["cat", "/etc/resolv.conf"]));
    let pod = test
        .pod(json!({ "dnsPolicy": "None", "dnsConfig": config, "containers": containers }))
        .await?;
    test.each(async |half| {
        let log = pod.printed(half.as_str()).await?;
        for part in [
            "nameserver 192.0.2.53",
            "search one.example",
            "options ndots:2",
        ] {
            expect_in("resolv.conf", &log, part)?;
        }
        Ok(())
    })
    .await
}

/// A container that serves on that port.
fn on_port(test: &Test, half: Half, port: u16, more: Value) -> Value {
    test.container(half).with(json!({
        "env": [{ "name": "WASMTIME_HTTP_PROXY_SOCKET_ADDR", "value": format!("0.0.0.0:{port}") }],
        "ports": [json!({ "containerPort": port }).with(more)],
    }))
}

async fn host_network(test: Test) -> Verdict {
    let number = |half| match half {
        Half::Wasm => 18_480,
        Half::Linux => 18_490,
    };
    let containers = test.both(|half| on_port(&test, half, number(half), json!({})));
    let pod = test
        .pod(json!({ "hostNetwork": true, "containers": containers }))
        .await?;
    pod.both_run().await?;
    let object = pod.object().await?;
    expect(
        "address",
        object["status"]["podIP"].as_str(),
        object["status"]["hostIP"].as_str(),
    )?;
    let address = pod.address().await?;
    let caller = callers(&test, |half| {
        format!("http://{address}:{}/", number(half.other()))
    })
    .await?;
    caller.both_print("200 conformance").await
}

async fn host_port(test: Test) -> Verdict {
    let number = |half| match half {
        Half::Wasm => 18_481,
        Half::Linux => 18_491,
    };
    let containers =
        test.both(|half| on_port(&test, half, port(half), json!({ "hostPort": number(half) })));
    let pod = test.pod(json!({ "containers": containers })).await?;
    pod.both_run().await?;
    let object = pod.object().await?;
    let address = object["status"]["hostIP"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let caller = callers(&test, |half| {
        format!("http://{address}:{}/", number(half.other()))
    })
    .await?;
    caller.both_print("200 conformance").await
}

async fn large_bodies(test: Test) -> Verdict {
    const BYTES: usize = 3_000_000;
    let pod = services(&test).await?;
    test.each(async |half| {
        let answer = pod
            .get_when_up(half, &format!("/large?bytes={BYTES}"))
            .await?;
        expect("bytes received", answer.len(), BYTES)?;
        let answer = pod
            .request(half, Method::POST, "/count", vec![b'y'; BYTES])
            .await?;
        expect(
            "bytes sent",
            answer.text().trim_end(),
            BYTES.to_string().as_str(),
        )?;
        let answer = pod
            .request(half, Method::POST, "/echo", vec![b'z'; BYTES])
            .await?;
        ensure!(
            answer.body.len() == BYTES && answer.body.iter().all(|byte| *byte == b'z'),
            "echo: {} bytes came back",
            answer.body.len()
        );
        // From one half to the other as well, with the guests' own clients.
        let url = quoted(&format!(
            "http://127.0.0.1:{}/large?bytes=200000",
            port(half.other())
        ));
        let answer = pod.get(half, &format!("/fetch?url={url}")).await?;
        expect("bytes fetched", answer.len(), "200 ".len() + 200_000)
    })
    .await
}

async fn streaming(test: Test) -> Verdict {
    let pod = services(&test).await?;
    test.each(async |half| {
        pod.get_when_up(half, "/").await?;
        let path = format!("{}:{}/proxy/ticks?count=8", pod.path(), port(half));
        let mut body = test.namespace().stream(&path).await?;
        let mut seen = String::new();
        let mut first = None;
        while let Some(frame) = body.frame().await {
            seen.push_str(&String::from_utf8_lossy(
                &frame?.into_data().unwrap_or_default(),
            ));
            if seen.contains("tick 1\n") {
                first.get_or_insert_with(Instant::now);
            }
        }
        expect_in("answer", &seen, "tick 8\n")?;
        // There are 800 ms between the first and the end: all in one piece is no stream.
        let took = first.context("no tick came")?.elapsed();
        ensure!(
            took.as_millis() >= 300,
            "all came within {} ms",
            took.as_millis()
        );
        Ok(())
    })
    .await
}

async fn many_requests(test: Test) -> Verdict {
    let pod = services(&test).await?;
    test.each(async |half| {
        pod.get_when_up(half, "/").await?;
        let requests = (0..100).map(|_| pod.get(half, "/sleep?ms=100"));
        let answers = futures_util::future::try_join_all(requests).await?;
        ensure!(
            answers.iter().all(|answer| answer == "slept\n"),
            "not all were answered well"
        );
        Ok(())
    })
    .await
}

async fn many_connections(test: Test) -> Verdict {
    let server = |half: Half| {
        let address = format!("127.0.0.1:{}", port(half));
        test.command(half, &["tcp-echo", &address, half.as_str()])
            .with(json!({ "name": format!("{half}-server") }))
    };
    let client = |half: Half| {
        let address = format!("127.0.0.1:{}", port(half.other()));
        test.command(half, &["connections", &address, "100"])
    };
    let containers = Half::BOTH.map(|half| [server(half), client(half)]).concat();
    let pod = test.pod(json!({ "containers": containers })).await?;
    pod.both_print("100").await
}

async fn api_server(test: Test) -> Verdict {
    // Without TLS the API server says so, in HTTP.
    let words = ["get", "http://kubernetes.default.svc:443/"];
    let pod = test
        .pod(json!({ "containers": test.both(|half| test.command(half, &words)) }))
        .await?;
    test.each(async |half| expect_in("answer", &pod.printed(half.as_str()).await?, "400 "))
        .await
}

async fn private_authority(test: Test) -> Verdict {
    const MOUNT: &str = "/var/run/own";
    let file = format!("{MOUNT}/ca.crt");
    let trusts = |half: Half| {
        let mut container = test.service(half);
        if let Some(env) = container["env"].as_array_mut() {
            env.push(json!({ "name": "SSL_CERT_FILE", "value": file }));
        }
        container.with(json!({ "volumeMounts": [{ "name": "roots", "mountPath": MOUNT }] }))
    };
    // Kubernetes puts its own authority into each namespace.
    let volume = json!({ "name": "roots", "configMap": { "name": "kube-root-ca.crt" } });
    let spec = json!({ "volumes": [volume], "containers": test.both(trusts) });
    let pod = test.pod(spec).await?;
    pod.both_run().await?;
    test.each(async |half| {
        pod.get_when_up(half, "/").await?;
        let target = "/fetch?url=https://kubernetes.default.svc/version";
        let answer = pod.get(half, target).await?;
        // Whoever may not ask is told so, over TLS.
        let known = ["200 ", "401 ", "403 "];
        ensure!(
            known.iter().any(|status| answer.starts_with(status)),
            "the API server's answer: {answer:?}"
        );
        Ok(())
    })
    .await
}

async fn grpc_call(test: Test) -> Verdict {
    let pod = services(&test).await?;
    test.each(async |half| {
        pod.get_when_up(half.other(), "/").await?;
        let target = format!("/grpc-check?address=127.0.0.1:{}", port(half.other()));
        let answer = pod.get_when_up(half, &target).await?;
        expect("answer", answer.as_str(), "serving\n")
    })
    .await
}

/// What a half's service answers to bytes on a connection of which no more come.
async fn raw(pod: &Running, half: Half, request: &str) -> anyhow::Result<String> {
    let address = format!("127.0.0.1:{}", port(half));
    let output = pod.exec(half, &["tcp", &address, request]).await?;
    expect("exit code of the client", output.code, 0)?;
    Ok(output.text())
}

async fn http_hosts(test: Test) -> Verdict {
    let pod = services(&test).await?;
    test.each(async |half| {
        pod.get_when_up(half, "/").await?;
        for (request, status) in [
            ("GET /healthz HTTP/1.0\r\n\r\n", " 200 "),
            ("GET /healthz HTTP/1.1\r\nHost: one\r\n\r\n", " 200 "),
            ("GET /healthz HTTP/1.1\r\n\r\n", " 400 "),
            (
                "GET /healthz HTTP/1.1\r\nHost: one\r\nHost: two\r\n\r\n",
                " 400 ",
            ),
            ("GET /healthz HTTP/1.1\r\nHost: no good\r\n\r\n", " 400 "),
        ] {
            let answer = raw(&pod, half, request).await?;
            let first = answer.lines().next().unwrap_or_default();
            expect_in(&format!("answer to {request:?}"), first, status)?;
        }
        Ok(())
    })
    .await
}

async fn half_closed(test: Test) -> Verdict {
    let pod = services(&test).await?;
    test.each(async |half| {
        pod.get_when_up(half, "/").await?;
        let request = "GET /sleep?ms=1500 HTTP/1.1\r\nHost: one\r\n\r\n";
        let answer = raw(&pod, half, request).await?;
        let first = answer.lines().next().unwrap_or_default();
        expect_in("first line", first, "HTTP/1.1 200 ")?;
        expect_in("answer", &answer, "slept\n")
    })
    .await
}

async fn client_gone(test: Test) -> Verdict {
    let one_at_a_time = |half: Half| {
        let mut container = test.service(half);
        if let Some(env) = container["env"].as_array_mut() {
            // Runtimes that have no such limit have no place to lose.
            env.push(json!({ "name": "WASMKIND_HTTP_CONCURRENCY", "value": "1" }));
        }
        container
    };
    let pod = test
        .pod(json!({ "containers": test.both(one_at_a_time) }))
        .await?;
    pod.both_run().await?;
    test.each(async |half| {
        pod.get_when_up(half, "/").await?;
        let address = format!("127.0.0.1:{}", port(half));
        for path in ["/sleep?ms=600000", "/spin?ms=600000"] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: one\r\n\r\n");
            let words = ["leave", &address, &request];
            let output = pod.exec(half, &words).await?;
            expect("exit code of the client", output.code, 0)?;
            pod.get(half, "/healthz").await?;
        }
        Ok(())
    })
    .await
}
