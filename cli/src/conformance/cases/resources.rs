//! Requests and limits.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::conformance::case::{Case, Half, Verdict, case};
use crate::conformance::test::{Test, With, expect};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("resources.within-limit", within, "A container may use memory up to its limit.", "tasks/configure-pod-container/assign-memory-resource/"),
        case!("resources.memory-limit", memory_limit, "A container that takes more memory than its limit is ended, and its neighbour lives on.", "tasks/configure-pod-container/assign-memory-resource/"),
        case!("resources.out-of-memory-status", oom_status, "A container that the kernel ends for its memory is OOMKilled, with 137.", "tasks/configure-pod-container/assign-memory-resource/"),
        case!("resources.service-memory-limit", service_limit, "A request that takes more memory than the limit fails, and other requests are answered.", "tasks/configure-pod-container/assign-memory-resource/").wasm_only(),
        case!("resources.cpu-limit", cpu_limit, "A container gets no more CPU time than its limit.", "tasks/configure-pod-container/assign-cpu-resource/").slow(),
        case!("resources.allocated", allocated, "Status tells the resources that both containers have.", "concepts/configuration/manage-resources-containers/"),
        case!("resources.resize", resize, "CPU and memory of running containers are changed without a restart.", "tasks/configure-pod-container/resize-container-resources/"),
        case!("resources.statistics", statistics, "kubelet's summary tells CPU time and memory of both containers.", "reference/instrumentation/node-metrics/").slow(),
    ]
}

fn limits(memory: &str) -> Value {
    json!({ "resources": { "requests": { "cpu": "5m", "memory": "8Mi" }, "limits": { "memory": memory } } })
}

async fn within(test: Test) -> Verdict {
    let containers = test.both(|half| test.command(half, &["memory", "40"]).with(limits("64Mi")));
    test.pod(json!({ "containers": containers }))
        .await?
        .both_print("took 40 MiB")
        .await
}

async fn memory_limit(test: Test) -> Verdict {
    test.each(async |half| {
        let greedy = test
            .command(half, &["memory-and-stay", "200"])
            .with(limits("48Mi"));
        let neighbour = test.command(half.other(), &["stay"]).with(limits("48Mi"));
        let spec = json!({ "containers": [greedy, neighbour] });
        let pod = test
            .pod_as(&format!("{}-{half}", test.name()), spec)
            .await?;
        let end = pod.ended(half.as_str()).await?;
        ensure!(end.exit_code != 0, "it ended well");
        pod.runs(half.other().as_str()).await
    })
    .await
}

async fn oom_status(test: Test) -> Verdict {
    // Files in memory count for their writer; a guest that asks for memory is refused before.
    let container = |half: Half| {
        test.command(half, &["fill", "/memory/file", "200"])
            .with(limits("48Mi"))
            .with(json!({ "volumeMounts": [{ "name": half.as_str(), "mountPath": "/memory" }] }))
    };
    let volumes = Half::BOTH.map(
        |half| json!({ "name": half.as_str(), "emptyDir": { "medium": "Memory", "sizeLimit": "300Mi" } }),
    );
    let pod = test
        .pod(json!({ "containers": test.both(container), "volumes": volumes }))
        .await?;
    test.each(async |half| {
        let end = pod.ended(half.as_str()).await?;
        expect("reason", end.reason.as_deref(), Some("OOMKilled"))?;
        expect("exit code", end.exit_code, 137)
    })
    .await
}

async fn service_limit(test: Test) -> Verdict {
    let containers = test.both(|half| test.service(half).with(limits("64Mi")));
    let pod = test.pod(json!({ "containers": containers })).await?;
    pod.both_run().await?;
    pod.get_when_up(Half::Wasm, "/").await?;
    let refused = pod.get(Half::Wasm, "/memory?mib=200").await;
    ensure!(refused.is_err(), "it took 200 MiB");
    expect(
        "answer",
        pod.get(Half::Wasm, "/memory?mib=8").await?.as_str(),
        "took 8 MiB\n",
    )?;
    pod.never_restarted().await
}

/// The summary of a container, by way of the API server.
async fn summary(test: &Test, container: &str) -> anyhow::Result<Value> {
    let object = test.look("Pod", test.name()).await?;
    let node = object["spec"]["nodeName"].as_str().unwrap_or_default();
    let path = format!("/api/v1/nodes/{node}/proxy/stats/summary");
    let summary = test.namespace().get(&path).await?;
    let pods = summary["pods"]
        .as_array()
        .context("no Pods in the summary")?;
    let pod = pods
        .iter()
        .find(|pod| {
            pod["podRef"]["name"] == test.name()
                && pod["podRef"]["namespace"] == test.namespace().name.as_str()
        })
        .context("the Pod is not in the summary")?;
    let containers = pod["containers"]
        .as_array()
        .context("no containers in the summary")?;
    let found = containers.iter().find(|found| found["name"] == container);
    found
        .cloned()
        .with_context(|| format!("{container} is not in the summary"))
}

/// Time of a sample and the CPU time until then, in seconds.
async fn cpu(test: &Test, container: &str) -> anyhow::Result<(f64, f64)> {
    let cpu = summary(test, container).await?["cpu"].take();
    let at = cpu["time"].as_str().context("a sample without a time")?;
    let at = time::OffsetDateTime::parse(at, &time::format_description::well_known::Rfc3339)?;
    let used = cpu["usageCoreNanoSeconds"]
        .as_u64()
        .context("no CPU time in the summary")?;
    Ok((at.unix_timestamp_nanos() as f64 / 1e9, used as f64 / 1e9))
}

async fn cpu_limit(test: Test) -> Verdict {
    let resources = json!({ "resources": { "requests": { "cpu": "5m" }, "limits": { "cpu": "50m", "memory": "64Mi" } } });
    let containers = test.both(|half| {
        test.command(half, &["in-turn", "spin", "60", "--", "stay"])
            .with(resources.clone())
    });
    let pod = test.pod(json!({ "containers": containers })).await?;
    pod.both_run().await?;
    test.each(async |half| {
        let first = test.until(async || {
            let sample = cpu(&test, half.as_str()).await?;
            ensure!(sample.1 > 0.0, "no CPU time yet");
            Ok(sample)
        });
        let first = first.await?;
        let rate = test.until(async || {
            let last = cpu(&test, half.as_str()).await?;
            let seconds = last.0 - first.0;
            ensure!(seconds > 3.0, "no sample after 3 s");
            Ok((last.1 - first.1) / seconds)
        });
        let rate = rate.await?;
        ensure!(rate > 0.005, "it got {rate:.3} CPUs: it does not run");
        ensure!(rate < 0.1, "it got {rate:.3} CPUs where the limit is 0.05");
        Ok(())
    })
    .await
}

async fn allocated(test: Test) -> Verdict {
    let containers = test.both(|half| test.command(half, &["stay"]).with(limits("48Mi")));
    let pod = test.pod(json!({ "containers": containers })).await?;
    pod.both_run().await?;
    test.until(async || {
        for status in pod.statuses().await? {
            expect(
                "limit",
                status["resources"]["limits"]["memory"].as_str(),
                Some("48Mi"),
            )?;
            expect(
                "request",
                status["allocatedResources"]["cpu"].as_str(),
                Some("5m"),
            )?;
        }
        Ok(())
    })
    .await
}

async fn resize(test: Test) -> Verdict {
    let resources = |memory: &str, cpu: &str| json!({ "requests": { "cpu": "5m", "memory": "8Mi" }, "limits": { "cpu": cpu, "memory": memory } });
    let small = resources("40Mi", "500m");
    let containers = test.both(|half| test.service(half).with(json!({ "resources": small })));
    let pod = test.pod(json!({ "containers": containers })).await?;
    pod.both_run().await?;
    test.each(async |half| pod.get_when_up(half, "/").await.map(drop))
        .await?;
    let containers = Half::BOTH
        .map(|half| json!({ "name": half.as_str(), "resources": resources("160Mi", "800m") }));
    let path = format!("{}/resize", pod.path());
    let change = json!({ "spec": { "containers": containers } });
    test.namespace().patch_strategic(&path, &change).await?;
    test.until(async || {
        for status in pod.statuses().await? {
            let limits = &status["resources"]["limits"];
            let what = format!("memory limit of {}", status["name"]);
            expect(&what, limits["memory"].as_str(), Some("160Mi"))?;
            expect("CPU limit", limits["cpu"].as_str(), Some("800m"))?;
        }
        Ok(())
    })
    .await?;
    test.each(async |half| {
        // More than the first limit.
        expect(
            "answer",
            pod.get(half, "/memory?mib=80").await?.as_str(),
            "took 80 MiB\n",
        )?;
        pod.never_restarted().await
    })
    .await
}

async fn statistics(test: Test) -> Verdict {
    let containers = test.both(|half| {
        test.command(
            half,
            &["in-turn", "spin", "0.3", "--", "memory-and-stay", "16"],
        )
    });
    let pod = test.pod(json!({ "containers": containers })).await?;
    pod.both_run().await?;
    test.each(async |half| {
        pod.says(half.as_str(), "took 16 MiB").await?;
        test.until(async || {
            let found = summary(&test, half.as_str()).await?;
            let used = found["cpu"]["usageCoreNanoSeconds"].as_u64().unwrap_or(0);
            ensure!(used > 1_000_000, "CPU time: {used} ns");
            let memory = found["memory"]["workingSetBytes"].as_u64().unwrap_or(0);
            ensure!(
                (16 << 20..256 << 20).contains(&memory),
                "memory: {memory} bytes"
            );
            Ok(())
        })
        .await
    })
    .await
}
